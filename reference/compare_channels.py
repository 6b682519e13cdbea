"""Compares the feed-forward channels that two programs keep.

The plan is a manifest.json, or the JSON of `adapruner prune --dry-run --json`;
the other side what `llm_pruner.py` printed for the same samples and width.
Prints JSON: for each layer the share of kept channels in common.
"""

import argparse
import json
import pathlib


def plan_layers(path):
    report = json.loads(path.read_text())
    plan = report.get("full_plan") or report.get("plan") or report
    return [set(layer["ffn"]) for layer in plan["layers"]]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", type=pathlib.Path)
    parser.add_argument("reference", type=pathlib.Path)
    parser.add_argument("--importance", required=True)
    args = parser.parse_args()

    ours = plan_layers(args.plan)
    reference = json.loads(args.reference.read_text())
    shares = {}
    for layer, of_layer in reference["layers"].items():
        theirs = set(of_layer[args.importance]["ffn_kept"])
        kept = ours[int(layer)]
        if len(kept) != len(theirs):
            raise SystemExit(f"layer {layer}: {len(kept)} channels against {len(theirs)}: not the same width")
        shares[int(layer)] = len(kept & theirs) / len(kept)
    print(json.dumps({
        "importance": args.importance,
        "layers": len(shares),
        "kept": reference["keep"],
        "least_in_common": min(shares.values()),
        "mean_in_common": sum(shares.values()) / len(shares),
        "shares": shares,
    }))


if __name__ == "__main__":
    main()
