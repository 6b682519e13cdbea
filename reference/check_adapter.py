"""Holds an adapter and a merged model of adapruner's against PEFT.

Loads the base model with transformers, puts the adapter on it with PEFT, and
compares its logits with those of the model that `recover` or `merge` wrote
(merged by adapruner, in f32), on ids from a seed.

Usage: python check_adapter.py BASE ADAPTER MERGED
(peft beside requirements.txt). Exit code 0: the same but for rounding.
"""

import argparse
import sys

import torch
from peft import PeftModel

import common

# f32 on both sides, merged on one of them: roundings of the weights' sums.
TOLERANCE = 1e-4

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("base")
parser.add_argument("adapter")
parser.add_argument("merged")
parser.add_argument("--tokens", type=int, default=48)
arguments = parser.parse_args()


def load(folder):
    return common.auto_class(folder).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


base = load(arguments.base)
ids = torch.randint(
    0,
    base.config.get_text_config().vocab_size,
    (2, arguments.tokens),
    generator=torch.Generator().manual_seed(1),
)
with torch.no_grad():
    before = base(ids).logits
    adapted = PeftModel.from_pretrained(base, arguments.adapter).eval()
    loaded = sum(p.numel() for name, p in adapted.named_parameters() if "lora_" in name)
    with_adapter = adapted(ids).logits
    merged = load(arguments.merged)(ids).logits
largest = with_adapter.abs().max()
changed = ((with_adapter - before).abs().max() / largest).item()
apart = ((merged - with_adapter).abs().max() / largest).item()
print(f"{loaded} numbers of the adapter; it moves the logits by {changed:.3g} of the largest")
print(f"PEFT and the merged model are {apart:.3g} apart (at most {TOLERANCE})")
sys.exit(0 if apart <= TOLERANCE and changed > 10 * TOLERANCE else 1)
