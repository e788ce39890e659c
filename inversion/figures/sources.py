"""What the given folders hold: runs, and the tables of a lineage, a training comparison or a pretrained model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from inversion.errors import InputError
from inversion.findings import Findings, findings_of, read_runs
from inversion.shards import MANIFEST

Table = Any
"""A pandas DataFrame. Its own annotations leave open whether a selection is a table, a column or a cell."""
KEYS = ("seed", "stage", "step")
NUMBERS = ("estimate", "low", "high")
ENTROPY = ("entropy_bits", "tokens", "covariance", "predicted_entropy_change")
NEEDED: dict[str, tuple[str, ...]] = {
    "lineage": (*KEYS, "texts", "norm", "unit", "control", *NUMBERS, "p_value", "accuracy"),
    "layers": (*KEYS, "layer", "projection", *NUMBERS, "q_value"),
    "comparison": ("method", "seed", "when", "accuracy", "rho_position", "rho_token_type"),
    "curves": ("method", "seed", "step", "accuracy", "rho"),
    "rho-by-layer": ("method", "seed", "when", "unit", "layer", "rho"),
    "entropy": ("method", "seed", "step", "accuracy", *ENTROPY),
    "supervised": ("condition", "seed", "step", "accuracy", "rho_position", "rho_token_type"),
    "finetuning": ("arm", "seed", "step", "texts", "norm", "unit", "control", *NUMBERS, "accuracy"),
    "finetuning-changes": ("arm", "seed", "step", "against", "texts", "unit", *NUMBERS),
    "baseline": ("survey", "model", "texts", "measurement", "norm", "unit", "control", *NUMBERS),
}
"""Tables by the name of their file, and the columns that the figures need."""
STAGES = {
    "base": "base",
    "finetune": "fine-tuned",
    "grpo": "GRPO",
    "corrpo": "CorR-PO",
    "base_grpo": "GRPO from base",
}
"""Stages of a lineage in the order in which figures show them, with their names there."""


@dataclass(frozen=True)
class Sources:
    """What there is to draw.

    runs: folder of each run, by the name that figures give it.
    tables: those of ``NEEDED`` that were found.
    norm, resamples, seed: How the runs' own statistics are made; tables are as they are, cut to the norm.
    """

    runs: Mapping[str, Path]
    tables: Mapping[str, Table]
    norm: str = "nuclear"
    resamples: int = 2000
    seed: int = 0

    @cached_property
    def found(self) -> list[Findings]:
        """The statistics of every run: computed when first asked for."""
        loaded = read_runs(list(self.runs.values()))
        named = [replace(run, name=name) for run, name in zip(loaded, self.runs, strict=True)]
        return [findings_of(run, self.norm, resamples=self.resamples, seed=self.seed) for run in named]

    def table(self, name: str) -> Table:
        """A table by name; None if no folder holds it."""
        return self.tables.get(name)


def read_sources(
    folders: Sequence[str | Path], norm: str = "nuclear", *, resamples: int = 2000, seed: int = 0
) -> Sources:
    """Find what the folders hold.

    A folder may be a run, hold runs, be a lineage (of which the first seed's last model of each stage is taken as a
    run) or a training comparison, or hold just the tables of the last two or of a study of a pretrained model.

    Raises:
        InputError: A folder is not there or holds none of these, two hold the same table, or a table lacks a column.
    """
    runs: dict[str, Path] = {}
    tables: dict[str, Table] = {}
    if not folders:
        raise InputError("there is nothing to draw; give at least one folder.")
    for folder in (Path(folder).expanduser() for folder in folders):
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}; give folders of runs, of a lineage or of a comparison.")
        named, read = _runs_in(folder), _tables_in(folder)
        if not named and not read:
            known = ", ".join(f"{name}.csv" for name in NEEDED)
            raise InputError(f"{folder} holds no run and no {known}; give a folder that inversion has written.")
        twice = set(tables) & set(read)
        if twice:
            raise InputError(f"two of the folders hold a {min(twice)}.csv; draw them into two folders of figures.")
        tables |= read
        for name, path in named.items():
            number = 2
            unique = name
            while unique in runs:
                unique, number = f"{name} ({number})", number + 1
            runs[unique] = path
    return Sources(runs, tables, norm, resamples, seed)


def _runs_in(folder: Path) -> dict[str, Path]:
    if (folder / MANIFEST).is_file():
        return {folder.resolve().name: folder}
    seeds = sorted(folder.glob("seed-*"))
    if seeds and (folder / "lineage.csv").is_file():
        last = {name: sorted(seeds[0].glob(f"{stage}/step-*/run/{MANIFEST}")) for stage, name in STAGES.items()}
        return {name: paths[-1].parent for name, paths in last.items() if paths}
    return {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{MANIFEST}"))}


def _tables_in(folder: Path) -> dict[str, Table]:
    import pandas as pd

    found = {}
    for name, columns in NEEDED.items():
        path = folder / f"{name}.csv"
        if not path.is_file():
            continue
        try:
            table = pd.read_csv(path)
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is no table that can be read; make it again.") from error
        missing = [column for column in columns if column not in table]
        if missing or len(table) == 0:
            raise InputError(f"{path} lacks {', '.join(missing) or 'rows'}; make it again.")
        found[name] = table
    return found
