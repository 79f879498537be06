"""Golden distributions for tests/model/sampler_test.cc: what the transformers library leaves of given logits.

  pip install torch==2.11.0 transformers==5.23.0
  python tests/golden/make_sampling.py tests/model/golden/sampling.json
"""

import json
import sys

import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

LOGITS = [2.1, -0.4, 1.7, 0.2, -3.0, 1.69, 0.9, -1.1, 2.05, 0.0, -0.7, 1.2]
SEEN = [0, 7, 8]


def case(temperature, top_k, top_p, penalty):
    steps = LogitsProcessorList()
    if penalty != 1.0:
        steps.append(RepetitionPenaltyLogitsProcessor(penalty))
    if temperature != 1.0:
        steps.append(TemperatureLogitsWarper(temperature))
    if top_k:
        steps.append(TopKLogitsWarper(top_k))
    if top_p < 1.0:
        steps.append(TopPLogitsWarper(top_p))
    scores = steps(torch.tensor([SEEN]), torch.tensor([LOGITS], dtype=torch.float32))
    return dict(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=penalty,
        probabilities=torch.softmax(scores[0].double(), 0).tolist(),
    )


cases = [
    case(1.0, 0, 1.0, 1.0),
    case(0.7, 0, 1.0, 1.0),
    case(1.5, 4, 1.0, 1.0),
    case(1.0, 0, 0.8, 1.0),
    case(0.7, 5, 0.8, 1.0),
    case(1.0, 0, 1.0, 1.2),
    case(0.7, 100, 0.8, 1.05),
    case(1.0, 1, 1.0, 1.0),
    case(1.0, 0, 0.01, 2.0),
]
json.dump(dict(logits=LOGITS, seen=SEEN, cases=cases), open(sys.argv[1], "w"), indent=1)
