"""Perplexity of a model by transformers, in the literature's protocol.

The whole text is tokenised once and cut into non-overlapping windows, the
remainder is dropped, the NLL is averaged over all predicted tokens and
exponentiated once. Prints JSON.
"""

import pathlib

import torch

import common


def main():
    parser = common.arguments(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", type=pathlib.Path, help="text file")
    source.add_argument("--ids", type=pathlib.Path, help="JSON array of the ids of the whole text")
    parser.add_argument("--form", choices=["wiki", "ptb", "plain"], default="plain", help="how rows are joined")
    parser.add_argument("--save-ids", type=pathlib.Path, help="write the ids of the text as JSON")
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--limit", type=int, help="number of windows (default: all)")
    parser.add_argument("--batch", type=int, default=4, help="windows per forward pass")
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    if args.ids:
        ids = common.read_ids(args.ids)
    else:
        text = common.read_text(args.text, args.form)
        ids = common.load_tokenizer(args.model).encode(text).ids
        if args.save_ids:
            common.write_json(ids, args.save_ids)
    windows = common.cut_windows(ids, args.window, args.limit)
    model = common.load_model(args.model, args.dtype, args.attention, args.trust_remote_code)
    result = common.perplexity(model, windows, args.batch)
    common.write_json({"ids": len(ids), "dtype": args.dtype, "threads": args.threads, **result})


if __name__ == "__main__":
    main()
