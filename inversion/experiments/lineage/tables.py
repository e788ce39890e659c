"""The tables of a lineage: ``lineage.csv``, one row a correlation, and ``layers.csv``, one row a layer and projection.

Each checkpoint has its own part of both beside its runs, so that tables grow with the lineage and are put together in
a moment. Delete ``lineage.csv`` and ``layers.csv`` beneath a folder to have them computed anew.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from inversion.corrpo.rho import RHO_UNITS
from inversion.demo.tasks import CONNECTORS, EQUALS, TAKES
from inversion.experiments.lineage.probing import run_folder
from inversion.experiments.rows import control_rows, kept_row, layer_rows, main_rows
from inversion.files import put_table
from inversion.runs import load_responses, load_run, mean_entropy
from inversion.scoring import accuracy

NORMS = ("nuclear", "frobenius", "logit_space")
TABLES = ("lineage.csv", "layers.csv")
DRAWN_CONTROLS = ("none", "partial", "within", "between", "shuffled", "sure", "computed")
SURE_BITS = 0.5
FIRST_TOKENS = 14
"""As many as a direct answer has on average."""
FREE_WORDS = frozenset((*CONNECTORS, *EQUALS, *TAKES))
"""Tokens whose choice carries no information, by the design of the demo's chains of thought."""


def write_parts(checkpoint: Path, texts: tuple[str, ...], labels: dict[str, Any]) -> None:
    """Write a checkpoint's part of both tables, unless it is there; ``labels`` are its first columns."""
    if not (checkpoint / "lineage.csv").is_file():
        rows = [
            {**labels, "texts": name, **row} for name in texts for row in correlations(run_folder(checkpoint, name))
        ]
        put_table(checkpoint / "lineage.csv", pd.DataFrame(rows))
    if not (checkpoint / "layers.csv").is_file():
        named = {name: labels[name] for name in ("seed", "stage", "step")}
        put_table(checkpoint / "layers.csv", layer_rows(load_run(run_folder(checkpoint, "own")), named))


def join_parts(checkpoints: list[Path], out: Path) -> None:
    """Write ``lineage.csv`` and ``layers.csv`` from the parts of all checkpoints, in their order."""
    for name in TABLES:
        parts = [pd.read_csv(path / name) for path in checkpoints]
        put_table(out / name, pd.concat(parts, ignore_index=True))


def publish(lineage: Path, folder: Path, decimals: int = 3) -> None:
    """Write what figures need of both tables of a lineage to ``folder``, rounded, small enough for version control.

    Left out are the controls of other texts than the model's own, and the controls that no figure shows.
    """
    table = pd.read_csv(lineage / "lineage.csv")
    drawn = table.control.isin(DRAWN_CONTROLS) & ((table.texts == "own") | (table.control == "none"))
    put_table(folder / "lineage.csv", table.loc[drawn].round(decimals))
    put_table(folder / "layers.csv", pd.read_csv(lineage / "layers.csv").round(decimals))


def correlations(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of one run: each norm and unit, and the controls of the nuclear norm.

    Controls beside ``none``: over positions ``partial`` (position and surprisal held fixed), ``within`` and ``between``
    responses, ``typical`` (mean over responses), ``shuffled`` (strengths turned inside responses: its mean and range),
    ``first`` (the first 14 tokens of each response); at both units ``sure`` (tokens under half a bit), ``computed``
    (without the words that are free to vary) and ``free`` (those words alone).
    """
    run = load_run(folder)
    facts = facts_of(run, load_responses(folder))
    yield from main_rows(run, facts, NORMS)
    for unit in RHO_UNITS:
        for control, keep in masks(run).items():
            if unit == "position" or control != "first":
                yield kept_row(run, keep, unit, control, facts)
    yield from control_rows(run, facts)


def facts_of(run: xr.Dataset, responses: pd.DataFrame) -> dict[str, float]:
    """Return what a run's responses are like: share right (of its own), mean entropy of a token, mean length."""
    teacher_forced = str(run.attrs["responses"]["source"]).endswith("reference")
    return {
        "accuracy": np.nan if teacher_forced else accuracy(responses.score).share,
        "entropy_bits": mean_entropy(run),
        "tokens": float(responses.n_tokens.mean()),
    }


def masks(run: xr.Dataset) -> dict[str, np.ndarray]:
    """Return which of a run's n tokens belong to each control that looks at a part of them, each (n,)."""
    free = np.isin(run.token_text.values.astype(str), list(FREE_WORDS))
    place = run.position.values - run.position.groupby(run.response).min().sel(response=run.response).values
    return {
        "sure": run.entropy_bits.values < SURE_BITS,
        "computed": ~free,
        "free": free,
        "first": place < FIRST_TOKENS,
    }
