"""Writes the golden tokenizations in tests/data/tokens/.

usage: golden_strings.py GOLDEN MODEL.gguf NAME OUT_DIR [--inp FILE.inp]... [--bytes]

GOLDEN is the program built from golden.cpp. For the vocabulary in MODEL.gguf this writes

  NAME.jsonl          {"text", "ids"}  no BOS, control tokens in the text are plain text
  NAME-special.jsonl  {"text", "ids"}  BOS/EOS as the model asks, control tokens parsed
                                       (only where SPECIAL below names the vocabulary)
  NAME-bytes.jsonl    {"hex", "ids"}   as NAME.jsonl, for bytes that are not UTF-8 (with --bytes)

The strings depend only on this file, the seed and the .inp files.
"""

import argparse
import json
import pathlib
import random
import subprocess

SEED = 20240229

PROSE = [
    "The quick brown fox jumps over the lazy dog.",
    "It was a bright cold day; the clocks -- all of them! -- were striking thirteen.",
    'She said, "I don\'t know," and left. (Nobody asked why.)',
    "A well-known state-of-the-art e-mail client, v2.0-beta3, costs $19.99/month.",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "Donaudampfschifffahrtsgesellschaftskapitän; Straßenbahnhaltestelle, ÄÖÜ äöü ß ẞ",
    "Portez ce vieux whisky au juge blond qui fume : « ça va, l'été ? » Œuvre, naïf, où.",
    "El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia. ¿Qué? ¡Años, niño!",
    "Luís argüia à Júlia que «brações, fé, chá, óxido, pôr, zângão» eram palavras.",
    "Pchnąć w tę łódź jeża lub ośm skrzyń fig. Zażółć gęślą jaźń.",
    "Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Pijamalı hasta yağız şoföre çabucak güvendi. İstanbul, ılık, IĞDIR",
    "Kæmi ný öxi hér, ykist þjófum nú bæði víl og ádrepa.",
    "Flygande bäckasiner söka hwila på mjuka tuvor. Blåbærsyltetøy.",
    "Do bạch kim rất quý nên sẽ dùng để lắp vô xương. Tiếng Việt có dấu.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Чуєш їх, доцю, га? Кумедна ж ти, прощайся без ґольфів!",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Ὦ ξεῖν', ἀγγέλλειν",
    "Բել դղյակի ձախ ժամն օֆ ազգությանը ցպահանջ չճշտած վնաս էր եւ փառք։",
    "დედამიწა ბრუნავს მზის გარშემო. ᲓᲔᲓᲐ",
    "我能吞下玻璃而不伤身体。2024年，北京欢迎你！",
    "視野無限廣，窗外有藍天。「你好，世界」",
    "いろはにほへと ちりぬるを。東京タワーでコーヒーを飲みました！ﾊﾝｶｸ",
    "키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다. 한글 자모",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน ๑๒๓",
    "ສະບາຍດີ ຂ້ອຍຮັກພາສາລາວ ។ ខ្ញុំអាចញ៉ាំកញ្ចក់បាន",
    "صِف خَلقَ خَودِ كَمِثلِ الشَمسِ إِذ بَزَغَت، ١٢٣ ؟",
    "گچ پژ: این یک متن فارسی است؛ می‌خواهم ۴۵۶.",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה. שָׁלוֹם עֲלֵיכֶם",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का नाश। क्षत्रिय १२३",
    "আমি কাঁচ খেতে পারি, তাতে আমার কোনো ক্ষতি হয় না।",
    "யாமறிந்த மொழிகளிலே தமிழ்மொழி போல் இனிதாவது எங்கும் காணோம்",
    "నేను గాజు తినగలను ನಾನು ಗಾಜನ್ನು ತಿನ್ನಬಲ್ಲೆ എനിക്ക് ഗ്ലാസ് തിന്നാം",
    "ཤེལ་སྒོ་ཟ་ནས་ང་ན་གི་མ་རེད། မြန်မာစာ ᠮᠣᠩᠭᠣᠯ ሰላም ልዑል ᏣᎳᎩ",
]

