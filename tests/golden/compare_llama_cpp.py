#!/usr/bin/env python3
"""Asks llama.cpp and pocketvlm-mobile the same about the same pictures, from the same two files, and says where they part.

Needs: python 3.11, llama-cpp-python 0.3.36 (its libllama and libmtmd, unmodified), numpy 2.4.6, pillow 13.0.0, jinja2 3.1.6;
tests/golden/requirements-llama-cpp.txt pins them.

  compare_llama_cpp.py --model language-f16.gguf --mmproj mmproj-f16.gguf --images FOLDER [--prompt TEXT] [--count 50]
  compare_llama_cpp.py --model language-q4_0.gguf --prompts FILE       text alone: one prompt a line; tokens and answer are compared

For each picture it compares, in the order in which an answer comes about:
  tokens      ids of the prompt, rendered by llama.cpp's side from the chat template in the file; places of visual tokens
  pixels      the patches the vision encoder reads (llama.cpp's in half precision: differences below 0.001 are rounding)
  vision      visual tokens: the smallest cosine
  decoder     greedy answer of llama.cpp's decoder when it is handed our tokens and our visual tokens
  answer      greedy answer of the two programs as their users run them
"first" is the first stage that differs. Where answers differ, `margin` is how much llama.cpp preferred its token at the first
different place to ours, in logits: near 0 it was a tie.
"""
import argparse
import ctypes
import json
import pathlib
import subprocess
import sys
import tempfile

import jinja2
import llama_cpp as lc
import numpy as np
from PIL import Image
from llama_cpp import mtmd_cpp as mt

PIXEL_TOLERANCE = 2e-3  # half precision of values up to 2.7, the range of normalised pixels
COSINE_TOLERANCE = 0.9999
STAGES = ["tokens", "pixels", "vision", "decoder", "answer"]


