"""Problems: a prompt, and what is known about its response."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inversion.errors import InputError
from inversion.responses.sources import read_rows
from inversion.scoring import scorer_for
from inversion.shipped import PROBLEMS


@dataclass(frozen=True)
class Problem:
    """A prompt and what is known about it.

    prompt: The text given to the model.
    response: The text to measure, or None to let the model write one.
    answer: The reference answer, or None.
    task: Name of the task it belongs to, empty where there is none.
    scorer: Gives a response text its score, 1.0 for a right answer; None where there is nothing to score against.
    """

    prompt: str
    response: str | None = None
    answer: str | None = None
    task: str = ""
    scorer: Callable[[str], float] | None = None


def read_problems(
    source: str, limit: int | None = None, seed: int = 0, options: dict[str, Any] | None = None
) -> list[Problem]:
    """Read problems from wherever ``source`` points.

    Args:
        source: A ``.jsonl`` or ``.parquet`` file or a folder saved by Hugging Face ``datasets``, with a ``prompt``
            column and optionally ``response``, ``answer`` and ``task``; or the name of a reasoning-gym task.
        limit: Most problems to read; None for all of a file, and 100 of a task.
        seed: Seed of a task's generator.
        options: Settings of a task's generator, such as ``max_terms``.

    Raises:
        InputError: The source is missing, empty or malformed.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; give at least 1.")
    path = Path(source).expanduser()
    if not path.exists():
        if path.suffix or "/" in source:
            raise InputError(f"there is no file {source}; give a JSONL or Parquet file or a reasoning-gym task name.")
        from inversion.responses.tasks import task_problems

        return task_problems(source, limit or 100, seed, options or {})
    if options:
        raise InputError("task options apply to reasoning-gym tasks only; drop them or name a task instead of a file.")
    problems = [_problem(row, f"{source}, row {number}") for number, row in enumerate(read_rows(path), 1)]
    if not problems:
        raise InputError(f"{source} is empty; give at least one row with a prompt.")
    return problems[:limit]


def shipped_problems(limit: int | None = None) -> list[Problem]:
    """Return the shipped held-out problems, for models that answer between tags: a response without tags is wrong."""
    problems = read_problems(str(PROBLEMS), limit)
    return [replace(p, scorer=scorer_for("tags", p.answer, form_required=True)) for p in problems]


def _problem(row: Any, where: str) -> Problem:
    if not isinstance(row, dict) or row.get("prompt") is None:
        raise InputError(f"{where} has no prompt; give every row a prompt.")
    texts = {name: row.get(name) for name in ("prompt", "response", "answer", "task")}
    for name, value in texts.items():
        if value is not None and not isinstance(value, str):
            raise InputError(f"{where}: {name} is not text; write it as a string.")
    if texts["response"] is not None and not texts["response"]:
        raise InputError(f"{where} has an empty response; fill it in, or leave the column out to generate one.")
    return Problem(**{**texts, "task": texts["task"] or "", "scorer": scorer_for("tags", texts["answer"])})
