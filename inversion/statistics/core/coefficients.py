"""Correlations as functions of the weights of clusters.

Matrix products below are between whole (or half) numbers small enough to be exact in float64, so that the number of
BLAS threads cannot change the last bit; sums of other floats avoid BLAS.
"""

from typing import Any

import numpy as np
from scipy.stats import kendalltau

from inversion.statistics.core.cells import Floats, Ints, cell_sums, in_blocks
from inversion.statistics.core.ranks import Margin, Variable, doubled_ranks, merge_groups, relative_midranks
from inversion.statistics.core.statistic import AtOnce, Statistic, in_chunks

EXACT_TOKENS = 2048  # up to here every resample is ranked token by token
RANK_GROUPS = 256  # above it, ranks move in this many groups: relative error of a deviation about 1/256**2
PAIR_GROUPS = 128  # groups for Kendall's tau, whose tables grow with their square
CROSS_GROUPS = 32  # for the product of two rank shifts, already of second order

MIN_POINTS = 3  # fewer points have no correlation worth the name
TINY = 1e-12  # a variance below this share of the whole sample's counts as none


def pearson(x: Variable, y: Variable) -> Statistic:
    """Pearson's correlation. Range -1..1, no unit.

    Exact: sums and products are collected per cluster, a resample is a weighted sum of K rows.
    """
    a, b = standardise(x.values), standardise(y.values)
    sums = moments(a, b, x.cluster, x.n_clusters)  # (K, 6)

    def at(weights: Floats) -> Floats:
        n, sx, sy, sxx, syy, sxy = np.einsum("bk,kp->pb", weights, sums)
        with np.errstate(invalid="ignore", divide="ignore"):
            return ratio(sxy - sx * sy / n, sxx - sx * sx / n, syy - sy * sy / n, n)

    return Statistic(at, x.n_clusters)


def spearman(x: Variable, y: Variable, exact: bool | None = None) -> Statistic:
    """Spearman's correlation, ranked again at every row of weights. Range -1..1, no unit.

    Average ranks for ties. Up to ``EXACT_TOKENS`` tokens (or with ``exact=True``) each row equals
    ``scipy.stats.spearmanr`` of the repeated sample. Above, the estimate is exact and its change under the weights is
    computed from grouped ranks (see ``_grouped_spearman``).
    """
    if exact or (exact is None and x.values.size <= EXACT_TOKENS):
        return Statistic(_exact_spearman(x, y), x.n_clusters)
    grouped = _grouped_spearman(x, y)
    correction = rank_correlation(x, y) - grouped(np.ones((1, x.n_clusters)))
    return Statistic(lambda weights: np.clip(grouped(weights) + correction, -1.0, 1.0), x.n_clusters)


def rank_correlation(x: Variable, y: Variable) -> float:
    """Spearman's correlation of the tokens as they are, exact for any number of them. Range -1..1."""
    n, sums = x.values.size, np.zeros(3)
    for rows in in_blocks(n):
        sums += products(centred(x.doubled_ranks[rows], n), centred(y.doubled_ranks[rows], n))
    return _product_moment(sums, n)


def correlation(x: Floats, y: Floats, method: str) -> float:
    """The correlation of two (n,) columns as they are; NaN where one is constant. Range -1..1."""
    if method == "kendall":
        return tau(x, y)
    if method == "spearman":
        x, y = (centred(doubled_ranks(v)[0], v.size) for v in (x, y))
    return _product_moment(products(standardise(x), standardise(y)), x.size)


def centred(ranks: Ints, n: int) -> Floats:
    """Doubled ranks among n around 0, whole numbers as floats. ranks: (n,)."""
    return ranks.astype(np.float64) - (n + 1.0)


def products(x: Floats, y: Floats) -> Floats:
    """Sums of xy, xx and yy, (3,). x, y: (n,)."""
    return np.array([(a * b).sum() for a, b in ((x, y), (x, x), (y, y))])


def _product_moment(sums: Floats, n: int) -> float:
    """Pearson's correlation of two centred columns of n, from the sums of their products."""
    return float(ratio(sums[0], sums[1], sums[2], np.asarray(float(n))))


def moments(a: Floats, b: Floats, cluster: Ints, n_clusters: int) -> Floats:
    """Number of tokens of each cluster and their sums of a, b, aa, bb and ab, (K, 6)."""
    values = (
        None,
        lambda rows: a[rows],
        lambda rows: b[rows],
        lambda rows: a[rows] * a[rows],
        lambda rows: b[rows] * b[rows],
        lambda rows: a[rows] * b[rows],
    )
    return np.concatenate([cell_sums(cluster, None, (n_clusters, 1), of) for of in values], axis=1)


