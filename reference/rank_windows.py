"""How well a part of the search-evaluation windows ranks trials as the rest does.

From the journal of a search with one window a chunk: over the trials that were
evaluated in full, the Spearman correlation between the mean loss on so many
windows, drawn at random, and that on all others; medians over 50 draws. Once
for all trials and once for those below a loss.

Usage: python rank_windows.py JOURNAL.log [--below LOSS] [--study PREFIX]
(optuna 5.0.0, scipy)
"""

import argparse
import json
import random
import statistics

import optuna
from optuna.storages.journal import JournalFileBackend
from scipy.stats import spearmanr


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("journal")
    arguments.add_argument("--below", type=float)
    arguments.add_argument("--study", default="")
    arguments = arguments.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.JournalStorage(JournalFileBackend(arguments.journal))
    losses = []
    for study in storage.get_all_studies():
        if not study.study_name.startswith(arguments.study):
            continue
        for trial in storage.get_all_trials(study._study_id, deepcopy=False):
            if trial.state == optuna.trial.TrialState.COMPLETE:
                reports = trial.intermediate_values
                losses.append([reports[step] for step in sorted(reports)])
    windows = max(map(len, losses))
    losses = [row for row in losses if len(row) == windows]
    groups = {"all": losses}
    if arguments.below is not None:
        groups[f"below {arguments.below}"] = [row for row in losses if sum(row) / windows < arguments.below]
    found = {}
    for name, rows in groups.items():
        found[name] = {"trials": len(rows)}
        for count in (windows // 8, windows // 4, windows // 2):
            values = []
            for seed in range(50):
                part = set(random.Random(seed).sample(range(windows), count))
                rest = [at for at in range(windows) if at not in part]
                first = [sum(row[at] for at in part) / count for row in rows]
                second = [sum(row[at] for at in rest) / len(rest) for row in rows]
                values.append(spearmanr(first, second).statistic)
            found[name][f"{count} against {windows - count}"] = round(statistics.median(values), 3)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
