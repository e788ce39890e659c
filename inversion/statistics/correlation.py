"""The correlation of strength and entropy in one run."""

from collections.abc import Sequence
from typing import Any, Unpack

import xarray as xr

from inversion.statistics.core.inference import Inference, infer
from inversion.statistics.layout import Columns, Measured
from inversion.statistics.options import Interval, Method, Options, Partial, Unit, read_choices
from inversion.statistics.results import Correlation
from inversion.statistics.samples import Facts, Mask, Sampler


def correlate(
    run: xr.Dataset | Columns,
    norm: str = "nuclear",
    method: Method = "spearman",
    unit: Unit = "position",
    layers: int | Sequence[int] | None = None,
    projections: str | Sequence[str] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    *,
    given: str | Sequence[str] = (),
    interval: Interval = "signflip",
    cluster: str = "response",
) -> Correlation:
    """Correlate logit-gradient strength with token entropy.

    Interval and p-value take responses, not tokens, as independent.

    Args:
        run: A run or capture, as :func:`inversion.load_run` or :func:`inversion.probe` returns it.
        norm: The strength of a token is the mean of this norm over the chosen layers and projections;
            ``"logit_space"`` is the control, which has neither.
        method: ``"spearman"``, ``"pearson"`` or ``"kendall"``.
        unit: ``"position"``: every token is a point; ``"token_type"``: every distinct token id is a point, averaged
            over its occurrences.
        layers: Layer numbers, negative ones counted from the last; None means all.
        projections: Names of projections; None means all.
        level: Level of the interval.
        resamples: Number of resamples of the responses.
        seed: Seed of the resamples.
        given: Columns to hold fixed, such as ``"position"``, ``"surprisal_bits"`` or ``"log_frequency"``.
        interval: ``"signflip"``, ``"jackknife"``, ``"percentile"`` or ``"bca"``.
        cluster: What is resampled: ``"response"``, or ``"prompt"`` with all its responses.

    Returns:
        The estimate, in -1..1, its interval, and the p-value of a population correlation of 0. What is undefined is
        NaN, with a reason.

    Raises:
        InputError: The run lacks what is asked for, or an option cannot be used.
    """
    options = Options(
        norm, method, unit, layers, projections, level, resamples, seed, given=given, interval=interval, cluster=cluster
    )
    return correlation_of(Sampler.of(run, options), options)


def partial(
    run: xr.Dataset | Columns,
    given: str | Sequence[str] = ("position", "surprisal_bits"),
    norm: str = "nuclear",
    **options: Unpack[Partial],
) -> Correlation:
    """Correlate with other columns held fixed: what is left once these have explained their share.

    Rank-based methods remove what is linear in ranks, no more.

    Args:
        run: A run or capture.
        given: Columns to hold fixed.
        norm: Norm of the strength.
        options: As for :func:`inversion.correlate`.

    Returns:
        The partial correlation.

    Raises:
        InputError: The run lacks what is asked for, or an option cannot be used.
    """
    chosen = read_choices("partial", options, Partial, given=given, norm=norm)
    return correlation_of(Sampler.of(run, chosen), chosen)


def correlation_of(sampler: Sampler, options: Options, keep: Mask | None = None, label: str = "") -> Correlation:
    """The correlation under the options; ``keep`` says which tokens to use, (n,)."""
    drawn = sampler.draw(options, keep)
    found = infer(drawn.sample, options.resampling)
    return correlation_result(found, drawn.facts, options, sampler.columns.measured, label)


def correlation_result(
    found: Inference, facts: Facts, options: Options, made: Measured, label: str = ""
) -> Correlation:
    """Put numbers, facts and options together."""
    return Correlation(
        n_tokens=facts.n_tokens,
        n_points=facts.n_points,
        n_responses=facts.n_responses,
        n_tokens_left_out=facts.n_tokens_left_out,
        n_responses_left_out=facts.n_responses_left_out,
        layers=facts.layers,
        projections=facts.projections,
        model=made.model,
        notes=facts.notes + found.notes,
        **estimate_fields(found, options),
        n_clusters=facts.n_clusters,
        quantity=made.quantity,
        label=label,
    )


def estimate_fields(found: Inference, options: Options) -> dict[str, Any]:
    """The fields of an Estimate that follow from what was inferred and what was asked for."""
    return {
        "estimate": found.estimate,
        "low": found.low,
        "high": found.high,
        "p_value": found.p_value,
        "standard_error": found.standard_error,
        "method": options.method,
        "unit": options.unit,
        "norm": options.norm,
        "given": options.given,
        "interval": found.interval,
        "level": float(options.level),
        "resamples": int(options.resamples),
        "seed": int(options.seed),
        "cluster": options.cluster,
        "reason": found.reason,
    }
