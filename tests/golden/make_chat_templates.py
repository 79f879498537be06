#!/usr/bin/env python3
"""Makes the reference for chat templates and label masks: tests/data/preprocess/chat_templates.{model,json}.

    pip install tokenizers==0.21.0 sentencepiece==0.2.1
    python tests/golden/make_chat_templates.py

The templates are written here as whole strings, tokenized by the libraries as the released training codes do, and masked by their
rules: MiniCPM-V finetune/dataset.py (minicpm, llama3, qwen) and LLaVA's rounds of counted lengths (vicuna_v1, llava_llama_2, plain).
`labels[i]` is what place i predicts: pre-shifted, -100 where nothing is learned. An image is two visual tokens.

chat_templates.json: {"bytes": {"pieces", "merges"}, "cases": [{"template", "compat", "vocabulary": "words" | "bytes", "layout",
"image_id", "system", "turns": [[role, content], ...], "images", "ids", "labels"}, ...]}
"""

import json
import os

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "..", "data", "preprocess")
IGNORE, IMAGE, QUERIES = -100, -200, 2

CORPUS = [
    "A chat between a curious user and an artificial intelligence assistant.",
    "What is in the picture?  Two cats sit on a red chair. The dog sleeps.",
    "USER: where is the cat ASSISTANT: on the chair Human: who Assistant: me",
    "Below is an instruction that describes a task. Instruction Response INST SYS",
    "<image> how many?\nthree\n\nfour five, six; seven", "user assistant system AI",
] * 40


def words():
    os.chdir(OUT)  # the model file keeps the prefix it was given: no path of this machine
    path = "chat_templates"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_prefix=path, model_type="bpe", vocab_size=420, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True, minloglevel=2,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1)
    os.remove(path + ".vocab")
    return sentencepiece.SentencePieceProcessor(model_file=path + ".model")


SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
            "<|eot_id|>", "<unk>", "<image>", "</image>", "<slice>", "</slice>", "<image_id>", "</image_id>"]


def byte_level():
    golden = json.load(open(os.path.join(OUT, "byte_level_bpe_golden.json")))["qwen2"]
    pieces = [p for p in golden["pieces"] if p not in golden["specials"]]
    tokenizer = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=[tuple(m.split(" ")) for m in golden["merges"]]))
    rule = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(rule), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in SPECIALS])
    return tokenizer, {"pieces": pieces + SPECIALS, "merges": golden["merges"], "specials": SPECIALS}


SP = words()
BYTES, BYTES_JSON = byte_level()
BOS, EOS = 1, 2


def legacy(text):
    """LLaMA's slow tokenizer: BOS, then each text between special tokens apart, each with its own dummy prefix."""
    ids = [BOS]
    while text:
        places = [(text.find(s), s, i) for s, i in (("<s>", BOS), ("</s>", EOS)) if s in text]
        at, special, special_id = min(places) if places else (len(text), "", None)
        if at:
            ids += SP.encode(text[:at])
        if special_id is not None:
            ids.append(special_id)
        text = text[at + len(special):]
    return ids


def with_images(text):
    """LLaVA's tokenizer_image_token: the sides of an image apart, one BOS, IMAGE between."""
    sides = [legacy(side) for side in text.split("<image>")]
    ids = list(sides[0])
    for side in sides[1:]:
        ids += [IMAGE] + side[1:]
    return ids


def expand(ids, target, filler):
    """IMAGE becomes visual tokens; targets become what the place before predicts."""
    out, kept = [], []
    for i, t in zip(ids, target):
        out += [filler] * QUERIES if i == IMAGE else [i]
        kept += [IGNORE] * QUERIES if i == IMAGE else [t]
    return out, kept[1:] + [IGNORE]


