"""Search samples, metric and cut together, and look at the trials as a table.

    python search_as_table.py MODEL CALIBRATION VALIDATION TEST OUT [TRIALS]

The study is a folder: run again with more TRIALS, the search goes on.
"""

import sys
from pathlib import Path

import pandas

import adapruner

model, calibration, validation, test, out = sys.argv[1:6]
trials = int(sys.argv[6]) if len(sys.argv) > 6 else 20
out = Path(out)
out.mkdir(parents=True, exist_ok=True)

adapruner.search(
    model, ratio=0.2, calibration=calibration, samples=8, sample_tokens=32,
    text=validation, window=32, limit=8, trials=trials, seed=1, study=out / "study",
)

study = adapruner.Study(out / "study")
table = pandas.DataFrame(study.rows)
complete = table[table["state"] == "complete"].sort_values("loss")
print(complete[["number", "loss"]].head().to_string(index=False))

# Which numbers go with a low loss? (Ranks, so that no single trial decides.)
numbers = complete.select_dtypes("number").drop(columns=["number"])
print(numbers.rank().corr()["loss"].drop("loss").dropna().sort_values().to_string())

# The best trial prunes; the text of the search is not the one that is reported.
study.apply(model, out=out / "pruned", seed=1)
for name in (model, out / "pruned"):
    measured = adapruner.evaluate(name, text=test, window=32, limit=8)
    print(name, f"perplexity {measured['perplexity']:.2f}")
adapruner.report(out / "study", out=out / "study.html", force=True)
