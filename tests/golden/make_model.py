"""Golden numbers for tests/model/golden_test.cc: every released family at small dimensions, in the released folder layout,
computed by other people's code where it exists and by plain formulas from the papers and model cards where it does not.

  pip install torch==2.11.0 transformers==5.23.0 numpy==2.4.6 safetensors==0.8.0 pillow==12.0.0
  python tests/golden/make_model.py tests/model/golden                      the golden files
  python tests/golden/make_model.py --folder minicpmv-2.6 /tmp/release      that family's folder, to import and look at

The weights are not stored: value i of a tensor is centre + spread * u, where u in [-1, 1) comes from splitmix64 over the
tensor's name and i, rounded to the folder's dtype; the test makes the same folder from the list of names and shapes. A
golden file holds in its metadata config.json, that list and the input (ids with -200 at visual tokens, pictures by size
and seed, loss weights, patch grids, checksum of the patches), and as tensors `output.*` (vision features, projector output,
logits, loss), tensors that follow from a formula (`fixed.NAME`) and the gradient of every released tensor G [all other
dimensions, last dimension] for the weighted sum of -log p as two products with fixed pseudo-random vectors,
`grad_rows.NAME` = G v and `grad_columns.NAME` = u^T G: a wrong element changes both.

  minicpmv-1.0      timm-style SigLIP (exact GELU, antialiased bicubic positions), resampler with key positions interpolated
                    from the query table, Granite, whose multipliers are MiniCPM's scale_depth and dim_model_base; scale_emb
                    is applied here, to text alone: Granite would also scale the visual tokens
  minicpmv-2.0      the same on slices, key positions computed
  minicpmv-2.5      Idefics2's tower, called as the released code calls it: strips padded to the longest, 1-D positions, the
                    padding attended; resampler; Llama 3
  minicpmv-2.5-right  the same weights without that: 2-D positions and masked padding, as 2.6 and as the resampler of 2.5 itself
  minicpmv-2.6      Idefics2's tower with masked padding and 2-D positions, resampler, Qwen2
  mobilevlm         CLIP (last block skipped), LDP, LLaMA
  mobilevlm-v2      CLIP, LDPv2, LLaMA with tied embeddings and interpolated rotary positions

Position buckets follow the released code, which takes torch.arange with a float32 step; transformers 5.23 multiplies
instead and puts some ties into the next bucket. Everything after the weights runs in float64.
"""

import json
import math
import os
import sys
import zlib

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch.func import functional_call
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    GraniteConfig,
    GraniteForCausalLM,
    Idefics2Config,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
)
from transformers.models.idefics2.modeling_idefics2 import Idefics2VisionTransformer
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

PATCH, VISION, VISION_HEADS, VISION_FFN = 14, 60, 3, 88
VOCAB, FFN, LAYERS = 80, 96, 2
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


# ------------------------------------------------------------------------------------- weights


def uniform(name, count):
    """[count] float64 in [-1, 1), multiples of 2^-23."""
    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = ((key ^ byte) * 0x100000001B3) % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(key) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 2**23 - 1


class Release:
    """The tensors of a released folder, as leaves of the graph."""

    def __init__(self, config, dtype):
        self.config, self.dtype = config, dtype
        self.rows = []  # of the list in the golden file
        self.weights = {}  # name -> float64 leaf

    def add(self, name, *shape, centre=0.0, gain=1.3):
        """A matrix or kernel keeps activations of order one; biases and scales stay away from their defaults."""
        count = math.prod(shape)
        fan_in = count // shape[0]
        spread = gain * math.sqrt(3.0 / fan_in) if len(shape) > 1 else 0.4
        self.put(name, shape, centre, float(np.float32(spread)))

    def table(self, name, *shape, spread=1.0):
        self.put(name, shape, 0.0, float(np.float32(spread)))

    def put(self, name, shape, centre, spread):
        values = torch.from_numpy(centre + spread * uniform(name, math.prod(shape))).reshape(shape)
        stored = values.float().to(DTYPES[self.dtype])
        self.rows.append({"name": name, "shape": list(shape), "centre": centre, "spread": spread})
        self.weights[name] = stored.double().requires_grad_()

    def fixed(self, name, values):
        """A tensor that is no parameter: stored as it is."""
        stored = values.float().to(DTYPES[self.dtype])
        self.rows.append({"name": name, "shape": list(values.shape), "fixed": True})
        self.weights[name] = stored.double()

    def both(self, name, *shape, centre=0.0):
        self.add(name + ".weight", *shape, centre=centre)
        self.add(name + ".bias", shape[0])

    def norm(self, name, size):
        self.both(name, size, centre=1.0)

    def under(self, prefix):
        return {k[len(prefix) :]: v for k, v in self.weights.items() if k.startswith(prefix)}


