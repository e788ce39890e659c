"""What a survey will cost, before anything is measured."""

import time
from pathlib import Path
from typing import Any

import torch

from inversion.errors import InputError
from inversion.experiments.survey import Cell, Survey, SurveyModel, is_done
from inversion.tables import text_table

HEAD = ("run", "responses", "longest", "measured", "parameters", "operations", "at least")
MATRIX = 2048
UNKNOWN = "?"


def estimate(survey: Survey, out: Path) -> str:
    """Return a table of what is to be measured, if every response becomes as long as it may.

    Per token of a response of length L, writing it takes 2 P operations and reading it again 2 P, for P parameters
    outside the embeddings; each measured token takes one backward pass over its prefix, L/2 tokens on average, at 2 P
    per token. The norms come on top, and no machine runs at the rate of its matrix product: so "at least".
    """
    rates: dict[str, float] = {}
    sizes: dict[str, float | None] = {}
    counts: dict[str, int | None] = {}
    rows, seconds = [], 0.0
    for cell in survey.cells():
        if is_done(cell, out):
            rows.append((cell.name, "complete", *[""] * (len(HEAD) - 2)))
            continue
        model, benchmark, measurement = cell.parts
        if cell.benchmark not in counts:
            counts[cell.benchmark] = _count(lambda: len(benchmark.source(survey.seed).read()))  # noqa: B023
        if cell.model not in sizes:
            sizes[cell.model] = _count(lambda: _parameters(model))  # noqa: B023
        if model.device not in rates:
            rates[model.device] = _rate(model)
        operations = _operations(cell, counts[cell.benchmark], sizes[cell.model])
        time_needed = None if operations is None else operations / rates[model.device]
        seconds += time_needed or 0.0
        longest = cell.generation().max_new_tokens
        rows.append(
            (
                cell.name,
                _shown(counts[cell.benchmark]),
                str(longest),
                str(min(measurement.targets or longest, longest)),
                _shown(sizes[cell.model]),
                UNKNOWN if operations is None else f"{operations:.1e}",
                UNKNOWN if time_needed is None else _duration(time_needed),
            )
        )
    return f"{text_table(HEAD, rows)}\nAltogether at least {_duration(seconds)} on this machine."


def _operations(cell: Cell, count: int | None, parameters: float | None) -> float | None:
    if count is None or parameters is None:
        return None
    longest = cell.generation().max_new_tokens
    measured = min(cell.parts[2].targets or longest, longest)
    return count * parameters * longest * (4 + measured)


def _count(get: Any) -> Any:
    """Return a number, or None where it takes a file or a network that is not there."""
    try:
        return get()
    except InputError:
        return None


def _parameters(model: SurveyModel) -> float:
    """Return the number of parameters outside the embeddings, from the configuration alone: no weights are loaded."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from inversion.shipped import MODELS

    options = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(str(MODELS.get(model.model, model.model)), **options)
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"the configuration of {model.model} cannot be read.") from error
    embedded = {id(weight) for weight in empty.get_input_embeddings().parameters()}
    return sum(weight.numel() for weight in empty.parameters() if id(weight) not in embedded)


def _rate(model: SurveyModel) -> float:
    """Return operations per second of a large matrix product in the model's dtype, the best of three."""
    from inversion.models import DTYPES

    device = "cuda" if model.device == "auto" and torch.cuda.is_available() else model.device.replace("auto", "cpu")
    a = torch.ones(MATRIX, MATRIX, dtype=DTYPES.get(model.dtype, torch.float32), device=device)
    best = float("inf")
    for _ in range(4):  # the first one warms up
        start = time.perf_counter()
        (a @ a)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2 * MATRIX**3 / best


def _shown(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    for unit, size in (("B", 1e9), ("M", 1e6)):
        if value >= size / 10:
            return f"{value / size:.1f} {unit}"
    return str(int(value))


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
