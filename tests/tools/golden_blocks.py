"""Writes tests/data/dequantize.json: blocks of GGUF's quantized types and the numbers they stand for.

usage: golden_blocks.py OUT.json        (needs: pip install gguf==0.19.0 numpy)

The judge is the `gguf` package of llama.cpp, which dequantizes with numpy and shares no code with taper or candle. Bytes
are random, scales are small multiples of 1/64: every product and sum is then exact in f32, so the test may ask for
equality whatever the order of the operations. Q8_1 and Q8_K, which the package does not dequantize, are left out.
"""

import json
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

# Where the f16 scales (and minima) are in a block.
SCALES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
    T.IQ4_NL: [0], T.IQ4_XS: [0],
}

rng = np.random.default_rng(20240229)
golden = []
for dtype, offsets in SCALES.items():
    length, size = GGML_QUANT_SIZES[dtype]
    rows = 2 if length == 32 else 1
    blocks = rng.integers(0, 256, (rows, size), dtype=np.uint8)
    for row in blocks:
        for at in offsets:
            scale = np.float16(rng.integers(-64, 65) / 64)
            row[at:at + 2] = np.frombuffer(scale.tobytes(), np.uint8)
    numbers = dequantize(blocks, dtype).astype(np.float32).ravel()
    assert np.isfinite(numbers).all() and len(numbers) == rows * length
    golden.append({"type": dtype.name, "blocks": blocks.tobytes().hex(), "numbers": [float(x) for x in numbers]})

lines = ",\n".join(json.dumps(g, separators=(",", ":")) for g in golden)
open(sys.argv[1], "w").write(f"[\n{lines}\n]\n")
