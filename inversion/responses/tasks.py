"""Problems of a reasoning-gym task."""

import pickle
from base64 import b64encode
from dataclasses import dataclass
from typing import Any

from inversion import scoring
from inversion.errors import InputError
from inversion.limited import LimitedProcess
from inversion.names import nearest
from inversion.responses.problems import Problem
from inversion.scoring import AnswerScorer, Score, scorer_for, tagged_answer

_worker = LimitedProcess("_task_worker.py")


@dataclass(frozen=True)
class TaskScorer(AnswerScorer):
    """Scores responses by reasoning-gym's own rules, which may give part of a score.

    They evaluate what a model writes, so they run in a process of their own, which is ended where that takes too long.

    data: Arguments that make the data set, pickled and in base64.
    entry: The problem, as reasoning-gym has it, likewise.
    """

    data: str
    entry: str

    def score(self, text: str, finished: bool) -> Score:
        """Score a text; reasoning-gym asks for answer tags, and counts a response without them as wrong."""
        question = {"data": self.data, "entry": self.entry, "given": tagged_answer(text)}
        reply = _worker.ask(question, scoring.SECONDS, first={"data": self.data})
        if "score" in reply:
            return Score(reply["score"])
        if reply["reason"] == "time":
            return Score(0.0, f"scoring its answer by its task's own rules took more than {scoring.SECONDS:g} s")
        return Score(0.0, f"its task's own rules fail on its answer ({reply['error']})")


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

    made = _packed({"name": task, "seed": seed, "size": limit, **options})

    def scores(entry: dict[str, Any]) -> AnswerScorer | None:
        return scorer_for(scorer, entry["answer"]) if scorer else TaskScorer(made, _packed(entry))

    return [Problem(e["question"], None, e["answer"], task, scores(e)) for e in data]


def _packed(value: Any) -> str:
    return b64encode(pickle.dumps(value)).decode()
