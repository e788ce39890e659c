"""The correlation inside responses apart from that between them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Unpack

import numpy as np
import xarray as xr

from inversion.errors import InputError, whole
from inversion.statistics.core.coefficients import MIN_POINTS
from inversion.statistics.core.decomposition import mean_statistic, part_statistics, response_correlations
from inversion.statistics.core.inference import Sample, infer
from inversion.statistics.core.ranks import Ints, Variable
from inversion.statistics.core.statistic import undefined
from inversion.statistics.correlation import correlation_result
from inversion.statistics.layout import Columns
from inversion.statistics.options import Method, Options, Positions, Sites, read_choices
from inversion.statistics.results import Correlation, Result, both_notes, number, p_text, span
from inversion.statistics.samples import Drawn, Facts, Sampler


@dataclass(frozen=True, repr=False)
class Parts(Result):
    """One correlation taken apart. Where ``within`` and ``between`` differ in sign, ``total`` misleads (Simpson)."""

    total: Correlation
    within: Correlation
    between: Correlation
    typical: Correlation
    notes: tuple[str, ...] = ()

    @property
    def reversal(self) -> bool:
        """Whether the two parts have opposite signs."""
        return self.within.estimate * self.between.estimate < 0

    def _title(self) -> str:
        return f"Parts of the correlation of {self.total.norm} strength and entropy"

    def _rows(self) -> Iterator[tuple[str, str]]:
        for name in ("total", "within", "between", "typical"):
            part = getattr(self, name)
            yield name, f"{number(part.estimate)} {span(part.low, part.high)} {p_text(part.p_value)}"
        total = self.total
        yield "over", f"{total.n_tokens} tokens, {total.n_responses} responses, {total.method} over positions"
        yield "resampling", f"{total.level:.4g} {total.interval}, {total.resamples} resamples, seed {total.seed}"

    def simpson(self) -> tuple[str, ...]:
        """A note where the parts have opposite signs."""
        opposite = "within and between responses have opposite signs (Simpson's paradox)"
        return (opposite,) if self.reversal else ()

    def _notes(self) -> tuple[str, ...]:
        parts = (self.within, self.between, self.typical)
        reasons = tuple(f"{part.label}: {part.reason}" for part in parts if part.reason)
        left_out = both_notes(total=self.total)
        few = tuple(f"typical: {note}" for note in self.typical.notes if note not in self.total.notes)
        return self.simpson() + reasons + left_out + few + self.notes


def within_between(
    run: xr.Dataset | Columns,
    norm: str = "nuclear",
    method: Method = "spearman",
    *,
    min_tokens: int = 10,
    **options: Unpack[Positions],
) -> Parts:
    """Take the correlation over positions apart.

    Args:
        run: A run or capture.
        norm: Norm of the strength.
        method: As for :func:`inversion.correlate`.
        min_tokens: Length of a response from which its own correlation counts.
        options: As for :func:`inversion.correlate`; over positions, so without ``unit`` and ``given``.

    Returns:
        within: of deviations from the response's mean (does a token with more entropy than its neighbours have less
        strength?). between: of the response means, weighted by length (do uncertain responses have weak tokens?).
        typical: the mean over responses of at least ``min_tokens`` tokens of the correlation inside each, every
        response counting alike, which is what CorR-PO rewards.

    Raises:
        InputError: The run lacks what is asked for, or an option cannot be used.
    """
    chosen = read_choices("within_between", options, Positions, norm=norm, method=method)
    return parts_of(Sampler.of(run, chosen), chosen, min_tokens)


def parts_of(sampler: Sampler, options: Options, min_tokens: int = 10) -> Parts:
    """``within_between`` from a sampler and options."""
    whole("min_tokens", min_tokens, 1)
    drawn, made = sampler.draw(options), sampler.columns.measured
    total = correlation_result(infer(drawn.sample, options.resampling), drawn.facts, options, made, "total")
    if drawn.sample.reason:
        within, between, typical = (replace(total, label=name) for name in ("within", "between", "typical"))
        return Parts(total, within, between, typical)
    x, y, cluster_of = by_response(drawn)
    statistics = part_statistics(x, y, cluster_of, drawn.points.labels.size, options.method)
    mean, of_mean = _typical(drawn, x, y, cluster_of, options.method, min_tokens)
    samples = [*(replace(drawn.sample, statistic=statistic) for statistic in statistics), mean]
    facts = [drawn.facts, drawn.facts, of_mean]
    within, between, typical = (
        correlation_result(infer(sample, options.resampling), fact, options, made, name)
        for sample, fact, name in zip(samples, facts, ("within", "between", "typical"), strict=True)
    )
    return Parts(total, within, between, typical)


def by_response(drawn: Drawn) -> tuple[Variable, Variable, Ints]:
    """Strength and entropy as variables whose clusters are the R responses, and each response's own cluster, (R,)."""
    names, response = drawn.points.responses
    cluster_of = np.zeros(names.size, np.intp)
    cluster_of[response] = drawn.points.cluster
    x, y = (variable.by(response, names.size) for variable in (drawn.x, drawn.y))
    return x, y, cluster_of


