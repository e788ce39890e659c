"""Reinforcement learning of a pretrained model: tasks that it solves some of the time, and methods compared on them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from inversion.errors import InputError
from inversion.experiments.comparison import RECORD, CompareSpec, compare_methods
from inversion.experiments.finetuning import apart
from inversion.experiments.pretrained.spec import StudySpec
from inversion.experiments.pretrained.texts import frame_of
from inversion.experiments.rows import Row
from inversion.experiments.sampling import draw_samples
from inversion.files import claim, put, put_lines, put_table
from inversion.models import load_model
from inversion.responses import Generation, Problem, read_problems
from inversion.scoring import scorer_for

SCAN, COMPARISON, PROBLEMS = "scan.csv", "comparison", "problems"
TRAIN, HELD_OUT = "train.jsonl", "held-out.jsonl"
_TRIED = 20
"""Problems that are made for each one held out, since those of a small task repeat themselves."""


def untried(spec: StudySpec, folder: Path) -> list[str]:
    """Return the tasks that have not been tried.

    Raises:
        InputError: One was tried with other settings.
    """
    how = spec.reinforcement.scan
    left = [name for name in how.tasks if not _file(folder, name).is_file()]
    for name in set(how.tasks) - set(left):
        row = _row(folder, name)
        tried = json.loads(row["settings"]), row["problems"], row["samples"]
        if tried != (how.tasks[name], how.problems, how.samples):
            raise InputError(
                f"{folder} holds a try of {name} with other settings; go on with those, or choose a new folder."
            )
    return left


def scan(spec: StudySpec, tokenizer: Any, folder: Path, step: Callable[[], None] = lambda: None) -> None:
    """Try every task that has not been tried.

    Each task's row is written when it is known, so that a scan which is killed goes on at the next.
    """
    model = load_model(spec.model, spec.device)
    for name in untried(spec, folder):
        row = _tried(spec, model, tokenizer, name)
        put(_file(folder, name), lambda part, row=row: part.write_text(json.dumps(row) + "\n"))
        step()
    scanned(spec, folder)


def scanned(spec: StudySpec, folder: Path) -> pd.DataFrame:
    """Write and return the table of all tasks: share right, what the responses are like, whether it is taken."""
    rows = pd.DataFrame([_row(folder, name) for name in spec.reinforcement.scan.tasks])
    low, high = spec.reinforcement.scan.between
    rows["taken"] = (rows.accuracy >= low) & (rows.accuracy <= high)
    put_table(folder / SCAN, rows)
    return rows


def _file(folder: Path, task: str) -> Path:
    return folder / "tasks" / f"{task}.json"


def _row(folder: Path, task: str) -> Row:
    return json.loads(_file(folder, task).read_text())


def _tried(spec: StudySpec, model: Any, tokenizer: Any, name: str) -> Row:
    how, length = spec.reinforcement.scan, _length(spec)
    problems = framed(spec, tokenizer, name, how.problems, spec.seed)
    samples = draw_samples(model, problems, how.samples, Generation(1.0, length), spec.seed)
    return {
        "task": name,
        "settings": json.dumps(how.tasks[name]),
        "accuracy": float(np.nanmean(samples.right)),
        "problems": how.problems,
        "samples": how.samples,
        "tokens": float(samples.tokens.mean()),
        "finished": samples.finished,
    }


def _length(spec: StudySpec) -> int:
    return int(spec.reinforcement.compare.get("max_completion_length", 96))


def framed(spec: StudySpec, tokenizer: Any, name: str, count: int, seed: int) -> list[Problem]:
    """Return problems of a task as the model sees them, scored as mathematics.

    Raises:
        InputError: The task is not known, or does not take its settings.
    """
    options = dict(spec.reinforcement.scan.tasks[name])
    task = options.pop("task", name)
    problems = [
        # What gives no answer is wrong, in training too.
        replace(p, scorer=scorer_for("math", p.answer, form_required=True))
        for p in read_problems(task, count, seed, options, scorer="math")
    ]
    return frame_of(spec.texts).apply(problems, tokenizer, spec.model)


def reinforce(spec: StudySpec, tokenizer: Any, folder: Path) -> None:
    """Compare the methods on the tasks that the scan took; killed at any point, the same call goes on.

    Raises:
        InputError: The scan took no task, or the folder holds a comparison on others.
    """
    how = spec.reinforcement.scan
    table = scanned(spec, folder)
    taken = table.task[table.taken].tolist()
    low, high = how.between
    if not taken:
        found = ", ".join(f"{task} {share:.0%}" for task, share in zip(table.task, table.accuracy, strict=True))
        raise InputError(
            f"no task is right between {low:.0%} and {high:.0%} of the time ({found}); add easier or harder ones to "
            "reinforcement.scan.tasks, or widen reinforcement.scan.between."
        )
    record = {"tasks": taken, "train": how.train, "held_out": how.held_out}
    problems = folder / PROBLEMS
    claim(problems, "taken.json", record, what="choice", remedy="go on with those, or choose a new folder")
    files = [problems / TRAIN, problems / HELD_OUT]
    if not all(path.is_file() for path in files):
        for path, chosen in zip(files, split(spec, tokenizer, taken), strict=True):
            put_lines(path, map(row_of, chosen))
    comparison = comparison_of(spec, folder)
    compare_methods(comparison, resume=(Path(comparison.train.out) / RECORD).is_file())
    for arm in comparison.arms():  # measured, so nobody needs their weights
        for name in ("model", "trainer"):
            shutil.rmtree(arm.folder / name, ignore_errors=True)


def comparison_of(spec: StudySpec, folder: Path) -> CompareSpec:
    """Return the comparison of methods that a folder holds, or is going to."""
    return spec.comparison(folder / COMPARISON, folder / PROBLEMS / TRAIN, folder / PROBLEMS / HELD_OUT)


def split(spec: StudySpec, tokenizer: Any, tasks: list[str]) -> tuple[list[Problem], list[Problem]]:
    """Return problems to train on, task by task in turn, and held-out ones, which are all different and not among them.

    Raises:
        InputError: A task has too few different problems.
    """
    how = spec.reinforcement.scan
    train, held_out = -(-how.train // len(tasks)), -(-how.held_out // len(tasks))
    kept: dict[str, Problem] = {}
    learnt: list[list[Problem]] = []
    # Other seeds than the scan's: it chose by those problems. Two tasks may share some, so all are held out first.
    for number, task in enumerate(tasks, 1):
        for problem in framed(spec, tokenizer, task, _TRIED * held_out, spec.seed + 2_000_000):
            if len(kept) < number * held_out:
                kept.setdefault(problem.prompt, problem)
    for task in tasks:
        tried = framed(spec, tokenizer, task, 2 * train, spec.seed + 1_000_000)
        learnt.append(apart(tried, kept.values())[:train])
    if len(kept) < len(tasks) * held_out or any(len(problems) < train for problems in learnt):
        raise InputError(
            f"{', '.join(tasks)} have too few different problems to hold out {held_out} each and to train on "
            f"{train} others; lower reinforcement.scan.held_out, or make the tasks larger."
        )
    in_turn = [problem for turn in zip(*learnt, strict=True) for problem in turn]
    return in_turn[: how.train], list(kept.values())[: how.held_out]


def row_of(problem: Problem) -> Row:
    """Return a problem as a file of problems has it, its prompt as the model sees it."""
    return {"prompt": problem.prompt, "answer": problem.answer, "task": problem.task}
