"""The correlation of strength and entropy in one run."""

from typing import Any

import xarray as xr

from inversion.statistics._infer import Inference, infer
from inversion.statistics._options import Facts, Options, sample_of
from inversion.statistics.results import Correlation


def correlate(
    run: xr.Dataset,
    norm: str = "nuclear",
    method: str = "spearman",
    unit: str = "position",
    layers=None,
    projections=None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    *,
    given=(),
    interval: str = "signflip",
    cluster: str = "response",
) -> Correlation:
    """Correlate logit-gradient strength with token entropy.

    run: Dataset as ``probe`` or ``load_run`` returns it. The strength of a token is the mean of ``norm`` over the
    chosen ``layers`` (negative ones count from the end) and ``projections``; ``norm="logit_space"`` is the control.
    method: spearman, pearson or kendall. unit: position (every token a point) or token_type (every distinct token id a
    point, averaged over its occurrences). given: columns to hold fixed, among position, surprisal_bits, log_frequency.
    interval: signflip (default), jackknife, percentile or bca. cluster: what is resampled, response or prompt.

    The estimate lies in -1..1. Interval and p-value take responses, not tokens, as independent; the p-value tests that
    the population correlation is 0. Undefined values are NaN, with a reason.
    """
    options = Options(
        norm, method, unit, layers, projections, level, resamples, seed, given=given, interval=interval, cluster=cluster
    )
    return correlation_of(run, options)


def partial(run: xr.Dataset, given=("position", "surprisal_bits"), **options: Any) -> Correlation:
    """``correlate`` with ``given`` held fixed: what is left of the correlation once these have explained their share.

    Rank-based methods remove what is linear in ranks, no more.
    """
    return correlate(run, given=given, **options)


def correlation_of(run: xr.Dataset, options: Options, keep=None, label: str = "") -> Correlation:
    """``correlate`` from options; ``keep`` is an (n,) mask of tokens."""
    sample, facts = sample_of(run, options, keep)
    return correlation_result(infer(sample, options.settings), facts, options, label)


def correlation_result(found: Inference, facts: Facts, options: Options, label: str = "") -> Correlation:
    """Put numbers, facts and options together."""
    return Correlation(
        estimate=found.estimate,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
        standard_error=found.standard_error,
        n_tokens=facts.n_tokens,
        n_points=facts.n_points,
        n_responses=facts.n_responses,
        n_clusters=facts.n_clusters,
        method=options.method,
        unit=options.unit,
        norm=options.norm,
        quantity=facts.quantity,
        layers=facts.layers,
        projections=facts.projections,
        given=options.given,
        interval=found.interval,
        level=float(options.level),
        resamples=int(options.resamples),
        seed=int(options.seed),
        cluster=options.cluster,
        model=facts.model,
        label=label,
        reason=found.reason,
        notes=facts.notes + found.notes,
    )
