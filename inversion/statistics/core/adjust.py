"""Many tests at once: false discovery rates, and limits that hold for all of them together."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import false_discovery_control

from inversion.statistics.core.inference import NAN, Inference, Resampling, critical, flip_bounds, from_z, sign_flips
from inversion.statistics.core.ranks import Floats, Ints


def q_values(p: Floats) -> Floats:
    """Benjamini-Hochberg q-values of (m,) p-values; NaN stays NaN and does not count as a test."""
    q = np.full(p.shape, NAN)
    good = np.isfinite(p)
    if good.any():
        q[good] = false_discovery_control(p[good])
    return q


def simultaneous(
    labels: Sequence[Ints], found: Sequence[Inference], resampling: Resampling, n_clusters: int
) -> tuple[Floats, Floats]:
    """Limits that hold for all of m correlations at once: two (m,) arrays.

    One flip of the clusters' signs is applied to all, and the largest deviation among them, in standard errors, is
    kept; its quantile over flips widens every interval alike (max-t, on Fisher's z scale).

    Args:
        labels: Which of the clusters each correlation is made of.
        found: Their estimates and errors.
        resampling: The flips, and the level.
        n_clusters: Number of clusters of all of them.
    """
    low, high = np.full(len(found), NAN), np.full(len(found), NAN)
    loos = {i: f.loo for i, f in enumerate(found) if f.loo is not None and f.standard_error > 0}
    if not loos:
        return low, high
    flips = sign_flips(n_clusters, resampling.resamples, resampling.seed)
    largest = np.zeros((2, len(flips)))  # below, above
    for i, loo in loos.items():
        deviations = np.stack(flip_bounds(loo, flips[:, labels[i]])) / loo.standard_error
        largest = np.maximum(largest, deviations)
    down, up = (critical(row, resampling.level) for row in largest)
    for i, loo in loos.items():
        low[i] = from_z(loo.estimate - down * loo.standard_error)
        high[i] = from_z(loo.estimate + up * loo.standard_error)
    return low, high
