"""Norms over layers and projections, and the strength of a token: their mean."""

from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from numbers import Integral
from typing import Any

import numpy as np
import xarray as xr

from inversion.errors import InputError
from inversion.statistics.core.ranks import Floats

BLOCK_BYTES = 32 * 2**20
"""Norms are read in blocks of tokens of about this size, so that a run larger than the memory can be read."""
READERS = 2
"""Blocks that are read at once."""


def check_run(run: Any) -> xr.Dataset:
    """Raise unless ``run`` is a Dataset over tokens with an entropy."""
    if not isinstance(run, xr.Dataset):
        raise InputError(f"A run must be an xarray.Dataset as probe and load_run return it, not {type(run).__name__}.")
    if "token" not in run.dims or "entropy_bits" not in run:
        raise InputError("The run has no entropy_bits over a token dimension; pass what probe or load_run returned.")
    return run


def column(run: xr.Dataset, name: str) -> np.ndarray:
    """One per-token variable or coordinate as an (n,) array; a scalar one is repeated."""
    if name not in run.variables:
        raise InputError(f"The run has no {name}, which this needs; measure it or choose another option.")
    variable = run.variables[name]
    if variable.ndim == 0:
        return np.full(run.sizes["token"], variable.values)
    if variable.dims != ("token",):
        raise InputError(f"{name} should have one value per token, but has dimensions {variable.dims}.")
    return variable.values


def strength_norms(run: xr.Dataset) -> list[str]:
    """Names of the variables that can serve as a strength: those over layers and projections, and logit_space."""
    return [str(k) for k, v in run.data_vars.items() if _is_grid(v) or k == "logit_space"]


def _is_grid(variable: xr.DataArray) -> bool:
    has = set(variable.dims) | {str(c) for c in variable.coords}
    return "token" in variable.dims and {"layer", "projection"} <= has


def has_grid(run: xr.Dataset, norm: str) -> bool:
    """Whether the norm has layers and projections (the logit-space strength has none)."""
    return norm in run and norm != "logit_space" and _is_grid(run[norm])


def strength_grid(run: xr.Dataset, norm: str, layers: Any = None, projections: Any = None) -> xr.DataArray:
    """The chosen part of a norm, always with dims (token, layer, projection)."""
    check_run(run)
    if norm not in run or norm not in strength_norms(run):
        raise InputError(f"The run has no norm {norm!r}; it has {', '.join(strength_norms(run)) or 'none'}.")
    grid = run[norm]
    for dim in ("layer", "projection"):
        if dim not in grid.dims:
            grid = grid.expand_dims(dim)
    grid = grid.transpose("token", "layer", "projection")
    if layers is None and projections is None:
        return grid
    chosen_layers = pick_layers(layer_labels(grid), layers)
    return grid.isel(layer=chosen_layers, projection=pick_projections(projection_labels(grid), projections))


def layer_labels(grid: xr.DataArray) -> list[int]:
    """Layer numbers; 0, 1, ... where the run names none."""
    return [int(v) for v in (grid["layer"].values if "layer" in grid.coords else range(grid.sizes["layer"]))]


def projection_labels(grid: xr.DataArray) -> list[str]:
    """Projection names; "0", "1", ... where the run names none."""
    names: Iterable = grid["projection"].values if "projection" in grid.coords else range(grid.sizes["projection"])
    return [str(v) for v in names]


def pick_layers(labels: list[int], layers: Any) -> list[int]:
    """Positions of the layers asked for: numbers are layer numbers, negative ones count from the last measured."""
    if layers is None:
        return list(range(len(labels)))
    wanted = [layers] if isinstance(layers, Integral) else list(layers)
    positions = []
    for layer in wanted:
        if isinstance(layer, bool) or not isinstance(layer, Integral):
            raise InputError(f"layers must be whole numbers, not {layer!r}.")
        number = int(layer)
        if -len(labels) <= number < 0:
            positions.append(len(labels) + number)
        elif number in labels:
            positions.append(labels.index(number))
        else:
            raise InputError(f"Layer {layer} was not measured; choose among {', '.join(map(str, labels))}.")
    if not positions:
        raise InputError("layers is empty; pass None for all of them.")
    return sorted(set(positions))


