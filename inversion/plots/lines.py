"""Curves over training steps, with bands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from inversion.errors import InputError
from inversion.plots.style import GREY, axes_or_new, house_style_alone, look
from inversion.reference import Series
from inversion.statistics import Trajectory

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Band:
    """One curve and how far it may be off.

    steps, middle, low, high: (k,) each.
    members: (seeds, k), the single seeds; NaN where one has no value at a step.
    kind: What ``low`` and ``high`` are: "interval" of one run's responses, or "range" from lowest to highest seed.
    """

    label: str
    steps: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray
    members: np.ndarray
    kind: str


def trajectory_bands(results: Trajectory | Sequence[Trajectory] | Mapping[str, object]) -> list[Band]:
    """Compute what :func:`trajectory` draws.

    One trajectory gives its intervals. Several of one curve are seeds: their mean, and the range from lowest to
    highest, over the steps that all of them have. A mapping names several curves.

    Raises:
        InputError: There is no trajectory, something else is among them, or the seeds share no step.
    """
    named = results if isinstance(results, Mapping) else {"": results}
    return [_band(str(label), entry) for label, entry in named.items()]


def _band(label: str, entry: object) -> Band:
    seeds = [entry] if isinstance(entry, Trajectory) else list(entry) if isinstance(entry, Sequence) else []
    if not seeds or not all(isinstance(seed, Trajectory) for seed in seeds):
        raise InputError("there is no trajectory to draw; pass what statistics.trajectory returned, or a list of such.")
    steps = sorted(set.intersection(*(set(seed.steps) for seed in seeds)))
    if not steps:
        raise InputError("the seeds have no step in common; measure them at the same steps.")
    parts = [{s: c for s, c in zip(seed.steps, seed.correlations, strict=True)} for seed in seeds]
    values = np.array([[part[s].estimate for s in steps] for part in parts], dtype=float)
    if len(seeds) == 1:
        low, high = (np.array([getattr(parts[0][s], name) for s in steps], float) for name in ("low", "high"))
        return Band(label, np.array(steps), values[0], low, high, values, "interval")
    return Band(label, np.array(steps), values.mean(0), values.min(0), values.max(0), values, "range")


@house_style_alone
def trajectory(
    results: Trajectory | Sequence[Trajectory] | Mapping[str, object],
    ax: "Axes | None" = None,
    *,
    reference: Mapping[str, Series] | None = None,
    title: str = "",
) -> "Axes":
    """Draw the correlation along training.

    Args:
        results: What ``statistics.trajectory`` returned; a list of such, one a seed; or a mapping from a name to
            either.
        ax: Where to draw; a new figure by default.
        reference: Reported curves to draw as hollow marks, such as ``inversion.reference.SFT``; say in the
            caption where they come from. Steps beyond the measured ones are not shown.
        title: Title of the Axes.

    Where there is one trajectory with a change point, the steps its interval holds are shaded.

    Raises:
        InputError: As :func:`trajectory_bands`.
    """
    bands = trajectory_bands(results)
    ax = axes_or_new(ax)
    ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
    if isinstance(results, Trajectory) and results.reason is None:
        ax.axvspan(results.change_low, results.change_high, color="#EDEDED", zorder=-1, linewidth=0)
        text = f"change {results.change_size:+.2f}"
        middle = (results.change_low + results.change_high) / 2
        ax.annotate(text, (middle, 0.98), xycoords=("data", "axes fraction"), ha="center", va="top", fontsize=6.5)
    _draw(ax, bands)
    for i, (name, series) in enumerate((reference or {}).items()):
        drawn = look(len(bands) + i)
        ax.plot(
            series.steps,
            series.correlations,
            linestyle="none",
            marker=drawn["marker"],
            markersize=3.5,
            markerfacecolor="none",
            markeredgecolor=drawn["color"],
            markeredgewidth=0.8,
            label=f"{name}, as reported",
        )
    ax.set(xlabel="training step", ylabel="correlation of strength and entropy (ρ)", title=title)
    _legend(ax)
    return ax


def training_bands(frame: "pd.DataFrame") -> list[Band]:
    """Compute what :func:`training_comparison` draws: a curve a method, in order of appearance.

    Args:
        frame: One row a measurement, with columns step, value, method and seed.

    Raises:
        InputError: A column is missing, or a method, seed and step occur twice.
    """
    columns = ("step", "value", "method", "seed")
    missing = [name for name in columns if name not in frame]
    if missing or len(frame) == 0:
        raise InputError(f"the table needs rows with columns {', '.join(columns)}; it lacks {missing or 'rows'}.")
    if frame.duplicated(["step", "method", "seed"]).any():
        raise InputError("a method has two values at the same step and seed; give each of its runs its own seed.")
    bands = []
    for method in frame["method"].drop_duplicates():
        table = frame[frame["method"] == method].pivot(index="seed", columns="step", values="value")
        members = table.to_numpy(dtype=float)
        if np.isnan(members).all(axis=0).any():
            table = table.loc[:, ~np.isnan(members).all(axis=0)]
            members = table.to_numpy(dtype=float)
        middle, low, high = np.nanmean(members, 0), np.nanmin(members, 0), np.nanmax(members, 0)
        bands.append(Band(str(method), table.columns.to_numpy(float), middle, low, high, members, "range"))
    return bands


@house_style_alone
def training_comparison(
    frame: "pd.DataFrame", ax: "Axes | None" = None, *, ylabel: str = "value", title: str = ""
) -> "Axes":
    """Draw training curves of several methods: the mean over seeds, each seed, and the range from lowest to highest.

    Args:
        frame: One row a measurement, with columns step, value, method and seed.
        ax: Where to draw; a new figure by default.
        ylabel: What ``value`` is, with its unit.
        title: Title of the Axes.

    Raises:
        InputError: As :func:`training_bands`.
    """
    bands = training_bands(frame)
    ax = axes_or_new(ax)
    _draw(ax, bands)
    ax.set(xlabel="training step", ylabel=ylabel, title=title)
    _legend(ax)
    return ax


def _draw(ax: "Axes", bands: Sequence[Band]) -> None:
    for i, band in enumerate(bands):
        drawn = look(i)
        label = band.label
        if band.kind == "range" and len(band.members) > 1:
            label = f"{label} ({len(band.members)} seeds)".strip()
            for member in band.members:
                ax.plot(band.steps, member, color=drawn["color"], linewidth=0.4, alpha=0.5)
        ax.fill_between(band.steps, band.low, band.high, color=drawn["color"], alpha=0.15, linewidth=0)
        ax.plot(band.steps, band.middle, **drawn, markersize=3, linewidth=1.1, label=label or "_nolegend_")
    steps = np.unique(np.concatenate([band.steps for band in bands]))
    if steps.size > 1:
        room = 0.03 * (steps[-1] - steps[0])
        ax.set_xlim(steps[0] - room, steps[-1] + room)


def _legend(ax: "Axes") -> None:
    if ax.get_legend_handles_labels()[1]:
        ax.legend(handlelength=2.6)
