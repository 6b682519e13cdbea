"""Prunes a model by a published method and measures it, with nothing of this project: one row of the table of
`cargo xtask peers`.

`--ratio` is the share of all parameters, embedding included, a tied head counted once. Calibration and test texts are
token ids, JSON arrays of arrays of equal length, so that every program reads the same tokens. Seconds are of the
pruning alone, processor time of all threads and time on the clock; memory is the most that the process held.

Prints JSON.
"""

import pathlib
import resource
import time

import torch

import common
import pruners


def main():
    parser = common.arguments(__doc__)
    parser.add_argument("--method", choices=["dense", *pruners.METHODS], required=True)
    parser.add_argument("--ratio", type=float, default=0.0, help="share of all parameters to remove")
    parser.add_argument("--calibration", type=pathlib.Path, required=True, help="samples as token ids")
    parser.add_argument("--text", type=pathlib.Path, nargs="+", default=[], help="windows to measure on, as token ids")
    parser.add_argument("--protect", type=int, nargs=2, metavar=("FIRST", "LAST"), default=(0, 0))
    parser.add_argument("--bias", action="store_true", help="wanda: add the mean of what was removed")
    parser.add_argument("--gradient-samples", type=int, default=10, help="llm_pruner: samples of its gradient")
    parser.add_argument("--greedy-samples", type=int, default=32, help="greedy: samples that judge")
    parser.add_argument("--mask-steps", type=int, default=60)
    parser.add_argument("--mask-rate", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model = common.load_model(args.model, args.dtype, trust_remote_code=args.trust_remote_code)
    samples = torch.tensor(common.read_ids(args.calibration), dtype=torch.long)
    before = sum(p.numel() for p in model.parameters())
    clock, processor, removed = time.perf_counter(), time.process_time(), 0
    if args.method != "dense":
        removed = pruners.METHODS[args.method](model, samples, args.ratio * before, args)
    seconds, processor_seconds = time.perf_counter() - clock, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    texts = {}
    for text in args.text:
        windows = torch.tensor(common.read_ids(text), dtype=torch.long)
        texts[text.stem] = common.perplexity(model, windows, batch=8)
    common.write_json({
        "method": args.method,
        "seed": args.seed,
        "requested_ratio": args.ratio,
        "reached_ratio": removed / before,
        "parameters": before - removed,
        "seconds": seconds,
        "processor_seconds": processor_seconds,
        "peak_memory_bytes": peak,
        "texts": texts,
    })


if __name__ == "__main__":
    main()
