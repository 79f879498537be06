#!/usr/bin/env python3
"""From one trained checkpoint of the quickstart, checkpoints of every layout that llama.cpp knows, for compare_llama_cpp.py.

Needs: python 3.11, numpy 2.4.6 (tests/golden/requirements-llama-cpp.txt).
  make_llama_cpp_layouts.py runs/quickstart/alignment/checkpoint OUT

The decoders compute what the trained one computes, so greedy choices mean something, up to what is named here:
  trained    as it is: arch llama, the tokens around pictures of 2.6
  layout25   the tokens around pictures of 2.0 and 2.5
  minicpm    arch minicpm: embeddings divided by 12, branches by 0.5, an output layer multiplied by 3, and the scales in the config
  minicpm20  the same with 2.0's vision side: erf GELU and an interpolated position table (16 x 16)
  qwen2      arch qwen2 with random biases of query, key and value (0.05 wide); rotary halves
  ldp, ldpv2, mlp   MobileVLM: a random CLIP tower (2 blocks, 64 wide, 24 x 24 patches) and a random projector; vicuna's template,
             and no end of answer, so that all tokens count
  ldp-classless, ldpv2-classless, mlp-classless   the same without the class token, which llama.cpp puts last
  sizes448   the trained weights with 448-pixel slices, so that real photographs need real slicing
"""
import json
import pathlib
import shutil
import sys

import numpy as np


def read(folder):
    raw = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    tensors = {}
    for name, entry in json.loads(raw[8:8 + size]).items():
        if name == "__metadata__":
            continue
        assert entry["dtype"] == "F32", (name, entry["dtype"])
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(raw[begin:end], np.float32).reshape(entry["shape"])
    return json.loads((folder / "config.json").read_text()), tensors


def write(folder, source, config, tensors):
    folder.mkdir(parents=True)
    header, offset = {}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [offset, offset + values.size * 4]}
        offset += values.size * 4
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(np.ascontiguousarray(values, np.float32).tobytes() for values in tensors.values())
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + body)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    shutil.copy(source / "tokenizer.model", folder / "tokenizer.model")


def scaled(tensors):
    """MiniCPM's scales, and weights that undo them."""
    out = dict(tensors)
    out["language.lm_head.weight"] = tensors["language.embed_tokens.weight"] * 3
    out["language.embed_tokens.weight"] = tensors["language.embed_tokens.weight"] / 12
    for name in tensors:
        if name.startswith("language.") and name.endswith(("o_proj.weight", "down_proj.weight")):
            out[name] = tensors[name] / 0.5
    return out


def with_biases(tensors, rng):
    out = dict(tensors)
    for name, values in tensors.items():
        if name.startswith("language.") and name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
            out[name.replace(".weight", ".bias")] = 0.05 * rng.standard_normal(len(values)).astype(np.float32)
    return out