def _exact_spearman(x: Variable, y: Variable) -> AtOnce:
    mx, my = x.margin(), y.margin()

    def rows(weights: Floats) -> Floats:
        mass_x, mass_y = weights @ mx.table, weights @ my.table  # (b, M) exact
        rx, ry = relative_midranks(mass_x), relative_midranks(mass_y)
        product = (weights[:, x.cluster] * rx[:, mx.ids] * ry[:, my.ids]).sum(axis=1)
        return ratio(product, _spread(mass_x, rx), _spread(mass_y, ry), mass_x.sum(axis=1))

    return lambda weights: in_chunks(rows, weights, x.values.size)


def _grouped_spearman(x: Variable, y: Variable) -> AtOnce:
    """Spearman with values tied within ``RANK_GROUPS`` groups, at a cost per row that does not depend on n.

    Relative ranks are the ranks at equal weights plus a shift, rx = fx + u and ry = fy + v, where u and v depend on
    the group and the row only. So sum w rx ry = sum w fx fy + sum w u fy + sum w fx v + sum w u v: the first three are
    products of the weights with tables made once, and exact; the last, of second order, uses fewer groups.
    """
    mx, my = x.margin(RANK_GROUPS), y.margin(RANK_GROUPS)
    n, cluster, n_clusters = x.values.size, x.cluster, x.n_clusters
    fx, fy = np.rint(2 * n * mx.base), np.rint(2 * n * my.base)  # whole numbers: 2n times the relative rank
    y_by_x = cell_sums(cluster, lambda rows: mx.ids[rows], mx.table.shape, lambda rows: fy[my.ids[rows]])  # (K, Mx)
    x_by_y = cell_sums(cluster, lambda rows: my.ids[rows], my.table.shape, lambda rows: fx[mx.ids[rows]])  # (K, My)
    base = np.einsum("km,m->k", y_by_x, fx)  # sum of fx fy, (K,)
    cross = _CrossTerm(mx, my, cluster, n_clusters)

    def rows(weights: Floats) -> Floats:
        mass_x, mass_y = weights @ mx.table, weights @ my.table
        rx, ry = relative_midranks(mass_x), relative_midranks(mass_y)
        u, v = rx - fx / (2 * n), ry - fy / (2 * n)
        product = np.einsum("bk,k->b", weights, base) / (2 * n) ** 2
        product += (u * (weights @ y_by_x)).sum(axis=1) / (2 * n)
        product += (v * (weights @ x_by_y)).sum(axis=1) / (2 * n)
        product += cross(u, v, weights)
        return ratio(product, _spread(mass_x, rx), _spread(mass_y, ry), mass_x.sum(axis=1))

    return lambda weights: in_chunks(rows, weights, max(n_clusters, CROSS_GROUPS**2))


class _CrossTerm:
    """sum_i w_i u(x_i) v(y_i), with u and v averaged over ``CROSS_GROUPS`` runs of neighbouring groups."""

    def __init__(self, mx: Margin, my: Margin, cluster: Ints, n_clusters: int):
        cx, cy = merge_groups(mx, CROSS_GROUPS), merge_groups(my, CROSS_GROUPS)
        self.shape = (cx[-1] + 1, cy[-1] + 1)
        cells = (n_clusters, self.shape[0] * self.shape[1])
        self.table = cell_sums(cluster, lambda rows: cx[mx.ids[rows]] * self.shape[1] + cy[my.ids[rows]], cells)
        self.runs = [(m.mass, np.flatnonzero(np.diff(c, prepend=-1))) for m, c in ((mx, cx), (my, cy))]

    def __call__(self, u: Floats, v: Floats, weights: Floats) -> Floats:
        u, v = (
            np.add.reduceat(shift * mass, starts, axis=1) / np.add.reduceat(mass, starts)
            for shift, (mass, starts) in zip((u, v), self.runs, strict=True)
        )
        joint = (weights @ self.table).reshape(-1, *self.shape)
        return ((joint * v[:, None, :]).sum(axis=2) * u).sum(axis=1)


def kendall(x: Variable, y: Variable) -> Statistic:
    """Kendall's tau-b. Range -1..1, no unit.

    Tau is a ratio of sums over pairs of tokens, so K x K sums over pairs of clusters hold all that resampling needs:
    a token and its own copy are a tie. Up to ``EXACT_TOKENS`` tokens each row equals ``scipy.stats.kendalltau`` of the
    repeated sample. Above, the estimate is scipy's O(n log n) one and its change under the weights comes from grouped
    values.
    """
    grouped = _tau_from(*pair_tables(x, y))
    if x.values.size <= EXACT_TOKENS:
        return Statistic(grouped, x.n_clusters)
    correction = tau(x.values, y.values) - grouped(np.ones((1, x.n_clusters)))
    return Statistic(lambda weights: np.clip(grouped(weights) + correction, -1.0, 1.0), x.n_clusters)


