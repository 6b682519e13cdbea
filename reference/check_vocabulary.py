"""Holds the tokenizers of one trimmed model in both formats against each other.

`python check_vocabulary.py FOLDER MODEL.gguf`: ids by transformers on the folder and by
llama.cpp (the xllamacpp package) on the GGUF file, on texts of many kinds, and the text that
transformers decodes them to. With `--whole FOLDER`, the untrimmed model's folder, also that
each id's token is the one that the whole vocabulary has for it, and that the decoded texts are
the same. Prints JSON; exit code 1 where anything differs.
"""

import argparse
import json
import pathlib
import urllib.request

TEXTS = [
    "The quick brown fox jumps over the lazy dog. I'm sure they'll say it's what she'd do.",
    "  leading,  two  and trailing  \n\n\t tabs\tand\r\nlines\n \n\n\n",
    "中文字符和日本語のテキスト、한국어 문장도 있습니다。カタカナ",
    "emoji 😀😃 family 👨‍👩‍👧‍👦 flag 🇩🇪 thumbs 👍🏽 heart ❤️",
    "def f(x):\n    if x >= 10:\n        return {'a': [x**2, -1]}  # comment\n\n\treturn None",
    "control \x01\x02\x7f \ufeff \u200b \u2028 \U0010ffff end",
    "e\u0301 å ñ ﬁ ½ ² हिन्दी ไทย Привет, мир! Γειά שלום مرحبا",
    "1 22 333 4444 1234567890 3.14159 $5.00 50% https://example.org/a?b=c#d",
    "Antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
]


def llama_cpp(path, texts):
    """Ids by llama.cpp, without BOS."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup = 512, 1, False
    server = xllamacpp.Server(params)
    ids = []
    for text in texts:
        asked = json.dumps({"content": text, "add_special": False, "parse_special": True}).encode()
        with urllib.request.urlopen(f"{server.listening_address}/tokenize", asked) as answer:
            ids.append(json.load(answer)["tokens"])
    return ids


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("gguf", type=pathlib.Path)
    parser.add_argument("--whole", type=pathlib.Path)
    parser.add_argument("--text", type=pathlib.Path, action="append", default=[], help="more text, line by line")
    parser.add_argument("--lines", type=int, default=500)
    args = parser.parse_args()
    from transformers import AutoTokenizer

    texts = list(TEXTS)
    for path in args.text:
        texts += [line for line in path.read_text().splitlines() if line.strip()][: args.lines]
    folder = AutoTokenizer.from_pretrained(args.folder)
    ours = [folder.encode(text, add_special_tokens=False) for text in texts]
    theirs = llama_cpp(args.gguf, texts)
    different = [at for at, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]]
    result = {
        "texts": len(texts), "tokens": sum(map(len, ours)), "different": len(different),
        "first": [texts[at][:60] for at in different[:5]],
        "example": [[ours[at][:20], theirs[at][:20]] for at in different[:3]],
    }
    failed = bool(different)
    if args.whole:
        whole = AutoTokenizer.from_pretrained(args.whole)
        decode = lambda tokenizer, ids: tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        before = [whole.encode(text, add_special_tokens=False) for text in texts]
        lost = [at for at in range(len(texts)) if decode(folder, ours[at]) != decode(whole, before[at])]
        result |= {"tokens_whole": sum(map(len, before)), "decoded_differently": [texts[at][:60] for at in lost]}
        failed |= bool(lost)
    print(json.dumps(result, ensure_ascii=False))
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
