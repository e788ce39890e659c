"""Critique studies among the folders of a report: their runs, and what the page shows of them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inversion.figures.of_critique import INTRODUCTION, RECORD, Captioned, captioned, critique_figure, read_tables
from inversion.plots import style
from inversion.report.summary import Picture, picture_of


@dataclass(frozen=True)
class Study:
    """What the page shows of a critique study, as plain text.

    title: Heading. introduction: Below it. picture: Its figure. tables: Its numbers.
    """

    title: str
    introduction: str
    picture: Picture
    tables: tuple[Captioned, ...]


def runs_and_studies(folders: Sequence[str | os.PathLike[str]]) -> tuple[list[Path], list[Path]]:
    """Return the folders of runs and those of critique studies.

    A study brings its two runs along, where tokens were measured, and a run in a study brings the study.
    """
    runs: list[Path] = []
    studies: list[Path] = []
    for folder in (Path(folder).expanduser() for folder in folders):
        if (folder / RECORD).is_file():
            studies.append(folder)
            runs += sorted((folder / "runs").glob("*/"), reverse=True)  # original before injected
            continue
        runs.append(folder)
        study = folder.resolve().parent.parent
        if (study / RECORD).is_file():
            studies.append(study)
    return list(dict.fromkeys(runs)), list({path.resolve(): path for path in studies}.values())


def study_of(folder: Path) -> Study:
    """Read a study.

    Raises:
        InputError: It is not finished.
    """
    tables = read_tables(folder)
    drawn = critique_figure(tables)
    with style():
        picture = picture_of(drawn.figure, "Outcomes, classifiers, steering and strength; the numbers are below.")
    title = f"Recovery from an injected error: {folder.resolve().name}"
    return Study(title, INTRODUCTION, picture, tuple(captioned(tables)))