CODE = [
    "def f(x: int) -> int:\n    if x <= 1:\n        return 1\n    return x * f(x - 1)\n",
    "class A(B):\n\tdef __init__(self, *args, **kw):\n\t\tsuper().__init__(*args, **kw)\n\t\tself._x = {'a': [1, 2, 3]}\n\n\n",
    "fn main() {\n    let v: Vec<u8> = vec![0; 16];\n    println!(\"{:?} {}\", v, v.len());\n}\n",
    "impl<'a, T: 'a + ?Sized> Foo<'a, T> where T: Debug { fn get(&'a self) -> &'a T { &*self.0 } }",
    "#include <stdio.h>\r\nint main(void) {\r\n\tprintf(\"%d\\n\", 0xFF & ~1u);\r\n\treturn 0;\r\n}\r\n",
    "template <typename T> auto&& operator->*(T&& a) { return std::forward<T>(a)->*p; } // <<>>::",
    "for (let i = 0; i !== n; i++) { a[i] = b?.c ?? `t${i}`; }\n/* done */ export default () => {};\n",
    "SELECT a.id, COUNT(*) AS n FROM t1 AS a LEFT JOIN t2 USING (id) WHERE x >= 10 GROUP BY 1;",
    "<!DOCTYPE html>\n<html>\n  <body class=\"a b\">\n    <p>&nbsp;&lt;hi&gt;</p>\n  </body>\n</html>\n",
    "{\"a\": [1, 2.5, -3e-7, null, true], \"b\": {\"c\": \"d\\ne\\u00e9\"}}",
    "#!/bin/sh\nset -eu\nfor f in *.txt; do\n  echo \"$f\" | sed -E 's/(.*)\\.txt$/\\1.md/' >> out 2>&1\ndone\n",
    "\\begin{equation}\n  \\int_0^\\infty e^{-x^2}\\,dx = \\frac{\\sqrt{\\pi}}{2} \\label{eq:1}\n\\end{equation}",
    "all: a.o b.o\n\t$(CC) -o $@ $^ $(LDFLAGS)\n\n.PHONY: all\n",
    "    let   x=1;;   // three   spaces\n     five\n      six\n       seven\n        eight\n",
    "quicksort [] = []\nquicksort (p:xs) = quicksort [x | x <- xs, x < p] ++ [p] ++ quicksort [x | x <- xs, x >= p]",
    "| a | b |\n|---|:-:|\n| 1 | **2** |\n\n# H1\n\n- [ ] item\n  1. `code`\n\n```py\nx\n```\n",
    "https://example.com/a/b?c=d&e=%20f#g user@example.org C:\\dir\\file.txt ../x/./y ~/z",
    "a literal backslash n: \\n and \\t and \\\\ and \\x41 and \\u0041 and '\\''",
]

NUMBERS = [
    "3.14159", "-0.5", "+1", "1e10", "1E-10", "6.02e23", "1,234,567.89", "1.234.567,89", "1 000 000", "1_000_000",
    "0x1F", "0b1010", "0o17", "12:34:56", "2024-02-29", "29/02/2024", "192.168.0.1", "50%", "$5", "€1.99", "5kg",
    "1st 2nd 3rd", "a1b2c3", "x86_64", "utf8", "v1.2.3-rc4", "00012", "1.", ".5", "1..2", "1...10", "½ ⅓ ² ³ ① Ⅷ",
    "１２３４", "٠١٢٣٤٥٦٧٨٩", "०१२३४५", "一二三四", "1 2 3 4 5", " 1", "  12", "\n123\n4567", "7 8\t9", "10²+x₃",
]

