"""Problems of a reasoning-gym task."""

from collections.abc import Callable
from typing import Any

from inversion.errors import InputError
from inversion.names import nearest
from inversion.responses.problems import Problem
from inversion.scoring import scorer_for, tagged_answer


def task_problems(
    task: str, limit: int, seed: int, options: dict[str, Any], scorer: str | None = None
) -> list[Problem]:
    """Let reasoning-gym make ``limit`` problems of a task, scored by itself unless another scorer is named."""
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ModuleNotFoundError as error:
        raise InputError(
            f"there is no file {task}, and task names need reasoning-gym; install inversion[tasks]."
        ) from error

    if task not in DATASETS:
        raise InputError(f"there is no file and no reasoning-gym task {task}; try {nearest(task, DATASETS)}.")
    try:
        data = reasoning_gym.create_dataset(task, seed=seed, size=limit, **options)
    except (TypeError, AssertionError, ValueError) as error:
        raise InputError(f"task {task} does not take the options {options}: {error}; correct them.") from error

    def scores(entry: dict[str, Any]) -> Callable[[str], float] | None:
        if scorer:
            return scorer_for(scorer, entry["answer"])
        # reasoning-gym asks for answer tags, and counts a response without them as wrong.
        return lambda response: float(data.score_answer(tagged_answer(response), entry))

    return [Problem(e["question"], None, e["answer"], task, scores(e)) for e in data]
