"""Partial correlations from a matrix of pairwise ones."""

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from inversion.statistics.core.ranks import Floats
from inversion.statistics.core.statistic import Statistic

Pairwise = Callable[[int, int], Statistic]  # correlation of columns i and j


def partial_statistic(n_columns: int, pairwise: Pairwise) -> Statistic:
    """Correlation of the first two of p columns with the others held fixed: -P_01 / sqrt(P_00 P_11).

    P is the inverse of the correlation matrix. For Pearson this equals the correlation of the residuals of two linear
    regressions; for Spearman those of the ranks; for Kendall it is Kendall's partial tau, carried to several columns
    by the same formula. NaN where a column is constant or follows from the others.
    """
    pairs = {(i, j): pairwise(i, j) for i, j in combinations(range(n_columns), 2)}

    def combined(values: Sequence[Floats]) -> Floats:
        matrix = np.zeros((values[0].size, n_columns, n_columns)) + np.eye(n_columns)
        for (i, j), column in zip(pairs, values, strict=True):
            matrix[:, i, j] = matrix[:, j, i] = column
        return partial_of(matrix)

    return Statistic(
        at=lambda weights: combined([pair(weights) for pair in pairs.values()]),
        n_clusters=next(iter(pairs.values())).n_clusters,
        leave_out=lambda: combined([pair.without for pair in pairs.values()]),
    )


def partial_of(matrix: Floats) -> Floats:
    """Partial correlation of the first two of p columns from (B, p, p) correlation matrices, (B,)."""
    good = np.asarray(np.isfinite(matrix).all(axis=(1, 2)))
    good[good] &= np.linalg.eigvalsh(matrix[good])[:, 0] > 1e-10
    value = np.full(len(matrix), np.nan)
    inverse = np.linalg.inv(matrix[good])
    value[good] = -inverse[:, 0, 1] / np.sqrt(inverse[:, 0, 0] * inverse[:, 1, 1])
    return np.clip(value, -1.0, 1.0)
