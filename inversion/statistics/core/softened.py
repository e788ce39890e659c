"""How far each cluster bears on a correlation over token types: leaving one out, softened.

Leaving out a whole cluster overstates the error at this unit, for three reasons:

- a type's average over few occurrences jumps too far when one of them goes: by 1 / (1 - h) of its part, where h is the
  share of the type's occurrences in the cluster. Half of that (on the log scale) is unbiased, as in the HC2 correction
  of a regression's errors (MacKinnon & White 1985);
- ranks of few points move in whole steps, mostly not at all and sometimes by one, so squares of their moves are too
  large. Here ranks are smoothed over about half the averages' own noise: a rank's slope is the number of types within
  a window, over its width;
- where both averages are noisy, the product of the noise of two clusters is counted at each of the two, and that of a
  cluster's own noise twice. These second-order terms are taken off the variance (Efron & Stein 1981).

The amounts are of first order, with the second-order terms as one factor. K clusters, T types.
"""

from dataclasses import dataclass

import numpy as np

from inversion.statistics.core.cells import Floats, Ints, TypeCells
from inversion.statistics.core.ranks import doubled_ranks

WIDTH = 0.5  # of the smoothing window, in standard deviations of an average's noise
WIDEST = 1.06  # at most so many, of the averages' own spread times T**(-1/5) (Silverman's rule)
LEAST_KEPT = 0.25  # of the variance: second-order terms are noisy themselves
ROWS = 50  # clusters whose moves of all types are held at once


@dataclass(frozen=True)
class TypeMeans:
    """Averages over the occurrences of each type, and how far each cluster moves them. m pairs of cluster and type."""

    mean: Floats  # (T,)
    cluster: Ints  # (m,)
    type: Ints  # (m,)
    move: Floats  # (m,) what the cluster adds to the type's average, corrected; 0 where it has all of its occurrences
    plain: Floats  # (m,) the same without the correction
    alone: np.ndarray  # (m,) whether it has
    n_clusters: int

    @classmethod
    def of(cls, values: Floats, cells: TypeCells) -> "TypeMeans":
        """From (n,) values of tokens, and their types and clusters."""
        k, t, counts, sums = cells.cluster, cells.type, cells.counts, cells.sums(values)
        occurrences = cells.per_type(counts)
        share = counts / occurrences[t]
        mean = cells.per_type(sums) / occurrences
        alone = share >= 1.0
        plain = np.where(alone, 0.0, (sums / counts - mean[t]) * share)
        move = plain / np.sqrt(np.where(alone, 1.0, 1.0 - share))
        return cls(mean, k, t, move, plain, alone, cells.shape[0])

    def per_cluster(self, values: Floats) -> Floats:
        """Sum (m,) values by cluster, (K,)."""
        return np.bincount(self.cluster, values, self.n_clusters).astype(np.float64)

    def table(self, values: Floats, clusters: range | None = None) -> Floats:
        """(m,) values of some clusters as a table, (K, T), 0 where there is none; all clusters by default."""
        clusters = range(self.n_clusters) if clusters is None else clusters
        first, last = np.searchsorted(self.cluster, [clusters.start, clusters.stop])
        table = np.zeros((len(clusters), self.mean.size))
        table[self.cluster[first:last] - clusters.start, self.type[first:last]] = values[first:last]
        return table


def softened_amounts(x: TypeMeans, y: TypeMeans, method: str) -> Floats:
    """What each cluster adds to the correlation of two averages, (K,), summing to 0. method: spearman or pearson."""
    scales = [(_Ranks if method == "spearman" else _Values)(means) for means in (x, y)]
    a, b = scales
    slopes = a.slopes(b), b.slopes(a)
    amounts = sum(m.per_cluster(m.move * slope[m.type]) for m, slope in zip((x, y), slopes, strict=True))
    amounts = amounts + x.per_cluster(x.alone * a.presence(b)[x.type])
    amounts = amounts - amounts.mean()
    return amounts * np.sqrt(_kept(amounts, a, b))


def _kept(amounts: Floats, a: "_Scale", b: "_Scale") -> float:
    """Share of the amounts' variance that is left without the second-order terms of pairs of clusters."""
    variance = float((amounts**2).sum())
    if variance == 0:
        return 1.0
    k = a.means.n_clusters
    some = [range(first, min(first + ROWS, k)) for first in range(0, k, ROWS)]
    of_b, pairs = np.empty((k, b.values.size)), np.empty((k, k))
    for rows in some:
        of_b[rows.start : rows.stop] = b.moves(b.means.move, rows)
    for rows in some:
        pairs[rows.start : rows.stop] = a.moves(a.means.move, rows) @ of_b.T
    pairs = pairs + pairs.T
    np.fill_diagonal(pairs, 0.0)
    plain = ((a.moves(a.means.plain, rows), b.moves(b.means.plain, rows)) for rows in some)
    own = 2 * np.concatenate([np.einsum("kt,kt->k", *moves) for moves in plain])
    # A pair's term adds its square to the variance and counts twice; an own term adds a quarter and counts once.
    excess = (0.5 * (pairs**2).sum() + 0.75 * ((own - own.mean()) ** 2).sum()) / (a.spread * b.spread) ** 2 / variance
    # Rounded, since the last bits of the product depend on the number of threads.
    return max(1.0 - float(f"{excess:.9g}"), LEAST_KEPT)


