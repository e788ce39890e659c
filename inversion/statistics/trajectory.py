"""The correlation along training, and where it changes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from inversion.errors import InputError
from inversion.statistics._changepoint import Change, find_change
from inversion.statistics._data import check_run, column
from inversion.statistics._infer import leave_one_out
from inversion.statistics._options import Options, sample_of
from inversion.statistics.correlation import correlation_result, infer
from inversion.statistics.difference import cluster_names, joint_samples
from inversion.statistics.results import Correlation, Result, number, p_text, span

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Trajectory(Result):
    """Correlations along steps, and the one place where a step function with a single jump fits them best.

    The jump lies after step ``change_after`` and up to ``change_before``; its interval is the steps from
    ``change_low`` to ``change_high``. ``change_size`` is the mean correlation after minus that before.
    ``p_value`` tests that the correlation is the same at every step.
    """

    steps: tuple[float, ...]
    correlations: tuple[Correlation, ...]
    change_after: float
    change_before: float
    change_low: float
    change_high: float
    change_size: float
    p_value: float
    paired: bool
    level: float
    resamples: int
    seed: int
    reason: str | None = None
    notes: tuple[str, ...] = ()

    def to_pandas(self) -> "pd.DataFrame":
        """One row a step."""
        import pandas as pd

        table = pd.concat([c.to_pandas() for c in self.correlations], ignore_index=True)
        table.insert(0, "step", list(self.steps))
        return table

    def _title(self) -> str:
        return f"Correlation of {self.correlations[0].norm} strength and entropy along {len(self.steps)} steps"

    def _rows(self) -> Iterator[tuple[str, str]]:
        for step, c in zip(self.steps, self.correlations, strict=True):
            yield f"step {step:g}", f"{number(c.estimate)} {span(c.low, c.high)}"
        if self.reason is None:
            where = f"between {self.change_after:g} and {self.change_before:g}"
            within = f"{self.level:.4g} interval {self.change_low:g} to {self.change_high:g}"
            yield "change", f"{where} ({within}), by {number(self.change_size)}"
            yield "any change", f"{p_text(self.p_value)} (null: the same at every step)"
        first = self.correlations[0]
        how = "paired by prompt" if self.paired else "independent runs"
        yield "measured", f"{first.method}, {first.unit}, {first.interval} intervals, {how}, seed {self.seed}"


def trajectory(
    runs: Sequence[xr.Dataset], steps: Sequence[float] | None = None, norm: str = "nuclear", **options: Any
) -> Trajectory:
    """Correlate each of several runs (checkpoints, in order) and estimate where the correlation changes.

    steps: increasing numbers, one a run; by default 0, 1, 2, ... Options as for ``correlate``. Runs over exactly the
    same prompts are taken as paired: a prompt's answers at all steps are flipped together.
    """
    runs = [check_run(run) for run in runs]
    if not runs:
        raise InputError("trajectory needs at least one run; pass the checkpoints in order.")
    places = tuple(float(s) for s in (range(len(runs)) if steps is None else steps))
    if len(places) != len(runs) or any(b <= a for a, b in pairwise(places)):
        raise InputError("steps must be one increasing number a run; sort the runs and name each of their steps.")
    chosen = Options(norm, **options)
    paired = _same_prompts(runs)
    if paired:
        chosen = replace(chosen, cluster="prompt")
    samples, correlations = [], []
    for run, step in zip(runs, places, strict=True):
        sample, facts = sample_of(run, chosen)
        samples.append(sample)
        correlations.append(correlation_result(infer(sample, chosen.settings), facts, chosen, f"step {step:g}"))
    change = _change(runs, samples, correlations, chosen, paired)
    return Trajectory(
        places,
        tuple(correlations),
        *(float("nan") if i is None else places[i] for i in (change.before, change.after, change.low, change.high)),
        change_size=change.size,
        p_value=change.p_value,
        paired=paired,
        level=float(chosen.level),
        resamples=int(chosen.resamples),
        seed=int(chosen.seed),
        reason=change.reason,
    )


def _same_prompts(runs: list[xr.Dataset]) -> bool:
    if len(runs) < 2 or any("prompt_id" not in run.variables for run in runs):
        return False
    prompts = [frozenset(column(run, "prompt_id").astype(str)) for run in runs]
    return all(p == prompts[0] for p in prompts)


def _change(runs, samples, correlations, options: Options, paired: bool) -> Change:
    if len(runs) < 3:
        return Change(reason="a change point needs at least 3 steps")
    missing = [c.label for c in correlations if not np.isfinite(c.standard_error)]
    if missing:
        return Change(reason=f"no standard error at {', '.join(missing)}")
    names = [cluster_names(run, options) for run in runs]
    if not paired:
        names = [np.char.add(f"{i}:", n) for i, n in enumerate(names)]
    places = joint_samples(samples, names)[1]
    amounts, leverage = np.zeros((places.size, len(runs))), np.zeros((places.size, len(runs)))
    for t, (sample, name) in enumerate(zip(samples, names, strict=True)):
        loo = leave_one_out(sample)
        rows = np.searchsorted(places, name[sample.labels])
        amounts[rows, t], leverage[rows, t] = loo.amounts, loo.leverage
    rho = np.array([c.estimate for c in correlations])
    return find_change(rho, amounts, leverage, options.settings)
