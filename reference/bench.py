"""The PyTorch side of the speed comparison, in tokens/s: perplexity, gradients, a trial of the naive search, LoRA.

Without `--serve` every pass runs `--repeats` times after one warm-up, taking
turns, and one JSON object is printed. With `--serve` a driver takes turns with
this program, so that both sides are measured in one run on the same machine:
it writes a line to stdin, reads one line of JSON from stdout.

    run ppl     a perplexity pass over the windows
    run grad    forward and backward over the samples, gradients of all weights
    run fisher  the same sample by sample, the squares of all gradients summed
    run trial   the naive loop's trial: gradients of the samples on a copy of the
                model, |w g| summed over each feed-forward channel, the copy's
                feed-forward sublayers sliced to --widths, the windows' loss
    run trial N the same with --samples samples drawn by seed N, from those of
                --calibration-ids or else from all that the text can be cut into
    run train   LoRA by PEFT (rank 8, all projections) and torch's AdamW, --steps
                steps on the same sequences; the loss is the first step's
    quit        end

Nothing runs between two requests. The first line printed says what is ready. Every
answer has the run's seconds, its tokens, its mean loss in nats per predicted token
and the minor page faults of the process meanwhile.
"""

import copy
import json
import pathlib
import random
import resource
import statistics
import sys
import time

import torch

import common


def perplexity_pass(model, windows, batch):
    result = common.perplexity(model, windows, batch)
    return {"seconds": result["seconds"], "tokens": windows.numel(), "nll": result["nll"]}


def gradient_pass(model, samples, per_sample, squared):
    """Weight gradients of the mean loss; sample by sample, with their squares, where asked for."""
    start = time.perf_counter()
    total = 0.0
    for rows in samples.split(1 if per_sample else len(samples)):
        logits = model(rows, use_cache=False).logits
        loss = common.token_nll(logits, rows).mean() * len(rows) / len(samples)
        loss.backward()
        total += loss.item()
        if squared:
            for parameter in model.parameters():
                square = parameter.grad.square()
                if hasattr(parameter, "acc_grad"):
                    parameter.acc_grad += square
                else:
                    parameter.acc_grad = square
                parameter.grad = None
    seconds = time.perf_counter() - start
    for parameter in model.parameters():
        parameter.grad = None
        if hasattr(parameter, "acc_grad"):
            del parameter.acc_grad
    return {"seconds": seconds, "tokens": samples.numel(), "nll": total}


def sliced(linear, kept, dim):
    """A linear map with some of its outputs (dim 0) or inputs (dim 1)."""
    linear.weight = torch.nn.Parameter(linear.weight.detach().index_select(dim, kept), requires_grad=False)
    linear.out_features, linear.in_features = linear.weight.shape
    linear.weight.grad = None


def trial_pass(model, samples, widths, windows, batch):
    """One trial of the naive loop."""
    start = time.perf_counter()
    model = copy.deepcopy(model)
    logits = model(samples, use_cache=False).logits
    common.token_nll(logits, samples).mean().backward()
    del logits
    for layer, width in zip(model.model.layers, widths):
        mlp = layer.mlp
        gate, up, down = ((m.weight * m.weight.grad).abs() for m in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
        scores = gate.sum(1) + up.sum(1) + down.sum(0)
        kept = scores.topk(width).indices.sort().values
        for linear, dim in ((mlp.gate_proj, 0), (mlp.up_proj, 0), (mlp.down_proj, 1)):
            sliced(linear, kept, dim)
    for parameter in model.parameters():
        parameter.grad = None
    result = common.perplexity(model, windows, batch)
    return {"seconds": time.perf_counter() - start, "tokens": windows.numel(), "nll": result["nll"]}


def training_pass(model, sequences, steps):
    """Steps of PEFT's LoRA; the loss of the first."""
    import peft

    start = time.perf_counter()
    config = peft.LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, config)
    adapted.train()
    learned = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=3e-4, weight_decay=0.0)
    first = None
    for _ in range(steps):
        loss = adapted(input_ids=sequences, labels=sequences, use_cache=False).loss
        first = first or loss.item()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.perf_counter() - start
    adapted.unload()
    model.eval().requires_grad_(True)
    return {"seconds": seconds, "tokens": sequences.numel() * steps, "nll": first}


def drawn(rows, count, seed):
    """`[W, T]` -> `[count, T]`: so many different rows by a seed."""
    if count > len(rows):
        raise SystemExit(f"{count} samples are to be drawn, {len(rows)} found")
    return rows[random.Random(seed).sample(range(len(rows)), count)]