EMOJI = [
    "\U0001F600", "\U0001F600\U0001F601", " \U0001F680 ", "\U0001F44D\U0001F3FD", "\U0001F468\u200D\U0001F469\u200D\U0001F467\u200D\U0001F466",
    "\U0001F3F3\uFE0F\u200D\U0001F308", "\U0001F1E9\U0001F1EA\U0001F1EB\U0001F1F7", "\u2764\uFE0F", "1\uFE0F\u20E3", "\u263A\uFE0E",
    "\U0001F3F4\U000E0067\U000E0062\U000E0065\U000E006E\U000E0067\U000E007F", "\U0001F926\U0001F3FC\u200D\u2642\uFE0F", "hi\U0001F600there",
    "\U0001FAE0\U0001F979\U0001FA77", "\u2605\u2606\u2192\u21D2\u2211\u222B\u221A\u2260", "\u2500\u2502\u256C\u2588\u2591",
]

COMBINING = [
    "e\u0301", "\u00e9 e\u0301", "a\u0308\u0323o\u0302\u0301", "Z\u0351\u0346\u0343a\u0321\u0322l\u0327g\u0328o\u0329", "\u0301", " \u0301x",
    "n\u0303o", "\u1112\u1161\u11ab", "\ud55c", "\u0915\u094d\u0937\u093f", "q\u0307\u0323", "\u212b \u00c5 A\u030a", "\ufb01 \ufb03 \u01c6",
    "\u0130 i\u0307 \u0131", "\u1e9b\u0323", "x\u20d7", "\u0e01\u0e33 \u0e33",
]

SPACES = ["\u00a0", "\u1680", "\u2000", "\u2003", "\u2009", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000",
          "\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u180e", "\u0085", "\x0b", "\x0c", "\x1c", "\x1f"]

CONTRACTIONS = [
    "I'm you're he's we'll they'd I've don't", "I'M YOU'RE HE'S WE'LL THEY'D I'VE DON'T", "It'S we'Ll they'D I'Ve you'rE",
    "'s 't 're 've 'm 'll 'd", "'S 'T 'RE 'VE 'M 'LL 'D", "'sa 'ta 'rea 'llama 'dog 'mom", "x's's 'ss ''s '' ' s", "it\u2019s don\u2019t \u2018s",
    "rock 'n' roll o'clock y'all'd've", "''ll'll", "'\u017f 'K\u017f", "a'b'c", "1's 2'd 3'll", "'\n's\n'll", "'l 'v 'r 'L", " 's  's   's",
]

CONTROL_LIKE = [
    "<|im_start|>", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<s>", "</s>", "<s>hello</s>", "<unk>", "<pad>", "[INST] hi [/INST]",
    "<<SYS>>\nbe kind\n<</SYS>>\n\n", "<|endoftext|>", "<|begin_of_text|>x<|eot_id|>", "<|start_header_id|>user<|end_header_id|>\n\n",
    "<|im_start", "im_start|>", "<|im_start|", "<||im_start|>|>", "< |im_start|>", "<|IM_START|>", "<0x0A>", "<0x41><0xFF>", "\u2581", "\u2581\u2581a \u2581b",
    "a\u2581b", "\u0120", "a\u0120b\u010a", "[UNK_BYTE_0x20]", "[CLS][SEP][MASK]", "<|reserved_special_token_0|>", "<reponame><filename>", "[control_1]", "a [PAD151646] b",
]

EDGES = [
    "", " ", "  ", "\n", "\n\n", "\t", "\r", "\r\n", "\r\n\r\n", " \n", "\n ", " \n ", "\t\n\t", "a", " a", "a ", " a ", "  a", "a  ", "   a   b   ", "\na", "a\n",
    "a\n\n", "\n\na", "a\n\nb", "a \n b", "a\r\nb\r\n", "a\rb", "end with two newlines\n\n", "literal \\n here", "\\n\\n", "a\tb", "a\t\tb", "\ta", "a\t", " \t a",
    "x\n  y\n    z\n", "  \n  \n  ", "!", "!!", " !", "?!\n", "...\n\n...", "a.b", "a .b", "a. b", "-", "--", "---", "----", "_", "__init__", "(", "()", "( )", "\"", "''",
    "hello world", " hello world", "hello  world", "Hello, World!", "HELLO", "hELLO wORLD", "camelCaseWord", "snake_case_word", "a\x00b", "\x00", "\x00\x00a",
]

