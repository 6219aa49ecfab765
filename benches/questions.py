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

    benches/passages.py 60000 --documents > documents.jsonl
    benches/questions.py passages.jsonl --taper … --folder DIR --documents documents.jsonl [--chunk-tokens 60,120,200,250]

The last asks the same of memories to which files were added, cut to other sizes: those with the passages, and others by lot until
they have as many passages as passages.jsonl; of a long file AROUND characters before and behind. Found is what overlaps the
passage by half of the shorter of both.

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
AROUND = 8000
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


def part(document, wanted):
    """Of a long file what is around the passages that are asked for, or its beginning."""
    text = document["text"]
    asked = [place for passage, place in document["passages"].items() if passage in wanted] or [(0, 0)]
    before, behind = min(begins for begins, _ in asked) - AROUND, max(ends for _, ends in asked) + AROUND
    first = text.find("\n\n", before) + 2 if before > 0 else 0
    last = text.rfind("\n\n", 0, behind) if behind < len(text) else len(text)
    places = {passage: (b - first, e - first) for passage, (b, e) in document["passages"].items() if first <= b and e <= last}
    return {"text": text[first:last], "passages": places}


def files(folder, documents, questions, count):
    """Writes files with at least `count` passages; where the questions' passages are: (path, first byte, last)."""
    places = {}
    wanted = {entry["passage"] for entry in questions}
    missing = wanted - {passage for document in documents for passage in document["passages"]}
    documents += [{"text": passage, "passages": {passage: (0, len(passage))}} for passage in sorted(missing)]
    random.Random(2026).shuffle(documents)
    documents = [part(document, wanted) for document in documents]
    asked = lambda document: bool(wanted & document["passages"].keys())
    documents.sort(key=asked, reverse=True)
    folder.mkdir(parents=True, exist_ok=True)
    count_of_files = written = 0
    for document in documents:
        if written >= count and not asked(document):
            break
        path, text = folder / f"{count_of_files}.txt", document["text"]
        path.write_text(text, encoding="utf-8")
        for passage, (begins, ends) in document["passages"].items():
            places[passage] = (str(path.absolute()), len(text[:begins].encode()), len(text[:ends].encode()))
        written += len(document["passages"])
        count_of_files += 1
    print(f"{count_of_files} files with {written} passages")
    return places


def by_chunks(program, folder, tokens, places):
    """Whether a passage is found where files were cut into passages of up to so many tokens."""
    name = f"chunks-{tokens}"
    taper(program, folder, "add", name, str(folder / "documents"), "--chunk-tokens", tokens, "--target-recall", "1", "-q")
    records = json.loads(taper(program, folder, "stats", name, "--json", capture_output=True).stdout)["records"]

    def find(question, passage):
        found = taper(program, folder, "search", name, question, "-k", str(TOP), "--json", capture_output=True)
        path, begins, ends = places[passage]
        hits = [json.loads(line) for line in found.stdout.splitlines()]
        common = lambda hit: min(ends, hit["end"]) - max(begins, hit["offset"])
        shorter = lambda hit: min(ends - begins, hit["end"] - hit["offset"])
        return any(hit["source"] == path and 2 * common(hit) >= shorter(hit) for hit in hits)

    return records, find


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
    parser.add_argument("--documents", type=Path, help="files that passages came from, to be cut to sizes")
    parser.add_argument("--chunk-tokens", default="60,120,200,250", help="the sizes")
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
        if args.documents:
            places = files(args.folder / "documents", read(args.documents), questions, len(passages))
            for tokens in args.chunk_tokens.split(","):
                records, find = by_chunks(args.taper, args.folder, tokens, places)
                hits = sum(find(entry["question"], entry["passage"]) for entry in questions)
                print(f"up to {tokens} tokens: {records} records, {hits} of {len(questions)} among the first {TOP}")
            return
        fill(args.taper, args.folder, passages)
        if args.rebuild is not None:
            taper(args.taper, args.folder, "rebuild", "questions", *args.rebuild.split())
        judge("taper", questions, lambda question: by_taper(args.taper, args.folder, question))


if __name__ == "__main__":
    main()
