"""The functions of problems.rs, optimised by Optuna's multivariate TPE.

    python benchmark.py PROBLEM SEEDS

prints the regret after 50, 100, 150 and 300 trials, one line for each seed.
"""

import math
import sys

import numpy as np
import optuna

AFTER = (50, 100, 150, 300)

ALPHA = np.array([1.0, 1.2, 3.0, 3.2])
A = np.array([[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]])
P = 1e-4 * np.array(
    [[1312, 1696, 5569, 124, 8283, 5886], [2329, 4135, 8307, 3736, 1004, 9991], [2348, 1451, 3522, 2883, 3047, 6650], [4047, 8828, 8732, 5743, 1091, 381]]
)


def branin(x):
    a, b = x[0], x[1] + 5
    curve = b - 5.1 / (4 * math.pi**2) * a * a + 5 / math.pi * a - 6
    return curve**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(a) + 10


def rosenbrock(x):
    return sum(100 * (b - a * a) ** 2 + (1 - a) ** 2 for a, b in zip(x, x[1:]))


def ackley(x):
    x = np.array(x)
    return float(20 + math.e - 20 * np.exp(-0.2 * np.sqrt(np.mean(x * x))) - np.exp(np.mean(np.cos(2 * math.pi * x))))


def mixed(trial):
    x = [trial.suggest_float(f"x{i}", -5, 5) for i in range(3)]
    y = ["abcde".index(trial.suggest_categorical(f"y{i}", list("abcde"))) for i in range(2)]
    shifts = [y[0] - 2, y[1] - 2, 0.5 * (y[0] - y[1])]
    bowl = sum((a - b) ** 2 for a, b in zip(x, shifts))
    return 0.1 * bowl + 0.5 * abs(y[0] - 3) + 0.5 * abs(y[1] - 1)


def of_floats(n, low, high, function):
    return lambda trial: function([trial.suggest_float(f"x{i}", low, high) for i in range(n)])


PROBLEMS = {
    "sphere-5": (of_floats(5, -5, 5, lambda x: sum(v * v for v in x)), 0.0),
    "branin": (of_floats(2, -5, 10, branin), 0.397887357729739),
    "hartmann6": (of_floats(6, 0, 1, lambda x: float(-ALPHA @ np.exp(-np.sum(A * (np.array(x) - P) ** 2, axis=1)))), -3.32236801139134),
    "rosenbrock-4": (of_floats(4, -5, 10, rosenbrock), 0.0),
    "ackley-10": (of_floats(10, -32.768, 32.768, ackley), 0.0),
    "mixed": (mixed, 0.0),
}

if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    objective, least = PROBLEMS[sys.argv[1]]
    for seed in range(int(sys.argv[2])):
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True))
        study.optimize(objective, n_trials=AFTER[-1])
        values = [trial.value for trial in study.trials]
        print(*(min(values[:n]) - least for n in AFTER))