def read_safetensors(path):
    raw = pathlib.Path(path).read_bytes()
    size = int.from_bytes(raw[:8], "little")
    types = {"F32": np.float32, "I32": np.int32}
    out = {}
    for name, entry in json.loads(raw[8:8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        out[name] = np.frombuffer(raw[begin:end], types[entry["dtype"]]).reshape(entry["shape"])
    return out


class Patches:
    """Listens to llama.cpp's vision graph and keeps the unfolded patches, the first thing it computes from pixels."""

    def __init__(self):
        base = ctypes.CDLL(str(pathlib.Path(lc.__file__).parent / "lib" / "libggml-base.so"))
        for name, result in (("ggml_get_data", ctypes.c_void_p), ("ggml_op_desc", ctypes.c_char_p),
                             ("ggml_nelements", ctypes.c_int64), ("ggml_nbytes", ctypes.c_size_t)):
            getattr(base, name).restype = result
            getattr(base, name).argtypes = [ctypes.c_void_p]
        self.base = base
        self.slices = []
        self.callback = lc.ggml_backend_sched_eval_callback(self.listen)

    def listen(self, tensor, ask, _):
        if self.base.ggml_op_desc(tensor) != b"IM2COL":
            return not ask
        if not ask and len(self.slices) < self.wanted:
            count = self.base.ggml_nelements(tensor)
            kind = np.float16 if self.base.ggml_nbytes(tensor) == 2 * count else np.float32
            raw = ctypes.string_at(self.base.ggml_get_data(tensor), self.base.ggml_nbytes(tensor))
            self.slices.append(np.frombuffer(raw, kind).astype(np.float32))
        return True

    def start(self, wanted):
        self.slices, self.wanted = [], wanted


class LlamaCpp:
    def __init__(self, args):
        self.log = []
        self.on_log = lc.llama_log_callback(lambda level, text, _: self.log.append(text.decode(errors="replace")) if level >= 3 else None)
        lc.llama_log_set(self.on_log, None)
        mt.mtmd_log_set(self.on_log, None)
        lc.llama_backend_init()
        params = lc.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = lc.llama_model_load_from_file(args.model.encode(), params)
        if not self.model:
            raise SystemExit(f"{args.model}: llama.cpp does not load it\n" + "".join(self.log))
        self.vocab = lc.llama_model_get_vocab(self.model)
        self.num_tokens = lc.llama_vocab_n_tokens(self.vocab)
        context = lc.llama_context_default_params()
        context.n_ctx, context.n_batch, context.n_ubatch = args.context, 512, 512
        context.n_threads = context.n_threads_batch = args.threads
        if args.cache_f32:
            context.type_k = context.type_v = 0
        self.context = lc.llama_init_from_model(self.model, context)
        self.hidden = lc.llama_model_n_embd(self.model)
        template = lc.llama_model_chat_template(self.model, None)
        if not template:
            raise SystemExit(f"{args.model}: no chat template in it")
        environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
        self.template = environment.from_string(template.decode())
        if not args.mmproj:
            return
        self.patches = Patches()
        vision = mt.mtmd_context_params_default()
        vision.use_gpu, vision.n_threads, vision.warmup = False, args.threads, False
        vision.cb_eval = self.patches.callback
        self.vision = mt.mtmd_init_from_file(args.mmproj.encode(), self.model, vision)
        if not self.vision:
            raise SystemExit(f"{args.mmproj}: libmtmd does not load it\n" + "".join(self.log))

    def piece(self, token):
        if token < 0:
            return ""
        buffer = ctypes.create_string_buffer(256)
        size = lc.llama_token_to_piece(self.vocab, token, buffer, 256, 0, True)
        return buffer.raw[:max(size, 0)].decode(errors="replace")

    def prompt(self, question, system, picture=True):
        """The text that llama.cpp's own programs make: the template without BOS, which tokenizing adds."""
        turns = [{"role": "system", "content": system}] if system else []
        turns.append({"role": "user", "content": (mt.mtmd_default_marker().decode() + "\n" if picture else "") + question})
        bos = self.piece(lc.llama_vocab_bos(self.vocab)) if lc.llama_vocab_get_add_bos(self.vocab) else ""
        text = self.template.render(messages=turns, add_generation_prompt=True, bos_token=bos, eos_token="")
        return text.removeprefix(bos) if bos else text

    def tokens(self, text):
        raw = text.encode()
        ids = (lc.llama_token * (len(raw) + 8))()
        count = lc.llama_tokenize(self.vocab, raw, len(raw), ids, len(ids), True, True)
        if count < 0:
            raise SystemExit(f"llama_tokenize wants {-count} tokens for {text!r}")
        return list(ids[:count])

    def chunks(self, text, picture):
        pixels = np.ascontiguousarray(picture)
        bitmap = mt.mtmd_bitmap_init(pixels.shape[1], pixels.shape[0], pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_ubyte)))
        raw = text.encode()
        given = mt.mtmd_input_text(text=raw, text_len=len(raw), add_special=True, parse_special=True)
        chunks = mt.mtmd_input_chunks_init()
        if mt.mtmd_tokenize(self.vision, chunks, ctypes.byref(given), (mt.mtmd_bitmap_p_ctypes * 1)(bitmap), 1):
            raise SystemExit("mtmd_tokenize failed\n" + "".join(self.log))
        return chunks

    def encode(self, chunks):
        """ids with -1 at visual places, visual tokens [places, hidden], patches of each slice."""
        ids, visual = [], []
        every = [mt.mtmd_input_chunks_get(chunks, i) for i in range(mt.mtmd_input_chunks_size(chunks))]
        pictures = [c for c in every if mt.mtmd_input_chunk_get_type(c) == mt.MTMD_INPUT_CHUNK_TYPE_IMAGE]
        self.patches.start(len(pictures))
        for chunk in every:
            if mt.mtmd_input_chunk_get_type(chunk) == mt.MTMD_INPUT_CHUNK_TYPE_TEXT:
                count = ctypes.c_size_t()
                tokens = mt.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
                ids += tokens[:count.value]
                continue
            if mt.mtmd_encode_chunk(self.vision, chunk):
                raise SystemExit("mtmd_encode_chunk failed\n" + "".join(self.log))
            count = mt.mtmd_input_chunk_get_n_tokens(chunk)
            values = np.ctypeslib.as_array(mt.mtmd_get_output_embd(self.vision), (count, self.hidden))
            visual.append(values.copy())
            ids += [-1] * count
        mt.mtmd_input_chunks_free(chunks)
        return ids, np.concatenate(visual), self.patches.slices

    def decode(self, position, ids=None, rows=None):
        count = len(ids) if rows is None else len(rows)
        batch = lc.llama_batch_init(count, 0 if rows is None else self.hidden, 1)
        batch.n_tokens = count
        if rows is not None:
            flat = np.ascontiguousarray(rows, np.float32)
            ctypes.memmove(batch.embd, flat.ctypes.data, flat.nbytes)
        for i in range(count):
            if rows is None:
                batch.token[i] = ids[i]
            batch.pos[i], batch.n_seq_id[i], batch.logits[i] = position + i, 1, int(i == count - 1)
            batch.seq_id[i][0] = 0
        if lc.llama_decode(self.context, batch):
            raise SystemExit("llama_decode failed\n" + "".join(self.log))
        lc.llama_batch_free(batch)

    def answer(self, ids, visual, length):
        """Greedy tokens and the logits each was chosen from."""
        lc.llama_memory_clear(lc.llama_get_memory(self.context), True)
        position = row = 0
        while position < len(ids):
            end = position
            while end < len(ids) and (ids[end] < 0) == (ids[position] < 0) and end - position < 512:
                end += 1
            if ids[position] < 0:
                self.decode(position, rows=visual[row:row + end - position])
                row += end - position
            else:
                self.decode(position, ids=ids[position:end])
            position = end
        chosen, logits = [], []
        while True:
            row = np.ctypeslib.as_array(lc.llama_get_logits_ith(self.context, -1), (self.num_tokens,)).copy()
            token = int(row.argmax())
            logits.append(row)
            if lc.llama_vocab_is_eog(self.vocab, token) or len(chosen) == length:
                return chosen, logits
            chosen.append(token)
            self.decode(position, ids=[token])
            position += 1


