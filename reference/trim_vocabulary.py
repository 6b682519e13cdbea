"""Trims the vocabulary of a Hugging Face folder, from first principles.

Keeps the bytes, special and added tokens, and then token after token by how often each
stands in the texts, with all that it is merged of, until there are N. Writes the folder
again: tokenizer.json, config.json, generation_config.json, the weights. Byte-level BPE, and
BPE with byte fallback. Prints JSON: tokens before and after, parameters, tokens of the texts
before and after.

It shares no code with the Rust crates, and ranks by frequency alone.
"""

import argparse
import collections
import json
import pathlib
import shutil


def pairs(model):
    """The merges of tokenizer.json, the first to be made first."""
    return [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model["merges"]]


def last_merges(model):
    """By piece, the two pieces of the last merge that its own characters end with."""
    vocab, ranks = model["vocab"], {}
    for rank, pair in enumerate(pairs(model)):
        ranks[pair] = rank
    result = {}
    for piece in vocab:
        parts, last = list(piece), None
        while len(parts) > 1:
            found = [(ranks[pair], at) for at, pair in enumerate(zip(parts, parts[1:])) if pair in ranks]
            if not found:
                break
            _, at = min(found)
            last = (parts[at], parts[at + 1])
            parts[at : at + 2] = ["".join(last)]
        if parts == [piece]:
            result[piece] = last
    return result


def choose(tokenizer, counts, tokens):
    """Ids that stay, ascending: `tokenizer` is tokenizer.json, `counts` by id."""
    model = tokenizer["model"]
    vocab, added = model["vocab"], {token["id"] for token in tokenizer["added_tokens"]}
    last = last_merges(model)
    fallback = model.get("byte_fallback", False)
    single = {piece for piece in vocab if (f"<0x" in piece and len(piece) == 6 if fallback else len(piece) == 1)}
    kept = {vocab[piece] for piece in single} | added | ({vocab["▁"]} if fallback and "▁" in vocab else set())
    unknown = model.get("unk_token")
    kept |= {vocab[unknown]} if unknown in vocab else set()
    by_id = {id: piece for piece, id in vocab.items()}
    for id, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        piece = by_id.get(id)
        if piece is None or id in kept or (piece not in last and not model.get("ignore_merges")):
            continue
        needed, open_pieces = set(), [piece]
        while open_pieces:
            part = open_pieces.pop()
            if vocab[part] not in kept and vocab[part] not in needed:
                needed.add(vocab[part])
                open_pieces += last.get(part) or ()
        if len(kept) + len(needed) <= tokens:
            kept |= needed
    return sorted(kept)


def trim_tokenizer(tokenizer, kept):
    """tokenizer.json with the ids `kept` alone, numbered anew."""
    new = {old: at for at, old in enumerate(kept)}
    result = json.loads(json.dumps(tokenizer))
    model = result["model"]
    if isinstance(model["vocab"], list):
        model["vocab"] = [entry for id, entry in enumerate(model["vocab"]) if id in new]
        if model.get("unk_id") is not None:
            model["unk_id"] = new[model["unk_id"]]
    else:
        model["vocab"] = {piece: new[id] for piece, id in model["vocab"].items() if id in new}
        vocab = model["vocab"]
        model["merges"] = [list(p) for p in pairs(model) if all(part in vocab for part in (*p, "".join(p)))]
    result["added_tokens"] = [{**t, "id": new[t["id"]]} for t in tokenizer["added_tokens"] if t["id"] in new]

    def post(part):
        if isinstance(part, dict):
            for key, value in part.items():
                if key == "ids":
                    part[key] = [new[id] for id in value]
                else:
                    post(value)
        elif isinstance(part, list):
            for value in part:
                post(value)

    post(result.get("post_processor"))
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--text", type=pathlib.Path, nargs="+", required=True, help="plain text files")
    parser.add_argument("--tokens", type=int, required=True, help="tokens to keep")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()

    import safetensors.torch
    from tokenizers import Tokenizer

    tokenizer = json.loads((args.folder / "tokenizer.json").read_text())
    whole = Tokenizer.from_file(str(args.folder / "tokenizer.json"))
    texts = [path.read_text() for path in args.text]
    # Whole: a text cut into lines would have other tokens around line breaks.
    counts = collections.Counter(
        id for text in texts for id in whole.encode(text, add_special_tokens=False).ids
    )
    before = sum(counts.values())
    kept = choose(tokenizer, counts, args.tokens)
    new = {old: at for at, old in enumerate(kept)}
    args.out.mkdir(parents=True)
    for path in args.folder.iterdir():
        if path.suffix in (".jinja", ".py"):
            shutil.copy(path, args.out)
    write = lambda name, value: (args.out / name).write_text(json.dumps(value, ensure_ascii=False, indent=1))
    write("tokenizer.json", trim_tokenizer(tokenizer, kept))
    renumber = lambda ids: [new[id] for id in ids] if isinstance(ids, list) else new.get(ids)
    for name in ("config.json", "generation_config.json"):
        path = args.folder / name
        if path.exists():
            config = json.loads(path.read_text())
            config |= {key: renumber(value) for key, value in config.items() if key.endswith("_token_id")}
            write(name, config | ({"vocab_size": len(kept)} if name == "config.json" else {}))
    path = args.folder / "tokenizer_config.json"
    if path.exists():
        config = json.loads(path.read_text())
        decoder = config.get("added_tokens_decoder")
        if decoder:
            config["added_tokens_decoder"] = {str(new[int(id)]): t for id, t in decoder.items() if int(id) in new}
        write("tokenizer_config.json", config)
    tensors = {}
    for path in sorted(args.folder.glob("*.safetensors")):
        tensors |= safetensors.torch.load_file(path)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in tensors:
            tensors[name] = tensors[name][kept].contiguous()
    safetensors.torch.save_file(tensors, args.out / "model.safetensors", metadata={"format": "pt"})
    trimmed = Tokenizer.from_file(str(args.out / "tokenizer.json"))
    after = sum(len(trimmed.encode(text, add_special_tokens=False).ids) for text in texts)
    print(json.dumps({
        "tokens_before": whole.get_vocab_size(), "tokens": len(kept),
        "parameters": sum(t.numel() for t in tensors.values()),
        "text_tokens_before": before, "text_tokens": after,
    }))


if __name__ == "__main__":
    main()
