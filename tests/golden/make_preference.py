#!/usr/bin/env python3
"""Losses, gradients and metrics of preference training as TRL computes them, and the token alignment of difflib.

usage: make_preference.py > tests/rlaif/golden/preference.json
Needs: torch==2.11.0 transformers==5.23.0 trl==1.16.0; made with Python 3.11. Seed 20.

The trainers run their own loss code on a stand-in for the model: the log-prob of every token is a random number out of a table, whatever
is asked. Written are the tables, and for each loss its value, the metrics that the trainer logs, and the derivative of the loss by every
log-prob of the policy.
"""
import difflib, json, random
from collections import defaultdict
from types import SimpleNamespace

import torch
from trl import DPOTrainer, KTOTrainer
from trl.experimental.cpo import CPOTrainer

torch.manual_seed(20)
PROMPT, LENGTHS = 3, [(4, 6), (7, 5), (3, 3), (6, 9)]  # answers' tokens, chosen and rejected
PAIRS = len(LENGTHS)
WIDTH = PROMPT + max(max(pair) for pair in LENGTHS)


def batch_of(lengths):
    ids = torch.zeros(len(lengths), WIDTH, dtype=torch.long)
    mask = torch.zeros(len(lengths), WIDTH, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, PROMPT:PROMPT + length] = 1
    return {"input_ids": ids, "completion_mask": mask, "attention_mask": torch.ones_like(ids)}


class TableModel(torch.nn.Module):
    """Says the same log-probs whatever it is asked; with two tables, they take turns."""

    is_gradient_checkpointing = False

    def __init__(self, tables):
        super().__init__()
        self.tables = torch.nn.ParameterList(tables)
        self.asked = 0

    def forward(self, labels, **kwargs):
        table = self.tables[self.asked % len(self.tables)]
        self.asked += 1
        log_probs = table * (labels[:, 1:] != -100)
        blank = torch.zeros_like(table)
        return SimpleNamespace(log_probs=log_probs, entropy=blank, mean_logits=blank, is_top1=blank.bool())


def table_of(spread):
    return torch.nn.Parameter(-0.05 - spread * torch.rand(2 * PAIRS, WIDTH - 1))


class Accelerator:
    device = torch.device("cpu")
    gather = staticmethod(lambda x: x)
    gather_for_metrics = staticmethod(lambda x: x)


def answer_values(table, batch):
    mask = batch["completion_mask"][:, 1:].bool()
    return [table[row][mask[row]].tolist() for row in range(len(table))]


def trainer_of(kind, model, reference, **fields):
    trainer = object.__new__(kind)
    trainer.model, trainer.ref_model, trainer.accelerator = model, reference, Accelerator()
    trainer._metrics = defaultdict(lambda: defaultdict(list))
    trainer._total_train_tokens, trainer._tp_size = 0, 1
    trainer.precompute_ref_logps = False
    trainer.aux_loss_enabled = False
    trainer.args = SimpleNamespace(gradient_checkpointing=False, gradient_checkpointing_kwargs=None)
    for name, value in fields.items():
        setattr(trainer, name, value)
    return trainer


def pairs_of(rows):
    return {"chosen": rows[:PAIRS], "rejected": rows[PAIRS:]}


def dpo_case(name, losses, batch, policy, reference, beta, smoothing=0.0, ld_alpha=None, settings=None):
    trainer = trainer_of(DPOTrainer, policy, reference, loss_types=list(losses), loss_weights=list(losses.values()), beta=beta,
                         label_smoothing=smoothing, ld_alpha=ld_alpha, f_divergence_type="reverse_kl", use_weighting=False)
    policy.train()
    policy.zero_grad()
    loss = trainer._compute_loss(policy, batch, return_outputs=False)
    loss.backward()
    wanted = ("rewards/", "logps/")
    metrics = {key: value[0] for key, value in trainer._metrics["train"].items() if key.startswith(wanted)}
    return {"name": name, "config": {"beta": beta, **settings}, "loss": loss.item(), "metrics": metrics,
            "slopes": pairs_of(answer_values(policy.tables[0].grad, batch))}


def simpo_case(batch, policy, beta, gamma):
    trainer = object.__new__(CPOTrainer)
    trainer.accelerator, trainer.alpha, trainer.beta, trainer.simpo_gamma = Accelerator(), 0.0, beta, gamma
    trainer.loss_type, trainer.label_smoothing = "simpo", 0.0
    policy.zero_grad()
    table = policy.tables[0]
    mask = batch["completion_mask"][:, 1:]
    means = (table * mask).sum(1) / mask.sum(1)  # get_batch_logps(average_log_prob=True)
    losses, chosen, rejected = trainer.cpo_loss(means[:PAIRS], means[PAIRS:])
    losses.mean().backward()
    metrics = {"rewards/chosen": chosen.mean().item(), "rewards/rejected": rejected.mean().item(),
               "rewards/accuracies": (chosen > rejected).float().mean().item(), "rewards/margins": (chosen - rejected).mean().item()}
    return {"name": "simpo", "config": {"loss": "simpo", "beta": beta, "simpo_gamma": gamma}, "loss": losses.mean().item(),
            "metrics": metrics, "slopes": pairs_of(answer_values(table.grad, batch))}


