"""Golden tensors for tests/model/golden_test.cc: whole small vision-language models of four families, computed by
other people's code where it exists and by plain formulas from the papers where it does not.

  pip install torch==2.11.0 transformers==5.23.0 numpy==2.4.6 safetensors==0.8.0
  python tests/golden/make_model.py tests/model/golden

Each file holds, under our names, `weight.*` (every parameter), `input.*` (patches, grids, ids, segments, labels, loss
weights, places of the visual tokens), `output.*` (vision features, projector output, logits, loss) and `grad.*` (of every
parameter, for the weighted sum of -log p). Segments run one at a time here: no packing anywhere in the reference.

  minicpmv26   Idefics2's SigLIP tower (2-D position buckets), nn.MultiheadAttention resampler, Qwen2
  minicpmv2    SigLIP blocks with antialiased bicubic positions, resampler with positions on queries too, Granite (its
               residual, logit and embedding multipliers are MiniCPM's scale_depth, dim_model_base and scale_emb)
  mobilevlm2   CLIP (quick GELU, class token, last block skipped), LDPv2, LLaMA
  mobilevlm    CLIP, LDP, LLaMA with grouped keys and tied embeddings

Seed 7, float32 weights, computed in float64.
"""

import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
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
)
from transformers.models.idefics2.modeling_idefics2 import Idefics2VisionTransformer

PATCH, VISION, VISION_HEADS, VISION_FFN = 4, 24, 2, 40
HIDDEN, FFN, VOCAB = 32, 40, 48
SIDE = 6  # of the position table


class Golden:
    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)
        self.parameters = {}  # our name -> function giving (tensor or its gradient) from the owner tensor
        self.tensors = {}

    def randomize(self, module):
        """Random weights that keep activations of order one and every bias and scale away from its default."""
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=self.generator, dtype=torch.float32).double()
            with torch.no_grad():
                if parameter.dim() == 1:
                    centre = 1.0 if "norm" in name.lower() or ".ln_" in name else 0.0
                    is_scale = name.endswith("weight") and centre == 1.0
                    parameter.copy_((centre if is_scale else 0.0) + 0.3 * noise)
                elif "embed" in name or "query" in name:
                    parameter.copy_(0.7 * noise)
                else:
                    fan_in = parameter[0].numel()
                    parameter.copy_(1.3 * noise / fan_in**0.5)
                parameter.copy_(parameter.float().double())  # exactly what the file holds

    def add(self, ours, owner, view=lambda t: t):
        self.parameters[ours] = (owner, view)

    def finish(self, path, **tensors):
        for name, (owner, view) in self.parameters.items():
            self.tensors["weight." + name] = view(owner.detach()).float().contiguous().clone()
            gradient = owner.grad if owner.grad is not None else torch.zeros_like(owner)
            self.tensors["grad." + name] = view(gradient).float().contiguous().clone()
        for name, tensor in tensors.items():
            tensor = tensor.detach()
            self.tensors[name.replace("__", ".")] = (
                tensor.float() if tensor.is_floating_point() else tensor.long()
            ).contiguous()
        save_file(self.tensors, path)
        print(path, sum(t.numel() * t.element_size() for t in self.tensors.values()), "bytes")


def random_images(golden, grids):
    return [
        torch.randn((3, h * PATCH, w * PATCH), generator=golden.generator).double() for h, w in grids
    ]


