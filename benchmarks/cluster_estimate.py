"""Estimate time, memory and disk of a run of 10,000 responses of 4,000 tokens on models of 7B and 70B.

    python benchmarks/cluster_estimate.py                 # the table of docs/cluster.md
    python benchmarks/cluster_estimate.py --rate 100      # at 100 TFLOP/s reached

Operations are those of ``gradient_operations`` and ``norm_operations`` in ``inversion.bench``, the fewest that all
tokens of a response take; with fewer targets, their part of it. Time is operations over the rate that a probe reaches,
which ``inversion bench`` measures: operations a token over the probe's seconds a token. The default is what two cores
of a CPU reached on one layer of Llama-8B's width (docs/numerics.md). Memory is what ``estimate_memory`` says of the
model, which is made without its weights; disk is before compression.
"""

import argparse

import torch

import inversion
from inversion.bench import SHAPES, Shape, gradient_operations, norm_operations, random_model
from inversion.probes.capture import PROJECTIONS
from inversion.probes.estimate import estimate_bytes_per_token, estimate_memory
from inversion.tables import markdown_table

VOCABULARY = 150_000
MEASURED_SECONDS = 0.00431
"""A token of the last of ``SHAPES``, by ``inversion bench`` on two cores of an otherwise idle machine."""
MODELS = (
    Shape("7B", 28, 3584, 28, 4, 18944, 4000),
    Shape("70B", 80, 8192, 64, 8, 28672, 4000),
)
HEAD = ("", *(f"{shape.name}, {what}" for shape in MODELS for what in ("64 targets", "all tokens")))


def operations(shape: Shape) -> float:
    """Fewest operations of one response, all tokens."""
    return gradient_operations(shape) + norm_operations(shape)


def column(shape: Shape, targets: int | None, rate: float, responses: int) -> list[str]:
    """What one model takes with so many targets a response."""
    with torch.device("meta"):
        model = random_model(shape, "meta", VOCABULARY, torch.bfloat16)
    measured = targets or shape.tokens
    count = operations(shape) * measured / shape.tokens
    hours = count / rate / 3600
    memory = estimate_memory(inversion.load_model(model), shape.tokens, targets)
    disk = responses * measured * estimate_bytes_per_token(("nuclear",), range(shape.layers), PROJECTIONS)
    weights = sum(parameter.numel() for parameter in model.parameters()) * 2
    numbers = (count / 1e15, hours, responses * hours, weights / 1e9, memory / 1e9, disk / 1e9)
    return [f"{number:,.2g}" if number < 100 else f"{number:,.0f}" for number in numbers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, help="TFLOP/s that a probe reaches")
    parser.add_argument("--responses", type=int, default=10_000)
    options = parser.parse_args()
    reached = operations(SHAPES[-1]) / SHAPES[-1].tokens / MEASURED_SECONDS
    rate = reached if options.rate is None else options.rate * 1e12
    columns = [column(shape, targets, rate, options.responses) for shape in MODELS for targets in (64, None)]
    names = (
        "10^15 operations a response",
        "hours of one replica a response",
        f"hours of one replica for {options.responses:,} responses",
        "GB of weights, bfloat16",
        "GB beside them",
        "GB of tables, one norm",
    )
    print(f"at {rate / 1e12:.3g} TFLOP/s reached:\n")
    print(markdown_table(HEAD, list(zip(names, *columns, strict=True))))


if __name__ == "__main__":
    main()