def tau(x: Floats, y: Floats) -> float:
    """Kendall's tau-b of two (n,) columns, in O(n log n). Range -1..1."""
    result: Any = kendalltau(x, y)
    return float(result.statistic)


def _tau_from(concordance: Floats, untied_x: Floats, untied_y: Floats) -> AtOnce:
    def at(weights: Floats) -> Floats:
        score, in_x, in_y = (((weights @ t) * weights).sum(axis=1) for t in (concordance, untied_x, untied_y))
        return tau_of(score, in_x, in_y)

    return at


def tau_of(score: Floats, untied_x: Floats, untied_y: Floats) -> Floats:
    """Kendall's tau-b from sums over pairs: sign product, untied in x, untied in y."""
    return ratio(score, untied_x, untied_y, np.sqrt(untied_x.clip(1) * untied_y.clip(1)))


def pair_tables(x: Variable, y: Variable) -> tuple[Floats, Floats, Floats]:
    """Sums over pairs of tokens by their two clusters, each (K, K): sign product, untied in x, untied in y.

    Above ``EXACT_TOKENS`` tokens, of values in ``PAIR_GROUPS`` groups.
    """
    n = x.values.size
    if n > EXACT_TOKENS:
        return _grouped_pair_tables(x.margin(PAIR_GROUPS), y.margin(PAIR_GROUPS), x.cluster, x.n_clusters)
    one_hot = np.zeros((n, x.n_clusters))
    one_hot[np.arange(n), x.cluster] = 1.0
    sx, sy = (np.sign(v.values[:, None] - v.values[None, :]) for v in (x, y))
    score, in_x, in_y = (one_hot.T @ (t @ one_hot) for t in (sx * sy, np.abs(sx), np.abs(sy)))
    return score, in_x, in_y


def _grouped_pair_tables(mx: Margin, my: Margin, cluster: Ints, n_clusters: int) -> tuple[Floats, Floats, Floats]:
    shape = (mx.mass.size, my.mass.size)
    cell = mx.ids.astype(np.intp) * shape[1] + my.ids
    order = np.argsort(cluster, kind="stable")
    parts = np.split(cell[order], np.cumsum(np.bincount(cluster, minlength=n_clusters))[:-1])
    concordance = np.empty((n_clusters, n_clusters))
    for k, cells in enumerate(parts):
        counts = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape).astype(float)
        signs = _below_minus_above(_below_minus_above(counts, 0), 1).ravel()
        concordance[:, k] = np.bincount(cluster, signs[cell], n_clusters)
    sizes = np.bincount(cluster, minlength=n_clusters).astype(float)
    pairs = np.outer(sizes, sizes)
    return concordance, pairs - mx.table @ mx.table.T, pairs - my.table @ my.table.T


def _below_minus_above(counts: Floats, axis: int) -> Floats:
    """At every place along ``axis``: the counts before it minus the counts after it. Same shape."""
    total = counts.sum(axis=axis, keepdims=True)
    return 2 * np.cumsum(counts, axis=axis, dtype=np.float64) - counts - total


def ratio(product: Floats, spread_x: Floats, spread_y: Floats, scale: Floats) -> Floats:
    """``product / sqrt(spread_x * spread_y)``, clipped to -1..1; NaN where a spread is next to nothing of ``scale``."""
    flat = (spread_x <= TINY * scale) | (spread_y <= TINY * scale) | ~(scale > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = product / (np.sqrt(np.where(flat, 1.0, spread_x)) * np.sqrt(np.where(flat, 1.0, spread_y)))
    return np.where(flat, np.nan, np.clip(value, -1.0, 1.0))


def standardise(values: Floats) -> Floats:
    """Values minus their mean, over their standard deviation (a constant stays 0), so that sums keep their digits."""
    centred = values - values.mean()
    scale = _largest(centred)
    if scale <= 1e-14 * _largest(values):
        return np.zeros_like(values)
    centred /= scale
    centred /= np.sqrt(np.mean(centred**2))
    return centred


def _largest(values: Floats) -> float:
    """The largest absolute value; 0 where there is none."""
    return float(max(values.max(initial=0.0), -values.min(initial=0.0)))


def _spread(mass: Floats, ranks: Floats) -> Floats:
    return (mass * ranks * ranks).sum(axis=1)


COEFFICIENTS = {"spearman": spearman, "pearson": pearson, "kendall": kendall}
"""Name of a correlation -> what makes it of two variables."""
