"""Speed of a prompt and of generation beside llama.cpp's (the xllamacpp package), in tokens/s.

`python latency.py MODEL.gguf --adapruner target/release/adapruner`: both sides run in turns, in
processes of their own, with as many threads, on the same file; medians, spread and the ratio of
the medians are printed as JSON. Ours is `adapruner latency`, which computes with weights of
--dtype whatever the file's type is; llama.cpp computes with those of the file.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import urllib.request

import common

PHASES = ["prompt", "generation"]
MARK = "speeds: "


def ours(args):
    command = [args.adapruner, "latency", args.model, "--json", "--rounds", "1"]
    command += ["--prompt-tokens", str(args.prompt), "--new-tokens", str(args.new)]
    command += ["--threads", str(args.threads), "--dtype", args.dtype, "--matmul-precision", args.matmul_precision]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    (timing,) = found["timings"]
    return [timing[f"{phase}_tokens_per_second"]["median"] for phase in ("prefill", "decode")]


def theirs(args):
    command = [sys.executable, __file__, args.model, "--threads", str(args.threads), "--serve"]
    command += ["--prompt", str(args.prompt), "--new", str(args.new)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    # The server logs beside it.
    (line,) = [line for line in out.decode().splitlines() if line.startswith(MARK)]
    return json.loads(line.removeprefix(MARK))


def serve(args):
    """One round of llama.cpp, after one that is not counted."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(args.model)
    params.n_ctx, params.n_parallel, params.warmup = args.prompt + args.new + 8, 1, True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args.threads
    server = xllamacpp.Server(params)
    ids = [1 + at * 7919 % 10_000 for at in range(args.prompt)]
    for _ in range(2):
        asked = {"prompt": ids, "n_predict": args.new, "temperature": 0, "cache_prompt": False, "ignore_eos": True}
        with urllib.request.urlopen(f"{server.listening_address}/completion", json.dumps(asked).encode()) as answer:
            timings = json.load(answer)["timings"]
    print(f"\n{MARK}{json.dumps([timings['prompt_per_second'], timings['predicted_per_second']])}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="GGUF file")
    parser.add_argument("--adapruner", type=pathlib.Path, help="the program")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bf16", help="type of our weights")
    parser.add_argument("--matmul-precision", default="medium", help="of our products")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens that are generated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args)
    rounds = [(ours(args), theirs(args)) for _ in range(args.rounds)]
    found = {}
    for at, phase in enumerate(PHASES):
        sides = {name: [pair[side][at] for pair in rounds] for side, name in enumerate(["adapruner", "llama.cpp"])}
        medians = {name: statistics.median(values) for name, values in sides.items()}
        spread = {name: {"median": medians[name], "min": min(v), "max": max(v)} for name, v in sides.items()}
        found[phase] = {**spread, "ratio": medians["adapruner"] / medians["llama.cpp"]}
    settings = {key: str(value) for key, value in vars(args).items() if key not in ("serve", "model", "adapruner")}
    common.write_json({"file": pathlib.Path(args.model).name, **settings, **found})


if __name__ == "__main__":
    main()
