"""The correlation inside responses apart from that between them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from inversion.errors import InputError
from inversion.statistics._data import column, reading_order, response_of, strength, tokens_of
from inversion.statistics._infer import Sample, infer
from inversion.statistics._options import Options, sample_of
from inversion.statistics._parts import part_statistics, response_correlations
from inversion.statistics.correlation import correlation_result
from inversion.statistics.results import Correlation, Result, number, p_text, span


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

    def _notes(self) -> tuple[str, ...]:
        opposite = ("within and between responses have opposite signs (Simpson's paradox)",) if self.reversal else ()
        reasons = tuple(f"{p.label}: {p.reason}" for p in (self.within, self.between, self.typical) if p.reason)
        return opposite + reasons + self.notes


def within_between(
    run: xr.Dataset, norm: str = "nuclear", method: str = "spearman", *, min_tokens=10, **options: Any
) -> Parts:
    """Take the correlation over positions apart; options as for ``correlate``.

    within: of deviations from the response's mean (does a token with more entropy than its neighbours have less
    strength?). between: of the response means, weighted by length (do uncertain responses have weak tokens?).
    typical: the mean over responses of at least ``min_tokens`` tokens of the correlation inside each, every response
    counting alike, which is what CorR-PO rewards.
    """
    chosen = positions_only(Options(norm, method, **options))
    sample, facts = sample_of(run, chosen)
    total = correlation_result(infer(sample, chosen.settings), facts, chosen, "total")
    if sample.reason:
        within, between, typical = (replace(total, label=name) for name in ("within", "between", "typical"))
        return Parts(total, within, between, typical)
    x, y, response, cluster = arrays_of(run, chosen)
    statistics = part_statistics(x, y, response, cluster, method)
    samples = [replace(sample, statistic=statistic) for statistic in statistics]
    samples.append(_typical(x, y, response, cluster, method, min_tokens))
    within, between, typical = (
        correlation_result(infer(part, chosen.settings), facts, chosen, name)
        for part, name in zip(samples, ("within", "between", "typical"), strict=True)
    )
    return Parts(total, within, between, typical)


def positions_only(options: Options) -> Options:
    """Raise unless the options ask for a plain correlation over positions."""
    if options.unit != "position" or options.given:
        raise InputError("This is defined over positions and without given columns; use unit='position' and given=().")
    return options


def arrays_of(run: xr.Dataset, options: Options) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Strength, entropy, response and cluster of the tokens that have the first two, each (n,), numbered from 0.

    They come in reading order: response by response, each by position.
    """
    tokens = tokens_of(run, options.cluster)
    x, _, _ = strength(run, options.norm, options.layers, options.projections)
    rows = reading_order(run, np.isfinite(x) & np.isfinite(tokens.entropy))
    response, cluster = (np.unique(v[rows], return_inverse=True)[1] for v in (tokens.response, tokens.cluster))
    return x[rows], tokens.entropy[rows], response.astype(np.intp), cluster.astype(np.intp)


def _typical(x, y, response, cluster, method: str, min_tokens: int) -> Sample:
    values, _ = response_correlations(x, y, response, method, min_tokens)
    cluster_of = np.zeros(values.size, np.intp)
    cluster_of[response] = cluster
    good = np.isfinite(values)
    if not good.any():
        reason = f"no response has {max(min_tokens, 3)} tokens with varying strength and entropy"
        return Sample(lambda w: np.full(len(w), np.nan), np.ones(1), reason=reason)
    labels, of = np.unique(cluster_of[good], return_inverse=True)
    counts, sums = np.bincount(of), np.bincount(of, values[good])

    def mean(weights):
        drawn = np.einsum("bk,k->b", weights, counts.astype(float))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.einsum("bk,k->b", weights, sums) / drawn

    return Sample(mean, counts / counts.sum(), labels.astype(np.intp))


def per_response(
    run: xr.Dataset, norm: str = "nuclear", method: str = "spearman", *, min_tokens=10, **options: Any
) -> xr.Dataset:
    """The correlation inside each response: Dataset over response with estimate (NaN if undefined) and n_tokens."""
    chosen = positions_only(Options(norm, method, **options))
    x, y, response, _ = arrays_of(run, chosen)
    if x.size == 0:
        raise InputError(f"No token has both {norm} and entropy_bits; choose another norm or other layers.")
    values, sizes = response_correlations(x, y, response, method, min_tokens)
    names = np.unique(column(run, "response")) if "response" in run.variables else np.array([0])
    all_responses = response_of(run)
    tokens = tokens_of(run)
    used = np.isfinite(strength(run, norm, chosen.layers, chosen.projections)[0]) & np.isfinite(tokens.entropy)
    names = names[np.unique(all_responses[used])]
    attrs = {"norm": norm, "method": method, "unit": "position", "min_tokens": int(min_tokens)}
    attrs["quantity"] = str(run.attrs.get("quantity", ""))
    return xr.Dataset({"estimate": ("response", values), "n_tokens": ("response", sizes)}, {"response": names}, attrs)
