"""Draws calibration samples as LLM-Pruner does, as JSON token ids (array of arrays).

A document is drawn, tokenised, left out if it is too short or was drawn before,
and a window is cut at a random place. The random numbers are Python's `random`.
"""

import json
import pathlib
import random

import common


def main():
    parser = common.arguments(__doc__)
    parser.add_argument("--text", type=pathlib.Path, required=True, help="JSONL file")
    parser.add_argument("--field", default="text")
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--sample-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--out", type=pathlib.Path, help="file to write (default: stdout)")
    args = parser.parse_args()

    with args.text.open(encoding="utf-8") as lines:
        documents = [json.loads(line)[args.field] for line in lines if line.strip()]
    tokenizer = common.load_tokenizer(args.model)
    rng = random.Random(args.seed)
    drawn, samples = set(), []
    while len(samples) < args.samples:
        if len(drawn) == len(documents):
            raise SystemExit(f"{args.text}: only {len(samples)} documents have {args.sample_tokens} tokens")
        index = rng.randint(0, len(documents) - 1)
        if index in drawn:
            continue
        drawn.add(index)
        ids = tokenizer.encode(documents[index]).ids
        if len(ids) >= args.sample_tokens:
            start = rng.randint(0, len(ids) - args.sample_tokens)
            samples.append(ids[start : start + args.sample_tokens])
    common.write_json(samples, args.out)


if __name__ == "__main__":
    main()
