"""The correlation for every layer and projection, with adjusted p-values and simultaneous intervals."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import xarray as xr

from inversion.errors import InputError
from inversion.statistics.core.adjust import q_values, simultaneous
from inversion.statistics.core.inference import Inference, infer
from inversion.statistics.core.ranks import Floats, Ints
from inversion.statistics.layout import Columns, Strength
from inversion.statistics.options import Interval, Method, Options, Unit
from inversion.statistics.results import number
from inversion.statistics.samples import Facts, Sampler
from inversion.statistics.strengths import has_grid, layer_labels, projection_labels, strength_grid

THREADS = 2
"""Cells of a map that are worked on at once; each holds the ranks of all tokens."""


def layer_map(
    run: xr.Dataset | Columns,
    norm: str = "nuclear",
    method: Method = "spearman",
    unit: Unit = "position",
    layers: int | Sequence[int] | None = None,
    projections: str | Sequence[str] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    *,
    given: str | Sequence[str] = (),
    interval: Interval = "signflip",
    cluster: str = "response",
) -> xr.Dataset:
    """Correlate strength with entropy for each layer and projection apart.

    Args:
        run: A run or capture.
        norm: Norm of the strength, one with layers.
        method: As for :func:`inversion.correlate`.
        unit: As for :func:`inversion.correlate`.
        layers: Layers of the map.
        projections: Projections of the map.
        level: Level of the intervals.
        resamples: Number of resamples.
        seed: Seed of the resamples.
        given: Columns to hold fixed.
        interval: Kind of the single intervals.
        cluster: What is resampled.

    Returns:
        A Dataset over (layer, projection): estimate, low, high (each interval holds on its own), p_value, q_value
        (Benjamini-Hochberg over the map: the share of false finds among those with q below a bound is at most that
        bound), simultaneous_low and simultaneous_high (at the same level for the whole map at once), standard_error,
        n_tokens, and reason (text, empty unless something is NaN). How it was made, how many responses and clusters
        could be used (in the cell that has most), and notes on what was left out, are in its attrs.
        :func:`inversion.statistics.map_text` lays it out for a terminal.

    Raises:
        InputError: The run lacks what is asked for, the norm has no layers, or an option cannot be used.
    """
    options = Options(
        norm, method, unit, layers, projections, level, resamples, seed, given=given, interval=interval, cluster=cluster
    )
    return layer_map_of(Sampler.of(run, options), options)


def layer_map_of(sampler: Sampler, options: Options) -> xr.Dataset:
    """``layer_map`` from a sampler and options."""
    run, norm = sampler.columns.run, options.norm
    if norm == "logit_space" and not has_grid(run, norm):
        raise InputError("logit_space has no layers; use correlate(run, norm='logit_space').")
    grid = strength_grid(run, norm, options.layers, options.projections)
    coords = {"layer": layer_labels(grid), "projection": projection_labels(grid)}
    shape = tuple(len(labels) for labels in coords.values())

    def one(cell: tuple[int, int, np.ndarray]) -> tuple[Inference, Ints, Facts]:
        i, j, values = cell
        site = Strength(values, (coords["layer"][i],), (coords["projection"][j],))
        drawn = sampler.draw(options, strength=site)
        # Only these are kept: a sample holds the ranks of all tokens.
        return infer(drawn.sample, options.resampling), drawn.sample.labels, drawn.facts

    results = []
    with ThreadPoolExecutor(THREADS) as threads:
        for cells in sampler.columns.cells(norm, options.layers, options.projections):
            results += [one(cells[0]), *threads.map(one, cells[1:])]
    found, labels, facts = zip(*results, strict=True)
    joint = simultaneous(labels, found, options.resampling, sampler.clusters.names.size)
    columns: dict[str, np.ndarray] = _table(found) | dict(
        zip(("simultaneous_low", "simultaneous_high"), joint, strict=True)
    )
    columns["n_tokens"] = np.array([f.n_tokens for f in facts], dtype=np.intp)
    columns["reason"] = np.array([f.reason or "" for f in found], dtype=object).astype(str)
    arrays = {name: (("layer", "projection"), column.reshape(shape)) for name, column in columns.items()}
    notes = tuple(dict.fromkeys(note for f in (*facts, *found) for note in f.notes))
    return xr.Dataset(arrays, coords=coords, attrs=_attrs(sampler, options, found, facts, notes))


def _table(found: Sequence[Inference]) -> dict[str, Floats]:
    names = ("estimate", "low", "high", "p_value", "standard_error")
    table = {name: np.array([getattr(f, name) for f in found], dtype=float) for name in names}
    return table | {"q_value": q_values(table["p_value"])}


def _attrs(
    sampler: Sampler, options: Options, found: Sequence[Inference], facts: Sequence[Facts], notes: tuple[str, ...]
) -> dict:
    columns = sampler.columns
    return {
        "method": options.method,
        "unit": options.unit,
        "norm": options.norm,
        "quantity": columns.measured.quantity,
        "model": columns.measured.model,
        "given": list(options.given),
        "interval": " / ".join(dict.fromkeys(f.interval for f in found)),
        "level": float(options.level),
        "resamples": int(options.resamples),
        "seed": int(options.seed),
        "cluster": options.cluster,
        "n_responses": max(f.n_responses for f in facts),
        "n_clusters": max(f.n_clusters for f in facts),
        "notes": list(notes),
    }


def map_text(table: xr.Dataset) -> str:
    """Lay out a layer map for a terminal: estimates, starred where the q-value is below 0.05.

    Args:
        table: What :func:`inversion.layer_map` returned.
    """
    projections = [str(name) for name in table["projection"].values]
    lines = [
        f"Correlation by layer and projection ({table.attrs['norm']}, {table.attrs['method']}, {table.attrs['unit']})",
        "  layer  " + "  ".join(f"{name:>7}" for name in projections),
    ]
    for layer in table["layer"].values:
        row = table.sel(layer=layer)
        cells = [
            number(float(estimate)) + ("*" if q < 0.05 else " ")
            for estimate, q in zip(row["estimate"].values, row["q_value"].values, strict=True)
        ]
        lines.append(f"  {layer:>5}  " + "  ".join(f"{cell:>7}" for cell in cells))
    notes = [f"  ! {note}" for note in table.attrs["notes"]]
    return "\n".join([*lines, "  * Benjamini-Hochberg q-value below 0.05", *notes])
