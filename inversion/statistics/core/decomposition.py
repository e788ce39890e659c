"""Within- and between-response parts of a correlation, as functions of cluster weights.

n tokens lie in R responses, each in one of K clusters (the responses themselves, or their prompts).
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from inversion.statistics.core import coefficients
from inversion.statistics.core.coefficients import centred, moments, products, ratio, standardise, tau, tau_of
from inversion.statistics.core.ranks import Floats, Ints, Margin, Variable
from inversion.statistics.core.statistic import AtOnce, Statistic

Moments = Callable[[Floats], tuple[Floats, Floats]]  # (B, R) -> (3, B) total and (3, B) between: xy, xx, yy


def part_statistics(x: Variable, y: Variable, cluster_of: Ints, n_clusters: int, method: str) -> list[Statistic]:
    """The correlation inside responses and that between them.

    Spearman and Pearson: covariance and variances (of the ranks over all tokens, or of the values) split exactly into
    a part of deviations from the response's mean and a part of the response means, weighted by length. Kendall: pairs
    of tokens of the same response and of different ones. Both are exact at equal weights; above ``EXACT_TOKENS``
    tokens, how they change with the weights comes from grouped values.

    Args:
        x: A variable whose clusters are the R responses, whose tokens stand together and in order.
        y: Another one of the same tokens.
        cluster_of: Number 0..K-1 of the cluster that each response belongs to, (R,).
        n_clusters: K.
        method: Which correlation.
    """
    make = {"spearman": _rank_moments, "pearson": _value_moments}
    parts = _kendall_parts(x, y) if method == "kendall" else _from_moments(make[method](x, y))
    shifts = [0.0, 0.0]
    if x.values.size > coefficients.EXACT_TOKENS and method != "pearson":
        equal = np.ones((1, x.n_clusters))
        exact = _kendall_as_it_is(x, y) if method == "kendall" else _spearman_as_it_is(x, y)
        shifts = [value - part(equal)[0] for value, part in zip(exact, parts, strict=True)]

    def of(part: AtOnce, shift: float) -> AtOnce:
        return lambda weights: np.clip(part(weights[:, cluster_of]) + shift, -1.0, 1.0)

    return [Statistic(of(part, shift), n_clusters) for part, shift in zip(parts, shifts, strict=True)]


def _from_moments(moments: Moments) -> tuple[AtOnce, AtOnce]:
    def within(weights: Floats) -> Floats:
        total, between_ = moments(weights)
        xy, xx, yy = total - between_
        return ratio(xy, xx, yy, np.maximum(total[1], total[2]))

    def between(weights: Floats) -> Floats:
        total, (xy, xx, yy) = moments(weights)
        return ratio(xy, xx, yy, np.maximum(total[1], total[2]))

    return within, between


def _value_moments(x: Variable, y: Variable) -> Moments:
    a, b = standardise(x.values), standardise(y.values)
    n, sx, sy, sxx, syy, sxy = moments(a, b, x.cluster, x.n_clusters).T
    means = np.stack([sx * sy / n, sx * sx / n, sy * sy / n], axis=1)  # (R, 3)
    sums = np.stack([sxy, sxx, syy], axis=1)
    margins = np.stack([n, sx, sy], axis=1)

    def at(weights: Floats) -> tuple[Floats, Floats]:
        total, between, (n_, x_, y_) = (np.einsum("br,rp->pb", weights, t) for t in (sums, means, margins))
        with np.errstate(invalid="ignore", divide="ignore"):
            grand = np.stack([x_ * y_, x_ * x_, y_ * y_]) / n_
        return total - grand, between - grand

    return at


def _rank_moments(x: Variable, y: Variable) -> Moments:
    limit = None if x.values.size <= coefficients.EXACT_TOKENS else coefficients.RANK_GROUPS
    mx, my = x.margin(limit), y.margin(limit)
    rho = coefficients.spearman(x, y)
    sizes = np.bincount(x.cluster, minlength=x.n_clusters).astype(float)

    def at(weights: Floats) -> tuple[Floats, Floats]:
        sum_x, spread_x = _rank_sums(mx, weights)
        sum_y, spread_y = _rank_sums(my, weights)
        scaled = weights / sizes
        products = (sum_x * sum_y, sum_x * sum_x, sum_y * sum_y)
        between = np.stack([(scaled * p).sum(axis=1) for p in products])
        return np.stack([rho(weights) * np.sqrt(spread_x * spread_y), spread_x, spread_y]), between

    return at


def _spearman_as_it_is(x: Variable, y: Variable) -> tuple[float, float]:
    """The part inside responses and that between them of the tokens as they are, exact for any number of them."""
    n, sizes = x.values.size, np.bincount(x.cluster, minlength=x.n_clusters)
    a, b = (centred(v.doubled_ranks, n) for v in (x, y))  # (n,)
    means = [np.bincount(x.cluster, v, x.n_clusters) / np.sqrt(sizes) for v in (a, b)]  # weighted by length, (R,)
    total, between = products(a, b), products(*means)
    scale = np.maximum(total[1], total[2])
    within, outside = (float(ratio(s[0], s[1], s[2], scale)) for s in (total - between, between))
    return within, outside


def _rank_sums(margin: Margin, weights: Floats) -> tuple[Floats, Floats]:
    """Sum of the centred doubled mid-ranks of each response (B, R), and their weighted sum of squares (B,).

    The doubled ranks are whole numbers, so the matrix product is exact.
    """
    mass = weights @ margin.table
    doubled = 2 * np.cumsum(mass, axis=1) - mass - mass.sum(axis=1, keepdims=True)
    return doubled @ margin.table.T, (mass * doubled * doubled).sum(axis=1)


def _kendall_parts(x: Variable, y: Variable) -> tuple[AtOnce, AtOnce]:
    tables = coefficients.pair_tables(x, y)
    own = [np.diag(t).copy() for t in tables]

    def within(weights: Floats) -> Floats:
        score, in_x, in_y = (np.einsum("br,r->b", weights, d) for d in own)
        return tau_of(score, in_x, in_y)

    def between(weights: Floats) -> Floats:
        score, in_x, in_y = (
            ((weights @ t) * weights).sum(axis=1) - np.einsum("br,r->b", weights**2, d)
            for t, d in zip(tables, own, strict=True)
        )
        return tau_of(score, in_x, in_y)

    return within, between


def _kendall_as_it_is(x: Variable, y: Variable) -> tuple[float, float]:
    """The part inside responses and that between them of the tokens as they are, exact for any number of them."""
    within = sum((_pair_sums(x.values[rows], y.values[rows]) for rows in _responses(x)), np.zeros(3))
    between = _pair_sums(x.values, y.values) - within
    inside, outside = (float(tau_of(s[0], s[1], s[2])) for s in (within, between))
    return inside, outside


def _responses(x: Variable) -> list[slice]:
    """Where each response's tokens stand, which are together and in order."""
    stops = np.cumsum(np.bincount(x.cluster, minlength=x.n_clusters)).tolist()
    return [slice(start, stop) for start, stop in pairwise([0, *stops])]


