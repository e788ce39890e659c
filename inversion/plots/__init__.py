"""Draw results. Every function takes data and an optional Axes, draws, and returns the Axes.

What to draw is computed in functions of its own, which return plain arrays, so that it can be tested without looking at
pixels. No global state is touched: :func:`style` is a context, and :func:`new_figure` makes a figure that pyplot does
not know. A plot called without Axes makes a pyplot figure, since that is what a notebook shows by itself.
"""

from inversion.plots.bars import (
    Bar,
    SpecificationRows,
    fingerprint,
    fingerprint_bars,
    specification_curve,
    specification_rows,
)
from inversion.plots.density import LOWEST_BITS, EntropyStrength, entropy_strength, entropy_strength_points
from inversion.plots.lines import (
    Band,
    curves,
    table_bands,
    training_bands,
    training_comparison,
    trajectory,
    trajectory_bands,
)
from inversion.plots.maps import HeatMap, heat_map_cells, layer_heat_map
from inversion.plots.strip import TokenStrip, token_strip, token_strip_cells
from inversion.plots.style import COLUMN_INCHES, PAGE_INCHES, STYLE, WIDTHS, new_figure, save_figure, style

__all__ = [
    "COLUMN_INCHES",
    "LOWEST_BITS",
    "PAGE_INCHES",
    "STYLE",
    "WIDTHS",
    "Band",
    "Bar",
    "EntropyStrength",
    "HeatMap",
    "SpecificationRows",
    "TokenStrip",
    "curves",
    "entropy_strength",
    "entropy_strength_points",
    "fingerprint",
    "fingerprint_bars",
    "heat_map_cells",
    "layer_heat_map",
    "new_figure",
    "save_figure",
    "specification_curve",
    "specification_rows",
    "style",
    "table_bands",
    "token_strip",
    "token_strip_cells",
    "training_bands",
    "training_comparison",
    "trajectory",
    "trajectory_bands",
]
