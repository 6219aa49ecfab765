#!/usr/bin/env python3
"""Texts embedded a second: taper beside sentence-transformers, in turn, on the same texts and threads.

usage: embed.py TAPER MODEL_FOLDER TEXTS [--threads N] [--number N] [--rounds N]

TEXTS has a JSON string or an object with "text" a line. Of taper, the time of a run on a few texts is taken away from that of
one on all, so that neither counts the loading of the model. Needs the Python package sentence-transformers.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time

parser = argparse.ArgumentParser()
parser.add_argument("taper")
parser.add_argument("model")
parser.add_argument("texts")
parser.add_argument("--threads", type=int, default=os.cpu_count())
parser.add_argument("--number", type=int, default=512)
parser.add_argument("--rounds", type=int, default=3)
args = parser.parse_args()
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(args.threads)

import torch  # noqa: E402 (after the number of threads is known)
from sentence_transformers import SentenceTransformer  # noqa: E402

torch.set_num_threads(args.threads)
texts = []
with open(args.texts, encoding="utf-8") as lines:
    for line in lines:
        value = json.loads(line)
        text = value if isinstance(value, str) else value["text"]
        texts.append(" ".join(text.split()))
        if len(texts) == args.number + 16:
            break
few, texts = texts[:16], texts[16:]
peer = SentenceTransformer(args.model, device="cpu")


def run(chosen):
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("".join(text + "\n" for text in chosen))
        file.flush()
        start = time.perf_counter()
        command = [args.taper, "embed", "-q", "-t", str(args.threads), "--embedder", args.model, "-f", file.name, "-o", "npy"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - start


ours, theirs = [], []
for _ in range(args.rounds):
    ours.append(len(texts) / (run(few + texts) - run(few)))
    peer.encode(few)
    start = time.perf_counter()
    peer.encode(texts, batch_size=32, normalize_embeddings=True)
    theirs.append(len(texts) / (time.perf_counter() - start))
ratio = statistics.median(a / b for a, b in zip(ours, theirs))
print(f"taper {statistics.median(ours):.1f} texts/s, sentence-transformers {statistics.median(theirs):.1f}, ratio {ratio:.2f}")
