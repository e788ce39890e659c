"""Where a probe's time goes: products with weights, attention, norms, all else. One thread, random weights.

    OMP_NUM_THREADS=1 python benchmarks/probe_parts.py                    # the table of docs/numerics.md
    OMP_NUM_THREADS=1 python benchmarks/probe_parts.py --shapes "4 x 512"

Run it on idle cores. Each operation's own time is what torch's profiler has; ``all else`` is element by element work,
copies, and what Python takes. The rate of the products with weights is the fewest operations that they need (see
docs/numerics.md) over their time, as a part of the rate of a large product measured in the same run: below 100 % since
the matrices are smaller, and since blocks are run again.
"""

import argparse
import time

import torch
from torch.profiler import ProfilerActivity, profile

import inversion
from inversion.bench import SHAPES, Shape, gradient_operations, norm_operations, random_model, rate
from inversion.probes.linear import product
from inversion.tables import markdown_table

KINDS = {
    "products with weights": ("mkldnn::_linear_pointwise", "aten::mkldnn_linear", "aten::addmm", "aten::mm"),
    "attention": ("scaled_dot_product",),
    "norms: eigenvalues, QR": ("linalg_eig", "linalg_qr"),
    "norms: products": ("aten::bmm", "aten::baddbmm"),
}
ELSE = "all else"


def kind_of(operation: str) -> str:
    """Return which part an operation belongs to."""
    return next((kind for kind, names in KINDS.items() if any(name in operation for name in names)), ELSE)


def measure(shape: Shape) -> list[str]:
    """Profile one shape, all tokens; return its row."""
    bridge = inversion.load_model(random_model(shape))
    tokens = torch.randint(2, 256, (shape.tokens + 1,), generator=torch.Generator().manual_seed(1)).tolist()
    work = lambda: inversion.probe(bridge, tokens[:1], tokens[1:], norms=("nuclear",))  # noqa: E731
    work()
    start = time.process_time()
    work()
    whole = time.process_time() - start
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        work()
    seconds = dict.fromkeys(KINDS, 0.0)
    for event in recorded.key_averages():
        if kind_of(event.key) in seconds:
            seconds[kind_of(event.key)] += event.self_cpu_time_total / 1e6
    fastest = max(rate(torch.matmul), rate(product))
    own = gradient_operations(shape) / seconds["products with weights"] / fastest
    strict = (gradient_operations(shape) + norm_operations(shape)) / fastest / whole
    shares = [seconds[kind] / whole for kind in KINDS]
    parts = [f"{share:.0%}" for share in (*shares, 1 - sum(shares))]
    return [shape.name, str(shape.tokens), f"{whole:.2f}", *parts, f"{own:.0%}", f"{strict:.0%}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="4 x 512,Qwen2.5-0.5B short,Qwen2.5-0.5B long", help="beginnings of names")
    wanted = tuple(parser.parse_args().shapes.split(","))
    torch.set_num_threads(1)
    head = ("shape", "tokens", "seconds", *KINDS, ELSE, "products' own rate", "strict share")
    print(markdown_table(head, [measure(shape) for shape in SHAPES if shape.name.startswith(wanted)]))


if __name__ == "__main__":
    main()
