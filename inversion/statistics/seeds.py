"""Intervals over training seeds, of which there are few: Student's t on their values."""

import numpy as np
from scipy import stats


def seed_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Return the mean over seeds and its t interval.

    Args:
        values: One per seed, (s,).
        level: Level of the interval.

    Returns:
        Mean, low, high; NaN bounds with fewer than two seeds.
    """
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * float(stats.sem(values))
    return mean, mean - half, mean + half