def _pair_sums(x: Floats, y: Floats) -> Floats:
    """Sums over ordered pairs of n points: sign product, untied in x, untied in y; (3,)."""
    untied = [float(x.size**2 - (np.unique(v, return_counts=True)[1] ** 2).sum()) for v in (x, y)]
    score = tau(x, y) * np.sqrt(untied[0]) * np.sqrt(untied[1]) if min(untied) > 0 else 0.0
    return np.array([np.rint(score), *untied])


def response_correlations(x: Variable, y: Variable, method: str, min_tokens: int) -> tuple[Floats, Ints]:
    """The correlation inside each of R responses (R,), NaN if undefined or too short, and its length (R,).

    The clusters of ``x`` and ``y`` are the responses, whose tokens stand together and in order.
    """
    sizes = np.bincount(x.cluster, minlength=x.n_clusters)
    values = np.full(x.n_clusters, np.nan)
    for r, rows in enumerate(_responses(x)):
        if sizes[r] >= max(min_tokens, coefficients.MIN_POINTS):
            values[r] = coefficients.correlation(x.values[rows], y.values[rows], method)
    return values, sizes.astype(np.intp)


def mean_statistic(values: Floats, cluster: Ints, n_clusters: int) -> Statistic:
    """The mean of one value per response, every response counting alike. values, cluster (0..K-1): (R,)."""
    counts = np.bincount(cluster, minlength=n_clusters).astype(float)
    sums = np.bincount(cluster, values, n_clusters)

    def mean(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.einsum("bk,k->b", weights, sums) / np.einsum("bk,k->b", weights, counts)

    return Statistic(mean, n_clusters)
