"""Trains a small mixture of experts on text, until its experts differ.

`python train_mixture.py --data DATA --out FOLDER --seed SEED` writes a Qwen 3 MoE of 4 layers of 32
experts, 4 for each token (H 64, width of an expert 32, 1024 byte-level pieces, 1.1 million
parameters), trained for --steps steps of 16 windows of 128 tokens on texts of several kinds below
DATA: the beginning of WikiText2 train, PTB train, Wikipedia, C4, a novel and instructions, each
for a sixth of the windows. The loss has the load-balancing loss of the router with weight 0.01.
How much the experts differ is printed: the largest and smallest share of tokens that an expert of
a layer takes, and how much the routing of two kinds of text differs (half the sum of the absolute
differences of the shares: 0 where they are alike, 1 where no expert serves both).

Everything is drawn from the seed; the same versions on one thread give the same model.
"""

import argparse
import json
import math
import pathlib
import time

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

PIECES, END = 1024, "<|endoftext|>"
BATCH, TOKENS, PEAK_RATE = 16, 128, 4e-3


def texts(data):
    """Texts by kind; none is of a validation or test split."""
    records = json.loads((data / "alpaca/alpaca_random_9k.json").read_text())
    answers = (record["instruction"] + "\n" + record["output"] for record in records)
    plain = {
        "wikitext": "wikitext2_raw/wiki.train.first1MB.txt",
        "ptb": "ptb/ptb.train.txt",
        "wikipedia": "wikipedia/wiki.utf8",
        "c4": "c4/c4.utf8",
        "novel": "gutenberg/warandpeace.txt",
    }
    kinds = {kind: (data / name).read_text(errors="ignore") for kind, name in plain.items()}
    return {**kinds, "instructions": "\n\n".join(answers)}


def train_tokenizer(kinds):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([text[:300_000] for text in kinds.values()], trainer)
    return tokenizer


def config(args):
    return Qwen3MoeConfig(
        vocab_size=PIECES, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, moe_intermediate_size=32, num_experts=args.experts, num_experts_per_tok=4,
        norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[], tie_word_embeddings=True,
        max_position_embeddings=512, router_aux_loss_coef=0.01, output_router_logits=True, bos_token_id=0,
        eos_token_id=0, pad_token_id=0,
    )


def draw(ids, rows, generator):
    offsets = torch.randint(len(ids) - TOKENS, (rows,), generator=generator)
    return torch.stack([ids[at : at + TOKENS] for at in offsets])


def train(args, kinds):
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(1000 + args.seed)
    model = Qwen3MoeForCausalLM._from_config(config(args), attn_implementation="sdpa").float().train()
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.95)
    )
    names, start = list(kinds), time.perf_counter()
    for step in range(args.steps):
        warm, done = min(1.0, (step + 1) / 50), step / args.steps
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * warm * (0.05 + 0.95 * (0.5 + 0.5 * math.cos(math.pi * done)))
        of = torch.randint(len(names), (BATCH,), generator=generator).tolist()
        rows = torch.cat([draw(kinds[names[kind]], 1, generator) for kind in of])
        loss = model(rows, labels=rows, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 99:
            seconds = time.perf_counter() - start
            print(f"step {step + 1} of {args.steps}, loss {loss.item():.3f}, {seconds:.0f} s", flush=True)
    return model.eval()


def shares(model, rows):
    """Of each layer the share of tokens that take each expert, `[layers, experts]`."""
    with torch.no_grad():
        logits = model(rows, use_cache=False, output_router_logits=True).router_logits
    chosen = model.config.num_experts_per_tok
    return torch.stack([F.one_hot(l.topk(chosen, -1).indices, l.shape[-1]).float().sum(1).mean(0) for l in logits])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--experts", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    kinds = texts(args.data)
    tokenizer = train_tokenizer(kinds)
    ids = {kind: torch.tensor(tokenizer.encode(text[:2_000_000]).ids) for kind, text in kinds.items()}
    model = train(args, ids)
    generator = torch.Generator().manual_seed(7)
    of = {kind: shares(model, draw(own, 32, generator)) for kind, own in ids.items()}
    every = torch.stack(list(of.values())).mean(0)
    print(f"shares of tokens that take an expert: {every.min():.4f} to {every.max():.4f}")
    apart = (of["ptb"] - of["instructions"]).abs().sum(-1) / 2 / model.config.num_experts_per_tok
    print("routing of ptb and instructions apart, by layer:", " ".join(f"{value:.3f}" for value in apart))
    model.save_pretrained(args.out)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END).save_pretrained(args.out)
    print(f"{sum(p.numel() for p in model.parameters())} parameters")


if __name__ == "__main__":
    main()
