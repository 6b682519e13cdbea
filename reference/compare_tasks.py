"""The answers of `adapruner eval --tasks … --log-samples FILE` against lm-evaluation-harness, question by question.

The harness asks the same questions of the same weights from the same local
files, through transformers. Prints JSON: for every task the number of questions,
how many predictions agree, the largest and median relative difference of a
log-likelihood, and both accuracies; the time of the harness's run.

    adapruner eval MODEL --tasks boolq,piqa --data-dir DATA --limit 500 --log-samples ours.jsonl
    python compare_tasks.py FOLDER --data-dir DATA --samples ours.jsonl

FOLDER holds the weights of MODEL as a Hugging Face folder. Needs lm-eval 0.4.13.
"""

import argparse
import json
import pathlib
import statistics
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
    parser.add_argument("--samples", type=pathlib.Path, required=True, help="our answers (--log-samples)")
    parser.add_argument("--data-dir", type=pathlib.Path, help="folder of the data sets")
    parser.add_argument("--save", type=pathlib.Path, help="write the harness's answers")
    parser.add_argument("--reference", type=pathlib.Path, help="take the harness's answers from there")
    parser.add_argument("--batch", type=int, default=4, help="the harness's batch size")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    tasks = read_answers(args.samples)
    if args.reference:
        found = json.loads(args.reference.read_text())
    elif args.data_dir:
        found = ask(args, tasks)
    else:
        parser.error("give --data-dir, or --reference")
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
                "threads": args.threads,
                "batch": args.batch,
                "dtype": args.dtype,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
