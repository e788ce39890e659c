"""What every statistic is here: a function of the weights of clusters.

It is built once from n tokens in K clusters (responses) and then called with (B, K) weights, one row per resample; it
returns (B,) values: those of the sample in which every token of cluster k is repeated weights[b, k] times. Equal
weights give the estimate, multinomial counts the bootstrap, a zero leaves a cluster out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from inversion.statistics.core.ranks import Floats

AtOnce = Callable[[Floats], Floats]
ROWS = 500  # clusters left out at once: a full K x K matrix would grow too large
CHUNK = 4_000_000  # array elements worked on at once: bounds the memory


@dataclass(frozen=True)
class Statistic:
    """A statistic of K clusters.

    ``leave_out`` replaces the plain recipe for the values without each cluster, where that recipe misleads.
    """

    at: AtOnce  # (B, K) weights -> (B,) values
    n_clusters: int
    leave_out: Callable[[], Floats] | None = None  # () -> (K,) values

    def __call__(self, weights: Floats) -> Floats:
        """The values at rows of weights, (B, K) -> (B,)."""
        return self.at(weights)

    @cached_property
    def estimate(self) -> float:
        """The value at equal weights."""
        return float(self.at(np.ones((1, self.n_clusters)))[0])

    @cached_property
    def without(self) -> Floats:
        """The value without each cluster, (K,)."""
        k = self.n_clusters
        if k < 2:
            return np.full(k, np.nan)
        if self.leave_out is not None:
            return self.leave_out()
        blocks = np.array_split(np.arange(k), -(-k // ROWS))
        return np.concatenate([self.at(1.0 - (rows[:, None] == np.arange(k))) for rows in blocks])


def in_chunks(rows: AtOnce, weights: Floats, width: int) -> Floats:
    """Apply ``rows`` to blocks of rows so that at most ``CHUNK`` elements (rows times ``width``) are held at once."""
    step = max(1, CHUNK // max(width, 1))
    return np.concatenate([rows(weights[i : i + step]) for i in range(0, len(weights), step)])


def undefined(n_clusters: int) -> Statistic:
    """The statistic of tokens that have none: NaN."""
    return Statistic(lambda weights: np.full(len(weights), np.nan), n_clusters)
