"""Ranks of weighted points: rank once, then let the weights move the ranks.

n tokens lie in K clusters (responses); a resample is a row of K cluster weights: how often each response was drawn.
B rows of weights are worked on at once.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from inversion.statistics.core.cells import Floats, Ints, cell_sums, in_blocks


@dataclass(frozen=True)
class Margin:
    """One variable, reduced to what weighted ranking needs.

    A group is a set of tied tokens; groups are numbered in ascending order of value. With more distinct values than
    the most groups that were asked for, neighbouring values share a group, which is then treated as a tie.
    """

    ids: np.ndarray  # (n,) group of each token, in the smallest whole type that holds it
    table: Floats  # (K, M) number of tokens of each cluster in each group
    mass: Floats  # (M,) number of tokens in each group

    @property
    def base(self) -> Floats:
        """Centred relative mid-rank of each group at equal weights, (M,), in -1/2..1/2."""
        return relative_midranks(self.mass[None, :])[0]


class Variable:
    """One number per token, whose ranks are found once, however many statistics use them.

    Args:
        values: The numbers, (n,).
        cluster: Number 0..K-1 of each token's cluster, (n,).
        n_clusters: K.
    """

    def __init__(self, values: Floats, cluster: Ints, n_clusters: int):
        self.values, self.cluster, self.n_clusters = values, cluster, n_clusters
        self._margins: dict[int | None, Margin] = {}

    @cached_property
    def _ranked(self) -> tuple[Ints, int]:
        return doubled_ranks(self.values)

    @property
    def doubled_ranks(self) -> Ints:
        """Twice the average rank (1..n) of each value, (n,)."""
        return self._ranked[0]

    def by(self, cluster: Ints, n_clusters: int) -> "Variable":
        """The same values in other clusters, without ranking them again."""
        other = Variable(self.values, cluster, n_clusters)
        other.__dict__["_ranked"] = self._ranked
        return other

    def margin(self, most_groups: int | None = None) -> Margin:
        """The values in at most ``most_groups`` ties (None: one group for each distinct value), counted by cluster."""
        if most_groups not in self._margins:
            self._margins[most_groups] = self._grouped(most_groups)
        return self._margins[most_groups]

    def _grouped(self, most_groups: int | None) -> Margin:
        # Ranks are whole numbers up to 2n, so that groups are numbered by counting instead of sorting once more.
        ranks, n_distinct = self._ranked
        n = ranks.size
        if most_groups is None or n_distinct <= most_groups:
            ids, n_groups = _numbered(ranks, 2 * n + 1)
        else:
            places = np.empty(n, np.min_scalar_type(most_groups - 1))
            for rows in in_blocks(n):
                places[rows] = (ranks[rows] - 1) * np.int64(most_groups) // (2 * n)
            ids, n_groups = _numbered(places, most_groups)
        table = cell_sums(self.cluster, lambda rows: ids[rows], (self.n_clusters, n_groups))
        return Margin(ids, table, table.sum(axis=0))


def _numbered(keys: Ints, n_keys: int) -> tuple[Ints, int]:
    """Number the distinct ones of whole ``keys`` below ``n_keys`` in ascending order: (n,) numbers, and how many."""
    there = np.bincount(keys, minlength=n_keys) > 0
    n_groups = int(np.count_nonzero(there))
    numbers = (np.cumsum(there) - 1).astype(np.min_scalar_type(max(n_groups - 1, 0)))
    return numbers[keys], n_groups


def doubled_ranks(values: Floats) -> tuple[Ints, int]:
    """Twice the average rank (1..n) of each value, (n,), and how many distinct values there are.

    Ranks are doubled to be whole numbers, so that sums of them are exact.
    """
    n = values.size
    whole: Any = np.int32 if n < 2**30 else np.int64
    order, is_new = _sorted(values)
    starts = np.flatnonzero(is_new).astype(whole)
    sizes = np.diff(starts, append=whole(n))
    starts *= 2
    starts += sizes
    starts += 1  # twice the mean of the ranks from start + 1 to start + size
    ranks: Any = np.empty(n, whole)
    ranks[order] = starts if starts.size == n else np.repeat(starts, sizes)
    return ranks, starts.size


def _sorted(values: np.ndarray) -> tuple[Ints, np.ndarray]:
    """What sorts n values, (n,), equal ones in any order; and which of the sorted ones differ from those before, (n,).

    Single floats, the norms of a large run, are sorted together with their places as whole numbers of 64 bits, which
    takes half of the time.
    """
    n, is_new = values.size, np.ones(values.size, bool)
    if values.dtype != np.float32 or n >= 2**32:
        order = np.argsort(values)
        ordered = values[order]
        np.not_equal(ordered[1:], ordered[:-1], out=is_new[1:])
        return order, is_new
    bits = (values + np.float32(0)).view(np.uint32)  # without negative zeros
    # The bits of floats are in the order of the floats, once all of those of a negative one, or else the sign, turn.
    keys = (bits ^ np.where(bits >> 31, np.uint32(2**32 - 1), np.uint32(2**31))).astype(np.uint64)
    keys <<= np.uint64(32)
    np.bitwise_or(keys, np.arange(n, dtype=np.uint32), out=keys)
    keys.sort()
    np.greater_equal(keys[1:] ^ keys[:-1], np.uint64(2**32), out=is_new[1:])
    keys &= np.uint64(2**32 - 1)
    return keys.view(np.intp), is_new


def relative_midranks(mass: Floats) -> Floats:
    """Centred relative mid-ranks of groups from their masses: (B, M) -> (B, M), in -1/2..1/2.

    The mid-rank of a group is the mass below it plus half its own; it is centred on, and divided by, the total. With
    whole-number weights this is the average rank in the sample in which each token is repeated that often, up to scale.
    Identity: sum(mass * result) == 0.
    """
    total = mass.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (np.cumsum(mass, axis=1) - mass / 2) / total - 0.5


def merge_groups(margin: Margin, n_groups: int) -> Ints:
    """Map each of M groups to one of at most ``n_groups`` runs of neighbouring groups of about equal mass, (M,)."""
    middle = np.cumsum(margin.mass) - margin.mass / 2
    coarse = np.minimum((middle / margin.mass.sum() * n_groups).astype(np.intp), n_groups - 1)
    return np.unique(coarse, return_inverse=True)[1].astype(np.intp)