def pick_projections(labels: list[str], projections: Any) -> list[int]:
    """Positions of the projections asked for: one name, or several."""
    if projections is None:
        return list(range(len(labels)))
    wanted: list[Hashable] = [projections] if isinstance(projections, str) else list(projections)
    missing = [p for p in wanted if p not in labels]
    if missing:
        raise InputError(f"Projection {missing[0]} was not measured; choose among {', '.join(labels)}.")
    if not wanted:
        raise InputError("projections is empty; pass None for all of them.")
    return sorted({labels.index(str(p)) for p in wanted})


def blocks(grid: xr.DataArray) -> Iterator[tuple[slice, np.ndarray]]:
    """A (token, layer, projection) norm in blocks of tokens: which rows, and their values.

    While one is worked on, the next ones are read.
    """
    each = max(grid.dtype.itemsize * grid.sizes["layer"] * grid.sizes["projection"], 1)
    step, n = max(BLOCK_BYTES // each, 1), grid.sizes["token"]
    coming: deque[tuple[slice, Future[np.ndarray]]] = deque()
    with ThreadPoolExecutor(READERS) as threads:
        for first in range(0, n, step):
            rows = slice(first, min(first + step, n))
            coming.append((rows, threads.submit(lambda rows=rows: grid.isel(token=rows).values)))
            if len(coming) > READERS:
                rows, block = coming.popleft()
                yield rows, block.result()
        while coming:
            rows, block = coming.popleft()
            yield rows, block.result()


class SiteMean:
    """The mean over sites (layer-projection pairs) of the norms of n tokens, taken block by block.

    Sites that have no value for any token count as not measured; a token that lacks one of the others gets NaN, since
    a mean over other matrices than its neighbours' would not compare.
    """

    def __init__(self, n_sites: int, n_tokens: int):
        self.sums, self.counts = np.zeros(n_tokens), np.zeros(n_tokens, np.min_scalar_type(n_sites))
        self.measured = np.zeros(n_sites, bool)

    def add(self, rows: slice, block: np.ndarray) -> None:
        """Add the norms of some tokens, (b, layer, projection)."""
        flat = block.reshape(len(block), self.measured.size)
        finite = np.isfinite(flat)
        if finite.all():
            self.measured[:] |= len(block) > 0
            self.counts[rows] = self.measured.size
            self.sums[rows] = flat.sum(axis=1, dtype=float)
        else:
            self.measured |= finite.any(axis=0)
            self.counts[rows] = finite.sum(axis=1)
            self.sums[rows] = np.where(finite, flat, 0.0).sum(axis=1, dtype=float)

    def take(self) -> Floats:
        """The means, (n,), made in the place of the sums, which are gone then."""
        there, means = int(self.measured.sum()), self.sums
        del self.sums
        means /= max(there, 1)
        means[(self.counts != there) | (there == 0)] = np.nan
        return means


def part(block: np.ndarray, layers: list[int], projections: list[int]) -> np.ndarray:
    """Some layers and projections of norms (b, layer, projection); a view where they are neighbours."""
    rows, columns = (_neighbours(places) for places in (layers, projections))
    return block[:, rows][:, :, columns]


def _neighbours(places: list[int]) -> slice | list[int]:
    first, last = places[0], places[-1]
    return slice(first, last + 1) if len(places) == last - first + 1 else places


def mean_strength(values: np.ndarray) -> Floats:
    """Strength of each token from (n, layer, projection) norms, (n,): see :class:`SiteMean`."""
    mean = SiteMean(values.shape[1] * values.shape[2], len(values))
    mean.add(slice(None), values)
    return mean.take()


def strength(
    run: xr.Dataset, norm: str, layers: Any = None, projections: Any = None
) -> tuple[Floats, tuple[int, ...], tuple[str, ...]]:
    """Strength of each token in the order of the rows, (n,), and the layers and projections it is a mean over.

    logit_space has none of either.
    """
    if norm == "logit_space" and not has_grid(run, norm):
        return column(check_run(run), norm).astype(float), (), ()
    grid = strength_grid(run, norm)
    rows, columns = pick_layers(layer_labels(grid), layers), pick_projections(projection_labels(grid), projections)
    mean = SiteMean(len(rows) * len(columns), grid.sizes["token"])
    for tokens, block in blocks(grid):
        mean.add(tokens, part(block, rows, columns))
    return mean.take(), tuple(layer_labels(grid)[i] for i in rows), tuple(projection_labels(grid)[i] for i in columns)
