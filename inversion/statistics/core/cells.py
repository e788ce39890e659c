"""Sums over the cells of a table: n tokens, each in one of K clusters and one of M groups.

Tokens are gone through in blocks, so that what is made for each of them on the way does not add up in a large run.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.float64]
Ints = NDArray[Any]  # whole numbers of any size

BLOCK = 2**20
"""Tokens of one block. Sums of numbers that are not whole ones depend on it, in their last bits and from there on."""


def in_blocks(n: int) -> Iterator[slice]:
    """Yield n tokens block by block."""
    return (slice(first, min(first + BLOCK, n)) for first in range(0, n, BLOCK))


def cell_sums(
    cluster: Ints,
    groups: Callable[[slice], Ints] | None,
    shape: tuple[int, int],
    values: Callable[[slice], Any] | None = None,
) -> Floats:
    """Sum values by cluster and group: a table of ``shape`` (K, M).

    Args:
        cluster: Number 0..K-1 of each token's cluster, (n,).
        groups: Returns the numbers 0..M-1 of the groups of a block of tokens; None where there is one group.
        shape: (K, M).
        values: Returns the values of a block of tokens; 1 each by default.
    """
    table = np.zeros(shape[0] * shape[1])
    for rows in in_blocks(cluster.size):
        cells = cluster[rows] if groups is None else cluster[rows] * np.intp(shape[1]) + groups(rows)
        table += np.bincount(cells, None if values is None else values(rows), table.size)
    return table.reshape(shape)


def numbered(values: Ints) -> tuple[Ints, Ints]:
    """Number the distinct ones of n whole values in ascending order: (n,) numbers, and how often each occurs, (T,)."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if high - low > max(4 * values.size, BLOCK):  # too far apart to be counted
        _, numbers, counts = np.unique(values, return_inverse=True, return_counts=True)
        return numbers.astype(np.intp, copy=False), counts
    counts = np.bincount(values - low)
    there = counts > 0
    return (np.cumsum(there, dtype=np.int32) - 1)[values - low], counts[there]


@dataclass(frozen=True, eq=False)
class TypeCells:
    """Which clusters have which types: m pairs of a cluster and a type, in that order. K clusters, T types."""

    cluster: Ints  # (m,)
    type: Ints  # (m,)
    counts: Ints  # (m,) number of the pair's tokens
    of_token: Ints  # (n,) number 0..m-1 of each token's pair
    shape: tuple[int, int]  # (K, T)

    @classmethod
    def of(cls, types: Ints, cluster: Ints, n_clusters: int) -> "TypeCells":
        """From the types (0..T-1, all there) and clusters (0..K-1) of n tokens."""
        n_types = int(types.max()) + 1
        of_token, counts = numbered(cluster * np.intp(n_types) + types)
        keys = np.empty(counts.size, np.intp)
        keys[of_token] = cluster * np.intp(n_types) + types
        return cls(keys // n_types, keys % n_types, counts, of_token, (n_clusters, n_types))

    def sums(self, values: Floats | None = None) -> Floats:
        """Sum (n,) values by pair, (m,); 1 each by default."""
        return np.asarray(self.counts if values is None else np.bincount(self.of_token, values), float)

    def per_type(self, sums: Floats) -> Floats:
        """Sum (m,) values by type, (T,)."""
        return np.asarray(np.bincount(self.type, sums, self.shape[1]), float)

    def table(self, sums: Floats) -> Any:
        """(m,) values as a sparse table, (K, T)."""
        return sparse.csr_array((sums, (self.cluster, self.type)), shape=self.shape)