ODD = [
    "\ue000", "a\ue000\uf8ffb", "\u0378\u0379", "\ufffd", "a\ufffdb", "\ufffe\uffff", "\U00010000", "\U0001D400\U0001D401", "\U00010348\U00010330",
    "\U00020000\U0002A6D6", "\U000E0001", "\U000F0000\U0010FFFD", "\U0010FFFF", "\U00013080\U00012000", "\U0001F9FF\U0001FBFF", "\u0860\u08a0", "\ua66e\ua670",
    "\u202eabc\u202c", "\u2066x\u2069", "\u00ad", "so\u00adft", "\ufdfa", "\ufdd0", "\u2e3b", "\U00016FF0", "\u19da\u0bf0\u0d78", "\u3007\u3021", "\u16ee",
]

# Pieces of text that hold each vocabulary's control tokens, for the -special files.
SPECIAL = {
    "smollm": ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<file_sep>", "<issue_start>", "<jupyter_code>", "<empty_output>"],
    "llama-spm": ["<s>", "</s>", "<unk>", "<0x0A>"],
    "llama-bpe": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|reserved_special_token_0|>"],
}


def strings(inp_files):
    rng = random.Random(SEED)
    out = EDGES + PROSE + CODE + NUMBERS + EMOJI + COMBINING + CONTRACTIONS + CONTROL_LIKE + ODD
    out += [chr(c) for c in range(256)] + [f"a{chr(c)}b" for c in range(256)]
    out += ["".join(rng.choice("0123456789") for _ in range(n)) for n in range(1, 21)]
    out += [f"x {rng.randrange(10**n)} y" for n in range(1, 13)]
    for unit in [" ", "\n", "\t", "a", "=", "-", "\r\n", "0", "\u00e9", "\u4e2d", "\U0001F600", "\u00a0", "ab", "'s"]:
        out += [unit * n for n in sorted({2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 100, 200} if unit in " \n\ta=" else {2, 3, 5, 8, 33})]
    out += [f"a{' ' * n}b" for n in (2, 3, 4, 8, 9, 16, 40)] + [f"a{chr(10) * n}b" for n in (2, 3, 4, 5, 9)]
    for space in SPACES:
        out += [space, f"a{space}b", f" {space} x", f"x{space}{space}\n{space}y"]
    out += [" " + line for line in PROSE[::3]] + [line + " \n" for line in PROSE[1::3]]
    out += ["\n".join(rng.sample(PROSE, 3)) for _ in range(6)]

    everything = [s for s in out if s]
    points = [(0, 0x7F), (0x80, 0x24F), (0x370, 0x5FF), (0x600, 0xDFF), (0x1E00, 0x2BFF), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xFFFF), (0x10000, 0x10FFFF)]
    for _ in range(60):  # random code points, a few ranges at a time
        ranges = rng.sample(points, 3)
        out.append("".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(1, 30))))
    for _ in range(100):  # cuttings of the strings above, stuck together
        cuttings = []
        for _ in range(rng.randint(2, 8)):
            text = rng.choice(everything)
            start = rng.randrange(len(text))
            cuttings.append(text[start : start + rng.randint(1, 20)])
        out.append(rng.choice(["", "", " ", "\n"]).join(cuttings))
    for path in inp_files:
        text = pathlib.Path(path).read_bytes().decode("utf-8")
        out += text.split("\n__ggml_vocab_test__\n")
    return list(dict.fromkeys(out))


