"""Turn gradients into norms as they are made."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from inversion.probes.capture import Site
from inversion.probes.gradients import Delta
from inversion.probes.norms import factored_norms, l1_norm, rank_one_norms, triangular_factor
from inversion.probes.pace import norms_at_once


class NormCollector:
    """Collects norms of the weight gradients of t targets.

    A gradient is used when it comes and then dropped. Several threads may call :meth:`take` at a time.

    Args:
        names: Norms wanted.
        sites: Projections wanted.
        positions: Where the targets' logits are read, (t,); nothing after a target's own position matters to it.

    Attributes:
        norms: By name, (t, sites), in float64; NaN where nothing came, or where a gradient was not finite.
        ways: How nuclear norms of matrices that are not of rank one were computed: one way, or several, as was fastest.
    """

    def __init__(self, names: Sequence[str], sites: Sequence[Site], positions: Sequence[int]) -> None:
        self._names, self._positions = list(names), list(positions)
        self._columns = {site: column for column, site in enumerate(sites)}
        shape = (len(self._positions), len(self._columns))
        self.norms = {name: torch.full(shape, math.nan, dtype=torch.float64) for name in names}
        self.ways: set[str] = set()
        self._inputs: Mapping[Site, Tensor] = {}
        self._factors: dict[Site, Tensor] = {}

    def take_inputs(self, inputs: Mapping[Site, Tensor]) -> None:
        """Factor what sites read, (b, d_in); q, k and v mostly read the very same tensor and then share its factor."""
        self._inputs, self._factors = inputs, {}
        known: dict[tuple[int, torch.Size], Tensor] = {}
        for site, read in inputs.items():
            key = (read.data_ptr(), read.shape)
            if key not in known:
                known[key] = triangular_factor(read)
            self._factors[site] = known[key]

    def take(self, delta: Delta) -> None:
        """Compute the norms of targets' gradients at a site."""
        for part, values in self._few_at_once(delta):
            norms = factored_norms(self._factors[delta.site], values, self._names, self.ways)
            if "l1" in self._names:
                norms["l1"] = l1_norm(self._inputs[delta.site][: values.shape[1]], values)
            self._put(part, delta.site, norms)

    def take_rank_one(self, site: Site, inputs: Tensor, values: Tensor) -> None:
        """Compute the norms of all targets' gradients at a site where each is one outer product."""
        self._put(slice(0, len(self._positions)), site, rank_one_norms(inputs, values, self._names))

    def _few_at_once(self, delta: Delta) -> Iterator[tuple[slice, Tensor]]:
        """Cut deltas, (c, b, d_out), into those of a few targets, each few on its own prefix.

        The work on a norm grows with the cube of the prefix.
        """
        few = norms_at_once(delta.values)
        for start in range(delta.part.start, delta.part.stop, few):
            part = slice(start, min(start + few, delta.part.stop))
            rows = slice(start - delta.part.start, part.stop - delta.part.start)
            yield part, delta.values[rows, : self._positions[part.stop - 1] + 1]

    def _put(self, part: slice, site: Site, norms: Mapping[str, Tensor]) -> None:
        for name, values in norms.items():
            values = values.to(self.norms[name])
            # Infinity is no norm of a gradient: a number was too large for the dtype.
            self.norms[name][part, self._columns[site]] = values.masked_fill(values.isinf(), math.nan)