def ours(args, prompt, picture, folder):
    common = ["--model", args.model, "--prompt", prompt, "--threads", str(args.threads), "--packed", "memory",
              "--context", str(args.context), "--json"]
    if picture:
        common += ["--mmproj", args.mmproj, "--image", str(picture)]
    if args.system:
        common += ["--system", args.system]
    if args.kernels:
        common += ["--kernels", args.kernels]
    out = f"{folder}/forward.safetensors"
    subprocess.run([args.program, "forward", *common, "--out", out], check=True, stdout=subprocess.DEVNULL)
    chat = subprocess.run([args.program, "chat", *common, "--tuning", "none", "--greedy", "--max-new-tokens", str(args.tokens)], check=True,
                          capture_output=True)
    forward = read_safetensors(out)
    ids = forward["input_ids"].tolist()
    for place in forward["visual_positions"] if picture else []:
        ids[place] = -1
    return ids, forward, json.loads(chat.stdout)["ids"]


def smallest_cosine(a, b):
    dot = (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-30)
    return float(dot.min()), float(dot.mean())


def first_difference(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)) if len(a) != len(b) else None)


def note_answers(args, peer, result, answer, their_answer, logits, stages):
    result["answer"] = their_answer == answer
    result["first"] = next((stage for stage in stages if not result[stage]), None)
    place = first_difference(answer, their_answer)
    if place is not None:
        row = logits[min(place, len(logits) - 1)]
        mine = answer[place] if place < len(answer) else lc.llama_vocab_eos(peer.vocab)
        result["differs_at"], result["margin"] = place, float(row.max() - row[mine])
    return result


def compare_text(args, peer, prompt, folder):
    ids, _, answer = ours(args, prompt, None, folder)
    theirs = peer.tokens(peer.prompt(prompt, args.system, picture=False))
    their_answer, logits = peer.answer(theirs, None, args.tokens)
    return note_answers(args, peer, {"prompt": prompt, "tokens": ids == theirs}, answer, their_answer, logits, ["tokens", "answer"])