def special_strings(tokens):
    rng = random.Random(SEED)
    texts = ["Hello", " world", "\n", "  ", "a b\nc", " ", "\u00e9t\u00e9 \u4e2d", "it's 42", "\t", "<", "|>", "user\nHi!\n"]
    out = ["", " ", "Hello", " Hello", "\n", "Hello world\n"]
    out += [form.format(token) for token in tokens for form in ("{0}", "{0}{0}", "a{0}b", " {0} ", "{0} x\n{0}\n")]
    out += [token[:-1] for token in tokens] + [token.upper() + token for token in tokens[:2]]
    out += ["<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<s>[INST] Hi [/INST] Yes </s><s>[INST] Why? [/INST]",
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"]
    while len(dict.fromkeys(out)) < 64:
        out.append("".join(rng.choice(tokens if rng.random() < 0.4 else texts) for _ in range(rng.randint(2, 7))))
    return list(dict.fromkeys(out))


def invalid_bytes():
    rng = random.Random(SEED)
    out = [bytes([b]) for b in (0x80, 0x81, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xEF, 0xF0, 0xF4, 0xF5, 0xF7, 0xF8, 0xFB, 0xFC, 0xFE, 0xFF)]
    out += [bytes.fromhex(h) for h in (
        "c3 c328 c3c3a9 61c3 61c362 c320 c30a "  # a two-byte sequence cut short
        "e2 e282 e28261 e26161 e2e282ac 20e282 e28220 e2820a e4b8 e4b8e4b8ad "  # three bytes
        "f0 f09f f09f98 f09f9861 f09f6161 f0616161 f09f98f09f9880 61f09f9820 "  # four bytes
        "c080 c181 c1bf e08080 e08181 e09fbf f0808080 f0808181 f08fbfbf "  # overlong
        "eda080 edbfbf eda080edb080 61eda08062 "  # surrogates
        "8061 6180 618062 e9 636166e9 80808080 fffefdfc 2080 8020 0a80 c2a0c2 e38080e380 "  # stray bytes
    ).split()]
    good = [b"a", b" ", b"\n", b"hello", "\u00e9".encode(), "\u4e2d".encode(), "\U0001F600".encode(), b"12"]
    bad = [b"\x80", b"\xff", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xe9", b"\xa0"]
    for _ in range(12):
        out.append(b"".join(rng.choice(good if rng.random() < 0.6 else bad) for _ in range(rng.randint(3, 8))))

    def is_invalid(data):
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            return True
        return False

    return [data for data in dict.fromkeys(out) if is_invalid(data)]


def tokenize(golden, model, items, special):
    lines = "".join(item.hex() + "\n" for item in items)
    flag = "1" if special else "0"
    result = subprocess.run([golden, "tokens", model, flag, flag], input=lines, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(rows) == len(items), (len(rows), len(items))
    return rows


def write(path, rows):
    with open(path, "w", encoding="ascii", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
    print(path, len(rows))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("golden")
    parser.add_argument("model")
    parser.add_argument("name")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--inp", action="append", default=[])
    parser.add_argument("--bytes", action="store_true")
    args = parser.parse_args()

    jobs = [("", strings(args.inp), False)]
    if args.name in SPECIAL:
        jobs.append(("-special", special_strings(SPECIAL[args.name]), True))
    for suffix, texts, special in jobs:
        ids = tokenize(args.golden, args.model, [text.encode("utf-8") for text in texts], special)
        write(args.out / f"{args.name}{suffix}.jsonl", [{"text": text, "ids": row} for text, row in zip(texts, ids)])
    if args.bytes:
        items = invalid_bytes()
        ids = tokenize(args.golden, args.model, items, False)
        write(args.out / f"{args.name}-bytes.jsonl", [{"hex": item.hex(), "ids": row} for item, row in zip(items, ids)])


if __name__ == "__main__":
    main()