def rounds(text, system_end, separator):
    """LLaVA preprocess_v1 / preprocess_llama_2: counted lengths of each round up to the separator."""
    ids = with_images(text)
    target = list(ids)
    at = 1
    target[0] = IGNORE
    for part in text.split("</s>"):
        if part == "":
            break
        prefix = part[: part.index(separator) + len(separator)]
        length, masked = len(with_images(part)), len(with_images(prefix)) - 2
        target[at : at + masked] = [IGNORE] * masked
        at += length
    assert at == len(ids), (at, len(ids))
    return expand(ids, target, 0)


def vicuna_v1(system, turns):
    text = system + " " if system else ""
    for role, content in turns:
        text += f"USER: {content} " if role == "user" else f"ASSISTANT: {content}</s>"
    return rounds(text, system, "ASSISTANT: ")


def llava_llama_2(system, turns):
    text = ""
    for i, (role, content) in enumerate(turns):
        if role == "user":
            if i == 0 and system:
                content = f"<<SYS>>\n{system}\n<</SYS>>\n\n{content}"
            text += ("<s>" if i else "") + f"[INST] {content} [/INST]"
        else:
            text += f" {content} </s>"
    return rounds(text, system, "[/INST] ")


def prefixed(parts):
    """One text up to each EOS; learned are the parts marked so, and EOS after them."""
    ids, target, text = [BOS], [IGNORE], ""
    for part, learned, ends in parts:
        before = with_images(text)[1:] if text else []
        text += part
        now = with_images(text)[1:]
        assert now[: len(before)] == before, (text, part)
        if learned:
            ids += now[len(before):] + ([EOS] if ends else [])
            target += now[len(before):] + ([EOS] if ends else [])
        else:
            ids += now[len(before):]
            target += [IGNORE] * (len(now) - len(before))
        if ends:
            text = ""
    return expand(ids, target, 0)


def alpaca(system, turns):
    parts = [(system + "\n\n", False, False)] if system else []
    for role, content in turns:
        parts += [(f"### Instruction:\n{content}\n\n### Response:", False, False)] if role == "user" else [(content, True, True)]
    return prefixed(parts)


def vicuna_v0(system, turns):
    parts = [(system + "###", False, False)] if system else []
    for role, content in turns:
        parts += [(f"Human: {content}###Assistant:", False, False)] if role == "user" else [(" " + content, True, True)]
    return prefixed(parts)


def minicpm(system, turns):
    parts = [(system, False, False)] if system else []
    for role, content in turns:
        parts += [(f"<用户>{content}<AI>", False, False)] if role == "user" else [(content, True, True)]
    return prefixed(parts)


def preprocess(ids, context, end):
    """The labels of MiniCPM-V's dataset.py: context 0 is learned; where learning stops, the end is to be predicted."""
    labels = [IGNORE] * len(ids)
    for i in range(1, len(ids)):
        if context[i] == 0:
            labels[i - 1] = ids[i]
        if context[i] == 1 and context[i - 1] == 0:
            labels[i - 1] = end
    return ids, labels


def minicpm_released(turns):
    ids, context = [], []
    for i, (role, content) in enumerate(turns):
        prefix = SP.encode("<用户>" if role == "user" else "<AI>")
        message = SP.encode(content) + ([EOS] if i == len(turns) - 1 else [])
        ids += prefix + message
        context += [1] * len(prefix) + [0 if role == "assistant" else 1] * len(message)
    return preprocess(ids, context, EOS)


def plain_released(caption):
    ids = with_images("<image>" + caption + "\n")
    target = list(ids)
    target[:2] = [IGNORE, IGNORE]
    return expand(ids, target, 0)


def plain(caption):
    ids = with_images("<image>" + caption) + [EOS]
    return expand(ids, [IGNORE, IGNORE] + ids[2:], 0)


def b(text):
    return BYTES.encode(text, add_special_tokens=False).ids


def i(piece):
    return BYTES.token_to_id(piece)


