"""Holds a pruned folder of texts and images against the dense one with the pruned units set to zero.

Opens both with transformers, takes the kept units from the plan in the pruned
folder's manifest.json, zeroes the others in the dense model, and compares logits
on random ids and on a random image. Prints JSON; exit code 1 when they are
apart, or when a tensor beside the language model is not the same to the bit.

Usage: python check_multimodal.py PRUNED DENSE [--trust-remote-code]
"""

import argparse
import json
import pathlib
import sys

import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText
from transformers.utils import logging

logging.disable_progress_bar()

# float64 on both sides, norms, softmax and angles in float32: relative to the largest logit.
TOLERANCE = 1e-5


def load(folder, trust):
    model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager", trust_remote_code=trust
    )
    return model.eval()


def zero_but(weight, kept, width, columns=False):
    """Zeroes the units of `width` rows (or columns) that are not kept."""
    units = weight.shape[1 if columns else 0] // width
    for unit in set(range(units)) - set(kept):
        part = slice(unit * width, (unit + 1) * width)
        if columns:
            weight[:, part] = 0
        else:
            weight[part] = 0


@torch.no_grad()
def mask(model, plan):
    text = model.config.get_text_config()
    for layer, kept in zip(model.model.language_model.layers, plan["layers"]):
        width = text.head_dim
        zero_but(layer.self_attn.o_proj.weight, kept["query_heads"], width, columns=True)
        zero_but(layer.self_attn.q_proj.weight, kept["query_heads"], width)
        zero_but(layer.self_attn.v_proj.weight, kept["kv_heads"], width)
        zero_but(layer.mlp.up_proj.weight, kept["ffn"], 1)
        zero_but(layer.mlp.down_proj.weight, kept["ffn"], 1, columns=True)


def of_image(model, ids, pixels):
    if "gemma3" in model.config.model_type:
        more = {"token_type_ids": (ids == model.config.image_token_id).long()}
    else:
        more = {"image_sizes": torch.tensor([list(pixels.shape[2:])])}
    return model(input_ids=ids, pixel_values=pixels, use_cache=False, **more).logits


def image_ids(config):
    """The tokens that stand for one image."""
    vision = config.vision_config
    side = vision.image_size // vision.patch_size // getattr(config, "spatial_merge_size", 1)
    tokens = [config.image_token_id] * getattr(config, "mm_tokens_per_image", side * side)
    ends = [getattr(config, key, None) for key in ("boi_token_index", "eoi_token_index")]
    return [*ends[:1], *tokens, *ends[1:]] if None not in ends else tokens


def tensors(folder):
    """Every tensor's bytes, type and shape."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        if file.name != "expected.safetensors":
            with safe_open(file, "pt") as opened:
                found.update({name: opened.get_tensor(name) for name in opened.keys()})
    return found


def same(old, new):
    return old.dtype == new.dtype and old.shape == new.shape and old.view(torch.uint8).equal(new.view(torch.uint8))


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pruned", type=pathlib.Path)
    parser.add_argument("dense", type=pathlib.Path)
    parser.add_argument("--trust-remote-code", action="store_true", help="run the folder's own modelling code")
    parser.add_argument("--tokens", type=int, default=24)
    args = parser.parse_args()

    plan = json.loads((args.pruned / "manifest.json").read_text())["plan"]
    dense, pruned = load(args.dense, False), load(args.pruned, args.trust_remote_code)
    before = {name: t for name, t in tensors(args.dense).items() if "language_model" not in name}
    after = {name: t for name, t in tensors(args.pruned).items() if "language_model" not in name}
    passed = before.keys() == after.keys() and all(same(before[name], after[name]) for name in before)

    rows = dense.config.get_text_config().vocab_size
    kept = (plan.get("vocabulary") or {}).get("kept") or list(range(rows))
    new = {old: at for at, old in enumerate(kept)}
    renamed = lambda ids: torch.tensor([[new[i] for i in row] for row in ids.tolist()])
    generator = torch.Generator().manual_seed(1)
    config, vision = dense.config, dense.config.vision_config
    special = set(image_ids(config))
    usual = torch.tensor([id for id in kept if id not in special])
    draw = lambda count: usual[torch.randint(len(usual), (1, count), generator=generator)]
    text = draw(args.tokens)
    image = torch.cat([draw(2), torch.tensor([image_ids(config)]), draw(args.tokens)], 1)
    pixels = torch.randn(1, 3, vision.image_size, vision.image_size, generator=generator).double()

    unmasked = of_image(dense, image, pixels)
    mask(dense, plan)
    pairs = {
        "text": (dense(text, use_cache=False).logits, pruned(renamed(text), use_cache=False).logits),
        "image": (of_image(dense, image, pixels), of_image(pruned, renamed(image), pixels)),
    }
    result = {"class": type(pruned).__name__, "tensors_beside": len(before), "tensors_beside_equal": passed}
    for name, (expected, found) in pairs.items():
        expected, found = expected[..., kept], found[..., : len(kept)]
        result[name] = ((expected - found).abs().max() / expected.abs().max()).item()
    other = of_image(pruned, renamed(image), -pixels)[..., : len(kept)]
    # What must not be small: that pruning and the picture matter at all.
    largest = unmasked.abs().max()
    result["pruning_moves"] = ((pairs["image"][0] - unmasked).abs().max() / largest).item()
    result["picture_moves"] = ((other - pairs["image"][1][..., : len(kept)]).abs().max() / largest).item()
    print(json.dumps(result, indent=2))
    alike = all(result[name] <= TOLERANCE for name in pairs)
    matters = min(result["pruning_moves"], result["picture_moves"]) > 100 * TOLERANCE
    sys.exit(0 if alike and passed and matters else 1)


if __name__ == "__main__":
    main()
