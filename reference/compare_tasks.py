"""The answers of `adapruner eval --tasks … --log-samples FILE` against lm-evaluation-harness, question by question.

The harness asks the same questions of the same weights from the same local
files, through transformers. Prints JSON: for every task the number of questions,
how many predictions agree, the largest and median relative difference of a
log-likelihood, and both accuracies; the time of the harness's run.

    adapruner eval MODEL --tasks boolq,piqa --data-dir DATA --limit 500 --log-samples ours.jsonl
    python compare_tasks.py FOLDER --data-dir DATA --samples ours.jsonl

or both sides in one run, task after task in turns, each timed from its start to
its end (opening the model and the files included):

    python compare_tasks.py FOLDER --data-dir DATA --program adapruner --weights MODEL --tasks boolq,piqa --limit 500

FOLDER holds the weights of MODEL as a Hugging Face folder. Needs lm-eval 0.4.13.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import torch

import harness

# What "the same" means: predictions on this share of the questions,
# log-likelihoods to this relative difference.
PREDICTIONS = 0.995
LOG_LIKELIHOOD = 1e-3


def read_answers(path):
    """Our answers by task, in the order of the file."""
    tasks = {}
    for line in path.read_text().splitlines():
        answer = json.loads(line)
        tasks.setdefault(answer["task"], {})[answer["doc_id"]] = answer
    return tasks


def answer(args, task, path):
    """Asks `adapruner` the first questions of a task; its answers go to a file. Seconds."""
    command = [args.program, "eval", args.weights, "--tasks", task, "--data-dir", args.data_dir]
    command += ["--limit", str(args.limit), "--threads", str(args.threads), "--log-samples", path]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def take_turns(args):
    """Both sides, task by task: our answers, and the harness's as `ask` gives them with both times."""
    tasks, found = {}, {"seconds": 0.0, "answers": {}, "results": {}, "times": {}}
    with tempfile.TemporaryDirectory() as folder:
        for task in args.tasks.split(","):
            path = pathlib.Path(folder) / f"{task}.jsonl"
            here = answer(args, task, path)
            asked = read_answers(path)
            there = ask(args, asked)
            tasks.update(asked)
            found["seconds"] += there["seconds"]
            found["answers"].update(there["answers"])
            found["results"].update(there["results"])
            found["times"][task] = {"adapruner": here, "harness": there["seconds"], "ratio": there["seconds"] / here}
            print(json.dumps({task: found["times"][task]}), file=sys.stderr, flush=True)
    here = sum(pair["adapruner"] for pair in found["times"].values())
    found["times"]["all"] = {"adapruner": here, "harness": found["seconds"], "ratio": found["seconds"] / here}
    return tasks, found


def ask(args, tasks):
    """The harness's answers to the same questions, by task and question, and its accuracies."""
    samples = {task: sorted(answers) for task, answers in tasks.items()}
    start = time.perf_counter()
    found = harness.run(args.model, list(tasks), args.data_dir, samples=samples, batch=args.batch, dtype=args.dtype)
    seconds = time.perf_counter() - start
    answers = {
        task: {sample["doc_id"]: harness.question(sample) for sample in found["samples"][task]} for task in tasks
    }
    # Ids are strings once they have been through a file.
    return json.loads(json.dumps({"seconds": seconds, "answers": answers, "results": found["results"]}, default=str))


def largest(values):
    """The first of the largest, as numpy's argmax."""
    return max(range(len(values)), key=lambda at: (values[at], -at))


def compare(ours, theirs):
    """One task."""
    agree, right, differences = 0, {"acc": [0, 0], "acc_norm": [0, 0]}, []
    disagreeing = []
    for doc_id, answer in ours.items():
        reference = theirs[str(doc_id)]
        lls, expected = answer["log_likelihoods"], reference["log_likelihoods"]
        if len(lls) != len(expected):
            raise SystemExit(f"question {doc_id}: {len(lls)} choices here, {len(expected)} in the harness")
        differences += [abs(a - b) / max(abs(b), 1e-9) for a, b in zip(lls, expected)]
        same = largest(lls) == largest(expected)
        for prediction in answer["predictions"]:
            metric = prediction["metric"]
            if metric in reference:
                right[metric][0] += prediction["right"]
                right[metric][1] += int(reference[metric])
                same = same and prediction["right"] == bool(reference[metric])
        agree += same
        if not same:
            disagreeing.append(doc_id)
    count = len(ours)
    return {
        "questions": count,
        "predictions_agree": agree,
        "share": agree / count,
        "disagreeing": disagreeing[:20],
        "log_likelihood_difference": {"largest": max(differences), "median": statistics.median(differences)},
        "right_here_and_there": {metric: pair for metric, pair in right.items() if any(metric in r for r in theirs.values())},
        "same": agree / count >= PREDICTIONS and max(differences) <= LOG_LIKELIHOOD,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=pathlib.Path, help="Hugging Face folder")
    parser.add_argument("--samples", type=pathlib.Path, help="our answers (--log-samples)")
    parser.add_argument("--program", help="adapruner, to be run in turns with the harness")
    parser.add_argument("--weights", help="what it opens: MODEL")
    parser.add_argument("--tasks", default=",".join(harness.TASKS), help="what it is asked")
    parser.add_argument("--limit", type=int, default=500, help="questions of each task it is asked")
    parser.add_argument("--data-dir", type=pathlib.Path, help="folder of the data sets")
    parser.add_argument("--save", type=pathlib.Path, help="write the harness's answers")
    parser.add_argument("--reference", type=pathlib.Path, help="take the harness's answers from there")
    parser.add_argument("--batch", type=int, default=4, help="the harness's batch size")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    if args.program and args.weights and args.data_dir:
        tasks, found = take_turns(args)
    elif args.samples and args.reference:
        tasks, found = read_answers(args.samples), json.loads(args.reference.read_text())
    elif args.samples and args.data_dir:
        tasks = read_answers(args.samples)
        found = ask(args, tasks)
    else:
        parser.error("give --samples with --data-dir or --reference, or --program, --weights and --data-dir")
    if args.save:
        args.save.write_text(json.dumps(found))
    compared = {task: compare(answers, found["answers"][task]) for task, answers in tasks.items()}
    questions = sum(row["questions"] for row in compared.values())
    print(
        json.dumps(
            {
                "tasks": compared,
                "all": {
                    "questions": questions,
                    "predictions_agree": sum(row["predictions_agree"] for row in compared.values()),
                    "largest_log_likelihood_difference": max(
                        row["log_likelihood_difference"]["largest"] for row in compared.values()
                    ),
                    "same": all(row["same"] for row in compared.values()),
                },
                "harness_seconds": found["seconds"],
                "seconds": found.get("times"),
                "threads": args.threads,
                "batch": args.batch,
                "dtype": args.dtype,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
