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
from inversion.experiments.comparison import RECORD, compare_methods
from inversion.experiments.pretrained.spec import StudySpec
from inversion.experiments.pretrained.texts import frame_of
from inversion.experiments.rows import Row
from inversion.experiments.sampling import draw_samples
from inversion.files import put, put_lines, put_table
from inversion.models import load_model
from inversion.responses import Generation, Problem, read_problems
from inversion.scoring import scorer_for

SCAN = "scan.csv"


def scan(spec: StudySpec, tokenizer: Any, folder: Path, step: Callable[[], None] = lambda: None) -> pd.DataFrame:
    """Try every task and return the table: share right, what the responses are like, whether it is taken.

    Each task's row is written when it is known, so that a scan which is killed goes on at the next.
    """
    how, model = spec.reinforcement.scan, None
    for name in how.tasks:
        path = folder / "tasks" / f"{name}.json"
        if not path.is_file():
            model = load_model(spec.model, spec.device) if model is None else model
            row = _tried(spec, model, tokenizer, name)
            put(path, lambda part, row=row: part.write_text(json.dumps(row) + "\n"))
        step()
    rows = pd.DataFrame([json.loads((folder / "tasks" / f"{name}.json").read_text()) for name in how.tasks])
    low, high = how.between
    rows["taken"] = (rows.accuracy >= low) & (rows.accuracy <= high)
    put_table(folder / SCAN, rows)
    return rows


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
        InputError: The scan took no task.
    """
    table = pd.read_csv(folder / SCAN)
    taken = table.task[table.taken].tolist()
    low, high = spec.reinforcement.scan.between
    if not taken:
        found = ", ".join(f"{task} {share:.0%}" for task, share in zip(table.task, table.accuracy, strict=True))
        raise InputError(
            f"no task is right between {low:.0%} and {high:.0%} of the time ({found}); add easier or harder ones to "
            "reinforcement.scan.tasks, or widen reinforcement.scan.between."
        )
    files = []
    # Other seeds than the scan's: it chose by those problems.
    for name, count, seed in (
        ("train", spec.reinforcement.scan.train, spec.seed + 1_000_000),
        ("held-out", spec.reinforcement.scan.held_out, spec.seed + 2_000_000),
    ):
        path = folder / f"{name}.jsonl"
        if not path.is_file():
            per_task = [framed(spec, tokenizer, task, -(-count // len(taken)), seed) for task in taken]
            rows = [row_of(problem) for turn in zip(*per_task, strict=True) for problem in turn][:count]
            put_lines(path, rows)
        files.append(path)
    out = folder / "comparison"
    comparison = spec.comparison(out, *files)
    compare_methods(comparison, resume=(out / RECORD).is_file())
    for arm in comparison.arms():  # measured, so nobody needs their weights
        for name in ("model", "trainer"):
            shutil.rmtree(arm.folder / name, ignore_errors=True)


def row_of(problem: Problem) -> Row:
    """Return a problem as a file of problems has it, its prompt as the model sees it."""
    return {"prompt": problem.prompt, "answer": problem.answer, "task": problem.task}
