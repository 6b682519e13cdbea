"""What the reference scripts share: opening models, reading text, windows, loss.

These scripts are the PyTorch side of this project's comparisons. They stand on
transformers and share no code with the Rust crates, so that agreement means
something. Losses are in nats per predicted token, summed in float64.
"""

import argparse
import json
import pathlib
import time

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers import modeling_gguf_pytorch_utils as gguf_loader
from transformers.utils import logging

logging.disable_progress_bar()

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f64": torch.float64}

# The pre-tokenizer patterns of llama.cpp's names, as in the models' tokenizer.json.
LLAMA_BPE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA_BPE.replace(r"\p{N}{1,3}", r"\p{N}")


def arguments(description, model=True):
    """A parser with the arguments that every script has."""
    parser = argparse.ArgumentParser(description=description)
    if model:
        parser.add_argument("model", type=pathlib.Path, help="Hugging Face folder or GGUF file")
        parser.add_argument("--trust-remote-code", action="store_true", help="run the folder's own modelling code")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--threads", type=int, default=2)
    return parser


def auto_class(folder):
    """What opens a folder: a language model alone, or one that reads images too."""
    config = json.loads((pathlib.Path(folder) / "config.json").read_text())
    return AutoModelForImageTextToText if "vision_config" in config else AutoModelForCausalLM


def load_model(path, dtype="f32", attention="sdpa", trust_remote_code=False):
    """Opens a folder, or a GGUF file whose weights transformers dequantises."""
    options = {"dtype": DTYPES[dtype], "attn_implementation": attention, "trust_remote_code": trust_remote_code}
    if path.suffix == ".gguf":
        gguf_loader.tqdm = lambda tensors, **_: tensors  # no bar on stderr
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, **options)
    else:
        model = auto_class(path).from_pretrained(path, **options)
    return model.eval()


def load_tokenizer(path):
    """The `tokenizers.Tokenizer` of a folder (tokenizer.json) or of a GGUF file."""
    from tokenizers import Tokenizer

    if path.suffix == ".gguf":
        return tokenizer_from_gguf(path)
    return Tokenizer.from_file(str(path / "tokenizer.json"))


def tokenizer_from_gguf(path):
    """Byte-level BPE from a GGUF file's vocabulary and merges."""
    import gguf
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    fields = gguf.GGUFReader(path).fields
    kind = fields["tokenizer.ggml.model"].contents()
    if kind != "gpt2":
        raise SystemExit(f"{path}: tokenizer of kind {kind!r} is not byte-level BPE, give --ids")
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    types = fields["tokenizer.ggml.token_type"].contents()
    pre = fields["tokenizer.ggml.pre"].contents() if "tokenizer.ggml.pre" in fields else "gpt-2"

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    byte_level_gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre in ("smollm", "starcoder", "refact", "command-r"):
        parts = [pre_tokenizers.Digits(individual_digits=True), byte_level_gpt2]
    elif pre in ("gpt-2", "default"):
        parts = [byte_level_gpt2]
    elif pre in ("llama-bpe", "llama3"):
        parts = [pre_tokenizers.Split(Regex(LLAMA_BPE), "isolated"), byte_level]
    elif pre == "qwen2":
        parts = [pre_tokenizers.Split(Regex(QWEN2), "isolated"), byte_level]
    else:
        raise SystemExit(f"{path}: pre-tokenizer {pre!r} is not known here, give --ids")

    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre in ("llama-bpe", "llama3")))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    tokenizer.decoder = decoders.ByteLevel()
    # Token types: 3 control, 4 user defined.
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t, kind in zip(tokens, types) if kind == 3])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t, kind in zip(tokens, types) if kind == 4])
    return tokenizer


def read_text(path, form):
    """A text file joined as the literature's data sets are.

    `wiki`: rows of WikiText-2 raw; a row keeps its newline, a blank one is
    empty; joined by two newlines. `ptb`: stripped lines joined by two newlines.
    `plain`: the file as it is.
    """
    text = path.read_bytes().decode("utf-8")
    if form == "plain":
        return text
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    if form == "wiki":
        rows = [line + "\n" if line.strip() else "" for line in lines]
    elif form == "ptb":
        rows = [line.strip() for line in lines]
    else:
        raise ValueError(form)
    return "\n\n".join(rows)


def read_ids(path):
    """Token ids from JSON: one array, or an array of arrays."""
    return json.loads(path.read_text())


def cut_windows(ids, window, limit=None):
    """Non-overlapping windows `[W, T]` of one array of ids; the remainder is dropped."""
    count = len(ids) // window
    if limit is not None:
        count = min(count, limit)
    if count == 0:
        raise SystemExit(f"{len(ids)} tokens do not fill one window of {window}")
    return torch.tensor(ids[: count * window], dtype=torch.long).view(count, window)


def token_nll(logits, ids):
    """NLL of every predicted token: `[B, T, V]`, `[B, T]` -> `[B, T - 1]`."""
    vocabulary = logits.shape[-1]
    logits = logits[:, :-1].reshape(-1, vocabulary)
    if logits.dtype == torch.bfloat16:
        logits = logits.float()
    flat = F.cross_entropy(logits, ids[:, 1:].reshape(-1), reduction="none")
    return flat.view(ids.shape[0], -1)


@torch.no_grad()
def perplexity(model, windows, batch=4):
    """The literature's protocol over windows `[W, T]`, with its timing."""
    total, tokens, start = 0.0, 0, time.perf_counter()
    for rows in windows.split(batch):
        nll = token_nll(model(rows, use_cache=False).logits, rows)
        total += nll.double().sum().item()
        tokens += nll.numel()
    seconds = time.perf_counter() - start
    mean = total / tokens
    return {
        "perplexity": float(torch.tensor(mean, dtype=torch.float64).exp()),
        "nll": mean,
        "tokens": tokens,
        "windows": windows.shape[0],
        "window": windows.shape[1],
        "seconds": seconds,
        "tokens_per_second": windows.numel() / seconds,
    }


def write_json(value, path=None):
    """Prints JSON, or writes it to `path`."""
    text = json.dumps(value)
    if path is None:
        print(text)
    else:
        path.write_text(text + "\n")
