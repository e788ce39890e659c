"""How far rho of one run is above that of another, paired by problem: kept beside the run, since it takes a while."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from inversion.corrpo.rho import RHO_UNITS
from inversion.experiments.rows import NUMBERS
from inversion.files import put_table
from inversion.runs import load_run
from inversion.statistics import compare

Runs = Mapping[str, Path]
"""Folders of runs by the texts that were measured."""


def changes_of(path: Path, runs: Runs, others: Mapping[str, Runs]) -> pd.DataFrame:
    """Return by how much rho of runs is above that of others on the same texts, at both units.

    Args:
        path: File that keeps what was compared.
        runs: What was measured.
        others: What it is compared with, by the name that it goes by in ``against``.
    """
    kept = dict(tuple(pd.read_csv(path).groupby("against"))) if path.is_file() else {}
    missing = {name: _rows(runs, name, other) for name, other in others.items() if name not in kept}
    if missing:
        put_table(path, pd.concat([*kept.values(), *missing.values()]))
    return pd.concat([{**kept, **missing}[name] for name in others], ignore_index=True)


def _rows(runs: Runs, against: str, others: Runs) -> pd.DataFrame:
    rows = []
    for texts, folder in runs.items():
        here, there = load_run(folder), load_run(others[texts])
        # Some runs measure the first problems only: those that both have.
        shared = np.intersect1d(here.prompt_id, there.prompt_id).size
        for unit in RHO_UNITS:
            found = compare(there, here, unit=unit, pairing="paired" if shared else "independent")
            numbers = {name: getattr(found, name) for name in NUMBERS[:4]}
            rows.append({"against": against, "texts": texts, "unit": unit, **numbers, "paired": found.paired})
    return pd.DataFrame(rows)
