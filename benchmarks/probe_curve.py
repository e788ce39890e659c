"""Cost a token against the length of the response, and the peak memory of long ones.

    python benchmarks/probe_curve.py          # prints the table, draws docs/images/probe-curve.png

The shape is two blocks of Qwen2.5-0.5B's. Each length runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import json
import multiprocessing
import resource
from pathlib import Path

IMAGE = Path(__file__).parents[1] / "docs" / "images" / "probe-curve.png"
LENGTHS = (64, 128, 256, 512, 1024)


def measure(length: int, threads: int) -> dict:
    """Probe one response of ``length`` tokens: seconds, strict limit, and peak memory above the loaded model's."""
    import torch

    import inversion
    from inversion.bench import (
        Shape,
        gradient_operations,
        norm_operations,
        random_model,
        rate,
        seconds_of_gradients,
        seconds_of_probe,
    )
    from inversion.probes.estimate import estimate_memory
    from inversion.probes.linear import product

    torch.set_num_threads(threads)
    shape = Shape("curve", 2, 896, 14, 2, 4864, length)
    bridge = inversion.load_model(random_model(shape))
    tokens = torch.randint(2, 256, (length + 1,), generator=torch.Generator().manual_seed(0)).tolist()
    inversion.probe(bridge, tokens[:1], tokens[1:9], norms=("nuclear",))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = seconds_of_probe(bridge, tokens, "cpu")
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    operations = gradient_operations(shape) + norm_operations(shape)
    return {
        "length": length,
        "seconds": seconds,
        "gradients": seconds_of_gradients(bridge, tokens, "cpu"),
        "limit": operations / max(rate(torch.matmul), rate(product)),
        "peak": peak,
        "estimate": estimate_memory(bridge, length + 1),
    }


def draw(rows: list[dict]) -> None:
    from matplotlib.figure import Figure

    from inversion.plots import COLUMN_INCHES, style

    lengths = [row["length"] for row in rows]
    milliseconds = [1000 * row["seconds"] / row["length"] for row in rows]
    with style():
        figure = Figure(figsize=(COLUMN_INCHES, 2.4))
        ax = figure.subplots()
        ax.loglog(lengths, milliseconds, "o-", color="#1f5a94", markersize=3, label="probe")
        gradients = [1000 * row["gradients"] / row["length"] for row in rows]
        ax.loglog(lengths, gradients, "o-", color="#8fb3d9", markersize=3, label="probe without norms")
        limits = [1000 * row["limit"] / row["length"] for row in rows]
        ax.loglog(lengths, limits, "--", color="#777777", label="fewest operations")
        line = [milliseconds[0] * length / lengths[0] for length in lengths]
        ax.loglog(lengths, line, ":", color="#b2411e", label="linear in the length")
        ax.set_xticks(lengths, [str(length) for length in lengths])
        ax.minorticks_off()
        ax.set(xlabel="tokens in the response", ylabel="milliseconds a token")
        ax.legend()
        IMAGE.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(IMAGE, metadata={"Software": "inversion"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lengths", type=json.loads, default=list(LENGTHS), help="a JSON list")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    rows = []
    print("| tokens | ms a token | without norms | strict limit | peak memory, MB | estimate, MB |")
    print("|---|---|---|---|---|---|")
    for length in options.lengths:
        with context.Pool(1) as pool:
            row = pool.apply(measure, (length, options.threads))
        rows.append(row)
        print(
            f"| {length} | {1000 * row['seconds'] / length:.2f} | {1000 * row['gradients'] / length:.2f} | "
            f"{1000 * row['limit'] / length:.2f} | "
            f"{row['peak'] / 1e6:.0f} | {row['estimate'] / 1e6:.0f} |",
            flush=True,
        )
    draw(rows)


if __name__ == "__main__":
    main()
