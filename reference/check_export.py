"""Opens an exported folder with transformers and tries it.

Prints JSON: the perplexity of windows of given ids, sixteen greedy tokens of
generate() with its cache, whether they are those of forward passes without a
cache, and how far cached and uncached logits are apart. A folder with widths
per layer needs `--trust-remote-code`. Exit code 1 when the cache changes what
is generated or the logits are not finite.
"""

import pathlib
import sys

import torch

import common


@torch.no_grad()
def uncached_greedy(model, prompt, count):
    ids = prompt
    for _ in range(count):
        ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    return ids[0, prompt.shape[1] :].tolist()


@torch.no_grad()
def cached_difference(model, ids, prefix):
    """Largest difference of logits: a prefix, then token by token through the cache, against all at once."""
    whole = model(ids, use_cache=False).logits
    step = model(ids[:, :prefix], use_cache=True)
    parts, cache = [step.logits], step.past_key_values
    for position in range(prefix, ids.shape[1]):
        step = model(ids[:, position : position + 1], past_key_values=cache, use_cache=True)
        parts.append(step.logits)
        cache = step.past_key_values
    return (torch.cat(parts, dim=1) - whole).abs().max().item(), whole.abs().max().item()


def main():
    parser = common.arguments(__doc__)
    parser.add_argument("--ids", type=pathlib.Path, required=True, help="JSON array of the ids of a text")
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--limit", type=int, help="number of windows (default: all)")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=16, help="tokens of the text that generation starts from")
    parser.add_argument("--generate", type=int, default=16)
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    windows = common.cut_windows(common.read_ids(args.ids), args.window, args.limit)
    model = common.load_model(args.model, args.dtype, args.attention, args.trust_remote_code)
    prompt = windows[:1, : args.prompt]
    with torch.no_grad():
        generated = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
            max_new_tokens=args.generate, min_new_tokens=args.generate, eos_token_id=None, use_cache=True,
            pad_token_id=model.config.get_text_config().pad_token_id or 0,
        )[0, args.prompt :].tolist()
    difference, largest = cached_difference(model, windows[:1], args.prompt)
    result = {
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        **common.perplexity(model, windows, args.batch),
        "generated": generated,
        "generated_uncached": uncached_greedy(model, prompt, args.generate),
        "cached_logit_difference": difference,
        "largest_logit": largest,
    }
    try:
        result["generated_text"] = common.load_tokenizer(args.model).decode(generated)
    except Exception as error:  # the tokenizer is not what is checked here
        print(f"no text: {error}", file=sys.stderr)
    common.write_json(result)
    finite = result["nll"] == result["nll"] and difference == difference
    if generated != result["generated_uncached"] or not finite:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