def clip_tower(tensors, kind, class_token, hidden, rng):
    """The decoder with a random tower and projector; wide enough that visual tokens differ between pictures."""
    out = {name: values for name, values in tensors.items() if name.startswith("language.")}
    embeddings = out["language.embed_tokens.weight"].copy()
    embeddings[2] = 0  # </s>: the trained decoder would end at once after vicuna's words
    out["language.embed_tokens.weight"] = embeddings
    width, ffn, blocks = 64, 160, 2

    def linear(name, outputs, inputs, bias=True, gain=1.0):
        out[name + ".weight"] = (gain * rng.standard_normal((outputs, inputs)) / np.sqrt(inputs)).astype(np.float32)
        if bias:
            out[name + ".bias"] = (0.1 * rng.standard_normal(outputs)).astype(np.float32)

    def norm(name, size):
        out[name + ".weight"] = (1 + 0.1 * rng.standard_normal(size)).astype(np.float32)
        out[name + ".bias"] = (0.1 * rng.standard_normal(size)).astype(np.float32)

    tower = "vision_encoder."
    out[tower + "patch_embedding.weight"] = (rng.standard_normal((width, 588)) / 8).astype(np.float32)
    if class_token:
        out[tower + "class_embedding"] = rng.standard_normal(width).astype(np.float32)
    out[tower + "position_embedding"] = (0.5 * rng.standard_normal((576 + class_token, width))).astype(np.float32)
    norm(tower + "pre_norm", width)
    for i in range(blocks):
        block = f"{tower}blocks.{i}."
        norm(block + "norm1", width)
        norm(block + "norm2", width)
        for part in ("q", "k", "v", "out"):
            linear(f"{block}attn.{part}_proj", width, width, gain=1.5)
        linear(block + "mlp.fc1", ffn, width, gain=1.5)
        linear(block + "mlp.fc2", width, ffn, gain=1.5)
    linear("projector.mlp.0", hidden, width, gain=0.6)
    linear("projector.mlp.2", hidden, hidden, gain=0.6)
    if kind == "ldpv2":
        out["projector.peg.weight"] = (0.3 * rng.standard_normal((hidden, 1, 3, 3))).astype(np.float32)
        out["projector.peg.bias"] = (0.1 * rng.standard_normal(hidden)).astype(np.float32)
    if kind == "ldp":
        for i in range(2):
            block = f"projector.blocks.{i}."
            out[block + "depthwise.weight"] = (0.4 * rng.standard_normal((hidden, 1, 3, 3))).astype(np.float32)
            norm(block + "norm1", hidden)
            norm(block + "norm2", hidden)
            for name, shape in (("se.fc1", (hidden // 4, hidden)), ("se.fc2", (hidden, hidden // 4))):
                out[f"{block}{name}.weight"] = (2 * rng.standard_normal(shape) / np.sqrt(shape[1])).astype(np.float32)
                out[f"{block}{name}.bias"] = (0.1 * rng.standard_normal(shape[0])).astype(np.float32)
            out[block + "pointwise.weight"] = (rng.standard_normal((hidden, hidden)) / np.sqrt(hidden)).astype(np.float32)
    vision = {"hidden": width, "num_layers": blocks, "num_heads": 2, "ffn": ffn, "activation": "quick_gelu", "norm_eps": 1e-5,
              "patch_bias": False, "class_token": class_token, "pre_norm": True, "final_norm": False, "positions": "fixed",
              "position_side": 24, "strip_quirk": False}
    image = {"mode": "pad_square", "image_size": 336, "scale_resolution": 336, "max_slices": 1, "patch_size": 14,
             "mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711],
             "max_megapixels": 100.0, "exif": "ignore"}
    tokens = 576 if kind == "mlp" else 144
    return out, vision, image, {"kind": kind, "num_queries": tokens, "num_heads": 1, "positions": "key", "norm_eps": 1e-5}


def main():
    source, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    config, tensors = read(source)

    def save(name, tensors, **changes):
        new = json.loads(json.dumps(config))
        new["model"]["family"] = name
        for section, values in changes.items():
            new["model"][section] = {**new["model"][section], **values}
        write(target / name, source, new, tensors)

    rng = np.random.default_rng(11)
    save("trained", tensors)
    save("layout25", tensors, prompt={"image_layout": "minicpmv-2.0"})
    scales = {"scale_embeddings": 12.0, "scale_residual": 0.5, "scale_logits": 3.0, "tied_embeddings": False}
    save("minicpm", scaled(tensors), language=scales)
    save("minicpm20", scaled(tensors), language=scales, prompt={"image_layout": "minicpmv-2.0"},
         vision={"activation": "gelu_erf", "positions": "interpolated"})
    save("qwen2", with_biases(tensors, rng), language={"qkv_bias": True})
    save("sizes448", tensors, image={"image_size": 448, "scale_resolution": 448, "max_slices": 9})
    for kind, class_token in ((kind, token) for kind in ("ldp", "ldpv2", "mlp") for token in (True, False)):
        new, vision, image, projector = clip_tower(tensors, kind, class_token, config["model"]["language"]["hidden"], rng)
        save(kind if class_token else kind + "-classless", new, vision=vision, image=image, projector=projector,
             prompt={"chat_template": "vicuna_v1", "image_layout": "bare", "num_queries": projector["num_queries"],
                     "default_system": "A short talk about a picture."},
             language={"max_positions": 2048})


main()
