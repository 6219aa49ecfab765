#!/usr/bin/env python3
"""Passages of Debian's documentation packages, one JSON string a line: the text that retrieval is measured on.

The packages are downloaded and unpacked outside the tree (`apt-get download`, `dpkg -x`; nothing is installed). HTML, plain
text and POD are cut into paragraphs, paragraphs are joined up to about a hundred words, and what is no prose (tables, lists
of names, code) or was seen before is left out. The order is shuffled by a fixed seed, so that a prefix is a sample.

    benches/passages.py 60000 > passages.jsonl
    benches/passages.py 60000 --documents > documents.jsonl

With --documents one object a line: all prose of a file that the passages came from, as paragraphs, and where in it they are.
"""

import argparse
import html.parser
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = """python3.11-doc postgresql-doc-15 debian-reference-en debian-policy git-doc sqlite3-doc apache2-doc perl-doc
rust-doc erlang-doc python-django-doc cmake-doc nodejs-doc python-sqlalchemy-doc developers-reference debian-faq""".split()
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "taper-passages"
LEAST, ENOUGH, MOST = 25, 60, 120  # words in a passage: fewer are dropped, more paragraphs not added, the rest cut off
BLOCKS = {"p", "li", "dd", "dt", "td", "div", "h1", "h2", "h3", "h4", "h5", "section", "tr"}
SILENT = {"script", "style", "pre", "nav", "head", "code-block", "table", "footer", "svg"}


class Paragraphs(html.parser.HTMLParser):
    """The paragraphs of a page, without its code, tables and navigation."""

    def __init__(self):
        super().__init__()
        self.paragraphs, self.silent = [""], 0

    def handle_starttag(self, tag, attrs):
        self.silent += tag in SILENT
        if tag in BLOCKS:
            self.paragraphs.append("")

    def handle_endtag(self, tag):
        self.silent = max(0, self.silent - (tag in SILENT))
        if tag in BLOCKS:
            self.paragraphs.append("")

    def handle_data(self, data):
        if not self.silent:
            self.paragraphs[-1] += data


def fetch(package):
    """The folder that a package was unpacked to."""
    folder = CACHE / package
    if not folder.exists():
        print(f"fetching {package}", file=sys.stderr)
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", package], cwd=CACHE, check=True)
        [archive] = CACHE.glob(f"{package}_*.deb")
        part = CACHE / f"{package}.part"
        shutil.rmtree(part, ignore_errors=True)
        subprocess.run(["dpkg", "-x", archive, part], check=True)
        archive.unlink()
        part.rename(folder)
    return folder


def paragraphs(path):
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix in (".html", ".htm", ".en"):
        page = Paragraphs()
        page.feed(text)
        return page.paragraphs
    # Indented lines are code in POD and in most plain text.
    return re.split(r"\n\s*\n", re.sub(r"(?m)^([ \t]{4,}|=).*$", "", text))


def is_prose(text):
    """Whether most of it is words, and it has a sentence."""
    letters = sum(c.isalpha() or c.isspace() for c in text)
    return letters > 0.85 * len(text) and re.search(r"[a-z][.:] |[a-z]\.$", text) is not None


def prose(path):
    """The paragraphs of a file that are prose."""
    texts = (" ".join(p.split()) for p in paragraphs(path))
    return [text for text in texts if len(text.split()) >= 8 and is_prose(text)]


def passages(texts):
    """Passages of paragraphs, each with where it begins and ends in them, in characters, when blank lines are between them."""
    held, begins, at = "", 0, 0
    for text in texts:
        held = f"{held} {text}".strip()
        at += len(text)
        words = held.split()
        if len(words) >= ENOUGH:
            passage = " ".join(words[:MOST])
            yield passage, begins, at - (len(held) - len(passage))
            held, begins = "", at + 2
        at += 2
    if len(held.split()) >= LEAST:
        yield held, begins, at - 2


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, help="how many")
    parser.add_argument("--documents", action="store_true", help="print the files of so many passages")
    args = parser.parse_args()
    seen, documents = {}, []
    for package in PACKAGES:
        before = len(seen)
        files = sorted(p for p in fetch(package).rglob("*") if p.suffix in (".html", ".htm", ".en", ".txt", ".pod", ".rst"))
        for path in files:
            if path.is_file() and not path.is_symlink():
                texts = prose(path)
                found = {passage: (begins, ends) for passage, begins, ends in passages(texts) if passage not in seen}
                seen.update(dict.fromkeys(found))
                if found:
                    documents.append({"text": "\n\n".join(texts), "passages": found})
        print(f"{package}: {len(files)} files, {len(seen) - before} passages", file=sys.stderr)
    texts = list(seen)
    random.Random(1).shuffle(texts)
    if len(texts) < args.count:
        sys.exit(f"there are only {len(texts)} passages")
    if args.documents:
        wanted = set(texts[: args.count])
        for document in documents:
            if wanted & document["passages"].keys():
                print(json.dumps(document, ensure_ascii=False))
        return
    for text in texts[: args.count]:
        print(json.dumps(text, ensure_ascii=False))


if __name__ == "__main__":
    main()
