#!/usr/bin/env python3
"""Makes tests/data/preprocess/normal_forms_golden.json: [[text, its normal form C], ...] as the tokenizers library gives it.

    pip install tokenizers==0.21.0
    python3 tests/golden/make_normal_forms.py        (Python 3.11: Unicode 14 lists the characters)

Every code point that a canonical rule concerns stands in some text, alone, decomposed, and between random marks.
"""

import json
import os
import random
import unicodedata

import tokenizers
from tokenizers import normalizers

HERE = os.path.dirname(os.path.abspath(__file__))
assert tokenizers.__version__ == "0.21.0", tokenizers.__version__
assert unicodedata.unidata_version == "14.0.0", unicodedata.unidata_version

points = [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
marks = [c for c in points if unicodedata.combining(c)]
changing = [c for c in points if unicodedata.normalize("NFD", c) != c and not 0xAC00 <= ord(c) < 0xD7A4]
rng = random.Random(11)
texts = []
for start in range(0, len(changing), 12):
    group = changing[start : start + 12]
    texts.append("".join(group))
    texts.append("".join(unicodedata.normalize("NFD", c) + rng.choice(["", "a", rng.choice(marks)]) for c in group))
for _ in range(200):
    texts.append("".join(rng.choice(["a", "e", "\u0915", "\u05d0", rng.choice(changing)]) + "".join(rng.choice(marks) for _ in range(rng.randint(0, 4))) for _ in range(5)))
for _ in range(100):
    syllable = chr(rng.randint(0xAC00, 0xD7A3))
    texts.append(syllable + unicodedata.normalize("NFD", syllable) + chr(rng.randint(0x1100, 0x1112)) + chr(rng.randint(0x1161, 0x1175)) + chr(rng.randint(0x11A7, 0x11C3)) + chr(rng.randint(0x11A7, 0x11C3)))
texts += ["", "plain text", "\u0301", "\u0301a", "a\u0301\u0301", "a\u0315\u0300", "\u1100\uac00", "\uac00\u11a7", "\u0b47\u0300\u0b3e"]
with open(os.path.join(HERE, "..", "data", "preprocess", "normal_forms_golden.json"), "w", encoding="ascii") as file:
    json.dump([[text, normalizers.NFC().normalize_str(text)] for text in texts], file, separators=(",", ":"))
    file.write("\n")
