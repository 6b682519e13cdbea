"""Hypervolumes that Optuna's samplers reach on problems of two objectives.

The problems are those of crates/adapruner-study/examples/fronts: ZDT1 to ZDT3 (Zitzler,
Deb and Thiele, 2000) in ten dimensions, against the reference point (1.1, 11). Prints the
hypervolume after 50, 100 and 200 trials, one line for each seed.

Usage: python fronts.py PROBLEM SAMPLER SEEDS
(optuna 5.0.0; PROBLEM is zdt1, zdt2 or zdt3; SAMPLER is tpe, multivariate, nsga2 or random)
"""

import math
import sys

import numpy as np
import optuna
from optuna._hypervolume import compute_hypervolume

AFTER = (50, 100, 200)
DIMENSIONS = 10
REFERENCE = np.array([1.1, 11.0])

SHAPES = {
    "zdt1": lambda f, g: 1 - math.sqrt(f / g),
    "zdt2": lambda f, g: 1 - (f / g) ** 2,
    "zdt3": lambda f, g: 1 - math.sqrt(f / g) - f / g * math.sin(10 * math.pi * f),
}

SAMPLERS = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "multivariate": lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}


def objective(shape):
    def of(trial):
        x = [trial.suggest_float(f"x{i}", 0, 1) for i in range(DIMENSIONS)]
        g = 1 + 9 * sum(x[1:]) / (DIMENSIONS - 1)
        return x[0], g * shape(x[0], g)

    return of


def main():
    problem, sampler, seeds = sys.argv[1:]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for seed in range(int(seeds)):
        study = optuna.create_study(directions=["minimize"] * 2, sampler=SAMPLERS[sampler](seed))
        study.optimize(objective(SHAPES[problem]), n_trials=AFTER[-1])
        values = np.array([trial.values for trial in study.trials])
        print(*(compute_hypervolume(values[:n], REFERENCE) for n in AFTER))


if __name__ == "__main__":
    main()