def minor_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def counted(run, *arguments):
    """What a pass returns, and the page faults that it made."""
    before = minor_faults()
    result = run(*arguments)
    return {**result, "faults": minor_faults() - before}


def peak_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    parser = common.arguments(__doc__)
    parser.add_argument("--ids", type=pathlib.Path, required=True, help="JSON array of the ids of a text")
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--windows", type=int, default=32, help="windows of one perplexity pass")
    parser.add_argument("--batch", type=int, default=8, help="windows per forward pass")
    parser.add_argument("--samples", type=int, default=10, help="samples of one gradient pass, taken from the text")
    parser.add_argument("--sample-tokens", type=int, default=64)
    parser.add_argument("--calibration-ids", type=pathlib.Path, help="samples: JSON array of arrays")
    parser.add_argument("--trial-windows", type=int, default=64, help="windows of a trial's evaluation")
    parser.add_argument("--widths", type=json.loads, help="a trial's feed-forward widths: JSON array")
    parser.add_argument("--sequences", type=int, default=8, help="sequences of a training step, taken from the text")
    parser.add_argument("--sequence-tokens", type=int, default=256)
    parser.add_argument("--steps", type=int, default=2, help="steps of a training")
    parser.add_argument("--per-sample", action="store_true", help="one backward pass for each sample")
    parser.add_argument("--squared", action="store_true", help="add up squared gradients (implies --per-sample)")
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help="take requests from stdin")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    ids = common.read_ids(args.ids)
    windows = common.cut_windows(ids, args.window, args.windows)
    if args.calibration_ids:
        samples = torch.tensor(common.read_ids(args.calibration_ids), dtype=torch.long)
    else:
        samples = common.cut_windows(ids, args.sample_tokens, args.samples)
    trial_windows = common.cut_windows(ids, args.window, args.trial_windows)
    sequences = common.cut_windows(ids, args.sequence_tokens, args.sequences)
    model = common.load_model(args.model, args.dtype, args.attention, args.trust_remote_code)
    model.requires_grad_(True)
    passes = {
        "ppl": lambda: perplexity_pass(model, windows, args.batch),
        "grad": lambda: gradient_pass(model, samples, args.per_sample or args.squared, args.squared),
        "fisher": lambda: gradient_pass(model, samples, True, True),
        "train": lambda: training_pass(model, sequences, args.steps),
    }
    if args.widths:
        pool = samples if args.calibration_ids else common.cut_windows(ids, args.sample_tokens)

        def trial(seed=None):
            chosen = samples if seed is None else drawn(pool, args.samples, seed)
            return trial_pass(model, chosen, args.widths, trial_windows, args.batch)

        passes["trial"] = trial
    setting = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "dtype": args.dtype,
        "window": args.window,
        "windows": len(windows),
        "batch": args.batch,
        "samples": len(samples),
        "sample_tokens": samples.shape[1],
        "trial_windows": len(trial_windows),
        "sequences": len(sequences),
        "sequence_tokens": sequences.shape[1],
        "steps": args.steps,
        "per_sample": args.per_sample or args.squared,
        "squared": args.squared,
    }

    if args.serve:
        print(json.dumps({"ready": True, **setting}), flush=True)
        for line in sys.stdin:
            request = line.split()
            if request == ["quit"]:
                break
            kind, seed = (request + ["", ""])[1:3]
            if len(request) == 2 and request[0] == "run" and kind in passes:
                answer = {"kind": kind, **counted(passes[kind]), "peak_memory": peak_memory()}
            elif len(request) == 3 and request[:2] == ["run", "trial"] and "trial" in passes and seed.isdecimal():
                answer = {"kind": kind, **counted(passes[kind], int(seed)), "peak_memory": peak_memory()}
            else:
                answer = {"error": f"not a request: {line.strip()!r}"}
            print(json.dumps(answer), flush=True)
        return

    seconds, faults, tokens = {kind: [] for kind in passes}, {kind: [] for kind in passes}, {}
    for repeat in range(args.repeats + 1):
        for kind, run in passes.items():
            result = counted(run)
            tokens[kind] = result["tokens"]
            if repeat > 0:
                seconds[kind].append(result["seconds"])
                faults[kind].append(result["faults"])
    result = {
        kind: {
            "tokens": tokens[kind],
            "seconds": times,
            "tokens_per_second": tokens[kind] / statistics.median(times),
            "faults_per_1000_tokens": 1000 * statistics.median(faults[kind]) / tokens[kind],
        }
        for kind, times in seconds.items()
    }
    common.write_json({**setting, **result, "peak_memory": peak_memory()})


if __name__ == "__main__":
    main()
