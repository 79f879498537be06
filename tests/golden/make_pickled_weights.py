#!/usr/bin/env python3
"""Makes tests/model/golden/pickled_weights.bin with torch.save.

    pip install torch==2.11.0
    python tests/golden/make_pickled_weights.py

"a" [2, 3] float32 holds 0 .. 5; "b.half" [4] float16 holds 1, 2, 3, 4; "c" [3] is the last row of "a" and shares its storage; "d"
[2] bfloat16 holds 1, -2 and is a Parameter; "e" is the int64 scalar 7; "f" is empty; "g" is "a" transposed; "h" [2, 2, 2]
int64 takes every other plane of a permuted tensor and two of its three rows; "i" [0, 3] has no elements.
"""

import collections
import os

import torch

a = torch.arange(6, dtype=torch.float32).view(2, 3)
weights = collections.OrderedDict(
    a=a, **{"b.half": torch.arange(1, 5, dtype=torch.float16)}, c=a[1],
    d=torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.bfloat16)), e=torch.tensor(7), f=torch.empty(0), g=a.T,
    h=torch.arange(24).view(2, 3, 4).permute(2, 1, 0)[1::2, :2], i=torch.empty(0, 3))
weights._metadata = {"": {"version": 1}}
out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "model", "golden", "pickled_weights.bin")
torch.save(weights, out)
