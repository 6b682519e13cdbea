"""Matrix products in PyTorch, one pass for each request: the other side of
`cargo run --release -p adapruner-kernels --example gemm`.

It reads a line from stdin and prints the seconds of a pass:

    shape M K N     makes x [M, K], W [N, K] and dy [M, N] in f32 and bf16, multiplies each once; answers 0
    DTYPE y         x · Wᵀ in f32 or bf16, operands and result
    DTYPE dx        dy · W
    DTYPE dW        dyᵀ · x
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
    products = {
        "y": lambda x, weight, dy: torch.nn.functional.linear(x, weight),
        "dx": lambda x, weight, dy: dy @ weight,
        "dW": lambda x, weight, dy: dy.t() @ x,
    }
    operands = {}
    with torch.inference_mode():
        for line in sys.stdin:
            name, *sizes = line.split()
            seconds = 0.0
            if name == "shape":
                m, k, n = map(int, sizes)
                made = [torch.rand(*sides) - 0.5 for sides in ((m, k), (n, k), (m, n))]
                operands = {key: [t.to(dtype) for t in made] for key, dtype in dtypes.items()}
                for of_type in operands.values():
                    torch.nn.functional.linear(*of_type[:2])
            else:
                of_type, product = operands[name], products[sizes[0]]
                start = time.perf_counter()
                product(*of_type)
                seconds = time.perf_counter() - start
            print(seconds, flush=True)


if __name__ == "__main__":
    main()
