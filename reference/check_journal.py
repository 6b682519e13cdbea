"""Opens a journal with Optuna and prints what it makes of each study, as JSON.

By study: the number of trials by state, the best trial with its value, params and
user attributes, and the importances of the parameters (fANOVA; null with fewer
than two complete trials or no parameter that all of them have). Of several objectives
the front instead: number and values of each of its trials.

Usage: python check_journal.py JOURNAL.log [--study NAME]
       python check_journal.py redis://HOST:PORT [--prefix PREFIX] [--study NAME]
(optuna 5.0.0, scikit-learn; redis for a server)
"""

import argparse
import collections
import json
import warnings

import optuna
from optuna.storages.journal import JournalFileBackend, JournalRedisBackend


def describe(study):
    trials = study.get_trials(deepcopy=False)
    states = collections.Counter(trial.state.name.lower() for trial in trials)
    complete = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    if len(study.directions) > 1:
        front = [{"number": trial.number, "values": trial.values, "params": trial.params} for trial in study.best_trials]
        return {"trials": len(trials), "states": dict(states), "front": front}
    best = None
    if complete:
        trial = study.best_trial
        best = {"number": trial.number, "value": trial.value, "params": trial.params, "user_attrs": trial.user_attrs}
    shared = set.intersection(*(set(trial.params) for trial in complete)) if complete else set()
    importances = None
    if len(complete) > 1 and shared:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        importances = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {"trials": len(trials), "states": dict(states), "best": best, "importances": importances}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("journal")
    arguments.add_argument("--prefix", default="")
    arguments.add_argument("--study")
    arguments = arguments.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    if arguments.journal.startswith("redis"):
        backend = JournalRedisBackend(arguments.journal, prefix=arguments.prefix)
    else:
        backend = JournalFileBackend(arguments.journal)
    storage = optuna.storages.JournalStorage(backend)
    names = [arguments.study] if arguments.study else [study.study_name for study in storage.get_all_studies()]
    studies = {name: describe(optuna.load_study(study_name=name, storage=storage)) for name in names}
    print(json.dumps(studies, indent=1))


if __name__ == "__main__":
    main()
