#!/usr/bin/env python3
"""Makes the reference for byte-level BPE from Hugging Face's tokenizers library.

    pip install tokenizers==0.21.0
    python tests/golden/make_byte_level_bpe.py

Trains a small vocabulary for each split rule on generated text, encodes random texts of many
scripts with it, and writes tests/data/preprocess/byte_level_bpe_golden.json:
{rule: {"pieces": [...], "merges": [...], "specials": [...], "cases": [{"text", "ids"}, ...]}}.
qwen2 puts text into normal form C first; the texts hold accents apart from their letters.

    ... --vocabularies DIR OUT.json

instead takes the pieces and merges of the GGUF vocabularies in DIR (ggml-vocab-qwen2.gguf,
ggml-vocab-llama-bpe.gguf) and writes cases only: a larger check that is not kept.
"""

import json
import os
import random
import struct
import sys

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

assert tokenizers.__version__ == "0.21.0", tokenizers.__version__
HERE = os.path.dirname(os.path.abspath(__file__))

# The published rules (tokenizer.json of Llama 3, Qwen2 and SmolLM).
NUMBERS = {"llama-bpe": r"\p{N}{1,3}", "qwen2": r"\p{N}"}
RULE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|NUMBERS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIALS = ["<|im_start|>", "<|im_end|>", "<image>", "<image_id>"]


