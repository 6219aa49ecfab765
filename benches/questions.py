#!/usr/bin/env python3
"""Retrieval by 50 questions over passages of Debian's documentation, through `taper memory`.

`questions/questions.jsonl` has the questions, each with the passage that answers it. The passages were drawn by the seed 2026
from the first 12,000 that passages.py printed on 2026-11-22. They are the first 50 of the draw that state a fact which no other
passage of the 12,000 states in the same words. Of the 68 that were looked at for that, 18 were left out: 11 of which another
passage has at least a fifth of the runs of four words (`near` in what --draw prints), 6 lists of changes from release notes,
and 1 in French.

The questions name their subject and what is wanted of it, as somebody asks who knows the field but not the text. Whoever wrote
them had read the passages, ran no retrieval with them before or after, and had this script say that no question shares a word
with its passage that is in less than 1 % of all passages.

    benches/passages.py 60000 | head -12000 > passages.jsonl
    benches/questions.py passages.jsonl --draw 2026              the passages to ask about, in order
    benches/questions.py passages.jsonl                          the words that questions share with their passages
    benches/questions.py passages.jsonl --taper target/release/taper --folder DIR [--rebuild "--target-recall 0.98"]
    venv/bin/python benches/questions.py passages.jsonl --reference all-minilm-l6-v2      sentence-transformers, exact

Passages that the 12,000 of another day do not have are added to them. DIR keeps the memory for the next time.
"""

import argparse
import collections
import hashlib
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

RARE = 0.01
TOP = 3
DRAWN = 100
RUN = 4
QUESTIONS = Path(__file__).parent / "questions" / "questions.jsonl"


def read(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def words(text):
    return set(re.findall(r"[^\W\d_]+", text.lower()))


def rare_words(questions, passages):
    """How many questions share a rare word with their passage; prints them."""
    frequency = collections.Counter(word for passage in passages for word in words(passage))
    count = 0
    for entry in questions:
        shared = words(entry["question"]) & words(entry["passage"])
        rare = sorted(word for word in shared if frequency[word] < RARE * len(passages))
        if rare:
            count += 1
            print(f"{', '.join(rare)}: {entry['question']}")
    print(f"{count} of {len(questions)} questions share a word with their passage that is in less than 1 % of the passages")


def runs(text):
    """Its runs of RUN words, letters only, so that markup does not tell two copies apart."""
    found = re.findall(r"[^\W\d_]+", text.lower())
    return {tuple(found[at : at + RUN]) for at in range(len(found) - RUN + 1)}


def draw(seed, passages):
    """Prints passages drawn by a seed, in order; `near` is the largest share of one's runs that another passage, `copy`, has."""
    sets = [runs(passage) for passage in passages]
    for number in random.Random(seed).sample(range(len(passages)), DRAWN):
        own = sets[number]
        shares = ((len(own & other) / max(1, len(own)), at) for at, other in enumerate(sets) if at != number)
        near, copy = max(shares)
        drawn = {"number": number, "near": round(near, 2), "copy": copy, "passage": passages[number]}
        print(json.dumps(drawn, ensure_ascii=False))


def taper(program, folder, *args, **options):
    environment = dict(os.environ, TAPER_DATA_DIR=str(folder))
    return subprocess.run([program, "memory", *args], env=environment, check=True, text=True, **options)


def fill(program, folder, passages):
    """A memory that has each passage as a record of its own, by way of an export's lines."""
    if (folder / "memories" / "questions.sqlite").exists():
        return
    lines = [{"taper_memory": 1, "model": "all-minilm-l6-v2"}]
    for number, passage in enumerate(passages):
        digest = hashlib.sha256(passage.encode()).hexdigest()
        lines.append({"source": f"passage {number}", "hash": digest})
        lines.append({"begins": 0, "ends": len(passage.encode()), "text": passage})
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    taper(program, folder, "import", "questions", input=text)


def by_taper(program, folder, question):
    found = taper(program, folder, "search", "questions", question, "-k", str(TOP), "--json", capture_output=True)
    return [json.loads(line)["text"] for line in found.stdout.splitlines()]


def by_reference(model, passages):
    """sentence-transformers' vectors, all compared."""
    from sentence_transformers import SentenceTransformer

    embedder = SentenceTransformer(model, device="cpu")
    vectors = embedder.encode(passages, normalize_embeddings=True, batch_size=32)

    def find(question):
        scores = vectors @ embedder.encode([question], normalize_embeddings=True)[0]
        return [passages[at] for at in (-scores).argsort(kind="stable")[:TOP]]

    return find


def judge(name, questions, find):
    hits = 0
    for entry in questions:
        found = find(entry["question"])
        if entry["passage"] in found:
            hits += 1
            continue
        print(f"missed: {entry['question']}\n  wanted: {entry['passage'][:150]}\n  first:  {found[0][:150]}")
    print(f"{name}: {hits} of {len(questions)} passages among the first {TOP}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("passages", type=Path)
    parser.add_argument("--draw", type=int, metavar="SEED", help="print passages to ask about, and no more")
    parser.add_argument("--taper", help="the program")
    parser.add_argument("--folder", type=Path, help="its data folder for this")
    parser.add_argument("--rebuild", help="flags of taper memory rebuild, to try another index")
    parser.add_argument("--reference", help="the embedder, for sentence-transformers")
    args = parser.parse_args()
    questions, passages = read(QUESTIONS), read(args.passages)
    if args.draw is not None:
        draw(args.draw, passages)
        return
    passages += [entry["passage"] for entry in questions if entry["passage"] not in set(passages)]
    rare_words(questions, passages)
    if args.reference:
        judge("sentence-transformers, exact", questions, by_reference(args.reference, passages))
    if args.taper:
        if not args.folder:
            sys.exit("--taper needs --folder")
        fill(args.taper, args.folder, passages)
        if args.rebuild is not None:
            taper(args.taper, args.folder, "rebuild", "questions", *args.rebuild.split())
        judge("taper", questions, lambda question: by_taper(args.taper, args.folder, question))


if __name__ == "__main__":
    main()