def add_language(release, prefix, embed_spread):
    c = release.config
    hidden = c["hidden_size"]
    kv = hidden // c["num_attention_heads"] * c.get("num_key_value_heads", c["num_attention_heads"])
    release.table(prefix + "model.embed_tokens.weight", VOCAB, hidden, spread=embed_spread)
    for i in range(LAYERS):
        layer = f"{prefix}model.layers.{i}."
        for p, rows in [("q", hidden), ("k", kv), ("v", kv)]:
            release.add(layer + f"self_attn.{p}_proj.weight", rows, hidden)
            if prefix == "llm." and c.get("version") == 2.6:
                release.add(layer + f"self_attn.{p}_proj.bias", rows)
        release.add(layer + "self_attn.o_proj.weight", hidden, hidden)
        release.add(layer + "mlp.gate_proj.weight", FFN, hidden)
        release.add(layer + "mlp.up_proj.weight", FFN, hidden)
        release.add(layer + "mlp.down_proj.weight", hidden, FFN)
        release.add(layer + "input_layernorm.weight", hidden, centre=1.0)
        release.add(layer + "post_attention_layernorm.weight", hidden, centre=1.0)
    release.add(prefix + "model.norm.weight", hidden, centre=1.0)
    if not c["tie_word_embeddings"]:
        release.add(prefix + "lm_head.weight", VOCAB, hidden, gain=2.0)


def add_library_layers(release, prefix, layers):
    """Blocks of a vision tower as the transformers library names them, in SigLIP and CLIP alike."""
    for i in range(layers):
        layer = f"{prefix}encoder.layers.{i}."
        release.norm(layer + "layer_norm1", VISION)
        for p in ["q", "k", "v", "out"]:
            release.both(layer + f"self_attn.{p}_proj", VISION, VISION)
        release.norm(layer + "layer_norm2", VISION)
        release.both(layer + "mlp.fc1", VISION_FFN, VISION)
        release.both(layer + "mlp.fc2", VISION, VISION_FFN)


def add_resampler(release, stored_positions):
    hidden, queries = release.config["hidden_size"], release.config["query_num"]
    release.table("resampler.query", queries, hidden)
    release.add("resampler.kv_proj.weight", hidden, VISION)
    release.add("resampler.attn.in_proj_weight", 3 * hidden, hidden)
    release.add("resampler.attn.in_proj_bias", 3 * hidden)
    release.both("resampler.attn.out_proj", hidden, hidden)
    for norm in ["ln_q", "ln_kv", "ln_post"]:
        release.norm("resampler." + norm, hidden)
    release.add("resampler.proj", hidden, hidden)
    if stored_positions:
        side = math.isqrt(queries)
        release.fixed("resampler.pos_embed", sincos(side, side, hidden))


# ------------------------------------------------------------------------------------- pictures


def pattern(width, height, seed):
    """The synthetic picture of make_preprocess.py; the tests compute the same."""
    y, x, c = np.mgrid[0:height, 0:width, 0:3].astype(np.uint32)
    value = x * (13 + 4 * c) + y * (7 + 2 * np.uint32(seed)) + ((x * y) >> 3) * (c + 1)
    return Image.fromarray((value & 255).astype(np.uint8))


def snap(value, multiple):
    return max(round(value / multiple) * multiple, multiple)


def fit(width, height, resolution, force):
    if force or width * height > resolution * resolution:
        aspect = width / height
        height = int(resolution / math.sqrt(aspect))
        width = int(height * aspect)
    return snap(width, PATCH), snap(height, PATCH)


