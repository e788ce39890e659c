"""The correlation along training, and where it changes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Unpack

import numpy as np
import xarray as xr

from inversion.errors import InputError
from inversion.statistics.core.change import Change, find_change
from inversion.statistics.core.inference import Sample, infer, leave_one_out
from inversion.statistics.correlation import correlation_result
from inversion.statistics.difference import by_name, told_apart
from inversion.statistics.layout import Columns
from inversion.statistics.options import Choices, Options, read_choices
from inversion.statistics.results import Correlation, Result, both_notes, number, p_text, span
from inversion.statistics.samples import Sampler

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
        """One row per step."""
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
    runs: Sequence[xr.Dataset | Columns],
    steps: Sequence[float] | None = None,
    norm: str = "nuclear",
    **options: Unpack[Choices],
) -> Trajectory:
    """Correlate each of several runs and estimate where the correlation changes.

    Runs over exactly the same prompts are taken as paired: a prompt's answers at all steps are flipped together.

    Args:
        runs: Runs of checkpoints, in order.
        steps: Increasing numbers, one per run; by default 0, 1, 2, ...
        norm: Norm of the strength.
        options: As for :func:`inversion.correlate`.

    Returns:
        The correlations, and the one place where a step function with a single jump fits them best. Its notes name
        what differs in how the runs were made.

    Raises:
        InputError: The runs measure gradients of different quantities, lack what is asked for, or steps do not
            increase.
    """
    if not len(runs):
        raise InputError("trajectory needs at least one run; pass the checkpoints in order.")
    try:
        places = tuple(float(s) for s in (range(len(runs)) if steps is None else steps))
    except (TypeError, ValueError):
        places = ()
    if len(places) != len(runs) or not all(a < b for a, b in pairwise(places)):
        raise InputError("steps must be one increasing number per run; sort the runs and name each of their steps.")
    chosen = read_choices("trajectory", options, Choices, norm=norm)
    named = {f"step {step:g}": Columns.of(run) for step, run in zip(places, runs, strict=True)}
    notes = told_apart(named, chosen)
    paired = _same_prompts(list(named.values()))
    if paired:
        chosen = replace(chosen, cluster="prompt")
    samplers = [Sampler(columns, chosen.cluster) for columns in named.values()]
    samples, correlations = [], []
    for sampler, name in zip(samplers, named, strict=True):
        drawn = sampler.draw(chosen)
        samples.append(drawn.sample)
        found = infer(drawn.sample, chosen.resampling)
        correlations.append(correlation_result(found, drawn.facts, chosen, sampler.columns.measured, name))
    change = _change(samplers, samples, correlations, chosen, paired)
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
        notes=notes + both_notes(**{c.label: c for c in correlations}),
    )


def _same_prompts(runs: list[Columns]) -> bool:
    prompts = [run.prompt_names for run in runs]
    first = prompts[0]
    return len(runs) > 1 and first is not None and all(p is not None and np.array_equal(p, first) for p in prompts)


def _change(
    samplers: list[Sampler], samples: list[Sample], correlations: list[Correlation], options: Options, paired: bool
) -> Change:
    if len(samples) < 3:
        return Change(reason="a change point needs at least 3 steps")
    missing = [c.label for c in correlations if not np.isfinite(c.standard_error)]
    if missing:
        return Change(reason=f"no standard error at {', '.join(missing)}")
    labelled, names = by_name(samples, samplers)
    rows, n_rows = [sample.labels for sample in labelled], names.size
    if not paired:  # responses of different runs have nothing to do with one another
        sizes = [sample.shares.size for sample in samples]
        rows, n_rows = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1]), sum(sizes)
    amounts, leverage = np.zeros((n_rows, len(samples))), np.zeros((n_rows, len(samples)))
    for t, (sample, row) in enumerate(zip(samples, rows, strict=True)):
        loo = leave_one_out(sample)
        amounts[row, t], leverage[row, t] = loo.amounts, loo.leverage
    rho = np.array([c.estimate for c in correlations])
    return find_change(rho, amounts, leverage, options.resampling)
