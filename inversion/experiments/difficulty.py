"""Problems that are neither too easy nor too hard for the model that training starts from.

A group whose responses are all right or all wrong teaches nothing. So a comparison may keep only problems of which the
model at the start solves a share that leaves something to learn; the shares come from samples that are used for
nothing else, so that what is measured before training is not chosen by its own luck.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from inversion.errors import InputError
from inversion.experiments.finetuning import has_own_rules, training_problems
from inversion.experiments.sampling import draw_samples
from inversion.experiments.spec import TrainSpec
from inversion.files import put_lines
from inversion.models import load_model
from inversion.responses import Generation, Problem

SAMPLES = 8
"""Samples of each problem, from which its share of right ones is estimated."""
SEED = 2**20
"""Of these samples; training runs are seeded with small numbers."""
FILES = {"problems": "training.jsonl", "held_out": "held-out.jsonl"}
"""Field of a specification -> file that stands there afterwards, in the comparison's folder."""


def check_solve_rate(solve_rate: Any) -> None:
    """Refuse what is no range of shares.

    Raises:
        InputError: It is not two shares, ascending.
    """
    two = isinstance(solve_rate, list) and len(solve_rate) == 2 and all(isinstance(x, int | float) for x in solve_rate)
    if not two or not 0 <= solve_rate[0] < solve_rate[1] <= 1:
        raise InputError(f"solve_rate is {solve_rate}; give two shares from 0 to 1, such as [0.15, 0.85].")


def within_reach(spec: TrainSpec, solve_rate: Sequence[float], folder: Path) -> TrainSpec:
    """Write the problems, for training and held out, that the model solves at such a rate; return who uses them.

    The files have a line a problem, with its ``prompt``, ``answer``, ``task`` and ``solve_rate``. Those that are there
    already are used as they are.

    Args:
        spec: Its problems, at most ``limit`` and ``held_out_limit`` of them, are the candidates.
        solve_rate: Least and largest share of right samples.
        folder: Where the files go.

    Raises:
        InputError: No problem is left, or problems are scored by their task's own rules, which a file cannot hold.
    """
    if not all((folder / name).is_file() for name in FILES.values()):
        model = load_model(spec.model, spec.device)
        for name, problems in zip(FILES.values(), training_problems(spec), strict=True):
            if any(has_own_rules(problem) for problem in problems):
                raise InputError(f"{spec.problems} is scored by rules of its own; leave solve_rate out.")
            rows = _reachable(model, spec, problems, solve_rate)
            if not rows:
                raise InputError(
                    f"of {len(problems)} problems {spec.model} solves none at a rate in {list(solve_rate)}; widen "
                    "solve_rate, or give other problems."
                )
            put_lines(folder / name, rows)
    files = {field: str(folder / name) for field, name in FILES.items()}
    return replace(spec, **files, task_options={})


def _reachable(
    model: Any, spec: TrainSpec, problems: list[Problem], solve_rate: Sequence[float]
) -> list[dict[str, Any]]:
    print(f"sampling {len(problems)} problems {SAMPLES} times, to keep those within reach", flush=True)
    generation = Generation(spec.temperature, spec.max_completion_length)
    rates = np.nanmean(draw_samples(model, problems, SAMPLES, generation, SEED).right, axis=1)
    low, high = solve_rate
    return [
        {"prompt": problem.prompt, "answer": problem.answer, "task": problem.task, "solve_rate": float(rate)}
        for problem, rate in zip(problems, rates, strict=True)
        if low <= rate <= high
    ]
