"""Problems of a reasoning-gym task."""

from collections.abc import Callable, Iterable
from typing import Any

from inversion.errors import InputError
from inversion.responses.problems import Problem
from inversion.scoring import tagged_answer


def task_problems(task: str, limit: int, seed: int, options: dict[str, Any]) -> list[Problem]:
    """Let reasoning-gym make ``limit`` problems of a task."""
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ModuleNotFoundError as error:
        raise InputError(
            f"there is no file {task}, and task names need reasoning-gym; install inversion[tasks]."
        ) from error

    if task not in DATASETS:
        raise InputError(f"there is no file and no reasoning-gym task {task}; try {_nearest(task, DATASETS)}.")
    try:
        data = reasoning_gym.create_dataset(task, seed=seed, size=limit, **options)
    except (TypeError, AssertionError, ValueError) as error:
        raise InputError(f"task {task} does not take the options {options}: {error}; correct them.") from error

    def scorer(entry: dict[str, Any]) -> Callable[[str], float]:
        # reasoning-gym asks for answer tags, and counts a response without them as wrong.
        return lambda response: float(data.score_answer(tagged_answer(response), entry))

    return [Problem(e["question"], None, e["answer"], task, scorer(e)) for e in data]


def _nearest(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    return ", ".join(get_close_matches(name, list(known), 3, 0) or ["chain_sum"])
