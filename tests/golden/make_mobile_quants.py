#!/usr/bin/env python3
"""Writes tests/mobile/quants_golden.json: blocks and values that tests/mobile/quants_test.cc compares with.

Needs: python 3.11, numpy 2.4.6, gguf 0.19.0.      python tests/golden/make_mobile_quants.py

F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 blocks and every dequantized value come from the package `gguf`, the format's own
Python reader and writer. It cannot quantize K types, so Q4_K, Q5_K and Q6_K follow the format's search rules here, one float32
operation at a time; the package then reads them back.
"""
import json
import pathlib

import gguf
import numpy as np
from gguf import quants
from gguf.constants import GGMLQuantizationType as T

F = np.float32


def rne(v):
    return int(np.rint(v))


def clamp(v, low, high):
    return max(low, min(high, v))


def half(v):
    return np.frombuffer(np.float16(v).tobytes(), np.uint8).tobytes()


def search_affine(x, w, levels, first, steps):
    low, high = F(x[0]), F(x[0])
    sum_w, sum_x = w[0], F(w[0] * x[0])
    for i in range(1, 32):
        low, high = min(low, x[i]), max(high, x[i])
        sum_w = F(sum_w + w[i])
        sum_x = F(sum_x + F(w[i] * x[i]))
    low = min(low, F(0))
    if high == low:
        return F(0), F(-low), [0] * 32
    iscale = F(F(levels) / F(high - low))
    scale = F(F(1) / iscale)
    q = [clamp(rne(F(iscale * F(v - low))), 0, levels) for v in x]
    best = F(0)
    for i in range(32):
        e = F(F(F(scale * F(q[i])) + low) - x[i])
        best = F(best + F(w[i] * F(e * e)))
    for step in range(steps + 1):
        iscale = F(F(F(F(first) + F(F(0.1) * F(step))) + F(levels)) / F(high - low))
        trial = [clamp(rne(F(iscale * F(v - low))), 0, levels) for v in x]
        sum_q = sum_qq = sum_xq = F(0)
        for i in range(32):
            sum_q = F(sum_q + F(w[i] * F(trial[i])))
            sum_qq = F(sum_qq + F(F(w[i] * F(trial[i])) * F(trial[i])))
            sum_xq = F(sum_xq + F(F(w[i] * F(trial[i])) * x[i]))
        det = F(F(sum_w * sum_qq) - F(sum_q * sum_q))
        if not det > 0:
            continue
        s = F(F(F(sum_w * sum_xq) - F(sum_x * sum_q)) / det)
        m = F(F(F(sum_qq * sum_x) - F(sum_q * sum_xq)) / det)
        if m > 0:
            m, s = F(0), F(sum_xq / sum_qq)
        total = F(0)
        for i in range(32):
            e = F(F(F(s * F(trial[i])) + m) - x[i])
            total = F(total + F(w[i] * F(e * e)))
        if total < best:
            q, best, scale, low = trial, total, s, m
    return scale, F(-low), q


def affine_block(x, levels, first, steps):
    found = []
    for j in range(8):
        part = x[32 * j:32 * j + 32]
        total = F(0)
        for v in part:
            total = F(total + F(v * v))
        rms = np.sqrt(F(total / F(32)))
        found.append(search_affine(part, [F(rms + abs(v)) for v in part], levels, first, steps))
    top_scale = max([F(0)] + [f[0] for f in found])
    top_min = max([F(0)] + [f[1] for f in found])
    inverse_scale = F(F(63) / top_scale) if top_scale > 0 else F(0)
    inverse_min = F(F(63) / top_min) if top_min > 0 else F(0)
    sc = [min(63, rne(F(inverse_scale * f[0]))) for f in found]
    mn = [min(63, rne(F(inverse_min * f[1]))) for f in found]
    d, dmin = np.float16(F(top_scale / F(63))), np.float16(F(top_min / F(63)))
    packed = bytearray(12)
    for j in range(4):
        packed[j] = sc[j] | (sc[j + 4] >> 4) << 6
        packed[j + 4] = mn[j] | (mn[j + 4] >> 4) << 6
        packed[j + 8] = (sc[j + 4] & 15) | (mn[j + 4] & 15) << 4
    q = []
    for j in range(8):
        step = F(F(d) * F(sc[j]))
        if step == 0:
            q += found[j][2]
            continue
        low = F(F(dmin) * F(mn[j]))
        q += [clamp(rne(F(F(v + low) / step)), 0, levels) for v in x[32 * j:32 * j + 32]]
    return d, dmin, bytes(packed), q


