"""``inversion probe --dry-run``: what a run would take, with other choices beside it."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from inversion.measure import Measurement

CHOICES = (None, 64, 16)
"""Tokens per response; None is all."""
DTYPES = ("float32", "bfloat16")


def print_estimates(
    load: Callable[[str], "TransformerBridge"],
    prepare: Callable[["TransformerBridge"], Sequence[tuple[list[int], list[int] | None]]],
    measurement: "Measurement",
    dtype: str,
    max_new_tokens: int,
) -> None:
    """Print memory, time and disk space of a run as asked for, and of other numbers of tokens and dtypes.

    Args:
        load: Loads the model in a dtype.
        prepare: Returns token ids of each prompt and, where it is given, of its response.
        measurement: What is asked for.
        dtype: The dtype asked for.
        max_new_tokens: Length that a response is taken to have where the model is to write it.
    """
    from inversion.tables import text_table

    head = ("tokens per response", "dtype", "weights", "memory beside them", "time of probing", "disk")
    rows, missing = [], 0
    for kind in dict.fromkeys((dtype, *DTYPES)):
        model = load(kind)
        encoded = prepare(model)
        lengths = [(len(prompt), max_new_tokens if given is None else len(given)) for prompt, given in encoded]
        missing = sum(given is None for _, given in encoded)
        rows += _rows(model, kind, lengths, measurement, asked=kind == dtype)
        del model
    print(text_table(head, rows))
    print("* as asked for. Times were extrapolated from a few blocks of this model on this machine.")
    if missing:
        print(f"{missing} responses would have to be written first, which comes on top; each is taken to be cut.")


def _rows(
    model: "TransformerBridge", dtype: str, lengths: Sequence[tuple[int, int]], measurement: "Measurement", asked: bool
) -> Iterator[tuple[str, ...]]:
    from inversion.probes.capture import select_layers
    from inversion.probes.estimate import estimate_bytes_per_token, estimate_memory, measure_speed
    from inversion.probes.gradients import plan_for
    from inversion.probes.pace import Pace

    layers = select_layers(model, measurement.layers)
    longest = max(prompt + response for prompt, response in lengths)
    speed = measure_speed(model, longest, measurement.norms, layers, measurement.projections)
    pattern = not plan_for(model).piecewise
    pace = Pace(model, pattern=pattern)
    weights = sum(p.numel() * p.dtype.itemsize for p in model.original_model.parameters())
    per_token = estimate_bytes_per_token(measurement.norms, layers, measurement.projections)
    for targets in dict.fromkeys((measurement.targets, *CHOICES)):
        memory = max(estimate_memory(model, p + r, min(targets or r, r), pattern=pattern) for p, r in set(lengths))
        seconds = sum(speed.seconds(pace, p + r, min(targets or r, r)) for p, r in lengths)
        tokens = sum(min(targets or r, r) for _, r in lengths)
        mark = "*" if asked and targets == measurement.targets else ""
        yield (
            ("all" if targets is None else str(targets)) + mark,
            dtype,
            _bytes(weights),
            _bytes(memory),
            _duration(seconds),
            _bytes(tokens * per_token),
        )


def _bytes(count: float) -> str:
    return f"{count / 1e9:.2g} GB" if count >= 1e8 else f"{count / 1e6:.2g} MB"


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} s"
