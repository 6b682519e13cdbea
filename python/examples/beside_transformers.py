"""Prune, then go on in transformers: the same logits, ordinary generation.

    python beside_transformers.py MODEL CALIBRATION OUT

Needs torch and transformers.
"""

import sys
from pathlib import Path

import numpy
import torch
from transformers import AutoModelForCausalLM

import adapruner

model, calibration, out = sys.argv[1:4]
smaller = Path(out) / "smaller"
smaller.parent.mkdir(parents=True, exist_ok=True)

# `uniform` opens as the model's own class, without trust_remote_code.
adapruner.prune(
    model, ratio=0.2, calibration=calibration, layout="uniform", fast=True, save_dtype="f32",
    out=smaller,
)
pruned = AutoModelForCausalLM.from_pretrained(smaller, dtype=torch.float32)
print(type(pruned).__name__, sum(p.numel() for p in pruned.parameters()), "parameters")

# One measurement by both, on ids from anywhere.
ids = numpy.random.default_rng(1).integers(0, pruned.config.vocab_size, (4, 32))
ours = adapruner.evaluate(smaller, input_ids=ids)["perplexity"]
with torch.no_grad():
    rows = torch.from_numpy(ids)
    logits = pruned(rows).logits[:, :-1].double()
    loss = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), rows[:, 1:].reshape(-1)
    )
theirs = loss.exp().item()
print(f"perplexity: adapruner {ours:.6g}, transformers {theirs:.6g}")
assert abs(ours - theirs) < 1e-3 * theirs

with torch.no_grad():
    said = pruned.generate(rows[:1, :8], max_new_tokens=8, do_sample=False, pad_token_id=0)
print("greedy tokens:", said[0, 8:].tolist())
