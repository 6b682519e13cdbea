"""Matrix products in PyTorch, one pass for each request: the other side of
`cargo run --release -p adapruner-kernels --example gemm`.

It reads a line from stdin and prints the seconds of a pass:

    shape M K N     makes x [M, K] and W [N, K] in f32 and bf16, runs each once; answers 0
    f32             x · Wᵀ in f32
    bf16            x · Wᵀ in bf16, operands and result
"""

import argparse
import sys
import time

import torch


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    dtypes = {"f32": torch.float32, "bf16": torch.bfloat16}
    operands = {}
    with torch.inference_mode():
        for line in sys.stdin:
            name, *sizes = line.split()
            seconds = 0.0
            if name == "shape":
                m, k, n = map(int, sizes)
                x, weight = torch.rand(m, k) - 0.5, torch.rand(n, k) - 0.5
                operands = {key: (x.to(dtype), weight.to(dtype)) for key, dtype in dtypes.items()}
                for pair in operands.values():
                    torch.nn.functional.linear(*pair)
            else:
                pair = operands[name]
                start = time.perf_counter()
                torch.nn.functional.linear(*pair)
                seconds = time.perf_counter() - start
            print(seconds, flush=True)


if __name__ == "__main__":
    main()
