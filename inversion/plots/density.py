"""Token entropy against logit-gradient strength, as a density with its trend."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from inversion.errors import InputError
from inversion.plots.style import POSITIVE, axes_or_new, house_style_alone
from inversion.statistics import Correlation
from inversion.statistics.results import with_interval
from inversion.statistics.samples import counted
from inversion.statistics.strengths import strength as strength_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOWEST_BITS = 1e-4
"""Entropies below are drawn here: on a logarithmic axis they would stretch it to rounding noise."""


@dataclass(frozen=True)
class EntropyStrength:
    """Tokens as points, and their trend.

    entropy_bits, strength: (n,), of the tokens that have both; entropies not below :data:`LOWEST_BITS`.
    middle_bits, middle_strength: medians of groups of tokens of neighbouring entropy, (bins,).
    not_drawn: how many tokens have an entropy but a strength of 0, for which a logarithmic axis has no place.
    """

    entropy_bits: np.ndarray
    strength: np.ndarray
    middle_bits: np.ndarray
    middle_strength: np.ndarray
    not_drawn: int = 0


def entropy_strength_points(
    run: xr.Dataset,
    norm: str = "nuclear",
    layers: Sequence[int] | None = None,
    projections: Sequence[str] | None = None,
    bins: int = 12,
) -> EntropyStrength:
    """Compute what :func:`entropy_strength` draws, with trend groups of equal numbers of tokens."""
    strength = strength_of(run, norm, layers, projections)[0]
    entropy = run["entropy_bits"].values.astype(float)
    # Neither axis has a place for what is missing, nor the logarithmic one for a strength of 0.
    there = np.isfinite(entropy) & np.isfinite(strength)
    kept = there & (strength > 0)
    if not kept.any():
        raise InputError("no token has both an entropy and a strength above 0, so there is nothing to draw.")
    entropy, strength = np.maximum(entropy[kept], LOWEST_BITS), strength[kept]
    groups = [group for group in np.array_split(np.argsort(entropy, kind="stable"), bins) if len(group)]
    return EntropyStrength(
        entropy,
        strength,
        np.array([np.median(entropy[group]) for group in groups]),
        np.array([np.median(strength[group]) for group in groups]),
        not_drawn=int(np.count_nonzero(there & ~kept)),
    )


@house_style_alone
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

    Raises:
        InputError: No token has both an entropy and a positive strength, or the run lacks what is asked for.
    """
    from matplotlib.colors import LogNorm

    points = entropy_strength_points(run, norm, layers, projections)
    ax = axes_or_new(ax)
    cells = ax.hexbin(
        points.entropy_bits,
        points.strength,
        xscale="log",
        yscale="log",
        gridsize=(32, 18),
        mincnt=1,
        cmap="Blues",
        linewidths=0.15,
        edgecolors="face",
    )
    # Below the lowest count, so that a cell with one token is still told from paper.
    cells.set_norm(LogNorm(0.3, max(2.0, float(np.max(np.asarray(cells.get_array()))))))
    ax.plot(points.middle_bits, points.middle_strength, color="white", linewidth=2.4)
    ax.plot(points.middle_bits, points.middle_strength, color=POSITIVE, marker="o", markersize=2.5, linewidth=1)
    ax.set(xlabel="token entropy (bits)", ylabel=f"logit-gradient strength ({norm} norm)", title=title)
    said: Any = {"xycoords": "axes fraction", "fontsize": 7}
    said["bbox"] = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    if result is not None:
        ax.annotate(f"ρ = {with_interval(result)}", (0.03, 0.03), **said)
    if points.not_drawn:
        ax.annotate(f"not drawn: {counted(points.not_drawn, 'token')} of strength 0", (0.03, 0.97), va="top", **said)
    return ax
