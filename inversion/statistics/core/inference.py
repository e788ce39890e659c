"""From a statistic of response weights to an interval and a p-value.

The independent units are responses (clusters), never tokens. Three things are asked of a statistic: its value at equal
weights, its values with one response left out, and its values at bootstrap weights.

The sign-flip test and interval are a restricted wild cluster bootstrap (Cameron, Gelbach & Miller 2008; Roodman et al.
2019): each response contributes an amount to "estimate minus hypothesised value"; if the hypothesis holds, an amount
and its negative are about equally likely, so flipping the signs of whole responses shows how far from zero their sum
strays by chance. The interval is every value that this test does not reject.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import stats

from inversion.statistics.core.ranks import Floats, Ints
from inversion.statistics.core.statistic import Statistic

NAN = float("nan")
ALMOST_ONE = 1 - 1e-12
MAX_FAILED = 0.05  # share of undefined resamples above which a bootstrap interval is not given
INTERVALS = ("signflip", "jackknife", "percentile", "bca")


@dataclass(frozen=True)
class Sample:
    """A statistic and the clusters it is made of."""

    statistic: Statistic  # (B, K) weights -> (B,) values
    shares: Floats  # (K,) share of the tokens in each cluster; sums to 1
    labels: Ints = field(default_factory=lambda: np.empty(0, np.intp))  # (K,) which cluster of the run each is
    reason: str | None = None  # why the statistic is undefined, if it is


@dataclass(frozen=True)
class Resampling:
    """How to infer."""

    interval: str = "signflip"
    level: float = 0.95
    resamples: int = 2000
    seed: int = 0


@dataclass(frozen=True)
class Inference:
    """An estimate with what is known about its error. ``interval`` is the kind that was in fact used."""

    estimate: float
    low: float = NAN
    high: float = NAN
    p_value: float = NAN
    standard_error: float = NAN
    interval: str = "signflip"
    reason: str | None = None
    notes: tuple[str, ...] = ()
    loo: "LeaveOneOut | None" = None  # on the scale worked on; None where there is no interval


@dataclass(frozen=True)
class LeaveOneOut:
    """A statistic, what it becomes without each cluster, and how each cluster bears on it."""

    estimate: float
    amounts: Floats  # (K,) what each cluster adds to the estimate's error; sums to 0
    leverage: Floats  # (K,) share of a hypothesised deviation that each cluster carries; sums to 1
    standard_error: float
    df: float  # degrees of freedom: the number of clusters of equal size that would weigh the same, minus 1
    acceleration: float  # of BCa


def to_z(rho: Floats | float) -> Floats:
    """Fisher's z = arctanh(rho); rho = +-1 is drawn in by 1e-12 so that it stays finite."""
    return np.arctanh(np.clip(rho, -ALMOST_ONE, ALMOST_ONE))


def from_z(z: Floats | float) -> Floats:
    """Fisher's z back to a correlation; the values drawn in by ``to_z`` return to exactly +-1."""
    rho = np.tanh(z)
    return np.where(np.abs(rho) >= ALMOST_ONE - 1e-15, np.sign(rho), rho)


def difference_of_correlations(value: float) -> float:
    """``value`` within -2..2, outside which no difference of two correlations lies."""
    return float(np.clip(value, -2.0, 2.0))