def _typical(
    drawn: Drawn, x: Variable, y: Variable, cluster_of: Ints, method: str, min_tokens: int
) -> tuple[Sample, Facts]:
    """The mean over responses as a sample, and the facts of the responses that it is made of."""
    values, sizes = response_correlations(x, y, method, min_tokens)
    good = np.isfinite(values)
    labels, cluster = np.unique(cluster_of[good], return_inverse=True)
    n_tokens, n_responses, facts = int(sizes[good].sum()), int(good.sum()), drawn.facts
    left = values.size - n_responses
    note = f"{left} of {values.size} responses are shorter than {min_tokens} tokens or do not vary"
    facts = replace(
        facts,
        n_tokens=n_tokens,
        n_points=n_tokens,
        n_responses=n_responses,
        n_clusters=labels.size,
        n_tokens_left_out=facts.n_tokens_left_out + facts.n_tokens - n_tokens,
        n_responses_left_out=facts.n_responses_left_out + left,
        notes=facts.notes + ((note,) if 0 < left < values.size else ()),
    )
    if not good.any():
        reason = f"no response has {max(min_tokens, MIN_POINTS)} tokens with varying strength and entropy"
        return Sample(undefined(1), np.ones(1), reason=reason), facts
    counts = np.bincount(cluster)
    statistic = mean_statistic(values[good], cluster, labels.size)
    return Sample(statistic, counts / counts.sum(), labels.astype(np.intp)), facts


def per_response(
    run: xr.Dataset | Columns,
    norm: str = "nuclear",
    method: Method = "spearman",
    *,
    min_tokens: int = 10,
    **options: Unpack[Sites],
) -> xr.Dataset:
    """The correlation inside each response.

    Args:
        run: A run or capture.
        norm: Norm of the strength.
        method: As for :func:`inversion.correlate`.
        min_tokens: Length of a response from which its correlation is computed.
        options: ``layers`` and ``projections``, as for :func:`inversion.correlate`.

    Returns:
        A Dataset over response: estimate, NaN where the response is too short or does not vary, and n_tokens. Notes
        on what was left out are in its attrs.

    Raises:
        InputError: The run lacks what is asked for, or an option cannot be used.
    """
    chosen = read_choices("per_response", options, Sites, norm=norm, method=method)
    whole("min_tokens", min_tokens, 1)
    sampler = Sampler.of(run, chosen)
    drawn = sampler.draw(chosen)
    if drawn.facts.n_tokens == 0:
        raise InputError(f"No token has both {norm} and entropy_bits; choose another norm or other layers.")
    x, y, _ = by_response(drawn)
    values, sizes = response_correlations(x, y, method, min_tokens)
    names = sampler.columns.response_names[drawn.points.responses[0]]
    attrs = {"norm": norm, "method": method, "unit": "position", "min_tokens": int(min_tokens)}
    attrs |= {"quantity": sampler.columns.measured.quantity, "notes": list(drawn.facts.notes)}
    return xr.Dataset({"estimate": ("response", values), "n_tokens": ("response", sizes)}, {"response": names}, attrs)
