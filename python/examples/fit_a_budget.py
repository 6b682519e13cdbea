"""Fit a model into a number of bytes, and see what that costs.

    python fit_a_budget.py MODEL CALIBRATION TEST OUT [BYTES]

Asks for the sizes of several cuts without making them, makes the one that fits BYTES (default:
four fifths of the model as q8_0), compares it with the model, and writes a page about both.
"""

import sys
from pathlib import Path

import adapruner

model, calibration, test, out = sys.argv[1:5]
out = Path(out)
out.mkdir(parents=True, exist_ok=True)
kind = {"format": "gguf", "gguf_type": "q8_0"}


def cut(**more):
    """The cut of a quick recipe: Wanda's scores, nothing learned."""
    return adapruner.prune(model, calibration=calibration, fast=True, **kind, **more)


# What a cut takes is known before it is made.
print("removed   parameters        bytes")
sizes = {}
for ratio in (0.0625, 0.125, 0.25):
    planned = cut(ratio=ratio, dry_run=True)
    sizes[ratio] = planned["footprint"]["files"][0]["bytes"]
    print(f"{ratio:7.2%} {planned['plan']['parameters_after']:12} {sizes[ratio]:12}")

# Asked for in bytes of the file.
dense = adapruner.export(model, out=out / "dense", **kind)
whole = dense["files"][0]["bytes"]
budget = int(sys.argv[5]) if len(sys.argv) > 5 else whole * 4 // 5
made = cut(target_size=str(budget), out=out / "smaller")
taken = made["footprint"]["files"][0]["bytes"]
print(f"asked for {budget} bytes, got {taken}")
assert taken <= budget

# The same text, window by window, with standard errors; and a page for those who decide.
found = adapruner.compare_models(
    out / "dense" / "model.gguf", out / "smaller" / "model.gguf",
    text=[test], window=32, limit=16, no_latency=True, report=out / "page.html",
)
for row in found["rows"]:
    print(row["name"], *(f"{value:.6g}" for value in row["values"]))
print("page:", out / "page.html")
