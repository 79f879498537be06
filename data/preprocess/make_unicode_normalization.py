"""Writes unicode_normalization.inc: what normalisation form C needs to know (Unicode Standard Annex 15).

    pip install tokenizers==0.21.0
    python3 make_unicode_normalization.py > unicode_normalization.inc

kUnsettled: ranges of code points that a normalised text may hold only in some places, or nowhere.
kCombiningClasses: ranges with a canonical combining class other than 0.
kDecompositions: code point, its one or two parts (one: the second is 0), sorted; Hangul syllables are left out (arithmetic).
kCompositions: two code points and what they become, sorted by the pair.

The rules are those of the Unicode version that the tokenizers library has (9; its releases up to 0.23 are the same), which wrote the
texts that Qwen2 was trained on: marks that came later are letters to it and stay where they stand. Python's tables say what the rules
are, the library which of them it knows.
"""

import sys
import unicodedata

import tokenizers
from tokenizers import normalizers

assert tokenizers.__version__ == "0.21.0", tokenizers.__version__
LIBRARY = normalizers.NFC()

HANGUL = range(0xAC00, 0xAC00 + 11172)
JUNGSEONG, JONGSEONG = range(0x1161, 0x1176), range(0x11A8, 0x11C3)  # medial vowels, final consonants


def library_knows_class(character):
    """Whether the library moves this mark behind one of class 1, or a mark of class 230 behind it."""
    other = ["x" + character + "\u0334", "x\u0301" + character]
    text = other[0] if unicodedata.combining(character) > 1 else other[1]
    return LIBRARY.normalize_str(text) == unicodedata.normalize("NFC", text)


CLASSES = {}
for number in range(0x300, sys.maxunicode + 1):
    if unicodedata.combining(chr(number)) and library_knows_class(chr(number)):
        CLASSES[number] = unicodedata.combining(chr(number))


def library_knows_parts(code_point):
    parts = unicodedata.normalize("NFD", chr(code_point))
    return LIBRARY.normalize_str(parts) == unicodedata.normalize("NFC", chr(code_point))


def decompositions():
    found = []
    for code_point in range(sys.maxunicode + 1):
        parts = unicodedata.decomposition(chr(code_point)).split()
        if not parts or parts[0].startswith("<") or not library_knows_parts(code_point):
            continue  # none, a compatibility one, or one of a later version
        numbers = [int(part, 16) for part in parts]
        assert len(numbers) <= 2
        found.append((code_point, numbers[0], numbers[1] if len(numbers) == 2 else 0))
    return found


def compositions(pairs):
    joined = [(a, b, c) for c, a, b in pairs if b and unicodedata.normalize("NFC", chr(a) + chr(b)) == chr(c)]
    return sorted(joined)


def ranges(value_of):
    """[first, last, value] of neighbouring code points with the same value; value 0 is left out."""
    found = []
    for code_point in range(sys.maxunicode + 1):
        value = value_of(code_point)
        if not value:
            continue
        if found and found[-1][1] == code_point - 1 and found[-1][2] == value:
            found[-1][1] = code_point
        else:
            found.append([code_point, code_point, value])
    return found


def write(kind, name, rows):
    print(f"constexpr {kind} {name}[] = {{")
    line = "   "
    for row in rows:
        item = " {" + ", ".join(f"0x{number:X}" for number in row) + "},"
        if len(line) + len(item) > 100:
            print(line)
            line = "   "
        line += item
    print(line)
    print("};")


pairs = decompositions()
joined = compositions(pairs)
seconds = {b for _, b, _ in joined} | set(JUNGSEONG) | set(JONGSEONG)


def is_unsettled(code_point):
    if 0xD800 <= code_point <= 0xDFFF:
        return 0
    character = chr(code_point)
    changes = code_point not in HANGUL and LIBRARY.normalize_str(character) != character
    return int(changes or code_point in seconds or code_point in CLASSES)


print(f"// Made by make_unicode_normalization.py as tokenizers {tokenizers.__version__} normalises; not written by hand.")
write("Range", "kUnsettled", [row[:2] for row in ranges(is_unsettled)])
write("ClassRange", "kCombiningClasses", ranges(lambda code_point: CLASSES.get(code_point, 0)))
write("Decomposition", "kDecompositions", pairs)
write("Composition", "kCompositions", joined)
