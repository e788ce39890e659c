"""Problems of a reasoning-gym task."""

from dataclasses import dataclass
from typing import Any

from inversion.errors import InputError
from inversion.names import nearest
from inversion.responses.problems import Problem
from inversion.scoring import AnswerScorer, Score, scorer_for, tagged_answer


@dataclass(frozen=True)
class TaskScorer(AnswerScorer):
    """Scores responses by reasoning-gym's own rules, which may give part of a score.

    data: The data set that made the problem.
    entry: The problem, as reasoning-gym has it.
    """

    data: Any
    entry: dict[str, Any]

    def score(self, text: str, finished: bool) -> Score:
        """Score a text; reasoning-gym asks for answer tags, and counts a response without them as wrong."""
        return Score(float(self.data.score_answer(tagged_answer(text), self.entry)))


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

    def scores(entry: dict[str, Any]) -> AnswerScorer | None:
        return scorer_for(scorer, entry["answer"]) if scorer else TaskScorer(data, entry)

    return [Problem(e["question"], None, e["answer"], task, scores(e)) for e in data]