def pre_tokenizer(rule):
    if rule == "smollm":
        return pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    split = pre_tokenizers.Split(Regex(RULE.replace("NUMBERS", NUMBERS[rule])), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


SCRIPTS = [
    (0x61, 0x7A), (0x61, 0x65), (0x61, 0x7A), (0x41, 0x5A), (0x30, 0x39), (0x30, 0x39), (0x21, 0x2F), (0x3A, 0x40),
    (0x5B, 0x60), (0xA1, 0xFF), (0x100, 0x17F), (0x2B0, 0x36F), (0x370, 0x3FF), (0x400, 0x45F), (0x5D0, 0x5EA),
    (0x600, 0x66F), (0x900, 0x96F), (0x985, 0x9EF), (0xE01, 0xE5B), (0x1200, 0x1248), (0x1780, 0x17F9),
    (0x2000, 0x206F), (0x2070, 0x209C), (0x20A0, 0x20B5), (0x2150, 0x218B), (0x2460, 0x24FF), (0x3000, 0x30FF),
    (0x4E00, 0x4EFF), (0xAC00, 0xACFF), (0xFF00, 0xFF5E), (0x10000, 0x100FF), (0x1D400, 0x1D4FF), (0x1D7CE, 0x1D7FF),
    (0x1F100, 0x1F10C), (0x1F300, 0x1F64F), (0xE0100, 0xE0110), (0xFE00, 0xFE0F),
]
SPACES = [" "] * 6 + ["  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", "  \n \n  ", "\u00a0", "\u3000", "\u0085", "\u2028", "", "", "\x0b", "\x1c", "\0"]
# Letters with accents that normal form C joins, reorders or takes apart, and Hangul in parts.
APART = ["e\u0301", "a\u0323\u0302", "o\u0302\u0323", "\u1100\u1161\u11a8", "\uac00\u11a8", "\u0915\u093c", "\u212b", "\u0344", "q\u0301\u0327", "\u05d0\u05b7", "\u2126", "\u1e9b\u0323"]
ENDINGS = ["'s", "'T", "'re", "'VE", "'m", "'lL", "'d", "'\u017f", "'l", "'r", "''s", "'sx", " 's"]


def word(rng):
    first, last = rng.choice(SCRIPTS)
    return "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 7)))


def text(rng):
    out = ""
    for _ in range(rng.randint(0, 12)):
        kind = rng.randint(0, 12)
        if kind == 0:
            out += rng.choice(ENDINGS)
        elif kind == 2:
            out += "".join(rng.choice(APART) for _ in range(rng.randint(1, 3)))
        elif kind == 1:
            out += rng.choice(SPECIALS)[: rng.choice([3, 5, 100])]
        else:
            out += word(rng)
        out += rng.choice(SPACES)
    return out


def cases(tokenizer, rng, count):
    texts = ["", " ", "\n", "Hello world", "I'll we'Ve 'tis it's", "1234567 12", "a  b   c \n\n d"]
    texts += [text(rng) for _ in range(count - len(texts))]
    return [{"text": t, "ids": tokenizer.encode(t, add_special_tokens=False).ids} for t in texts]


def trained(rule, rng):
    tokenizer = Tokenizer(models.BPE(ignore_merges=rule == "llama-bpe"))
    if rule == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizer(rule)
    tokenizer.decoder = decoders.ByteLevel()
    words = [word(rng) for _ in range(300)]
    corpus = [" ".join(rng.choice(words) for _ in range(20)) + rng.choice(SPACES) for _ in range(400)]
    corpus += ["Hello world, the cat it's 1234567  \n\n we'll see   "] * 20
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
    )
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in SPECIALS])
    model = json.loads(tokenizer.to_str())["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    if rule == "llama-bpe":
        # Words whose merges do not lead to their piece are found as they are.
        merges = [m for i, m in enumerate(merges) if i % 5 != 4 or i < 100]
        made = {"".join(m.split(" ")) for m in merges}
        vocab = {p: i for p, i in model["vocab"].items()}
        merges = [m for m in merges if all(len(p) == 1 or p in made for p in m.split(" "))]
        whole = Tokenizer(models.BPE(vocab=vocab, merges=[tuple(m.split(" ")) for m in merges], ignore_merges=True))
        whole.pre_tokenizer = tokenizer.pre_tokenizer
        whole.add_tokens([AddedToken(t, normalized=False) for t in SPECIALS])
        tokenizer = whole
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    pieces = [p for p, _ in sorted(vocab.items(), key=lambda item: item[1])]
    assert [vocab[p] for p in pieces] == list(range(len(pieces)))
    return tokenizer, {"pieces": pieces, "merges": merges, "specials": SPECIALS}


def gguf_strings(path, wanted):
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    found = {}
    with open(path, "rb") as file:
        def number(form):
            return struct.unpack("<" + form, file.read(struct.calcsize(form)))[0]

        def value(kind):
            if kind == 8:
                return file.read(number("Q")).decode("utf-8")
            if kind == 9:
                element, count = number("I"), number("Q")
                return [value(element) for _ in range(count)]
            return file.read(sizes[kind])

        assert file.read(4) == b"GGUF"
        number("I"), number("Q")
        for _ in range(number("Q")):
            key = file.read(number("Q")).decode()
            item = value(number("I"))
            if key in wanted:
                found[key] = item
    return found


def from_gguf(path, rule):
    keys = ["tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.token_type"]
    found = gguf_strings(path, keys)
    pieces, merges, types = (found[k] for k in keys)
    normal = {p: i for i, p in enumerate(pieces) if struct.unpack("<i", types[i])[0] == 1}
    tokenizer = Tokenizer(models.BPE(vocab=normal, merges=[tuple(m.split(" ")) for m in merges], ignore_merges=rule == "llama-bpe"))
    if rule == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizer(rule)
    return tokenizer


def main():
    if len(sys.argv) == 4 and sys.argv[1] == "--vocabularies":
        result = {}
        for rule in ["qwen2", "llama-bpe"]:
            tokenizer = from_gguf(os.path.join(sys.argv[2], f"ggml-vocab-{rule}.gguf"), rule)
            result[rule] = {"cases": cases(tokenizer, random.Random(5), 10000)}
        out = sys.argv[3]
    else:
        result = {}
        for rule in ["llama-bpe", "qwen2", "smollm"]:
            rng = random.Random(3)
            tokenizer, entry = trained(rule, rng)
            entry["cases"] = cases(tokenizer, rng, 250)
            result[rule] = entry
        out = os.path.join(HERE, "..", "data", "preprocess", "byte_level_bpe_golden.json")
    with open(out, "w", encoding="ascii") as file:
        json.dump(result, file, separators=(",", ":"))
        file.write("\n")


main()
