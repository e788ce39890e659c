"""How far correlations moved by a training, paired by problem: every checkpoint answers and reads the same ones."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from inversion.corrpo.rho import RHO_UNITS
from inversion.experiments.pretrained.measuring import TEXTS
from inversion.experiments.rows import NUMBERS
from inversion.files import put_table
from inversion.runs import load_run
from inversion.statistics import compare

CHANGES = "changes.csv"
"""A checkpoint's part of the table."""


def changes_of(folder: Path, others: Mapping[str, Path]) -> pd.DataFrame:
    """Return by how much rho of a checkpoint is above that of others; what was compared before is kept beside it.

    Args:
        folder: Of a checkpoint that is measured.
        others: Folders of checkpoints that answered the same problems, by the name that they go by in ``against``.
    """
    path = folder / CHANGES
    kept = dict(tuple(pd.read_csv(path).groupby("against"))) if path.is_file() else {}
    missing = {name: _rows(folder, other).assign(against=name) for name, other in others.items() if name not in kept}
    if missing:
        put_table(path, pd.concat([*kept.values(), *missing.values()]))
    return pd.concat([{**kept, **missing}[name] for name in others], ignore_index=True)


def _rows(folder: Path, other: Path) -> pd.DataFrame:
    rows = []
    for texts in TEXTS:
        here, there = load_run(folder / texts), load_run(other / texts)
        for unit in RHO_UNITS:
            found = compare(there, here, unit=unit)
            numbers = {name: getattr(found, name) for name in NUMBERS[:4]}
            rows.append({"against": "", "texts": texts, "unit": unit, **numbers, "paired": found.paired})
    return pd.DataFrame(rows)