def with_layout(content, image_id):
    block = ("<image_id>0</image_id>" if image_id else "") + "<image>" + "<unk>" * QUERIES + "</image>"
    return content.replace("<image>", block)


def learned_spans(ids, starts, end):
    """Contexts of the qwen and llama3 paths: from each start to the next end, that one included."""
    context = [1] * len(ids)
    for start in starts:
        stop = next((k for k in range(start, len(ids)) if ids[k] == end), None)
        if stop is not None:
            context[start : stop + 1] = [0] * (stop + 1 - start)
    return context


def chatml(system, turns, image_id, released):
    text = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    for role, content in turns:
        # The released training code writes no id for an image that is not sliced.
        text += f"<|im_start|>{role}\n{with_layout(content, image_id and not released)}<|im_end|>\n"
    ids = b(text)
    head = b("<|im_start|>assistant\n")
    starts = [k + len(head) for k in range(len(ids)) if ids[k : k + len(head)] == head]
    context = learned_spans(ids, starts, i("<|im_end|>"))
    ids, labels = preprocess(ids, context, i("<|im_end|>"))
    return (ids, labels) if released else (ids, [x if k + 1 < len(ids) and context[k + 1] == 0 else IGNORE for k, x in enumerate(ids[1:] + [0])])


def llama3(turns, released):
    text = "<|begin_of_text|>"
    for role, content in turns:
        text += f"<|start_header_id|>{role}<|end_header_id|>\n\n{with_layout(content.strip(), False)}<|eot_id|>"
    head = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ids = b(text + (head if released else ""))
    starts = [k + len(b(head)) for k in range(len(ids)) if ids[k : k + len(b(head))] == b(head)]
    context = learned_spans(ids, starts, i("<|eot_id|>"))
    ids, labels = preprocess(ids, context, i("<|eot_id|>"))
    return (ids, labels) if released else (ids, [x if k + 1 < len(ids) and context[k + 1] == 0 else IGNORE for k, x in enumerate(ids[1:] + [0])])


TWO = [["user", "What is in the picture?"], ["assistant", "Two cats."], ["user", "where is the dog"], ["assistant", "on a red chair"]]
ONE = [["user", "<image>\nhow many?"], ["assistant", "three"]]
SYSTEM = "A chat between a curious user and an assistant."
cases = []


def add(template, compat, vocabulary, layout, image_id, system, turns, result):
    ids, labels = result
    assert len(ids) == len(labels)
    images = sum(content.count("<image>") for _, content in turns)
    cases.append({"template": template, "compat": compat, "vocabulary": vocabulary, "layout": layout, "image_id": image_id,
                  "system": system, "turns": turns, "images": images, "ids": ids, "labels": labels})


for system in ["", SYSTEM]:
    for turns in [TWO, ONE]:
        for make in [vicuna_v1, vicuna_v0, alpaca, llava_llama_2]:
            add(make.__name__, "right", "words", "bare", False, system, turns, make(system, turns))
        for released in [False, True]:
            add("chatml", "released" if released else "right", "bytes", "minicpmv-2.6", True, system, turns, chatml(system, turns, True, released))
add("minicpm", "right", "words", "bare", False, "", TWO, minicpm("", TWO))
add("minicpm", "right", "words", "bare", False, "", ONE, minicpm("", ONE))
add("minicpm", "released", "words", "bare", False, "", TWO, minicpm_released(TWO))
add("plain", "right", "words", "bare", False, "", ONE, plain("three"))
add("plain", "released", "words", "bare", False, "", ONE, plain_released("three"))
for turns in [TWO, ONE]:
    for released in [False, True]:
        add("llama3", "released" if released else "right", "bytes", "minicpmv-2.0", False, "", turns, llama3(turns, released))
with open(os.path.join(OUT, "chat_templates.json"), "w", encoding="ascii") as file:
    json.dump({"bytes": BYTES_JSON, "cases": cases}, file, separators=(",", ":"))
    file.write("\n")
