#!/usr/bin/env python3
"""Writes tests/mobile/quants_golden.json: blocks and values that tests/mobile/quants_test.cc compares with.

Needs: python 3.11, numpy 2.4.6, gguf 0.19.0, and llama.cpp's library libggml-base.so as the package llama-cpp-python 0.3.36
builds it (found in that package, or named).      python tests/golden/make_mobile_quants.py [libggml-base.so]

Blocks of 4 to 8 bits come from ggml_quantize_chunk, which llama-quantize calls; F16 and BF16 blocks and every dequantized value
from the package `gguf`, the format's own Python reader and writer.
"""
import ctypes
import importlib.util
import json
import pathlib
import sys

import gguf
import numpy as np
from gguf import quants
from gguf.constants import GGMLQuantizationType as T

BLOCK_TYPES = {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q4_K": 144, "Q5_K": 176, "Q6_K": 210}


class InitParams(ctypes.Structure):
    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


def load_library(path):
    if path is None:
        package = pathlib.Path(importlib.util.find_spec("llama_cpp").origin).parent
        path = package / "lib" / "libggml-base.so"
    library = ctypes.CDLL(str(path))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
                                            ctypes.c_int64, ctypes.c_void_p]
    library.ggml_init.argtypes = [InitParams]
    library.ggml_init(InitParams(1 << 20, None, True))  # fills its tables
    return library


def blocks_of(library, name, x):
    if name not in BLOCK_TYPES:
        return np.ascontiguousarray(quants.quantize(x, T[name])).view(np.uint8)
    rows, columns = x.shape
    row_bytes = columns // (256 if name.endswith("K") else 32) * BLOCK_TYPES[name]
    out = np.zeros((rows, row_bytes), np.uint8)
    written = library.ggml_quantize_chunk(int(T[name]), x.ctypes.data, out.ctypes.data, 0, rows, columns, None)
    assert written == out.size
    return out


def main():
    library = load_library(sys.argv[1] if len(sys.argv) > 1 else None)
    rng = np.random.default_rng(20240607)
    sparse = rng.standard_normal(256) * (rng.random(256) < 0.1)  # has 0 and -0, and groups of nothing else
    sparse[64:96] = np.where(np.arange(32) % 3 == 0, -0.0, 0.0)
    rows = [
        rng.standard_normal(256),
        rng.standard_normal(256) * 0.02,
        rng.standard_t(3, 256) * 5.0,          # outliers
        np.abs(rng.standard_normal(256)),      # one sign
        np.linspace(-1.0, 1.0, 256),
        np.round(rng.standard_normal(256) * 4) / 4,  # ties
        np.concatenate([np.zeros(96), rng.standard_normal(160) * 1e-4]),
        sparse,
        rng.standard_normal(256) * 1e-20,      # scales below the smallest half
        np.zeros(256),
    ]
    x = np.ascontiguousarray(np.stack(rows).astype(np.float32))
    out = {"made_by": "tests/golden/make_mobile_quants.py, llama-cpp-python 0.3.36, gguf 0.19.0",
           "columns": 256, "rows": len(rows), "types": {}}
    out["source"] = x.tobytes().hex()
    for name in ("F16", "BF16", *BLOCK_TYPES):
        blocks = blocks_of(library, name, x)
        values = quants.dequantize(blocks, T[name]) if name != "F16" else x.astype(np.float16).astype(np.float32)
        out["types"][name] = {"blocks": blocks.tobytes().hex(), "values": values.astype(np.float32).tobytes().hex()}
    target = pathlib.Path(__file__).resolve().parent.parent / "mobile" / "quants_golden.json"
    target.write_text(json.dumps(out, indent=0) + "\n")
    print(target, target.stat().st_size)


if __name__ == "__main__":
    main()
