#!/usr/bin/env python3
"""taper beside llama.cpp and candle on the same file: tokens a second, and taper's ratio to each.

The programs take turns, so that a machine that changes speed does it to all of them; a ratio is the median of the rounds'
own. llama.cpp is built once, from the sources in the package llama-cpp-python, in a folder outside the tree.

    make bench-peers                                    the default model
    make bench-peers MODEL=model.gguf ARGS="-r 9 -d 1024"
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
from pathlib import Path

LLAMA = "0.3.36"  # of llama-cpp-python
ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "taper-peers"


def say(line):
    print(line, file=sys.stderr, flush=True)


def run(command, **more):
    done = subprocess.run([str(c) for c in command], text=True, capture_output=True, **more)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def llama_bench():
    """The path of llama-bench, built if it is not there."""
    if given := os.environ.get("LLAMA_BENCH"):
        return Path(given)
    build = CACHE / f"llama-{LLAMA}" / "build"
    program = build / "bin" / "llama-bench"
    if not program.exists():
        if missing := [tool for tool in ("cmake", "c++") if not shutil.which(tool)]:
            sys.exit(f"llama.cpp is built with {' and '.join(missing)}, absent here (Debian: apt-get install cmake g++)")
        say(f"building llama.cpp of llama-cpp-python {LLAMA} under {CACHE}; takes minutes")
        python = os.environ.get("TAPER_PYTHON", "python3")
        pip = [python, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python"]
        CACHE.mkdir(parents=True, exist_ok=True)
        run([*pip, "--dest", CACHE, f"llama-cpp-python=={LLAMA}"])
        with tarfile.open(CACHE / f"llama_cpp_python-{LLAMA}.tar.gz") as archive:
            archive.extractall(CACHE, filter="data")
        source = CACHE / f"llama_cpp_python-{LLAMA}" / "vendor" / "llama.cpp"
        off = ["-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_SERVER=OFF"]
        run(["cmake", "-S", source, "-B", build, "-DCMAKE_BUILD_TYPE=Release", *off])
        run(["cmake", "--build", build, "--target", "llama-bench", "-j", os.cpu_count() or 1])
    return program


def llama(program, model, options):
    tests = ["-p", options.prompt, "-n", options.predict, "-d", options.depth, "-t", options.threads]
    rows = json.loads(run([program, "-m", model, *tests, "-r", 1, "-o", "json"]))
    return {("pp" if row["n_prompt"] else "tg"): row["avg_ts"] for row in rows}


def taper(model, options):
    tests = ["-p", options.prompt, "-n", options.predict, "-d", options.depth, "-t", options.threads]
    rows = json.loads(run([ROOT / "target/release/taper", "-m", model, "--bench", *tests, "-r", 1, "-o", "json"]))
    return {row["test"][:2]: row["tokens_per_second"]["mean"] for row in rows}


def candle(model, options):
    threads = {**os.environ, "RAYON_NUM_THREADS": str(options.threads)}
    command = ["cargo", "bench", "--quiet", "--locked", "--bench", "candle", "--"]
    output = run([*command, model, options.prompt, options.predict], cwd=ROOT, env=threads)
    return json.loads(output.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True, help="a GGUF file, or a name that taper knows")
    parser.add_argument("-p", "--prompt", type=int, default=512)
    parser.add_argument("-n", "--predict", type=int, default=128)
    parser.add_argument("-d", "--depth", type=int, default=0, help="candle takes part only at 0")
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    parser.add_argument("-r", "--rounds", type=int, default=5)
    parser.add_argument("--without-candle", action="store_true", help="it is slow")
    options = parser.parse_args()

    model = options.model
    if not os.path.exists(model):
        program = ROOT / "target/release/taper"
        run([program, "models", "pull", model])
        model = json.loads(run([program, "models", "show", model, "--json"]))["path"]
    program = llama_bench()
    peers = {"taper": lambda: taper(model, options), "llama.cpp": lambda: llama(program, model, options)}
    if options.depth == 0 and not options.without_candle:
        peers["candle"] = lambda: candle(model, options)
    rates = {name: {"pp": [], "tg": []} for name in peers}
    for number in range(options.rounds):
        say(f"round {number + 1} of {options.rounds}; load {os.getloadavg()[0]:.1f}")
        for name, measure in peers.items():
            for test, rate in measure().items():
                rates[name][test].append(rate)

    depth = f" @ d{options.depth}" if options.depth else ""
    print(f"{Path(model).name}, {options.threads} threads, median of {options.rounds} rounds (lowest to highest)\n")
    print("| test | " + " | ".join(f"{name}, t/s" for name in peers) + " | ratio to each |")
    print("|---|" + "---:|" * len(peers) + "---|")
    for test, tokens in (("pp", options.prompt), ("tg", options.predict)):
        if not tokens:
            continue
        cells = [f"{statistics.median(rates[n][test]):.1f} ({min(rates[n][test]):.1f} to {max(rates[n][test]):.1f})" for n in peers]
        own = rates["taper"][test]
        ratio = {n: statistics.median(a / b for a, b in zip(own, rates[n][test])) for n in peers if n != "taper"}
        ratios = ", ".join(f"{r:.2f} × {n}" for n, r in ratio.items())
        print(f"| {test}{tokens}{depth} | " + " | ".join(cells) + f" | {ratios} |")


if __name__ == "__main__":
    main()
