"""The untouched model: surveys of how its correlation depends on prompt, texts, weights, dtype, temperature, length."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from inversion.experiments.pretrained.measuring import facts_of, rows_of
from inversion.experiments.rows import layer_rows
from inversion.experiments.survey import Cell, Survey, is_done, run_survey
from inversion.files import put_table
from inversion.runs import load_responses, load_run


def run_baseline(name: str, survey: Survey, folder: Path, tell: Callable[[str], None]) -> list[str]:
    """Measure one survey and write each cell's part of the tables; return why cells failed."""
    failures = run_survey(survey, folder, tell)
    for cell in survey.cells():
        if is_done(cell, folder):
            write_cell(name, cell, folder)
    return failures


def write_cell(name: str, cell: Cell, folder: Path) -> None:
    """Write a cell's rows and layers, unless they are there; the layers come last and say that both are."""
    rows, layers = parts_of(cell, folder)
    if layers.is_file():
        return
    run, responses = load_run(cell.folder(folder)), load_responses(cell.folder(folder))
    labels = labels_of(name, cell)
    facts = facts_of(run, responses)
    scored = responses.score.notna().any()
    facts = {**facts, "accuracy": facts["accuracy"] if scored else np.nan}
    put_table(rows, pd.DataFrame([{**labels, **row} for row in rows_of(run, facts)]))
    put_table(layers, layer_rows(run, labels))


def labels_of(name: str, cell: Cell) -> dict[str, str]:
    """Return what a run of a survey is called in the tables."""
    return {"survey": name, "model": cell.model, "texts": cell.benchmark, "measurement": cell.measurement}


def parts_of(cell: Cell, folder: Path) -> tuple[Path, Path]:
    """Return where a cell's part of both tables is."""
    return folder / "rows" / f"{cell.name}.csv", folder / "rows" / f"{cell.name}-layers.csv"