def bootstrap_weights(n_clusters: int, resamples: int, seed: int | tuple[int, ...]) -> Floats:
    """How often each cluster is drawn in each resample: multinomial counts, (B, K), each row sums to K."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=resamples).astype(float)


@lru_cache(maxsize=2)
def sign_flips(n_clusters: int, resamples: int, seed: int) -> Floats:
    """Rows of +-1, (F, K): all 2**K if that is no more than ``resamples``, else a row of +1 and random rows."""
    if n_clusters < 40 and 2**n_clusters <= resamples:
        bits = np.arange(2**n_clusters)[:, None] >> np.arange(n_clusters)[None, :]
        flips = (1 - 2 * (bits & 1)).astype(np.float64)
    else:
        random = np.random.default_rng(seed).integers(0, 2, size=(resamples, n_clusters), dtype=np.int8)
        flips = np.concatenate([np.ones((1, n_clusters)), (1 - 2 * random).astype(np.float64)])
    flips.setflags(write=False)  # it is kept for the next statistic of the same clusters
    return flips


def leave_one_out(sample: Sample, fisher: bool = True) -> LeaveOneOut:
    """Evaluate a sample at equal weights and without each cluster, on Fisher's z scale or as it is."""
    scale = to_z if fisher else np.asarray
    k = sample.shares.size
    estimate = float(scale(sample.statistic.estimate))
    away = estimate - scale(sample.statistic.without)
    amounts = leave_one_out_amounts(away, sample.shares)
    centred = away - away.mean()
    squares = float((centred**2).sum())
    error = float(np.sqrt((k - 1) / k * squares))
    df = max(1.0 / float((sample.shares**2).sum()) - 1.0, 1.0)
    acceleration = float((centred**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0
    return LeaveOneOut(estimate, amounts, sample.shares, error, df, acceleration)


def leave_one_out_amounts(away: Floats, shares: Floats) -> Floats:
    """What each cluster adds to the estimate's error, (K,), from how far leaving it out moves the estimate.

    The amount of cluster k with share s of the tokens is (estimate - estimate without k) * sqrt(1 - s): without the
    factor it would overstate, with 1 - s understate, the spread of long responses (the CR3, CR1 and CR2 corrections
    of cluster-robust errors). Amounts sum to 0.
    """
    amounts = away * np.sqrt(1.0 - shares)
    return amounts - shares * amounts.sum()


def flip_bounds(loo: LeaveOneOut, flips: Floats) -> tuple[Floats, Floats]:
    """The largest deviations below and above the estimate that each flip would not reject, two (F,) arrays.

    With amounts a and leverage h, a hypothesised value that lies d above the estimate has contributions a - d h,
    whose sum is -d; a flip s reaches as far if |s.a - d s.h| >= d, that is d <= max(s.a / (1 + s.h), -s.a / (1 - s.h)).
    """
    a = np.einsum("fk,k->f", flips, loo.amounts)
    h = np.clip(np.einsum("fk,k->f", flips, loo.leverage), -1.0, 1.0)
    same = np.abs(h) >= 1.0 - 1e-9  # every sign alike: reaches any deviation
    plus, minus = np.where(same, 1.0, 1.0 + h), np.where(same, 1.0, 1.0 - h)
    above = np.where(same, np.inf, np.maximum(a / plus, -a / minus))
    below = np.where(same, np.inf, np.maximum(-a / plus, a / minus))
    return below, above


def flip_p_value(loo: LeaveOneOut, flips: Floats) -> float:
    """Share of flips whose sum is at least as far from 0 as the estimate: the p-value of "the value is 0"."""
    contributions = loo.amounts + loo.estimate * loo.leverage
    sums = np.abs(np.einsum("fk,k->f", flips, contributions))
    return float(np.mean(sums >= abs(loo.estimate) - 1e-9 * np.abs(contributions).sum()))


def critical(bounds: Floats, level: float) -> float:
    """The largest deviation whose p-value, the share of (F,) ``bounds`` at least as large, exceeds 1 - level."""
    n_rejectable = int(np.floor((1.0 - level) * bounds.size + 1e-9))
    return float(np.sort(bounds)[bounds.size - n_rejectable - 1])


def infer(sample: Sample, resampling: Resampling, fisher: bool = True, tested: Sample | None = None) -> Inference:
    """Estimate, interval and p-value of one sample.

    ``fisher``: work on Fisher's z scale, for a correlation; else the sample is a difference of two.
    ``tested`` is a statistic that is 0 where this one is, and closer to normal: the p-value is taken from it.
    """
    k = sample.shares.size
    if sample.reason:
        return Inference(NAN, interval=resampling.interval, reason=sample.reason)
    estimate = sample.statistic.estimate
    if not np.isfinite(estimate):
        return Inference(NAN, interval=resampling.interval, reason="the statistic is undefined on these tokens")
    if k < 2:
        reason = "a single response: the error between responses cannot be seen, so no interval and no p-value"
        return Inference(estimate, interval=resampling.interval, reason=reason)
    loo = leave_one_out(sample, fisher)
    if not np.isfinite(loo.standard_error):
        reason = "without one of the responses the statistic is undefined, so no interval and no p-value"
        return Inference(estimate, interval=resampling.interval, reason=reason)
    flips = sign_flips(k, resampling.resamples, resampling.seed)
    p_value = flip_p_value(loo if tested is None else leave_one_out(tested, fisher=False), flips)
    draws = None
    if resampling.interval in ("percentile", "bca"):
        draws = sample.statistic(bootstrap_weights(k, resampling.resamples, (resampling.seed, 1)))
    back = from_z if fisher else difference_of_correlations
    kind, low, high, reason, notes = bounds(loo, flips, draws, resampling, back)
    error = loo.standard_error * (1 - estimate**2 if fisher else 1.0)
    return Inference(estimate, low, high, p_value, error, kind, reason, notes, loo)


def bounds(
    loo: LeaveOneOut, flips: Floats, draws: Floats | None, resampling: Resampling, back: Callable[[float], Any]
) -> tuple[str, float, float, str | None, tuple[str, ...]]:
    """Interval of the kind asked for: (kind used, low, high, reason if NaN, notes).

    ``draws`` are bootstrap values on the original scale, ``back`` maps the scale of ``loo`` to it.
    """
    if draws is not None:
        low, high, reason = bootstrap_bounds(loo, draws, resampling, float(back(loo.estimate)))
        return resampling.interval, low, high, reason, ()
    kind, notes = resampling.interval, ()
    if kind == "signflip":
        below, above = (critical(b, resampling.level) for b in flip_bounds(loo, flips))
        if np.isfinite(below) and np.isfinite(above):
            return kind, float(back(loo.estimate - below)), float(back(loo.estimate + above)), None, notes
        kind = "jackknife"
        notes = ("too few responses or resamples for a sign-flip interval at this level: jackknife interval instead",)
    low, high = (loo.estimate + t * loo.standard_error for t in stats.t.interval(resampling.level, loo.df))
    return kind, float(back(low)), float(back(high)), None, notes


def bootstrap_bounds(
    loo: LeaveOneOut, draws: Floats, resampling: Resampling, estimate: float
) -> tuple[float, float, str | None]:
    """Percentile or BCa limits from (B,) bootstrap values: (low, high, reason). BCa: Efron & Tibshirani 1993, 14.3."""
    good = draws[np.isfinite(draws)]
    if good.size < (1 - MAX_FAILED) * draws.size:
        return NAN, NAN, f"{draws.size - good.size} of {draws.size} resamples were undefined"
    tails = np.array([0.5 - resampling.level / 2, 0.5 + resampling.level / 2])
    if resampling.interval == "bca":
        below = (np.mean(good < estimate) + np.mean(good <= estimate)) / 2
        if not 0 < below < 1:
            return NAN, NAN, "every resample lies on one side of the estimate, so BCa is undefined"
        bias = stats.norm.ppf(below)
        shifted = bias + stats.norm.ppf(tails)
        tails = stats.norm.cdf(bias + shifted / (1 - loo.acceleration * shifted))
    low, high = np.quantile(good, tails)
    return float(low), float(high), None


def infer_difference(a: Sample, b: Sample, resampling: Resampling) -> Inference:
    """b minus a for two independent sets of clusters.

    Under the hypothesis of equal values, the common value is the mean weighted by precision; what it leaves for each
    run to explain is carried by that run's clusters in proportion to their size.

    The interval is on the scale of the correlations, the p-value on Fisher's z, where a difference is closer to normal:
    the two are not one test, and can disagree on 0.
    """
    values = [infer(s, Resampling("jackknife", resampling.level, 1, resampling.seed)) for s in (a, b)]
    estimate = values[1].estimate - values[0].estimate
    reasons = [f"{which}: {v.reason}" for which, v in zip("ab", values, strict=True) if v.reason]
    if reasons:
        return Inference(estimate, interval=resampling.interval, reason="; ".join(reasons))
    loo = combine(leave_one_out(a, fisher=False), leave_one_out(b, fisher=False))
    flips = sign_flips(loo.amounts.size, resampling.resamples, resampling.seed)
    p_value = flip_p_value(combine(leave_one_out(a), leave_one_out(b)), flips)
    draws = None
    if resampling.interval in ("percentile", "bca"):
        weights = [
            bootstrap_weights(s.shares.size, resampling.resamples, (resampling.seed, i))
            for i, s in enumerate((a, b), 1)
        ]
        draws = b.statistic(weights[1]) - a.statistic(weights[0])
    kind, low, high, reason, notes = bounds(loo, flips, draws, resampling, difference_of_correlations)
    return Inference(estimate, low, high, p_value, loo.standard_error, kind, reason, notes)


def infer_paired(a: Sample, b: Sample, resampling: Resampling) -> tuple[Inference, int]:
    """b minus a where clusters with the same label belong together, and the number of clusters.

    A cluster that only one sample has moves only that one. Interval and p-value: see :func:`infer_difference`.
    """
    labels = np.union1d(a.labels, b.labels)
    places = [np.searchsorted(labels, sample.labels) for sample in (a, b)]
    shares = np.zeros((2, labels.size))
    for row, sample, place in zip(shares, (a, b), places, strict=True):
        row[place] = sample.shares
    mean_shares = shares.mean(axis=0)
    difference, of_z = (
        Sample(_difference(a.statistic, b.statistic, places, labels.size, scale), mean_shares)
        for scale in (np.asarray, to_z)
    )
    return infer(difference, resampling, fisher=False, tested=of_z), labels.size


def _difference(
    a: Statistic, b: Statistic, places: list[Ints], n_clusters: int, scale: Callable[[Any], Floats]
) -> Statistic:
    """b minus a, each on ``scale``, as a statistic of the clusters of both."""

    def without(statistic: Statistic, place: Ints) -> Floats:
        values = np.full(n_clusters, statistic.estimate)
        values[place] = statistic.without
        return scale(values)

    return Statistic(
        at=lambda weights: scale(b(weights[:, places[1]])) - scale(a(weights[:, places[0]])),
        n_clusters=n_clusters,
        leave_out=lambda: without(b, places[1]) - without(a, places[0]),
    )


def combine(a: LeaveOneOut, b: LeaveOneOut) -> LeaveOneOut:
    """The difference b - a of two independent statistics, over the clusters of both."""
    var_a, var_b = a.standard_error**2, b.standard_error**2
    total = var_a + var_b
    weight = var_b / total if total > 0 else 0.5
    df = total**2 / (var_a**2 / a.df + var_b**2 / b.df) if total > 0 else a.df + b.df
    cubes = b.acceleration * var_b**1.5 - a.acceleration * var_a**1.5
    return LeaveOneOut(
        estimate=b.estimate - a.estimate,
        amounts=np.concatenate([-a.amounts, b.amounts]),
        leverage=np.concatenate([(1 - weight) * a.leverage, weight * b.leverage]),
        standard_error=float(np.sqrt(total)),
        df=float(df),
        acceleration=float(cubes / total**1.5) if total > 0 else 0.0,
    )
