"""Holds a GGUF file in llama.cpp against the same model's folder in transformers.

`python check_gguf.py MODEL.gguf FOLDER --ids IDS.json`: after each of some prompts of the ids,
the log-probabilities of the tokens that llama.cpp (the xllamacpp package) finds most likely next
are compared with those of transformers. Prints JSON: the largest difference in nats. Exit code 1
where that is beyond --tolerance.
"""

import json
import pathlib
import urllib.request

import torch

import common


def llama_cpp(path, prompts, likeliest):
    """For each prompt the log-probabilities of its likeliest next tokens, by id."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup = 512, 1, False
    # Its default keeps keys and values in 16 bits.
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)
    answers = []
    for prompt in prompts:
        asked = {"prompt": prompt, "n_predict": 1, "n_probs": likeliest, "temperature": 0, "cache_prompt": False}
        data = json.dumps(asked).encode()
        with urllib.request.urlopen(f"{server.listening_address}/completion", data) as answer:
            found = json.load(answer).get("completion_probabilities")
        # Nothing is answered where the next token ends within a character.
        answers.append({entry["id"]: entry["logprob"] for entry in found[0]["top_logprobs"]} if found else {})
    return answers


def main():
    parser = common.arguments(__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--ids", type=pathlib.Path, required=True, help="JSON array of the ids of a text")
    parser.add_argument("--prompt", type=int, default=14, help="tokens of a prompt")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--likeliest", type=int, default=20)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    prompts = common.cut_windows(common.read_ids(args.ids), args.prompt, args.prompts)
    model = common.load_model(args.folder, args.dtype, "eager", args.trust_remote_code)
    with torch.no_grad():
        logits = model(prompts, use_cache=False).logits[:, -1].double()
    ours = logits.log_softmax(-1)
    theirs = llama_cpp(args.model, prompts.tolist(), args.likeliest)
    differences = [abs(ours[at, token].item() - value) for at, row in enumerate(theirs) for token, value in row.items()]
    if not differences:
        raise SystemExit("llama.cpp answered no prompt: other ids, or more --prompts")
    answered = sum(map(bool, theirs))
    result = {"prompts": answered, "log_probabilities": len(differences), "largest_difference": max(differences)}
    print(json.dumps(result))
    if not result["largest_difference"] <= args.tolerance:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
