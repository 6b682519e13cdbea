"""Matrix products in PyTorch, some passes for each request: the other side of
`cargo run --release -p adapruner-kernels --example gemm`.

It reads a line from stdin and prints the seconds of a pass, the median of those that SECONDS have
room for (one at least), after one that is not counted:

    shape M K N         makes x [M, K], W [N, K] and dy [M, N] in f32 and bf16; answers 0
    DTYPE y SECONDS     x · Wᵀ in f32 or bf16, operands and result
    DTYPE dx SECONDS    dy · W
    DTYPE dW SECONDS    dyᵀ · x
"""

import argparse
import statistics
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
            else:
                of_type, product, passes = operands[name], products[sizes[0]], []
                product(*of_type)
                turn = time.perf_counter()
                while not passes or time.perf_counter() - turn < float(sizes[1]):
                    start = time.perf_counter()
                    product(*of_type)
                    passes.append(time.perf_counter() - start)
                seconds = statistics.median(passes)
            print(seconds, flush=True)


if __name__ == "__main__":
    main()
