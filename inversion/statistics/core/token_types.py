"""Correlations over token types: one point per distinct token id, averaged over its occurrences.

A resample of responses changes how often each occurrence counts, so the averages, and which types are there at all,
change with the weights; every row of weights is averaged and ranked afresh.
"""

from typing import Any

import numpy as np
from scipy import sparse
from scipy.stats import rankdata

from inversion.statistics.core.cells import Floats, TypeCells
from inversion.statistics.core.coefficients import ratio, standardise, tau
from inversion.statistics.core.inference import ALMOST_ONE, from_z, leave_one_out_amounts, to_z
from inversion.statistics.core.ranks import Variable
from inversion.statistics.core.softened import TypeMeans, softened_amounts
from inversion.statistics.core.statistic import AtOnce, Statistic, in_chunks


def type_statistic(x: Variable, y: Variable, cells: TypeCells, method: str) -> Statistic:
    """Correlation over the T token types present at each row of weights. Range -1..1.

    The values without each cluster are softened (see ``softened``): leaving a whole response out overstates the error
    of averages over few occurrences.

    Args:
        x: A variable over n tokens.
        y: Another one.
        cells: Their types and clusters.
        method: Which correlation.
    """
    at = _rows_of(x, y, cells, method)
    plain = Statistic(at, x.n_clusters)
    return Statistic(at, x.n_clusters, lambda: _without(plain, x, y, cells, method))


def _without(plain: Statistic, x: Variable, y: Variable, cells: TypeCells, method: str) -> Floats:
    """The value without each cluster, (K,), moved as far as the cluster bears on it (on Fisher's z scale)."""
    estimate = plain.estimate
    if not abs(estimate) < ALMOST_ONE:
        return plain.without
    shares = np.bincount(x.cluster, minlength=x.n_clusters) / x.cluster.size
    a, b = (TypeMeans.of(v.values, cells) for v in (x, y))
    if method == "kendall":
        # Its own leave-one-out amounts, shrunk as far as those of Spearman's correlation have to be.
        ranks = Statistic(_rows_of(x, y, cells, "spearman"), x.n_clusters)
        soft = softened_amounts(a, b, "spearman")
        hard = leave_one_out_amounts(ranks.estimate - ranks.without, shares)
        shrink = np.sqrt((soft**2).sum() / (hard**2).sum())
        return from_z(to_z(estimate) - shrink * (to_z(estimate) - to_z(plain.without)))
    away = softened_amounts(a, b, method) / np.sqrt(1.0 - shares)
    return from_z(to_z(estimate) - away / (1.0 - estimate**2))


def _rows_of(x: Variable, y: Variable, cells: TypeCells, method: str) -> AtOnce:
    """The correlation as a function of weights. Sparse products run on one thread, whatever the number of threads."""
    columns = (standardise(v.values) if method == "pearson" else v.values for v in (x, y))
    sums = [cells.table(cells.sums(values)) for values in (None, *columns)]
    corner = {"pearson": _pearson_rows, "spearman": _spearman_rows, "kendall": _kendall_rows}[method]

    def rows(weights: Floats) -> Floats:
        drawn: Any = sparse.csr_array(weights)
        count, sx, sy = ((drawn @ s).toarray() for s in sums)  # (b, T)
        there = count > 0
        safe = np.where(there, count, 1.0)
        return corner(sx / safe, sy / safe, there)

    return lambda weights: in_chunks(rows, weights, 4 * cells.shape[1])


def _pearson_rows(x: Floats, y: Floats, there: Floats) -> Floats:
    n = there.sum(axis=1)
    safe = np.maximum(n, 1)[:, None]
    cx = np.where(there, x - np.where(there, x, 0).sum(axis=1, keepdims=True) / safe, 0)
    cy = np.where(there, y - np.where(there, y, 0).sum(axis=1, keepdims=True) / safe, 0)
    return ratio((cx * cy).sum(axis=1), (cx * cx).sum(axis=1), (cy * cy).sum(axis=1), n.astype(float))


def _spearman_rows(x: Floats, y: Floats, there: Floats) -> Floats:
    # Absent types are given the highest rank, which leaves the ranks of the others as they are.
    rx, ry = (rankdata(np.where(there, v, np.inf), axis=1) / v.shape[1] for v in (x, y))
    return _pearson_rows(rx, ry, there)


def _kendall_rows(x: Floats, y: Floats, there: Floats) -> Floats:
    rows = zip(x, y, there, strict=True)
    return np.array([tau(a[t], b[t]) if t.sum() > 1 else np.nan for a, b, t in rows])