def slices_of(image, resolution, max_slices):
    """Overview and tiles of MiniCPM-V 2.0 and later."""
    width, height = image.size
    count = min(math.ceil(width * height / resolution**2), max_slices)
    if count <= 1:
        return [image.resize(fit(width, height, resolution, True), Image.BICUBIC)]
    best, least = None, math.inf
    for k in [count - 1, count, count + 1]:
        if k == 1 or k > max_slices:
            continue
        for columns in range(1, k + 1):
            if k % columns:
                continue
            error = abs(math.log(width / height) - math.log(columns / (k // columns)))
            if error < least:
                best, least = (columns, k // columns), error
    columns, rows = best
    parts = [image.resize(fit(width, height, resolution, False), Image.BICUBIC)]
    tile = fit(snap(width, columns) / columns, snap(height, rows) / rows, resolution, True)
    refined = image.resize((tile[0] * columns, tile[1] * rows), Image.BICUBIC)
    for row in range(rows):
        for column in range(columns):
            left, top = column * tile[0], row * tile[1]
            parts.append(refined.crop((left, top, left + tile[0], top + tile[1])))
    return parts


def padded_square(image, side, mean):
    width, height = image.size
    long = max(width, height)
    square = Image.new("RGB", (long, long), tuple(int(255 * m) for m in mean))
    square.paste(image, ((long - width) // 2, (long - height) // 2))
    return square.resize((side, side), Image.BICUBIC)


def normalised(image, mean, std):
    pixels = np.asarray(image).astype(np.float32) / np.float32(255)
    pixels = (pixels - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def to_patches(image):
    """[3, H, W] -> [patches, 3 * patch * patch], row-major patches, (channel, y, x) inside."""
    c, height, width = image.shape
    cut = image.reshape(c, height // PATCH, PATCH, width // PATCH, PATCH)
    return cut.permute(1, 3, 0, 2, 4).reshape(-1, c * PATCH * PATCH)


# ------------------------------------------------------------------------------- vision towers


def strip_of(image):
    """[3, H, W] -> [3, patch, patch * patches]: all patches side by side, row-major."""
    patches = to_patches(image).reshape(-1, 3, PATCH, PATCH)
    return torch.cat(list(patches), 2)


def buckets(count, side=70):
    boundaries = torch.arange(1 / side, 1.0, 1 / side)
    step = float(torch.tensor(1.0) / torch.tensor(count))
    return torch.bucketize(torch.arange(0, 1 - 1e-6, step), boundaries, right=True)


def idefics2_tower(release, quirk):
    """The tower on a batch of padded strips, as the released code of 2.5 (`quirk`) and 2.6 runs it."""
    config = Idefics2Config(
        vision_config=dict(
            hidden_size=VISION,
            intermediate_size=VISION_FFN,
            num_hidden_layers=3,
            num_attention_heads=VISION_HEADS,
            image_size=980,
            patch_size=PATCH,
            hidden_act="gelu_pytorch_tanh",
            layer_norm_eps=1e-6,
        )
    ).vision_config
    config._attn_implementation = "eager"
    tower = Idefics2VisionTransformer(config).double().eval()
    state = {}  # of the call: positions and mask
    embeddings = tower.embeddings

    def embed(pixel_values, patch_attention_mask):
        x = embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        return x + embeddings.position_embedding(state["ids"])

    embeddings.forward = embed

    def run(images):
        strips = [strip_of(image) for image in images]
        longest = max(strip.shape[2] for strip in strips) // PATCH
        pixels = torch.stack([F.pad(strip, (0, longest * PATCH - strip.shape[2])) for strip in strips])
        lengths = [strip.shape[2] // PATCH for strip in strips]
        mask = torch.zeros((len(images), 1, longest), dtype=torch.bool)
        ids = torch.zeros((len(images), longest), dtype=torch.long)
        for i, image in enumerate(images):
            if quirk:  # the whole strip counts as one row of patches, and nothing is masked
                mask[i] = True
                ids[i] = buckets(longest)
                continue
            mask[i, 0, : lengths[i]] = True
            rows, columns = buckets(image.shape[1] // PATCH), buckets(image.shape[2] // PATCH)
            ids[i, : lengths[i]] = (rows[:, None] * 70 + columns[None, :]).flatten()
        state["ids"] = ids
        weights = release.under("vpm.")
        assert set(weights) == {name for name, _ in tower.named_parameters()}
        out = functional_call(
            tower, weights, args=(), kwargs=dict(pixel_values=pixels, patch_attention_mask=mask)
        ).last_hidden_state
        return [out[i, :n] for i, n in enumerate(lengths)]

    return run


def timm_tower(release):
    """The tower of 1.0 and 2.0, one picture at a time: SigLIP blocks, a resized position table."""
    config = SiglipVisionConfig(
        hidden_size=VISION,
        intermediate_size=VISION_FFN,
        num_attention_heads=VISION_HEADS,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
    )
    config._attn_implementation = "eager"
    block = SiglipEncoderLayer(config).double().eval()
    weights = release.under("vpm.")

    def block_weights(i):
        given = {k[len(f"blocks.{i}.") :]: v for k, v in weights.items() if k.startswith(f"blocks.{i}.")}
        renamed = {}
        for name, value in given.items():
            name = name.replace("norm1", "layer_norm1").replace("norm2", "layer_norm2")
            if name.startswith("attn.qkv."):
                for part, piece in zip("qkv", value.chunk(3)):
                    renamed[f"self_attn.{part}_proj.{name[9:]}"] = piece
            else:
                renamed[name.replace("attn.proj", "self_attn.out_proj")] = value
        assert set(renamed) == {name for name, _ in block.named_parameters()}
        return renamed

    def run(images):
        results = []
        for image in images:
            x = F.conv2d(
                image[None], weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=PATCH
            )
            table = weights["pos_embed"].reshape(1, 27, 27, VISION).permute(0, 3, 1, 2)
            table = F.interpolate(table, size=x.shape[-2:], mode="bicubic", antialias=True)
            x = (x + table).flatten(2).transpose(1, 2)
            for i in range(2):
                x = functional_call(block, block_weights(i), (x, None))
                x = x[0] if isinstance(x, tuple) else x
            results.append(F.layer_norm(x, (VISION,), weights["norm.weight"], weights["norm.bias"], 1e-6)[0])
        return results

    return run


def clip_tower(release):
    vision = release.config["vision_config"]
    config = CLIPVisionConfig(
        hidden_size=VISION,
        intermediate_size=VISION_FFN,
        num_hidden_layers=3,
        num_attention_heads=VISION_HEADS,
        image_size=vision["image_size"],
        patch_size=PATCH,
        hidden_act="quick_gelu",
        layer_norm_eps=1e-5,
    )
    config._attn_implementation = "eager"
    tower = CLIPVisionModel(config).double().eval()

    def run(images):
        weights = release.under("model.vision_tower.vision_tower.vision_model.")
        names = {name for name, _ in tower.named_parameters()}
        if "embeddings.class_embedding" not in names:
            weights = {"vision_model." + name: value for name, value in weights.items()}
        assert set(weights) == names
        out = functional_call(tower, weights, (torch.stack(images),), dict(output_hidden_states=True))
        return list(out.hidden_states[-2][:, 1:])

    return run


# ------------------------------------------------------------------------------------- projectors


def sincos(rows, columns, hidden):
    """First half of the channels by column, second by row; sines, then cosines."""
    quarter = hidden // 4
    omega = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)

    def waves(count):
        angles = torch.arange(count, dtype=torch.float64)[:, None] * omega
        return torch.cat([angles.sin(), angles.cos()], 1)

    by_column = waves(columns)[None].expand(rows, -1, -1)
    by_row = waves(rows)[:, None].expand(-1, columns, -1)
    return torch.cat([by_column, by_row], 2).reshape(rows * columns, hidden)


def resampler(release, family):
    hidden, queries = release.config["hidden_size"], release.config["query_num"]
    attention = torch.nn.MultiheadAttention(hidden, hidden // 128, batch_first=True).double().eval()
    w = release.under("resampler.")

    def norm(x, name):
        return F.layer_norm(x, (hidden,), w[name + ".weight"], w[name + ".bias"], 1e-6)

    def positions(rows, columns):
        if family != "minicpmv-1.0":
            return sincos(rows, columns, hidden)
        side = math.isqrt(queries)
        table = w["pos_embed"].reshape(1, side, side, hidden).permute(0, 3, 1, 2)
        table = F.interpolate(table, size=(rows, columns), mode="bicubic")
        return table.permute(0, 2, 3, 1).reshape(-1, hidden)

    def run(features, grids):
        """All slices in one padded batch, the padding masked."""
        longest = max(len(x) for x in features)
        projected = [norm(x @ w["kv_proj.weight"].T, "ln_kv") for x in features]
        value = torch.stack([F.pad(x, (0, 0, 0, longest - len(x))) for x in projected])
        table = [F.pad(positions(*grid), (0, 0, 0, longest - len(x))) for grid, x in zip(grids, projected)]
        padding = torch.tensor([[i >= len(x) for i in range(longest)] for x in projected])
        query = norm(w["query"], "ln_q")
        if family in ("minicpmv-1.0", "minicpmv-2.0"):
            query = query + w["pos_embed"]
        names = {"in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"}
        out, _ = functional_call(
            attention,
            {name: w["attn." + name] for name in names},
            (query.expand(len(features), -1, -1), value + torch.stack(table), value),
            dict(key_padding_mask=padding, need_weights=False),
        )
        return norm(out, "ln_post") @ w["proj"]

    return run


def ldp(release):
    """[slices, rows * columns, vision] -> [slices, a quarter of the tokens, hidden]"""
    w = release.under("model.mm_projector.")

    def linear(x, name):
        return F.linear(x, w[name + ".weight"], w[name + ".bias"])

    def channel_norm(x, name):
        x = F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), w[name + ".weight"], w[name + ".bias"], 1e-5)
        return x.permute(0, 3, 1, 2)

    def block(x, i, stride):
        p = f"model.mb_block.{i}.block."
        x = F.conv2d(x, w[p + "0.0.weight"], stride=stride, padding=1, groups=x.shape[1])
        x = F.hardswish(channel_norm(x, p + "0.1"))
        gate = F.conv2d(x.mean((2, 3), keepdim=True), w[p + "1.fc1.weight"], w[p + "1.fc1.bias"])
        gate = F.conv2d(F.relu(gate), w[p + "1.fc2.weight"], w[p + "1.fc2.bias"])
        x = F.conv2d(x * F.hardsigmoid(gate), w[p + "2.0.weight"])
        return channel_norm(x, p + "2.1")

    def run(features, grids):
        x = torch.stack(features)
        first, second = ("model.mlp.1", "model.mlp.3") if "model.mlp.1.weight" in w else ("mlp.mlp.0", "mlp.mlp.2")
        x = linear(F.gelu(linear(x, first)), second).transpose(1, 2).unflatten(2, grids[0])
        if "peg.peg.0.weight" in w:
            x = F.avg_pool2d(x, 2)
            x = x + F.conv2d(x, w["peg.peg.0.weight"], w["peg.peg.0.bias"], padding=1, groups=x.shape[1])
        else:
            x = block(block(x, 1, 1) + x, 2, 2)
        return x.flatten(2).transpose(1, 2)

    return run


# --------------------------------------------------------------------------------------- decoders


def decoder(release, family):
    c = release.config
    common = dict(
        vocab_size=VOCAB,
        hidden_size=c["hidden_size"],
        intermediate_size=FFN,
        num_hidden_layers=LAYERS,
        num_attention_heads=c["num_attention_heads"],
        num_key_value_heads=c.get("num_key_value_heads", c["num_attention_heads"]),
        rms_norm_eps=c["rms_norm_eps"],
        max_position_embeddings=c["max_position_embeddings"],
        tie_word_embeddings=c["tie_word_embeddings"],
        attn_implementation="eager",
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    rope = {"rope_type": "default", "rope_theta": c.get("rope_theta", 10000.0)}
    if c.get("rope_scaling"):
        rope.update({"rope_type": "linear", "factor": c["rope_scaling"]["factor"]})
    if family in ("minicpmv-1.0", "minicpmv-2.0"):
        model = GraniteForCausalLM(
            GraniteConfig(
                rope_parameters=rope,
                embedding_multiplier=1.0,
                residual_multiplier=c["scale_depth"] / math.sqrt(LAYERS),
                logits_scaling=c["hidden_size"] / c["dim_model_base"],
                attention_multiplier=(c["hidden_size"] // c["num_attention_heads"]) ** -0.5,
                **common,
            )
        )
    elif family == "minicpmv-2.6":
        model = Qwen2ForCausalLM(Qwen2Config(rope_parameters=rope, **common))
    else:
        model = LlamaForCausalLM(LlamaConfig(rope_parameters=rope, **common))
    model = model.double().eval()
    weights = {
        name: value
        for name, value in release.under("llm." if family.startswith("minicpmv") else "").items()
        if name.startswith(("model.layers.", "model.norm.", "model.embed_tokens.", "lm_head."))
    }
    assert set(weights) == {name for name, _ in model.named_parameters()}

    def run(rows):
        kwargs = dict(inputs_embeds=torch.cat(rows)[None], use_cache=False)
        return functional_call(model, weights, args=(), kwargs=kwargs).logits[0]

    def embed(ids):
        return weights["model.embed_tokens.weight"][ids] * c.get("scale_emb", 1)

    return embed, run


# --------------------------------------------------------------------------------------- families


def vision_config(image_size):
    return {
        "hidden_size": VISION,
        "intermediate_size": VISION_FFN,
        "num_hidden_layers": 3,
        "num_attention_heads": VISION_HEADS,
        "image_size": image_size,
        "patch_size": PATCH,
    }


def config_of(family):
    config = {
        "vocab_size": VOCAB,
        "num_hidden_layers": LAYERS,
        "intermediate_size": FFN,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "rope_scaling": None,
    }
    if family.startswith("mobilevlm"):
        second = family.endswith("v2")
        config |= {
            "model_type": "mobilevlm",
            "architectures": ["MobileLlamaForCausalLM"],
            "hidden_size": 96 if second else 80,  # LDP rounds 80 / 4 channels up to 24
            "num_attention_heads": 3 if second else 5,
            "n_head": 2,  # a stale key of another library, as in the released 3B
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 2048,
            "mm_projector_type": "ldpnetv2" if second else "ldpnet",
            "mm_vision_tower": "clip-vit-large-patch14-336",
            "mm_hidden_size": VISION,
            "mm_vision_select_layer": -2,
            "mm_vision_select_feature": "patch",
            "image_aspect_ratio": "pad",
            "vision_config": vision_config(84),
        }
        if second:
            config |= {"tie_word_embeddings": True, "rope_scaling": {"type": "linear", "factor": 4.0}}
        return config
    config |= {
        "model_type": "minicpmv",
        "architectures": ["MiniCPMV"],
        "max_position_embeddings": 4096,
        "image_size": 448,
        "rms_norm_eps": 1e-5,
    }
    if family in ("minicpmv-1.0", "minicpmv-2.0"):
        config |= {
            "hidden_size": 384 if family == "minicpmv-2.0" else 256,
            "num_attention_heads": 6 if family == "minicpmv-2.0" else 4,
            "query_num": 4 if family == "minicpmv-2.0" else 9,
            "drop_vision_last_layer": True,
            "scale_emb": 12,
            "scale_depth": 1.4,
            "dim_model_base": 64,
            "vision_encoder": "vit_so400m_patch14_siglip_384.webli",
            "vision_config": vision_config(384),
        }
        if family == "minicpmv-2.0":
            config |= {"slice_mode": True, "max_slice_nums": 4, "scale_resolution": 98, "patch_size": PATCH}
        else:
            config["image_size"] = 112
        return config
    config |= {
        "hidden_size": 384,
        "num_attention_heads": 6 if family == "minicpmv-2.5" else 12,
        "num_key_value_heads": 2 if family == "minicpmv-2.5" else 4,
        "query_num": 6 if family == "minicpmv-2.5" else 5,
        "drop_vision_last_layer": False,
        "slice_mode": True,
        "slice_config": {"max_slice_nums": 4, "scale_resolution": 98, "patch_size": PATCH},
        "vision_config": vision_config(980),
        "rope_theta": 500000.0 if family == "minicpmv-2.5" else 1000000.0,
        "version": "2.5" if family == "minicpmv-2.5" else 2.6,
    }
    if family == "minicpmv-2.6":
        config["rms_norm_eps"] = 1e-6
    return config


def build(family):
    dtype = {"minicpmv-2.5": "F16", "minicpmv-2.0": "F32"}.get(family, "BF16")
    release = Release(config_of(family), dtype)
    if family.startswith("mobilevlm"):
        add_language(release, "", 0.3 if release.config["tie_word_embeddings"] else 1.0)
        tower = "model.vision_tower.vision_tower.vision_model."
        release.table(tower + "embeddings.class_embedding", VISION)
        release.add(tower + "embeddings.patch_embedding.weight", VISION, 3, PATCH, PATCH)
        release.table(tower + "embeddings.position_embedding.weight", 37, VISION)
        release.norm(tower + "pre_layrnorm", VISION)
        add_library_layers(release, tower, 3)
        release.norm(tower + "post_layernorm", VISION)
        hidden = release.config["hidden_size"]
        if family == "mobilevlm":
            p = "model.mm_projector.model."
            release.both(p + "mlp.1", hidden, VISION)
            release.both(p + "mlp.3", hidden, hidden)
            for b in ["1", "2"]:
                block = f"{p}mb_block.{b}.block."
                release.add(block + "0.0.weight", hidden, 1, 3, 3)
                release.norm(block + "0.1", hidden)
                release.both(block + "1.fc1", 24, hidden, 1, 1)
                release.both(block + "1.fc2", hidden, 24, 1, 1)
                release.add(block + "2.0.weight", hidden, hidden, 1, 1)
                release.norm(block + "2.1", hidden)
        else:
            p = "model.mm_projector."
            release.both(p + "mlp.mlp.0", hidden, VISION)
            release.both(p + "mlp.mlp.2", hidden, hidden)
            release.both(p + "peg.peg.0", hidden, 1, 3, 3)
        return release
    timm = family in ("minicpmv-1.0", "minicpmv-2.0")
    add_language(release, "llm.", 0.1 if timm else 1.0)
    if timm:
        release.both("vpm.patch_embed.proj", VISION, 3, PATCH, PATCH)
        release.table("vpm.pos_embed", 1, 729, VISION)
        for i in range(2):
            block = f"vpm.blocks.{i}."
            release.norm(block + "norm1", VISION)
            release.both(block + "attn.qkv", 3 * VISION, VISION)
            release.both(block + "attn.proj", VISION, VISION)
            release.norm(block + "norm2", VISION)
            release.both(block + "mlp.fc1", VISION_FFN, VISION)
            release.both(block + "mlp.fc2", VISION, VISION_FFN)
        release.norm("vpm.norm", VISION)
    else:
        release.both("vpm.embeddings.patch_embedding", VISION, 3, PATCH, PATCH)
        release.table("vpm.embeddings.position_embedding.weight", 4900, VISION)
        add_library_layers(release, "vpm.", 3)
        release.norm("vpm.post_layernorm", VISION)
    add_resampler(release, timm)
    return release


CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# [width, height, seed] of the pictures of each segment. On slices of 98 x 98 pixels: an overview of 5 x 10 patches with
# tiles; none; one slice of 7 x 7, and one of 25 x 2, whose sides and total meet ties of the position buckets.
PICTURES = [[[200, 100, 1]], [], [[60, 60, 2], [16, 200, 3]]]


def segments_of(family, release):
    """Ids with -200 at visual tokens, loss weights, slices."""
    mobile = family.startswith("mobilevlm")
    mean, std = (CLIP_MEAN, CLIP_STD) if mobile else ((0.5,) * 3, (0.5,) * 3)
    queries = 9 if mobile else release.config["query_num"]
    made = []
    for number, pictures in enumerate(PICTURES):
        slices = []
        for width, height, seed in pictures:
            image = pattern(width, height, seed)
            if mobile:
                parts = [padded_square(image, 84, mean)]
            elif family == "minicpmv-1.0":
                parts = [image.resize((112, 112), Image.BICUBIC)]
            else:
                parts = slices_of(image, 98, 4)
            slices += [normalised(part, mean, std) for part in parts]
        text = [int(3 + (VOCAB - 3) * (u + 1) / 2) for u in uniform(f"ids.{number}", 12 + 3 * number)]
        ids, rest = text[:3], text[3:]
        for i in range(len(slices)):
            ids += [rest[i % 2]] + [-200] * queries + [rest[2 + i % 2]]
        ids += rest
        first = len(ids) - len(rest) + 1  # of the targets
        weights = [0.0] * len(ids)
        for i, u in enumerate(uniform(f"weights.{number}", len(ids))):
            if first <= i + 1 < len(ids):
                weights[i] = float(np.float32(1 + 0.5 * u))
        made.append({"ids": ids, "pictures": pictures, "loss_weights": weights, "slices": slices})
    return made


def make_golden(family, path):
    release = build(family.removesuffix("-right"))
    segments = segments_of(family, release)
    if family.startswith("mobilevlm"):
        tower, projector = clip_tower(release), ldp(release)
    else:
        timm = family in ("minicpmv-1.0", "minicpmv-2.0")
        tower = timm_tower(release) if timm else idefics2_tower(release, quirk=family == "minicpmv-2.5")
        projector = resampler(release, family)
    embed, language = decoder(release, family)

    slices = [image for segment in segments for image in segment["slices"]]
    grids = [(image.shape[1] // PATCH, image.shape[2] // PATCH) for image in slices]
    if family == "minicpmv-2.5":
        assert max(h * w for h, w in grids) == 50, grids
    patches = torch.cat([to_patches(image) for image in slices])
    features = tower([image.double() for image in slices])
    visual = projector(features, grids)
    loss, logits, used = 0.0, [], 0
    for segment in segments:
        ids = torch.tensor(segment["ids"])
        rows, start = [], 0
        text = embed(ids.clamp_min(0))
        while start < len(ids):
            if ids[start] >= 0:
                rows.append(text[start : start + 1])
                start += 1
            else:
                rows.append(visual[used])
                start += visual.shape[1]
                used += 1
        logits.append(language(rows))
        log_probs = F.log_softmax(logits[-1], -1)
        for i, weight in enumerate(segment["loss_weights"]):
            if weight:
                loss = loss - weight * log_probs[i, ids[i + 1]]
    assert used == len(slices)
    loss.backward()

    tensors = {
        "output.features": torch.cat(features),
        "output.visual": visual.flatten(0, 1),
        "output.logits": torch.cat(logits),
        "output.loss": loss.reshape(1),
    }
    for name, weight in release.weights.items():
        if not weight.requires_grad:
            tensors["fixed." + name] = weight
            continue
        if weight.grad is None:
            continue
        grad = weight.grad.reshape(-1, weight.shape[-1])
        tensors["grad_rows." + name] = grad @ torch.from_numpy(uniform(name + ".columns", grad.shape[1]))
        tensors["grad_columns." + name] = torch.from_numpy(uniform(name + ".rows", grad.shape[0])) @ grad
    metadata = {
        "config": json.dumps(release.config),
        "dtype": release.dtype,
        "tensors": json.dumps(release.rows),
        "segments": json.dumps([{k: v for k, v in s.items() if k != "slices"} for s in segments]),
        "grids": json.dumps(grids),
        "patches_crc32": "%08x" % zlib.crc32(patches.contiguous().numpy().tobytes()),
    }
    save_file({k: v.detach().float().contiguous() for k, v in tensors.items()}, path, metadata)
    print(family, os.path.getsize(path), "bytes,", len(release.rows), "tensors,", len(patches), "patches, loss", loss.item())


def write_folder(family, folder):
    release = build(family)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as out:
        json.dump(release.config, out, indent=2)
    tensors = {k: v.detach().to(DTYPES[release.dtype]).contiguous() for k, v in release.weights.items()}
    save_file(tensors, os.path.join(folder, "model.safetensors"), {"format": "pt"})


FAMILIES = ["minicpmv-1.0", "minicpmv-2.0", "minicpmv-2.5", "minicpmv-2.5-right", "minicpmv-2.6", "mobilevlm", "mobilevlm-v2"]

if __name__ == "__main__":
    if sys.argv[1] == "--folder":
        write_folder(sys.argv[2], sys.argv[3])
    else:
        for family in FAMILIES:
            make_golden(family, os.path.join(sys.argv[1], family + ".safetensors"))
