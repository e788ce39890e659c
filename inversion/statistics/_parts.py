"""Within- and between-response parts of a correlation, as functions of cluster weights.

n tokens lie in R responses, each in one of K clusters (the responses themselves, or their prompts).
"""

from collections.abc import Callable

import numpy as np

from inversion.statistics import _correlations as core
from inversion.statistics._correlations import Statistic, ratio, standardise
from inversion.statistics._ranks import Floats, Ints, Margin, margin

Moments = Callable[[Floats], tuple[Floats, Floats]]  # (B, R) -> (3, B) total and (3, B) between: xy, xx, yy


def part_statistics(x: Floats, y: Floats, response: Ints, cluster: Ints, method: str) -> tuple[Statistic, Statistic]:
    """The correlation inside responses and that between them. x, y, response (0..R-1), cluster (0..K-1): (n,).

    Spearman and Pearson: covariance and variances (of the ranks over all tokens, or of the values) split exactly into
    a part of deviations from the response's mean and a part of the response means, weighted by length. Kendall: pairs
    of tokens of the same response and of different ones.
    """
    n_responses = int(response.max()) + 1
    cluster_of = np.zeros(n_responses, np.intp)
    cluster_of[response] = cluster
    if method == "kendall":
        within, between = _kendall_parts(x, y, response, n_responses)
    else:
        moments = (_rank_moments if method == "spearman" else _value_moments)(x, y, response, n_responses)
        within, between = _from_moments(moments)
    return lambda w: within(w[:, cluster_of]), lambda w: between(w[:, cluster_of])


def _from_moments(moments: Moments) -> tuple[Statistic, Statistic]:
    def within(weights: Floats) -> Floats:
        total, between_ = moments(weights)
        xy, xx, yy = total - between_
        return ratio(xy, xx, yy, np.maximum(total[1], total[2]))

    def between(weights: Floats) -> Floats:
        total, (xy, xx, yy) = moments(weights)
        return ratio(xy, xx, yy, np.maximum(total[1], total[2]))

    return within, between


def _value_moments(x: Floats, y: Floats, response: Ints, n_responses: int) -> Moments:
    x, y = standardise(x), standardise(y)
    n, sx, sy, sxy, sxx, syy = (
        np.bincount(response, c, n_responses) for c in (np.ones_like(x), x, y, x * y, x * x, y * y)
    )
    means = np.stack([sx * sy / n, sx * sx / n, sy * sy / n], axis=1)  # (R, 3)
    sums = np.stack([sxy, sxx, syy], axis=1)
    margins = np.stack([n, sx, sy], axis=1)

    def at(weights: Floats) -> tuple[Floats, Floats]:
        total, between, (n_, x_, y_) = (np.einsum("br,rp->pb", weights, t) for t in (sums, means, margins))
        with np.errstate(invalid="ignore", divide="ignore"):
            grand = np.stack([x_ * y_, x_ * x_, y_ * y_]) / n_
        return total - grand, between - grand

    return at


def _rank_moments(x: Floats, y: Floats, response: Ints, n_responses: int) -> Moments:
    limit = None if x.size <= core.EXACT_TOKENS else core.RANK_GROUPS
    mx, my = (margin(v, response, n_responses, limit) for v in (x, y))
    rho = core.spearman(x, y, response, n_responses)
    sizes = np.bincount(response, minlength=n_responses).astype(float)

    def at(weights: Floats) -> tuple[Floats, Floats]:
        sum_x, spread_x = _rank_sums(mx, weights)
        sum_y, spread_y = _rank_sums(my, weights)
        scaled = weights / sizes
        products = (sum_x * sum_y, sum_x * sum_x, sum_y * sum_y)
        between = np.stack([(scaled * p).sum(axis=1) for p in products])
        return np.stack([rho(weights) * np.sqrt(spread_x * spread_y), spread_x, spread_y]), between

    return at


def _rank_sums(margin_: Margin, weights: Floats) -> tuple[Floats, Floats]:
    """Sum of the centred doubled mid-ranks of each response (B, R), and their weighted sum of squares (B,).

    The doubled ranks are whole numbers, so the matrix product is exact.
    """
    mass = weights @ margin_.table
    doubled = 2 * np.cumsum(mass, axis=1) - mass - mass.sum(axis=1, keepdims=True)
    return doubled @ margin_.table.T, (mass * doubled * doubled).sum(axis=1)


def _kendall_parts(x: Floats, y: Floats, response: Ints, n_responses: int) -> tuple[Statistic, Statistic]:
    tables = core.pair_tables(x, y, response, n_responses)
    own = [np.diag(t).copy() for t in tables]

    def within(weights: Floats) -> Floats:
        score, in_x, in_y = (np.einsum("br,r->b", weights, d) for d in own)
        return ratio(score, in_x, in_y, np.sqrt(in_x.clip(1) * in_y.clip(1)))

    def between(weights: Floats) -> Floats:
        score, in_x, in_y = (
            ((weights @ t) * weights).sum(axis=1) - np.einsum("br,r->b", weights**2, d)
            for t, d in zip(tables, own, strict=True)
        )
        return ratio(score, in_x, in_y, np.sqrt(in_x.clip(1) * in_y.clip(1)))

    return within, between


def response_correlations(x: Floats, y: Floats, response: Ints, method: str, min_tokens: int) -> tuple[Floats, Ints]:
    """The correlation inside each of R responses (R,), NaN if undefined or too short, and its length (R,)."""
    n_responses = int(response.max()) + 1
    sizes = np.bincount(response, minlength=n_responses)
    values = np.full(n_responses, np.nan)
    order = np.argsort(response, kind="stable")
    make = {"spearman": core.spearman, "pearson": core.pearson, "kendall": core.kendall}[method]
    for r, rows in enumerate(np.split(order, np.cumsum(sizes)[:-1])):
        if rows.size >= max(min_tokens, 3):
            values[r] = make(x[rows], y[rows], np.zeros(rows.size, np.intp), 1)(np.ones((1, 1)))[0]
    return values, sizes.astype(np.intp)
