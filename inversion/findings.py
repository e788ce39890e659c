"""What a run says: its correlations at both units, the control, its layers, and the sentences that follow from them.

Report and figures both take it from here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from inversion.errors import InputError
from inversion.runs import load_responses, load_run
from inversion.statistics import Correlation, Difference, correlate, layer_map
from inversion.statistics.results import clear_sign, p_text, span

FEW = 30
"""Below this many responses the sentence says that they are few."""


@dataclass(frozen=True)
class NamedRun:
    """A run with the name that pages and figures give it, its tokens and its responses (one row each).

    ``sample`` says which part of the run this is, where it is not the whole.
    """

    name: str
    tokens: xr.Dataset
    responses: pd.DataFrame
    sample: str = ""


def sample_of(run: NamedRun, most_tokens: int, seed: int = 0) -> NamedRun:
    """Draw whole responses at random up to a number of tokens; a run that is no larger is returned as it is.

    Args:
        run: A run.
        most_tokens: Tokens that the sample may hold; one response is always drawn.
        seed: Seed of the draw.
    """
    if run.tokens.sizes["token"] <= most_tokens:
        return run
    response = run.tokens["response"].values
    numbers, of_token, lengths = np.unique(response, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(numbers.size)
    drawn = order[: max(1, int(np.searchsorted(np.cumsum(lengths[order]), most_tokens, side="right")))]
    tokens = run.tokens.isel(token=np.flatnonzero(np.isin(of_token, drawn))).load()
    said = f"a sample of {drawn.size:,} of {numbers.size:,} responses, drawn with seed {seed}"
    return NamedRun(run.name, tokens, run.responses.loc[np.sort(numbers[drawn])], said)


def read_runs(folders: Sequence[str | Path]) -> list[NamedRun]:
    """Read runs and name each after its folder, with a number where two are called the same.

    Raises:
        InputError: A folder holds no run, or no folder was given.
    """
    if not folders:
        raise InputError("there is no run to read; give at least one folder.")
    names = [Path(folder).expanduser().resolve().name for folder in folders]
    loaded = []
    for i, folder in enumerate(folders):
        name = names[i] if names.count(names[i]) == 1 else f"{names[i]} ({names[: i + 1].count(names[i])})"
        loaded.append(NamedRun(name, load_run(folder), load_responses(folder)))
    return loaded


@dataclass(frozen=True)
class Findings:
    """What was computed of one run. ``control`` is None where logit_space was not measured."""

    run: NamedRun
    positions: Correlation
    types: Correlation
    control: Correlation | None
    table: xr.Dataset


def findings_of(run: NamedRun, norm: str, **options: Any) -> Findings:
    """Correlate at both units, the control, and every layer and projection; options as for ``correlate``."""
    return Findings(
        run,
        correlate(run.tokens, norm, **options),
        correlate(run.tokens, norm, unit="token_type", **options),
        correlate(run.tokens, "logit_space", **options) if "logit_space" in run.tokens else None,
        layer_map(run.tokens, norm, **options),
    )


def verdict(result: Correlation) -> str:
    """One sentence on what an interval and its p-value allow one to say."""
    if not np.isfinite(result.estimate):
        return f"The correlation is undefined: {result.reason}."
    if not (np.isfinite(result.low) and np.isfinite(result.high)):
        return "Its uncertainty could not be determined, so it decides nothing."
    sign = clear_sign(result)
    if sign < 0:
        return "The whole interval lies below zero: uncertain tokens are weakly driven, which is the inversion."
    if sign > 0:
        return "The whole interval lies above zero: strength rises with entropy, the opposite of the inversion."
    if result.high < 0 or result.low > 0:
        return (
            "The whole interval lies on one side of zero, but the p-value does not reject zero at its level: there are "
            "too few responses to decide."
        )
    return "The interval includes zero, so this run decides neither for the inversion nor against it."


def sentences(found: Findings) -> list[str]:
    """What one run says, in words."""
    c, tokens = found.positions, found.run.tokens
    averaged = f"{len(c.layers)} layers and projections {', '.join(c.projections)}"
    said = [
        f"{found.run.name} ({tokens.attrs.get('model', 'unnamed model')}): over {c.n_tokens:,} tokens of "
        f"{c.n_responses:,} responses, token entropy and logit-gradient strength ({c.norm} norm of the gradient of the "
        f"{c.quantity or 'logit'}, mean over {averaged}) correlate at {number(c)} "
        f"({c.level:.4g} interval, {p_text(c.p_value)}).",
        verdict(c),
        f"Over {found.types.n_points:,} token types instead of positions it is {number(found.types)}.",
    ]
    if found.control is not None:
        said.append(
            f"The control |e − p|, which follows entropy almost by construction and is never the finding, comes out at "
            f"{number(found.control)}."
        )
    estimate, q = found.table["estimate"].values, found.table["q_value"].values
    clear = q < 0.05
    said.append(
        f"Of {estimate.size} layer-projection pairs, {int((clear & (estimate < 0)).sum())} are clearly negative and "
        f"{int((clear & (estimate > 0)).sum())} clearly positive (q < 0.05)."
    )
    if found.run.sample:
        said.append(f"All of this is {found.run.sample}; inversion stats takes the whole run.")
    if c.n_responses < FEW:
        said.append(f"{c.n_responses} responses are few: take the interval as rough.")
    return said + [f"Note: {note}." for note in c.notes]


def number(result: Correlation | Difference) -> str:
    """A correlation for reading, with its interval."""
    sign = f"{result.estimate:+.3f}" if np.isfinite(result.estimate) else "undefined"
    return f"{sign} {span(result.low, result.high)}".replace("-", "−")
