"""Puts the vocabularies that the tokenizer tests compare with into a folder.

usage: fetch_vocabularies.py DIR

They are files of llama.cpp, which the source archive of llama-cpp-python contains. The archive (77 MB) is downloaded
only when a vocabulary is missing or damaged, and not kept.
"""

import hashlib
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile

PACKAGE = "llama-cpp-python"
VERSION = "0.3.36"
MODELS = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/models/"
SHA256 = {
    "ggml-vocab-gpt-2.gguf": "cedc56ca6e2e89f63e781696d1fd76b4b1d49e6720dee86463e915f6e90016ac",
    "ggml-vocab-llama-bpe.gguf": "97272e430d53bc7688f52d5e0ad8ea8f163ede9f1bbd1694feaa504797d5d96e",
    "ggml-vocab-llama-spm.gguf": "16c3724582d59aa8bf84711894e833f916ee46a31d80e21312759c48bf8d0e69",
    "ggml-vocab-qwen2.gguf": "44c2f46b715f585c6ab513970e8a006bfa5badd6108560054921cf598d154d8c",
}


def is_good(path):
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == SHA256[path.name]


def download(folder):
    """The source archive. Only this package is taken as source: what pip needs to look into it comes built."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run(command + ["--no-binary", PACKAGE, f"{PACKAGE}=={VERSION}", "--dest", folder], check=True)
    return next(pathlib.Path(folder).glob("*.tar.gz"))


def extract(archive, missing):
    """Reads the archive once, front to back; a file appears under its name only when it is whole."""
    wanted = {MODELS + path.name: path for path in missing}
    with tarfile.open(archive, "r|gz") as tar:
        for member in tar:
            if member.name in wanted:
                path = wanted.pop(member.name)
                part = path.with_suffix(".part")
                part.write_bytes(tar.extractfile(member).read())
                os.replace(part, path)
            if not wanted:
                return


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in SHA256]
    missing = [path for path in paths if not is_good(path)]
    if missing:
        with tempfile.TemporaryDirectory() as temporary:
            extract(download(temporary), missing)
    bad = [path.name for path in paths if not is_good(path)]
    if bad:
        sys.exit(f"{folder}: absent from the archive, or not what it was: {', '.join(bad)}")


if __name__ == "__main__":
    main()
