"""Ranks of weighted points: rank once, then let the weights move the ranks.

Arrays in, arrays out. n tokens lie in K clusters (responses); a resample is a row of K cluster weights: how often
each response was drawn. B rows of weights are worked on at once.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True)
class Margin:
    """One variable, reduced to what weighted ranking needs.

    A group is a set of tied tokens; groups are numbered in ascending order of value. With more distinct values than
    ``max_groups`` neighbouring values share a group, which is then treated as a tie.
    """

    ids: Ints  # (n,) group of each token
    table: Floats  # (K, M) number of tokens of each cluster in each group
    mass: Floats  # (M,) number of tokens in each group

    @property
    def base(self) -> Floats:
        """Centred relative mid-rank of each group at equal weights, (M,), in -1/2..1/2."""
        return relative_midranks(self.mass[None, :])[0]


def doubled_ranks(values: Floats) -> Ints:
    """Twice the average rank (1..n) of each value, (n,): whole numbers, so that sums of them are exact."""
    return np.rint(2 * rankdata(values)).astype(np.intp)


def margin(values: Floats, cluster: Ints, n_clusters: int, max_groups: int | None = None) -> Margin:
    """Group (n,) values into at most ``max_groups`` ties (None: one group a distinct value) and count by cluster."""
    keys = doubled_ranks(values)
    if max_groups is not None and np.unique(keys).size > max_groups:
        keys = (keys - 1) * max_groups // (2 * keys.size)
    groups, ids = np.unique(keys, return_inverse=True)
    table = np.zeros((n_clusters, groups.size))
    np.add.at(table, (cluster, ids), 1.0)
    return Margin(ids.astype(np.intp), table, table.sum(axis=0))


def relative_midranks(mass: Floats) -> Floats:
    """Centred relative mid-ranks of groups from their masses: (B, M) -> (B, M), in -1/2..1/2.

    The mid-rank of a group is the mass below it plus half its own; it is centred on, and divided by, the total. With
    whole-number weights this is the average rank in the sample in which each token is repeated that often, up to scale.
    Identity: sum(mass * result) == 0.
    """
    total = mass.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (np.cumsum(mass, axis=1) - mass / 2) / total - 0.5


def merge_groups(margin_: Margin, n_groups: int) -> Ints:
    """Map each of M groups to one of at most ``n_groups`` runs of neighbouring groups of about equal mass, (M,)."""
    middle = np.cumsum(margin_.mass) - margin_.mass / 2
    coarse = np.minimum((middle / margin_.mass.sum() * n_groups).astype(np.intp), n_groups - 1)
    return np.unique(coarse, return_inverse=True)[1].astype(np.intp)
