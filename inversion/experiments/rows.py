"""A run as rows of a table: its correlation at each norm and unit, and the controls that belong beside it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from inversion.corrpo.rho import RHO_UNITS, Unit
from inversion.statistics import (
    Columns,
    Correlation,
    correlate,
    layer_map,
    partial,
    segments,
    within_between,
    within_response_shuffle,
)

Row = dict[str, Any]
NUMBERS = ("estimate", "low", "high", "p_value", "n_tokens", "n_responses")
MAP = ("layer", "projection", "estimate", "low", "high", "p_value", "q_value")
CONTROL = "logit_space"


def cluster_of(run: xr.Dataset) -> Literal["response", "prompt"]:
    """What intervals are over: whole prompts where some have several responses, which are then alike."""
    return "prompt" if Columns.of(run).shares_prompts else "response"


def main_rows(run: xr.Dataset, facts: Mapping[str, Any], norms: Sequence[str]) -> Iterator[Row]:
    """Yield each norm at each unit, control ``none``.

    Args:
        run: A run.
        facts: Columns that every row ends with.
        norms: Those of the run, ``logit_space`` among them.
    """
    cluster = cluster_of(run)
    for norm in norms:
        for unit in RHO_UNITS:
            yield row_of(correlate(run, norm, unit=unit, cluster=cluster), facts)


def kept_row(run: xr.Dataset, keep: np.ndarray, unit: Unit, control: str, facts: Mapping[str, Any]) -> Row:
    """Return the row of some of a run's n tokens.

    Args:
        run: A run.
        keep: Which tokens, (n,).
        unit: What a point is.
        control: Name of the part.
        facts: Columns that the row ends with.
    """
    if not keep.any():
        empty = dict.fromkeys(NUMBERS[:4], np.nan)
        labels = {"norm": "nuclear", "unit": unit, "control": control}
        return {**labels, **empty, "n_tokens": 0, "n_responses": 0, **facts}
    kept = run.isel(token=keep)
    return row_of(correlate(kept, unit=unit, cluster=cluster_of(kept)), facts, control)


def control_rows(run: xr.Dataset, facts: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the controls of the nuclear norm over positions.

    ``partial`` (position and surprisal held fixed), ``within`` and ``between`` responses, ``typical`` (mean over
    responses), ``shuffled`` (strengths turned inside responses: its mean and range).
    """
    cluster = cluster_of(run)
    yield row_of(partial(run, cluster=cluster), facts, "partial")
    parts = within_between(run, cluster=cluster)
    for control in ("within", "between", "typical"):
        yield row_of(getattr(parts, control), facts, control)
    shuffled = within_response_shuffle(run)
    moved = {"estimate": shuffled.expected, **{name: getattr(shuffled, name) for name in NUMBERS[1:]}}
    yield {"norm": "nuclear", "unit": "position", "control": "shuffled", **moved, **facts}


def forking_rows(run: xr.Dataset, facts: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the two parts of ``segments(by="entropy")``: ``forking``, the tokens that are free, and the ``rest``."""
    found = segments(run, by="entropy", cluster=cluster_of(run))
    for part in (found.a, found.b):
        yield row_of(part, facts, part.label)


def row_of(result: Correlation, facts: Mapping[str, Any], control: str = "none") -> Row:
    """Return one row: what was correlated, its numbers, and the facts of its run."""
    numbers = {name: getattr(result, name) for name in NUMBERS}
    return {"norm": result.norm, "unit": result.unit, "control": control, **numbers, **facts}


def layer_rows(run: xr.Dataset, labels: Mapping[str, Any]) -> pd.DataFrame:
    """Return the correlation at each layer and projection, with labels as its first columns."""
    return labelled(layer_map(run, cluster=cluster_of(run)).to_dataframe().reset_index().loc[:, list(MAP)], labels)


def labelled(table: pd.DataFrame, labels: Mapping[str, Any]) -> pd.DataFrame:
    """Return a table with labels, the same in every row, as its first columns."""
    return pd.concat([pd.DataFrame(dict(labels), index=table.index), table], axis=1)