def compare(args, peer, picture, folder):
    ids, forward, answer = ours(args, args.prompt, picture, folder)
    text = peer.prompt(args.prompt, args.system)
    theirs, visual, patches = peer.encode(peer.chunks(text, np.asarray(Image.open(picture).convert("RGB"))))
    result = {"picture": picture.name, "size": list(Image.open(picture).size), "tokens": ids == theirs}
    result["slices"] = [len(forward["grids"]), len(patches)]
    own, sizes = forward["projector"].reshape(-1, peer.hidden), [int(r) * int(c) for r, c in forward["grids"]]
    if sizes == [p.size // forward["patches"].shape[1] for p in patches]:
        difference = np.abs(np.concatenate(patches) - forward["patches"].reshape(-1))
        result["pixels_max"], result["pixels_mean"] = float(difference.max()), float(difference.mean())
    result["pixels"] = result.get("pixels_max", np.inf) < PIXEL_TOLERANCE
    if own.shape == visual.shape:
        result["cosine_min"], result["cosine_mean"] = smallest_cosine(own, visual)
    result["vision"] = result.get("cosine_min", 0.0) > COSINE_TOLERANCE
    given_ours, _ = peer.answer(ids, own, args.tokens)
    result["decoder"] = given_ours == answer
    their_answer, logits = peer.answer(theirs, visual, args.tokens)
    return note_answers(args, peer, result, answer, their_answer, logits, STAGES)


def collect(args, peer):
    """Results, and the stages that were compared."""
    if args.prompts:
        prompts = [line for line in pathlib.Path(args.prompts).read_text().splitlines() if line.strip()]
        if not prompts:
            sys.exit(f"{args.prompts}: no prompts in it")
        work, stages = [(compare_text, prompt) for prompt in prompts[:args.count]], ["tokens", "answer"]
    else:
        where = pathlib.Path(args.images)
        pictures = [where] if where.is_file() else sorted(p for p in where.iterdir() if p.suffix in (".png", ".jpg", ".jpeg"))
        if not pictures:
            sys.exit(f"{where}: no .png or .jpg in it")
        work, stages = [(compare, picture) for picture in pictures[:args.count]], STAGES
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for function, item in work:
            results.append(function(args, peer, item, folder))
            if args.json:
                print(json.dumps(results[-1]), flush=True)
    return results, stages


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--mmproj", help="with --images")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--images", help="folder of pictures, or one")
    what.add_argument("--prompts", help="text alone: a file with one prompt a line")
    parser.add_argument("--prompt", default="What is in the picture?")
    parser.add_argument("--system", default="")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=48, help="of each answer, at most")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kernels", default="", help="pocketvlm-mobile's kernel variant")
    parser.add_argument("--cache-f32", action="store_true", help="llama.cpp's KV cache in float32 instead of its default, half")
    parser.add_argument("--program", default="build/release/pocketvlm-mobile")
    parser.add_argument("--json", action="store_true", help="one object a picture or prompt instead of the table")
    args = parser.parse_args()
    if bool(args.images) != bool(args.mmproj):
        parser.error("--images and --mmproj go together; --prompts is for text alone")
    peer = LlamaCpp(args)
    results, stages = collect(args, peer)
    total = len(results)
    if args.prompts:
        print(f"{total} prompts", file=sys.stderr)
    else:
        print(f"{total} pictures, {sum(len(r['slices']) and r['slices'][0] for r in results)} slices", file=sys.stderr)
    for stage in stages:
        print(f"{stage:8} equal {sum(r[stage] for r in results)} of {total}")
    pixels = [r for r in results if "pixels_max" in r]
    if pixels:
        print(f"pixels   largest difference {max(r['pixels_max'] for r in pixels):.4f}, mean {np.mean([r['pixels_mean'] for r in pixels]):.2e}"
              f" (over {len(pixels)} with the same slices)")
    cosines = [r for r in results if "cosine_min" in r]
    if cosines:
        print(f"vision   smallest cosine {min(r['cosine_min'] for r in cosines):.6f}, mean {np.mean([r['cosine_mean'] for r in cosines]):.6f}"
              f" (over {len(cosines)} with as many visual tokens)")
    for r in results:
        if not r["answer"]:
            print(f"{r.get('picture', r.get('prompt'))}: first difference in {r['first']}, answers part at token {r.get('differs_at')}, "
                  f"margin {r.get('margin', 0):.3f}")


main()