def kto_case(batch, policy, reference, kl_policy, kl_reference, beta, desirable, undesirable):
    """The trainer asks for the mismatched answers first, then for the matching ones."""
    joined = TableModel([kl_policy.tables[0], policy.tables[0]])
    joined_reference = TableModel([kl_reference.tables[0], reference.tables[0]])
    trainer = trainer_of(KTOTrainer, joined, joined_reference, beta=beta, desirable_weight=desirable, undesirable_weight=undesirable,
                         calculate_KL=True, loss_type="kto", _is_vlm=False)
    joined.train()
    joined.zero_grad()
    inputs = dict(batch, label=torch.tensor([True] * PAIRS + [False] * PAIRS))
    for key in ("input_ids", "completion_mask", "attention_mask"):
        inputs["KL_" + key] = batch[key]
    loss = trainer._compute_loss(joined, inputs, return_outputs=False)
    loss.backward()
    metrics = {key: value[0] for key, value in trainer._metrics["train"].items() if key.startswith(("rewards/", "logps/", "kl"))}
    return {"name": "kto", "config": {"loss": "kto", "beta": beta, "chosen_weight": desirable, "rejected_weight": undesirable},
            "loss": loss.item(), "metrics": metrics, "slopes": pairs_of(answer_values(policy.tables[0].grad, batch))}


def alignment_cases():
    rng = random.Random(20)
    cases = []
    for _ in range(30):
        a = [rng.randrange(5) for _ in range(rng.randrange(0, 24))]
        b = list(a)
        for _ in range(rng.randrange(0, 6)):
            place = rng.randrange(len(b) + 1)
            kind = rng.randrange(3)
            if kind == 0:
                b.insert(place, rng.randrange(5))
            elif b and kind == 1:
                b.pop(min(place, len(b) - 1))
            elif b:
                b[min(place, len(b) - 1)] = rng.randrange(5, 8)
        blocks = [m for m in difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks() if m.size >= 3]
        changed_a, changed_b, i, j = [0] * len(a), [0] * len(b), 0, 0
        for m in blocks + [difflib.Match(len(a), len(b), 0)]:
            if i < m.a and j < m.b:
                changed_a[i:m.a], changed_b[j:m.b] = [1] * (m.a - i), [1] * (m.b - j)
            i, j = m.a + m.size, m.b + m.size
        cases.append({"a": a, "b": b, "changed_a": changed_a, "changed_b": changed_b})
    return cases


def main():
    batch = batch_of([pair[0] for pair in LENGTHS] + [pair[1] for pair in LENGTHS])
    policy, reference = TableModel([table_of(2.0)]), TableModel([table_of(2.0)])
    kl_policy, kl_reference = TableModel([table_of(2.0)]), TableModel([table_of(3.2)])
    dpo = lambda name, losses, beta=0.3, **more: dpo_case(name, losses, batch, policy, reference, beta, **more)
    cases = [
        dpo("sigmoid", {"sigmoid": 1.0}, settings={"loss": "sigmoid"}),
        dpo("hinge", {"hinge": 1.0}, settings={"loss": "hinge"}),
        dpo("ipo", {"ipo": 1.0}, settings={"loss": "ipo"}),
        dpo("sigmoid_norm", {"sigmoid_norm": 1.0}, settings={"loss": "sigmoid_norm"}),
        dpo("robust", {"robust": 1.0}, smoothing=0.2, settings={"loss": "robust", "label_smoothing": 0.2}),
        dpo("bco_pair", {"bco_pair": 1.0}, settings={"loss": "bco_pair"}),
        dpo("rpo", {"sigmoid": 1.0, "sft": 0.7}, settings={"loss": "mix", "mix": {"sigmoid": 1.0, "sft": 0.7}}),
        dpo("mpo", {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}, beta=0.1,
            settings={"loss": "mix", "mix": {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}}),
        dpo("ld_dpo", {"sigmoid": 1.0}, ld_alpha=0.4, settings={"loss": "sigmoid", "length_tail_weight": 0.4}),
        simpo_case(batch, policy, 2.0, 0.5),
        kto_case(batch, policy, reference, kl_policy, kl_reference, 0.3, 1.2, 0.9),
    ]
    tables = {"policy": policy, "reference": reference, "kl_policy": kl_policy, "kl_reference": kl_reference}
    log_probs = {name: pairs_of(answer_values(model.tables[0].detach(), batch)) for name, model in tables.items()}
    print(json.dumps({"log_probs": log_probs, "cases": cases, "alignments": alignment_cases()}))


main()