class _Scale:
    """Centred averages on the scale that is correlated: ``values`` (T,), of root sum of squares ``spread``."""

    means: TypeMeans
    values: Floats
    spread: float

    def slopes(self, other: "_Scale") -> Floats:
        """Derivative of the correlation with ``other`` with respect to each average, (T,)."""
        raise NotImplementedError

    def presence(self, other: "_Scale") -> Floats:
        """What each type adds to the correlation by being there, (T,)."""
        raise NotImplementedError

    def moves(self, values: Floats, clusters: range) -> Floats:
        """How far some clusters move each value of the scale, (K, T), from the (m,) moves of the averages."""
        raise NotImplementedError

    def correlation(self, other: "_Scale") -> float:
        """The correlation itself."""
        return float((self.values * other.values).sum() / (self.spread * other.spread))


class _Values(_Scale):
    """Averages as they are, for Pearson's correlation."""

    def __init__(self, means: TypeMeans):
        self.means = means
        self.values = means.mean - means.mean.mean()
        self.spread = float(np.sqrt((self.values**2).sum()))

    def slopes(self, other: _Scale) -> Floats:
        standard = self.values / self.spread
        return (other.values / other.spread - self.correlation(other) * standard) / self.spread

    def presence(self, other: _Scale) -> Floats:
        u, v = self.values / self.spread, other.values / other.spread
        return u * v - self.correlation(other) * (u**2 + v**2) / 2

    def moves(self, values: Floats, clusters: range) -> Floats:
        table = self.means.table(values, clusters)
        return table - table.mean(axis=1, keepdims=True)


class _Ranks(_Scale):
    """Smoothed ranks of averages, over T, for Spearman's correlation."""

    def __init__(self, means: TypeMeans):
        self.means = means
        n = means.mean.size
        self.values = (doubled_ranks(means.mean)[0] - (n + 1.0)) / (2 * n)
        self.spread = float(np.sqrt((self.values**2).sum()))
        self.order = np.argsort(means.mean, kind="stable")
        ordered, half = means.mean[self.order], _half_width(means)
        # The types within the window around each one, in ascending order: from ``start`` to before ``stop``.
        self.start = np.searchsorted(ordered, ordered - half, side="left")
        self.stop = np.searchsorted(ordered, ordered + half, side="right")
        self.density = 1.0 / (2 * half * n)

    def slopes(self, other: _Scale) -> Floats:
        """A type that moves up passes its neighbours: it gains a rank, each of them loses one."""
        return self._against_neighbours(other.values[None, :])[0] / (self.spread * other.spread)

    def presence(self, other: _Scale) -> Floats:
        total = self.values * other.values + _above(self.values, other.values) + _above(other.values, self.values)
        return (total - total.mean()) / (self.spread * other.spread)

    def moves(self, values: Floats, clusters: range) -> Floats:
        return self._against_neighbours(self.means.table(values, clusters))

    def _against_neighbours(self, rows: Floats) -> Floats:
        """For each type: the sum over its neighbours of its own value minus theirs, times the density. (R, T)."""
        result = np.empty_like(rows)
        for row, out in zip(rows, result, strict=True):
            ordered = row[self.order]
            sums = np.concatenate([[0.0], np.cumsum(ordered)])
            out[self.order] = (self.stop - self.start) * ordered - (sums[self.stop] - sums[self.start])
        result *= self.density
        return result


def _half_width(means: TypeMeans) -> float:
    """Half the width of the smoothing window; its standard deviation is that over the root of 3."""
    squares = np.bincount(means.type, means.move**2, means.mean.size)
    several = np.bincount(means.type, ~means.alone, means.mean.size) > 0
    noise = float(np.sqrt(squares[several].mean())) if several.any() else np.inf
    quartiles = np.quantile(means.mean, [0.25, 0.75])
    spread = float(means.mean.std())
    robust = float(quartiles[1] - quartiles[0]) / 1.349
    silverman = WIDEST * (min(spread, robust) if robust > 0 else spread) * means.mean.size**-0.2
    narrow = WIDTH * noise
    return float(np.sqrt(3) * (min(narrow, silverman) if narrow > 0 else silverman))


def _above(u: Floats, v: Floats) -> Floats:
    """Mean over all types of v where u is larger, half where it is equal, (T,)."""
    order = np.argsort(u, kind="stable")
    ordered = u[order]
    sums = np.concatenate([[0.0], np.cumsum(v[order])])
    below, through = (np.searchsorted(ordered, u, side=side) for side in ("left", "right"))
    return (sums[-1] - (sums[below] + sums[through]) / 2) / u.size
