"""Partial correlations from a matrix of pairwise ones, as functions of response weights."""

from collections.abc import Callable

import numpy as np

from inversion.statistics._correlations import Statistic
from inversion.statistics._ranks import Floats

Pairwise = Callable[[Floats, Floats], Statistic]


def partial_statistic(x: Floats, y: Floats, given: list[Floats], pairwise: Pairwise) -> Statistic:
    """Correlation of x and y with ``given`` held fixed: -P_xy / sqrt(P_xx P_yy), P the inverse correlation matrix.

    ``pairwise`` makes the statistic of one pair of (n,) columns. For Pearson this equals the correlation of the
    residuals of two linear regressions; for Spearman those of the ranks; for Kendall it is Kendall's partial tau,
    carried to several columns by the same formula. NaN where a column is constant or follows from the others.
    """
    columns = [x, y, *given]
    pairs = [(i, j) for i in range(len(columns)) for j in range(i)]
    statistics = [pairwise(columns[i], columns[j]) for i, j in pairs]

    def at(weights: Floats) -> Floats:
        matrix = np.zeros((len(weights), len(columns), len(columns))) + np.eye(len(columns))
        for (i, j), statistic in zip(pairs, statistics, strict=True):
            matrix[:, i, j] = matrix[:, j, i] = statistic(weights)
        return _partial(matrix)

    return at


def _partial(matrix: Floats) -> Floats:
    """Partial correlation of the first two of p columns from (B, p, p) correlation matrices, (B,)."""
    good = np.asarray(np.isfinite(matrix).all(axis=(1, 2)))
    good[good] &= np.linalg.eigvalsh(matrix[good])[:, 0] > 1e-10
    value = np.full(len(matrix), np.nan)
    inverse = np.linalg.inv(matrix[good])
    value[good] = -inverse[:, 0, 1] / np.sqrt(inverse[:, 0, 0] * inverse[:, 1, 1])
    return np.clip(value, -1.0, 1.0)
