"""Correlation by layer and projection, as a heat map with significance marks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from inversion.errors import InputError
from inversion.plots.style import axes_or_new, diverging, house_style_alone, ink_on
from inversion.statistics.results import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NUMBERS = 48
"""Maps with more cells show triangles instead of numbers."""


@dataclass(frozen=True)
class HeatMap:
    """Cells of a layer map, projections downwards and layers to the right.

    estimate: (projection, layer), -1..1, NaN where undefined.
    marks: (projection, layer) texts: the estimate, starred where ``q_value`` is below the bound; or, in maps of more
        than ``MOST_NUMBERS`` cells, a triangle where it is, down for negative and up for positive.
    limit: Colours span -limit..limit.
    """

    layers: tuple[int, ...]
    projections: tuple[str, ...]
    estimate: np.ndarray
    marks: np.ndarray
    limit: float


def heat_map_cells(table: xr.Dataset, bound: float = 0.05) -> HeatMap:
    """Compute what :func:`layer_heat_map` draws from the Dataset that ``layer_map`` returns.

    Raises:
        InputError: ``table`` lacks estimate or q_value over (layer, projection).
    """
    for name in ("estimate", "q_value"):
        if name not in table or set(table[name].dims) != {"layer", "projection"}:
            raise InputError(f"the table has no {name} over layer and projection; pass what layer_map returned.")
    estimate = table["estimate"].transpose("projection", "layer").values.astype(float)
    q = table["q_value"].transpose("projection", "layer").values.astype(float)
    marks = np.full(estimate.shape, "", dtype=object)
    for place, value in np.ndenumerate(estimate):
        clear = np.isfinite(q[place]) and q[place] < bound
        if estimate.size > MOST_NUMBERS:
            marks[place] = ("▾" if value < 0 else "▴") if clear else ""
        else:
            marks[place] = (number(value, 2).replace("-", "−") if np.isfinite(value) else "–") + "*" * bool(clear)
    finite = np.abs(estimate[np.isfinite(estimate)])
    return HeatMap(
        tuple(int(v) for v in table["layer"].values),
        tuple(str(v) for v in table["projection"].values),
        estimate,
        marks,
        limit=max(0.1, float(finite.max())) if finite.size else 1.0,
    )


@house_style_alone
def layer_heat_map(
    table: xr.Dataset,
    ax: "Axes | None" = None,
    *,
    bound: float = 0.05,
    limit: float | None = None,
    bar: bool = True,
    title: str = "",
) -> "Axes":
    """Draw the correlation of every layer and projection.

    Args:
        table: What ``layer_map`` returned.
        ax: Where to draw; a new figure by default.
        bound: Cells with a q-value below are marked.
        limit: Colours span -limit..limit, so that several maps can share a scale; by default the largest estimate.
        bar: Whether to draw the colour bar; maps that share ``limit`` need only one.
        title: Title of the Axes.

    Raises:
        InputError: ``table`` is not a layer map.
    """
    cells = heat_map_cells(table, bound)
    ax = axes_or_new(ax)
    limit = limit or cells.limit
    cmap = diverging()
    image = ax.imshow(cells.estimate, cmap=cmap, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    for (row, column), text in np.ndenumerate(cells.marks):
        colour = cmap(image.norm(cells.estimate[row, column]))
        weight = "bold" if text.endswith("*") or cells.estimate.size > MOST_NUMBERS else "normal"
        size = 6 if len(cells.layers) <= 20 else 4
        ax.text(column, row, text, ha="center", va="center", fontsize=size, color=ink_on(colour), weight=weight)
    step = int(np.ceil(len(cells.layers) / 16))
    ax.set_xticks(range(0, len(cells.layers), step), [str(v) for v in cells.layers[::step]])
    ax.set_yticks(range(len(cells.projections)), cells.projections)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    mark = "*" if cells.estimate.size <= MOST_NUMBERS else "▴▾"
    ax.set(xlabel=f"layer   ({mark}: q < {bound:g})", ylabel="projection", title=title)
    if bar:
        colour_bar([ax], table)
    return ax


def share_axes(tables: Iterable[xr.Dataset]) -> bool:
    """Whether maps have the same layers and projections, so that panels of them can share their axes."""
    return len({(tuple(table["layer"].values), tuple(table["projection"].values)) for table in tables}) == 1


def colour_bar(axes: "Sequence[Axes]", table: xr.Dataset) -> None:
    """Draw the colour bar of the first map beside all of ``axes``."""
    bar = axes[0].figure.colorbar(axes[0].images[0], ax=axes, pad=0.02, aspect=16)
    bar.set_label(f"{table.attrs.get('method', '').capitalize()} ρ".strip())
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(width=0.6)
