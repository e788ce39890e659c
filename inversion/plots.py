"""Draw results. Every function takes data and an optional Axes, draws, and returns the Axes.

What to draw is computed in functions of its own, so that it can be tested without looking at pixels. No global state is
touched: callers who want the house style use :func:`style` as a context.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from inversion.statistics import Correlation
from inversion.statistics._data import strength as strength_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "figure.dpi": 200,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,  # TrueType, which journals ask for
    "svg.hashsalt": "inversion",
}
COLUMN_INCHES, PAGE_INCHES = 3.25, 6.75
LOWEST_BITS = 1e-4
"""Entropies below are drawn here: on a logarithmic axis they would stretch it to rounding noise."""


@contextmanager
def style() -> Iterator[None]:
    """Draw inside this context for figures at column width that print well."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        yield


def save_figure(figure: "Figure", stem: str) -> None:
    """Write ``stem.pdf`` and ``stem.png``; the same figure gives the same bytes."""
    figure.savefig(f"{stem}.pdf", metadata={"CreationDate": None, "Producer": None, "Creator": "inversion"})
    figure.savefig(f"{stem}.png", metadata={"Software": "inversion"})


@dataclass(frozen=True)
class EntropyStrength:
    """Tokens as points, and their trend.

    entropy_bits, strength: (n,), entropies not below :data:`LOWEST_BITS`.
    middle_bits, middle_strength: medians of groups of tokens of neighbouring entropy, (bins,).
    """

    entropy_bits: np.ndarray
    strength: np.ndarray
    middle_bits: np.ndarray
    middle_strength: np.ndarray


def entropy_strength_points(
    run: xr.Dataset,
    norm: str = "nuclear",
    layers: Sequence[int] | None = None,
    projections: Sequence[str] | None = None,
    bins: int = 12,
) -> EntropyStrength:
    """Compute what :func:`entropy_strength` draws, with trend groups of equal numbers of tokens."""
    entropy = np.maximum(run["entropy_bits"].values, LOWEST_BITS)
    strength = strength_of(run, norm, layers, projections)[0]
    groups = [group for group in np.array_split(np.argsort(entropy, kind="stable"), bins) if len(group)]
    return EntropyStrength(
        entropy,
        strength,
        np.array([np.median(entropy[group]) for group in groups]),
        np.array([np.median(strength[group]) for group in groups]),
    )


def entropy_strength(
    run: xr.Dataset,
    ax: "Axes | None" = None,
    *,
    norm: str = "nuclear",
    layers: Sequence[int] | None = None,
    projections: Sequence[str] | None = None,
    result: Correlation | None = None,
    title: str = "",
) -> "Axes":
    """Draw the density of tokens over entropy and logit-gradient strength, both logarithmic, with their trend.

    Args:
        run: A run or a single capture.
        ax: Where to draw; a new figure by default.
        norm: Norm of the gradient.
        layers: Layers the strength is a mean over.
        projections: Projections the strength is a mean over.
        result: A correlation to write into the corner.
        title: Title of the Axes.
    """
    ax = _axes(ax)
    points = entropy_strength_points(run, norm, layers, projections)
    kept = points.strength > 0
    ax.hexbin(
        points.entropy_bits[kept],
        points.strength[kept],
        xscale="log",
        yscale="log",
        bins="log",
        gridsize=32,
        mincnt=1,
        cmap="Blues",
        linewidths=0.1,
    )
    ax.plot(points.middle_bits, points.middle_strength, color="#b2411e", marker="o", markersize=2.5, linewidth=1)
    ax.set(xlabel="token entropy (bits)", ylabel=f"logit-gradient strength ({norm} norm)", title=title)
    if result is not None:
        text = f"ρ = {result.estimate:+.2f} [{result.low:+.2f}, {result.high:+.2f}]"
        ax.annotate(text, (0.03, 0.03), xycoords="axes fraction", fontsize=7)
    return ax


def _axes(ax: "Axes | None") -> "Axes":
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots()[1]
