"""Writes 200 texts and what sentence-transformers makes of them: texts.jsonl, and vectors.f16 (200, 384).

usage: golden_embeddings.py MODEL_FOLDER TESTS_DATA_FOLDER

The texts are paragraphs of prose.txt, longer pieces of it that do not fit in the model's 256 tokens, and the strings that the
tokenizers are tested with. Half precision keeps a cosine to 1e-6.
"""

import json
import pathlib
import sys

import numpy
from sentence_transformers import SentenceTransformer

folder, data = sys.argv[1], pathlib.Path(sys.argv[2])
prose = (data / "text/prose.txt").read_text("ascii")
paragraphs = [p for p in prose.split("\n\n") if p.strip()]
strings = [json.loads(line)["text"] for line in (data / "tokens/smollm.jsonl").read_text("utf-8").splitlines()]
texts = paragraphs[:90] + [prose[at : at + 3000] for at in range(0, 24000, 3000)]
texts += [s for s in strings[:: len(strings) // (200 - len(texts)) or 1]][: 200 - len(texts)]
assert len(texts) == 200, len(texts)
vectors = SentenceTransformer(folder, device="cpu").encode(texts, normalize_embeddings=True)
out = data / "embeddings"
with open(out / "texts.jsonl", "w", encoding="utf-8") as file:
    file.writelines(json.dumps(text) + "\n" for text in texts)
vectors.astype(numpy.float16).tofile(out / "vectors.f16")
