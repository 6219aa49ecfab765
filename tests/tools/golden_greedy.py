"""Writes tests/data/greedy.json: greedy continuations of twenty prompts.

usage: golden_greedy.py GOLDEN MODEL-f32.gguf > greedy.json

GOLDEN is the program built from golden.cpp. Control tokens in a prompt are parsed.
"""

import json
import subprocess
import sys

COUNT = 48


def chat(*turns):
    roles = ["user", "assistant"]
    text = "".join(f"<|im_start|>{roles[i % 2]}\n{turn}<|im_end|>\n" for i, turn in enumerate(turns))
    return text + "<|im_start|>assistant\n"


LONG = """The lighthouse at the end of the point had been dark for eleven years when Mara came to open it again. \
She had the keys in a tin box, a letter from the county, and a list of everything that was supposed to be wrong with \
the place. The roof leaked over the stairs. The cistern was cracked. Two of the windows in the lamp room had been \
broken by a storm and covered with boards, and nobody could say whether the great lens behind them was whole. She \
walked out along the stones at low tide, because the road had washed away, and she counted her steps so that she \
would know how long it took: nine hundred and forty from the last fence to the door.

Inside, the air smelled of salt and old paint. Someone had left a coat on a hook and a cup on the table, as if they \
meant to come back in an hour. Mara put down the box and opened the shutters one after another until the room was \
full of grey light. Then she climbed. There were one hundred and twelve steps, and the iron rail was cold and rough \
under her hand. At the top she pulled away the first board, and the sun came through and struck the lens, and the \
whole room filled with small moving colours. She stood still and laughed out loud. It was not broken at all. She \
thought of her grandfather, who had kept this light for thirty years and who used to say that a lamp is only a \
promise with a window around it. She took out the county's list, found the line about the lens, and"""

PROMPTS = [
    "Once upon a time",
    "The capital of France is",
    "The meaning of life is",
    "In 1969, the first humans landed on",
    "Water boils at a temperature of",
    "My favourite recipe for bread begins with",
    '"I never said that," she whispered, and',
    "def fibonacci(n):\n",
    "#include <stdio.h>\n\nint main(void) {\n    for (int i = 0; i < 10; i++) {\n",
    "SELECT name, COUNT(*) FROM users",
    "1, 2, 3, 4, 5, 6, 7,",
    "2 + 2 = 4\n3 + 3 = 6\n4 + 4 =",
    "Things to pack for a trip:\n1. Socks\n2. Toothbrush\n3.",
    "La ville de Paris est connue pour",
    "Der Hund läuft durch den Wald und",
    "x  =  1\n\n\n\ty\t=\t2\n",
    chat("What is the capital of Italy?"),
    chat("Say hi.", "Hi! How can I help you?", "Name three colors."),
    "<|im_start|>system\nYou are a pirate. Answer in one short sentence.<|im_end|>\n" + chat("Where is the treasure?"),
    LONG,
]


def main():
    golden, model = sys.argv[1:3]
    lines = "".join(prompt.encode().hex() + "\n" for prompt in PROMPTS)
    result = subprocess.run([golden, "greedy", model, str(COUNT)], input=lines, capture_output=True, text=True, check=True)
    rows = []
    for prompt, line in zip(PROMPTS, result.stdout.splitlines(), strict=True):
        found = json.loads(line)
        text = bytes.fromhex(found.pop("hex")).decode("utf-8")
        rows.append({"prompt": prompt, "text": text, **found})
    print("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]")


if __name__ == "__main__":
    main()