def to_patches(image):
    """[3, H, W] -> [patches, 3 * patch * patch], row-major patches, (channel, y, x) inside."""
    c, height, width = image.shape
    return (
        image.reshape(c, height // PATCH, PATCH, width // PATCH, PATCH)
        .permute(1, 3, 0, 2, 4)
        .reshape(-1, c * PATCH * PATCH)
    )


def add_encoder_names(golden, layers, final_norm):
    for i, layer in enumerate(layers):
        prefix = f"vision_encoder.blocks.{i}."
        for ours, theirs in [("norm1", layer.layer_norm1), ("norm2", layer.layer_norm2)]:
            golden.add(prefix + ours + ".weight", theirs.weight)
            golden.add(prefix + ours + ".bias", theirs.bias)
        for p in ["q_proj", "k_proj", "v_proj", "out_proj"]:
            golden.add(f"{prefix}attn.{p}.weight", getattr(layer.self_attn, p).weight)
            golden.add(f"{prefix}attn.{p}.bias", getattr(layer.self_attn, p).bias)
        for p in ["fc1", "fc2"]:
            golden.add(f"{prefix}mlp.{p}.weight", getattr(layer.mlp, p).weight)
            golden.add(f"{prefix}mlp.{p}.bias", getattr(layer.mlp, p).bias)
    if final_norm is not None:
        golden.add("vision_encoder.final_norm.weight", final_norm.weight)
        golden.add("vision_encoder.final_norm.bias", final_norm.bias)


def add_decoder_names(golden, model, bias, tied):
    golden.add("language.embed_tokens.weight", model.model.embed_tokens.weight)
    for i, layer in enumerate(model.model.layers):
        prefix = f"language.layers.{i}."
        golden.add(prefix + "input_norm.weight", layer.input_layernorm.weight)
        golden.add(prefix + "post_attention_norm.weight", layer.post_attention_layernorm.weight)
        for p in ["q_proj", "k_proj", "v_proj", "o_proj"]:
            golden.add(f"{prefix}self_attn.{p}.weight", getattr(layer.self_attn, p).weight)
            if bias and p != "o_proj":
                golden.add(f"{prefix}self_attn.{p}.bias", getattr(layer.self_attn, p).bias)
        for p in ["gate_proj", "up_proj", "down_proj"]:
            golden.add(f"{prefix}mlp.{p}.weight", getattr(layer.mlp, p).weight)
    golden.add("language.norm.weight", model.model.norm.weight)
    if not tied:
        golden.add("language.lm_head.weight", model.lm_head.weight)


# ---------------------------------------------------------------- vision towers


class Idefics2Tower(torch.nn.Module):
    """SigLIP with positions from buckets of relative coordinates; one image at a time."""

    def __init__(self):
        super().__init__()
        config = Idefics2Config(
            vision_config=dict(
                hidden_size=VISION,
                intermediate_size=VISION_FFN,
                num_hidden_layers=2,
                num_attention_heads=VISION_HEADS,
                image_size=SIDE * PATCH,
                patch_size=PATCH,
                hidden_act="gelu_pytorch_tanh",
                layer_norm_eps=1e-6,
            )
        ).vision_config
        config._attn_implementation = "eager"
        self.tower = Idefics2VisionTransformer(config)

    def names(self, golden):
        embeddings = self.tower.embeddings
        golden.add(
            "vision_encoder.patch_embedding.weight", embeddings.patch_embedding.weight, lambda t: t.flatten(1)
        )
        golden.add("vision_encoder.patch_embedding.bias", embeddings.patch_embedding.bias)
        golden.add("vision_encoder.position_embedding", embeddings.position_embedding.weight)
        add_encoder_names(golden, self.tower.encoder.layers, self.tower.post_layernorm)

    def forward(self, image):
        mask = torch.ones((1, image.shape[1] // PATCH, image.shape[2] // PATCH), dtype=torch.bool)
        return self.tower(image[None], patch_attention_mask=mask).last_hidden_state[0]


class InterpolatedTower(Idefics2Tower):
    """The same blocks with exact GELU and a resized position table (timm's dynamic image size)."""

    def __init__(self):
        super().__init__()
        for layer in self.tower.encoder.layers:
            layer.mlp.activation_fn = torch.nn.GELU()

    def forward(self, image):
        embeddings = self.tower.embeddings
        x = embeddings.patch_embedding(image[None])
        grid = x.shape[-2:]
        table = embeddings.position_embedding.weight.reshape(1, SIDE, SIDE, VISION).permute(0, 3, 1, 2)
        if tuple(grid) != (SIDE, SIDE):
            table = F.interpolate(table, size=tuple(grid), mode="bicubic", antialias=True)
        x = (x + table).flatten(2).transpose(1, 2)
        for layer in self.tower.encoder.layers:
            x = layer(x, None)
            x = x[0] if isinstance(x, tuple) else x
        return self.tower.post_layernorm(x)[0]


class ClipTower(torch.nn.Module):
    def __init__(self):
        super().__init__()
        config = CLIPVisionConfig(
            hidden_size=VISION,
            intermediate_size=VISION_FFN,
            num_hidden_layers=3,  # the last one is skipped
            num_attention_heads=VISION_HEADS,
            image_size=SIDE * PATCH,
            patch_size=PATCH,
            hidden_act="quick_gelu",
            layer_norm_eps=1e-5,
        )
        config._attn_implementation = "eager"
        self.tower = CLIPVisionModel(config)

    def core(self):
        return getattr(self.tower, "vision_model", self.tower)

    def names(self, golden):
        embeddings = self.core().embeddings
        golden.add(
            "vision_encoder.patch_embedding.weight", embeddings.patch_embedding.weight, lambda t: t.flatten(1)
        )
        golden.add("vision_encoder.position_embedding", embeddings.position_embedding.weight)
        golden.add("vision_encoder.class_embedding", embeddings.class_embedding)
        golden.add("vision_encoder.pre_norm.weight", self.core().pre_layrnorm.weight)
        golden.add("vision_encoder.pre_norm.bias", self.core().pre_layrnorm.bias)
        add_encoder_names(golden, self.core().encoder.layers[:2], None)

    def forward(self, image):
        return self.tower(image[None], output_hidden_states=True).hidden_states[-2][0, 1:]


# ------------------------------------------------------------------- projectors


def sincos(rows, columns, hidden):
    quarter = hidden // 4
    result = torch.zeros((rows, columns, hidden), dtype=torch.float64)
    for r in range(rows):
        for c in range(columns):
            for i in range(quarter):
                omega = 10000.0 ** (-i / quarter)
                angles = torch.tensor([c * omega, r * omega], dtype=torch.float64)
                for half in range(2):
                    result[r, c, half * 2 * quarter + i] = torch.sin(angles[half])
                    result[r, c, half * 2 * quarter + quarter + i] = torch.cos(angles[half])
    return result.reshape(rows * columns, hidden)


class Resampler(torch.nn.Module):
    def __init__(self, queries, heads, query_positions):
        super().__init__()
        self.query = torch.nn.Parameter(torch.zeros((queries, HIDDEN)))
        self.kv_proj = torch.nn.Linear(VISION, HIDDEN, bias=False)
        self.attn = torch.nn.MultiheadAttention(HIDDEN, heads, batch_first=True)
        self.ln_q = torch.nn.LayerNorm(HIDDEN, eps=1e-6)
        self.ln_kv = torch.nn.LayerNorm(HIDDEN, eps=1e-6)
        self.ln_post = torch.nn.LayerNorm(HIDDEN, eps=1e-6)
        self.proj = torch.nn.Parameter(torch.zeros((HIDDEN, HIDDEN)))
        self.query_positions = query_positions

    def names(self, golden):
        golden.add("projector.query", self.query)
        golden.add("projector.kv_proj.weight", self.kv_proj.weight)
        for ours, theirs in [("norm_q", self.ln_q), ("norm_kv", self.ln_kv), ("norm_post", self.ln_post)]:
            golden.add(f"projector.{ours}.weight", theirs.weight)
            golden.add(f"projector.{ours}.bias", theirs.bias)
        for i, p in enumerate(["q_proj", "k_proj", "v_proj"]):
            rows = slice(i * HIDDEN, (i + 1) * HIDDEN)
            golden.add(f"projector.attn.{p}.weight", self.attn.in_proj_weight, lambda t, rows=rows: t[rows])
            golden.add(f"projector.attn.{p}.bias", self.attn.in_proj_bias, lambda t, rows=rows: t[rows])
        golden.add("projector.attn.out_proj.weight", self.attn.out_proj.weight)
        golden.add("projector.attn.out_proj.bias", self.attn.out_proj.bias)
        golden.add("projector.proj", self.proj)

    def forward(self, features, grid):
        x = self.ln_kv(self.kv_proj(features))
        query = self.ln_q(self.query)
        if self.query_positions:
            side = int(query.shape[0] ** 0.5)
            query = query + sincos(side, side, HIDDEN)
        key = x + sincos(grid[0], grid[1], HIDDEN)
        out, _ = self.attn(query[None], key[None], x[None])
        return self.ln_post(out[0]) @ self.proj


class Ldpv2(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = torch.nn.Sequential(
            torch.nn.Linear(VISION, HIDDEN), torch.nn.GELU(), torch.nn.Linear(HIDDEN, HIDDEN)
        )
        self.peg = torch.nn.Conv2d(HIDDEN, HIDDEN, 3, 1, 1, bias=True, groups=HIDDEN)

    def names(self, golden):
        for i in [0, 2]:
            golden.add(f"projector.mlp.{i}.weight", self.mlp[i].weight)
            golden.add(f"projector.mlp.{i}.bias", self.mlp[i].bias)
        golden.add("projector.peg.weight", self.peg.weight)
        golden.add("projector.peg.bias", self.peg.bias)

    def forward(self, features, grid):
        x = self.mlp(features).T.reshape(1, HIDDEN, grid[0], grid[1])
        x = F.adaptive_avg_pool2d(x, (grid[0] // 2, grid[1] // 2))
        x = self.peg(x) + x
        return x.flatten(2)[0].T


class ChannelNorm(torch.nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LdpBlock(torch.nn.Module):
    def __init__(self, stride):
        super().__init__()
        self.depthwise = torch.nn.Conv2d(HIDDEN, HIDDEN, 3, stride, 1, bias=False, groups=HIDDEN)
        self.norm1 = ChannelNorm(HIDDEN, eps=1e-5)
        self.fc1 = torch.nn.Conv2d(HIDDEN, HIDDEN // 4, 1)
        self.fc2 = torch.nn.Conv2d(HIDDEN // 4, HIDDEN, 1)
        self.pointwise = torch.nn.Conv2d(HIDDEN, HIDDEN, 1, bias=False)
        self.norm2 = ChannelNorm(HIDDEN, eps=1e-5)

    def forward(self, x):
        x = F.hardswish(self.norm1(self.depthwise(x)))
        gate = F.hardsigmoid(self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))))
        return self.norm2(self.pointwise(x * gate))


class Ldp(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = torch.nn.Sequential(
            torch.nn.Linear(VISION, HIDDEN), torch.nn.GELU(), torch.nn.Linear(HIDDEN, HIDDEN)
        )
        self.blocks = torch.nn.ModuleList([LdpBlock(1), LdpBlock(2)])

    def names(self, golden):
        for i in [0, 2]:
            golden.add(f"projector.mlp.{i}.weight", self.mlp[i].weight)
            golden.add(f"projector.mlp.{i}.bias", self.mlp[i].bias)
        for i, block in enumerate(self.blocks):
            prefix = f"projector.blocks.{i}."
            golden.add(prefix + "depthwise.weight", block.depthwise.weight)
            for norm in ["norm1", "norm2"]:
                golden.add(f"{prefix}{norm}.weight", getattr(block, norm).weight)
                golden.add(f"{prefix}{norm}.bias", getattr(block, norm).bias)
            for fc in ["fc1", "fc2"]:
                golden.add(f"{prefix}se.{fc}.weight", getattr(block, fc).weight, lambda t: t.flatten(1))
                golden.add(f"{prefix}se.{fc}.bias", getattr(block, fc).bias)
            golden.add(prefix + "pointwise.weight", block.pointwise.weight, lambda t: t.flatten(1))

    def forward(self, features, grid):
        x = self.mlp(features).T.reshape(1, HIDDEN, grid[0], grid[1])
        x = self.blocks[1](self.blocks[0](x) + x)
        return x.flatten(2)[0].T


# --------------------------------------------------------------------- decoders


def decoder(kind):
    common = dict(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=FFN,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        attn_implementation="eager",
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    if kind == "qwen2":
        return Qwen2ForCausalLM(
            Qwen2Config(
                num_key_value_heads=2,
                rms_norm_eps=1e-6,
                rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
                tie_word_embeddings=False,
                **common,
            )
        )
    if kind == "granite":
        return GraniteForCausalLM(
            GraniteConfig(
                num_key_value_heads=4,
                rms_norm_eps=1e-5,
                rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
                tie_word_embeddings=False,
                embedding_multiplier=1.0,  # applied below, to text only
                residual_multiplier=0.7,
                logits_scaling=2.5,
                attention_multiplier=(HIDDEN // 4) ** -0.5,
                **common,
            )
        )
    return LlamaForCausalLM(
        LlamaConfig(
            num_key_value_heads=2 if kind == "llama-tied" else 4,
            rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            tie_word_embeddings=kind == "llama-tied",
            **common,
        )
    )


def make_case(path, seed, tower, projector, kind, grids_by_segment, queries, scale_embeddings=1.0):
    golden = Golden(seed)
    language = decoder(kind)
    for module in [tower, projector, language]:
        module.double().eval()
        golden.randomize(module)
    tower.names(golden)
    projector.names(golden)
    add_decoder_names(golden, language, bias=kind == "qwen2", tied=kind == "llama-tied")

    patches, features, visual, logits, ids, labels, weights = [], [], [], [], [], [], []
    places, segments, all_grids = [], [], []
    loss = torch.zeros((), dtype=torch.float64)
    for grids in grids_by_segment:
        length = 7 + 3 * len(segments)
        segment_ids = torch.randint(3, VOCAB, (length,), generator=golden.generator)
        inserted, segment_places = [], []
        for image, grid in zip(random_images(golden, grids), grids):
            # What the reference keeps in float64 must be what the file holds.
            image = image.float().double()
            feature = tower(image)
            patches.append(to_patches(image))
            features.append(feature)
            visual.append(projector(feature, grid))
            inserted.append(visual[-1])
            all_grids.append(grid)
        embedded = language.get_input_embeddings()(segment_ids) * scale_embeddings
        start = 2
        before, after = embedded[:start], embedded[start:]
        rows = [before] + inserted + [after]
        filler = torch.zeros((queries * len(inserted),), dtype=torch.long)
        segment_ids = torch.cat([segment_ids[:start], filler, segment_ids[start:]])
        offset = sum(segments)
        places += [offset + start + i for i in range(filler.numel())]
        out = language(inputs_embeds=torch.cat(rows)[None], use_cache=False).logits[0]
        segment_labels = torch.cat([segment_ids[1:], torch.tensor([-100])])
        segment_labels[: start + filler.numel()] = -100
        segment_weights = torch.where(
            segment_labels >= 0, torch.rand(segment_labels.shape, generator=golden.generator) + 0.5, 0.0
        ).double()
        segment_weights = segment_weights.float().double()
        log_probs = F.log_softmax(out, -1)
        for t in range(segment_labels.numel()):
            if segment_labels[t] >= 0:
                loss = loss - segment_weights[t] * log_probs[t, segment_labels[t]]
        logits.append(out)
        ids.append(segment_ids)
        labels.append(segment_labels)
        weights.append(segment_weights)
        segments.append(segment_ids.numel())
    loss.backward()
    golden.finish(
        path,
        input__patches=torch.cat(patches),
        input__grids=torch.tensor(all_grids),
        input__ids=torch.cat(ids),
        input__labels=torch.cat(labels),
        input__loss_weights=torch.cat(weights),
        input__visual_positions=torch.tensor(places),
        input__segments=torch.tensor(segments),
        output__features=torch.cat(features),
        output__visual=torch.cat(visual),
        output__logits=torch.cat(logits),
        output__loss=loss.reshape(1),
    )


def main():
    folder = sys.argv[1]
    mixed = [[(4, 6), (3, 5), (3, 5)], [], [(7, 2), (6, 6)]]
    fixed = [[(6, 6)], [], [(6, 6), (6, 6)]]
    make_case(
        f"{folder}/minicpmv26.safetensors", 7, Idefics2Tower(), Resampler(5, 4, False), "qwen2", mixed, 5
    )
    make_case(
        f"{folder}/minicpmv2.safetensors",
        7,
        InterpolatedTower(),
        Resampler(4, 2, True),
        "granite",
        mixed,
        4,
        scale_embeddings=3.0,
    )
    make_case(f"{folder}/mobilevlm2.safetensors", 7, ClipTower(), Ldpv2(), "llama", fixed, 9)
    make_case(f"{folder}/mobilevlm.safetensors", 7, ClipTower(), Ldp(), "llama-tied", fixed, 9)


main()