def nibbles(q):
    out = bytearray()
    for g in range(4):
        out += bytes((q[64 * g + l] & 15) | (q[64 * g + 32 + l] & 15) << 4 for l in range(32))
    return bytes(out)


def q4_k(x):
    d, dmin, packed, q = affine_block(x, 15, -1.0, 20)
    return half(d) + half(dmin) + packed + nibbles(q)


def q5_k(x):
    d, dmin, packed, q = affine_block(x, 31, -0.5, 15)
    high = bytes(sum((q[32 * j + l] >> 4) << j for j in range(8)) for l in range(32))
    return half(d) + half(dmin) + packed + high + nibbles(q)


def q6_k(x):
    q, scales = [], []
    for k in range(16):
        part = x[16 * k:16 * k + 16]
        extreme = F(0)
        for v in part:
            if abs(v) > abs(extreme):
                extreme = v
        if abs(extreme) < 1e-15:
            q += [0] * 16
            scales.append(F(0))
            continue
        scale, best, kept = F(0), F(0), None
        for shift in [None] + [s for s in range(-9, 10) if s]:
            grid = F(32) if shift is None else F(F(32) + F(F(0.1) * F(shift)))
            iscale = F(-grid / extreme)
            trial = [clamp(rne(F(iscale * v)), -32, 31) for v in part]
            xq = qq = F(0)
            for v, l in zip(part, trial):
                w = F(v * v)
                xq = F(xq + F(F(w * v) * F(l)))
                qq = F(qq + F(F(w * F(l)) * F(l)))
            if shift is None or (qq > 0 and F(xq * xq) > F(best * qq)):
                kept = trial
                scale = F(xq / qq) if qq != 0 else F(0)
                best = F(scale * xq)
        q += kept
        scales.append(scale)
    top = F(0)
    for s in scales:
        if abs(s) > abs(top):
            top = s
    if abs(top) < 1e-15:
        return bytes(210)
    iscale = F(F(-128) / top)
    d = np.float16(F(F(1) / iscale))
    stored = [min(127, rne(F(iscale * s))) for s in scales]
    for k in range(16):
        step = F(F(d) * F(stored[k]))
        if step != 0:
            q[16 * k:16 * k + 16] = [clamp(rne(F(v / step)), -32, 31) for v in x[16 * k:16 * k + 16]]
    u = [v + 32 for v in q]
    low, high = bytearray(), bytearray()
    for n in (0, 128):
        low += bytes((u[n + l] & 15) | (u[n + 64 + l] & 15) << 4 for l in range(64))
        high += bytes(sum((u[n + 32 * k + l] >> 4) << (2 * k) for k in range(4)) for l in range(32))
    return bytes(low) + bytes(high) + bytes(s & 255 for s in stored) + half(d)


def main():
    rng = np.random.default_rng(20240607)
    rows = [
        rng.standard_normal(256),
        rng.standard_normal(256) * 0.02,
        rng.standard_t(3, 256) * 5.0,          # outliers
        np.abs(rng.standard_normal(256)),      # one sign
        np.linspace(-1.0, 1.0, 256),
        np.round(rng.standard_normal(256) * 4) / 4,  # ties
        np.concatenate([np.zeros(96), rng.standard_normal(160) * 1e-4]),
        np.zeros(256),
    ]
    x = np.stack(rows).astype(np.float32)
    out = {"made_by": "tests/golden/make_mobile_quants.py, gguf 0.19.0", "columns": 256, "rows": len(rows), "types": {}}
    out["source"] = x.tobytes().hex()
    for name in ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"):
        blocks = np.ascontiguousarray(quants.quantize(x, T[name])).view(np.uint8)
        values = quants.dequantize(blocks, T[name]) if name != "F16" else x.astype(np.float16).astype(np.float32)
        out["types"][name] = {"blocks": blocks.tobytes().hex(), "values": values.astype(np.float32).tobytes().hex()}
    for name, make in (("Q4_K", q4_k), ("Q5_K", q5_k), ("Q6_K", q6_k)):
        data = b"".join(make(row) for row in x)
        blocks = np.frombuffer(data, np.uint8).reshape(len(rows), -1)
        values = quants.dequantize(blocks, T[name])
        out["types"][name] = {"blocks": data.hex(), "values": values.astype(np.float32).tobytes().hex()}
    target = pathlib.Path(__file__).resolve().parent.parent / "mobile" / "quants_golden.json"
    target.write_text(json.dumps(out, indent=0) + "\n")
    print(target, target.stat().st_size)


if __name__ == "__main__":
    main()
