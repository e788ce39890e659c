"""Correlations over token types: one point per distinct token id, averaged over its occurrences.

A resample of responses changes how often each occurrence counts, so the averages, and which types are there at all,
change with the weights; every row of weights is averaged and ranked afresh.
"""

from typing import Any

import numpy as np
from scipy import sparse
from scipy.stats import rankdata

from inversion.statistics._correlations import Statistic, in_chunks, ratio, standardise, tau
from inversion.statistics._ranks import Floats, Ints


def type_sums(values: Floats, types: Ints, cluster: Ints, shape: tuple[int, int]) -> Any:
    """Sum (n,) values by cluster and type: sparse, (K, T)."""
    return sparse.coo_array((values, (cluster, types)), shape=shape).tocsr()


def type_means(x: Floats, types: Ints) -> Floats:
    """Mean of x over the occurrences of each type, (T,)."""
    return np.bincount(types, x) / np.bincount(types)


def type_statistic(x: Floats, y: Floats, types: Ints, cluster: Ints, n_clusters: int, method: str) -> Statistic:
    """Correlation over the T token types present at each row of weights.

    x, y, types (0..T-1), cluster: (n,). Range -1..1. Sparse products are used because they run on one thread, so that
    results do not hang on the number of threads.
    """
    shape = (n_clusters, int(types.max()) + 1)
    if method == "pearson":
        x, y = standardise(x), standardise(y)
    sums = [type_sums(v, types, cluster, shape) for v in (np.ones_like(x), x, y)]
    corner = {"pearson": _pearson_rows, "spearman": _spearman_rows, "kendall": _kendall_rows}[method]

    def rows(weights: Floats) -> Floats:
        drawn: Any = sparse.csr_array(weights)
        count, sx, sy = ((drawn @ s).toarray() for s in sums)  # (b, T)
        there = count > 0
        safe = np.where(there, count, 1.0)
        return corner(sx / safe, sy / safe, there)

    return lambda weights: in_chunks(rows, weights, 4 * shape[1])


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
