"""lm-evaluation-harness on local files: the outside reference of `adapruner eval --tasks`.

The tasks are the harness's own definitions (prompts, splits, metrics); only
where the records come from is replaced. The original files are put into the
columns of the Hugging Face data sets that those definitions expect:

    boolq       passage = title + " -- " + passage (SuperGLUE's copy), label 0 or 1
    piqa        label from the labels file
    hellaswag, winogrande   as they are
    arc, openbookqa         question(_stem), choices {text, label}, answerKey
    wikitext    page: the raw file cut at " = Title = "

Written for lm-eval 0.4.13.
"""

import json
import pathlib

import datasets
import lm_eval
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from transformers import AutoConfig, AutoTokenizer

TASKS = ["boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa"]


def first(folder, *names):
    """The first of the files that is there."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise SystemExit(f"{folder}: there is no {', no '.join(names)}")


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def choices(record, stem):
    listed = record["question"]["choices"]
    return {
        "id": record.get("id", ""),
        stem: record["question"]["stem"],
        "choices": {"text": [c["text"] for c in listed], "label": [c["label"] for c in listed]},
        "answerKey": record["answerKey"],
    }


def pages(path):
    """The articles of a raw WikiText file, as `wikitext_document_level` cuts them."""
    found, page = [], []
    for line in path.read_text(encoding="utf-8").split("\n"):
        heading = line.replace("= = =", "===").replace("= =", "==").strip()
        if heading.startswith("= ") and heading.endswith(" ="):
            if "\n".join(page).strip():
                found.append("\n".join(page))
            page = []
        page.append(line)
    return [{"page": text} for text in found + ["\n".join(page)]]


def records(task, folder):
    """The records of a task in the columns of its hub data set."""
    if task == "boolq":
        keys = first(folder, "boolq/dev.jsonl")
        return [
            {"question": r["question"], "passage": f"{r['title']} -- {r['passage']}", "label": int(r["answer"])}
            for r in lines(keys)
        ]
    if task == "piqa":
        labels = first(folder, "piqa/valid-labels.lst").read_text().split()
        found = lines(first(folder, "piqa/valid.jsonl"))
        assert len(labels) == len(found)
        return [{**r, "label": int(label)} for r, label in zip(found, labels)]
    if task == "hellaswag":
        found = first(folder, "hellaswag/hellaswag_val.jsonl", "hellaswag/hellaswag_val_sample1000.jsonl")
        keys = ["activity_label", "ctx_a", "ctx_b", "endings"]
        return [{**{k: r[k] for k in keys}, "label": str(r["label"])} for r in lines(found)]
    if task == "winogrande":
        keys = ["sentence", "option1", "option2", "answer"]
        return [{k: r[k] for k in keys} for r in lines(first(folder, "winogrande/dev.jsonl"))]
    if task in ("arc_easy", "arc_challenge"):
        name = {"arc_easy": "ARC-Easy", "arc_challenge": "ARC-Challenge"}[task]
        return [choices(r, "question") for r in lines(first(folder, f"arc/{name}-Test.jsonl"))]
    if task == "openbookqa":
        return [choices(r, "question_stem") for r in lines(first(folder, "openbookqa/test.jsonl"))]
    if task == "wikitext":
        return pages(first(folder, "wikitext2_raw/wiki.test.raw"))
    raise SystemExit(f"{task}: not one of {', '.join(TASKS)}, wikitext")


def load_task(task, folder):
    """The harness's own task with local records."""
    config = load_yaml(TaskManager()._entry(task).yaml_path, resolve_func=True)
    for key in ("tag", "group", "task_list", "include"):
        config.pop(key, None)
    data = datasets.DatasetDict()
    local = datasets.Dataset.from_list(records(task, folder))
    for split in ("training_split", "validation_split", "test_split"):
        if config.get(split):
            data[config[split]] = local
    config["custom_dataset"] = lambda **_: data
    return ConfigurableTask(config=config)


def load_tokenizer(folder):
    """The folder's tokenizer; BOS and EOS of config.json where it names none (a bare tokenizer.json)."""
    tokenizer, config = AutoTokenizer.from_pretrained(folder), AutoConfig.from_pretrained(folder)
    for name in ("bos_token", "eos_token"):
        if getattr(tokenizer, name) is None and getattr(config, f"{name}_id") is not None:
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(getattr(config, f"{name}_id")))
    return tokenizer


def run(model, tasks, folder, limit=None, samples=None, batch=1, dtype="float32"):
    """The harness's results with its per-question samples."""
    tokenizer = load_tokenizer(str(model))
    model = HFLM(pretrained=str(model), tokenizer=tokenizer, device="cpu", dtype=dtype, batch_size=batch)
    loaded = [load_task(task, pathlib.Path(folder)) for task in tasks]
    return lm_eval.simple_evaluate(
        model=model, tasks=loaded, limit=limit, samples=samples, num_fewshot=0, log_samples=True, bootstrap_iters=1000
    )


def question(sample):
    """What is compared of one of the harness's samples."""
    found = {"doc_id": sample["doc_id"], "arguments": [], "log_likelihoods": []}
    arguments = sample["arguments"]
    arguments = arguments.values() if isinstance(arguments, dict) else arguments
    for argument in arguments:
        parts = argument.values() if isinstance(argument, dict) else argument
        found["arguments"].append(list(parts)[:2])
    for response in sample["filtered_resps"]:
        found["log_likelihoods"].append(response[0] if isinstance(response, (list, tuple)) else response)
    for metric in ("acc", "acc_norm"):
        if metric in sample:
            found[metric] = sample[metric]
    return found
