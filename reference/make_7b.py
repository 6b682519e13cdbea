"""Writes a checkpoint of LLaMA-7B's shape with random BF16 weights (13.5 GB).

For measuring memory and time, not quality. One shard for each layer is written
as soon as it is drawn, so little memory is used. The tokenizer is copied from a
folder; its ids must be below the vocabulary's size (--vocabulary). The defaults
are LLaMA-7B; other widths make smaller checkpoints of the same kind.
"""

import argparse
import json
import pathlib
import shutil
import time

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model"]


def layer_shapes(args):
    """Name and shape of every weight of one layer, `[out, in]`."""
    hidden, key_value, ffn = args.hidden, args.hidden // args.heads * args.kv_heads, args.ffn
    return {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (key_value, hidden),
        "self_attn.v_proj": (key_value, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (ffn, hidden),
        "mlp.up_proj": (ffn, hidden),
        "mlp.down_proj": (hidden, ffn),
    }


def draw(shape, generator):
    """Norms near 1; matrices normal, of a size that keeps activations in range."""
    if len(shape) == 1:
        return (1 + 0.1 * torch.randn(shape, generator=generator)).bfloat16()
    out = torch.empty(shape, dtype=torch.bfloat16)
    scale = 0.7 * shape[1] ** -0.5
    for rows in out.split(1024):  # the f32 numbers are only ever a part of the matrix
        rows.copy_(torch.randn(rows.shape, generator=generator).mul_(scale))
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=pathlib.Path, help="folder to make; must not exist")
    parser.add_argument("tokenizer", type=pathlib.Path, help="folder with tokenizer.json")
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--kv-heads", type=int, default=32)
    parser.add_argument("--ffn", type=int, default=11008)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    vocabulary = Tokenizer.from_file(str(args.tokenizer / "tokenizer.json")).get_vocab(with_added_tokens=True)
    if max(vocabulary.values()) >= args.vocabulary:
        raise SystemExit(f"{args.tokenizer}: highest id {max(vocabulary.values())}, vocabulary {args.vocabulary}")
    args.out.mkdir(parents=True)
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(args.seed)
    count = args.layers + 1
    placed, total, parameters = {}, 0, 0

    def write(index, tensors):
        nonlocal total, parameters
        file = f"model-{index + 1:05}-of-{count:05}.safetensors"
        save_file(tensors, args.out / file, metadata={"format": "pt"})
        placed.update(dict.fromkeys(tensors, file))
        total += sum(t.numel() * t.element_size() for t in tensors.values())
        parameters += sum(t.numel() for t in tensors.values())

    shapes = layer_shapes(args)
    for layer in range(args.layers):
        write(layer, {f"model.layers.{layer}.{name}.weight": draw(shape, generator) for name, shape in shapes.items()})
    matrix = (args.vocabulary, args.hidden)
    ends = {"model.embed_tokens": matrix, "model.norm": (args.hidden,), "lm_head": matrix}
    write(args.layers, {f"{name}.weight": draw(shape, generator) for name, shape in ends.items()})

    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": args.hidden,
        "intermediate_size": args.ffn,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads,
        "num_key_value_heads": args.kv_heads,
        "vocab_size": args.vocabulary,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
    }
    (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    (args.out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    for name in TOKENIZER_FILES:
        if (args.tokenizer / name).exists():
            shutil.copy(args.tokenizer / name, args.out / name)
    seconds = time.perf_counter() - start
    print(json.dumps({"parameters": parameters, "bytes": total, "shards": count, "seconds": seconds}))


if __name__ == "__main__":
    main()
