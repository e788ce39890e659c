"""Curves over training steps, with bands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from inversion.errors import InputError
from inversion.plots.style import GREY, axes_or_new, house_style_alone, look
from inversion.reference import Series
from inversion.statistics import Trajectory

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

REPORTED_MARKERS = ("^", "D", "v", "s")
"""Reported values are hollow and grey in every figure, so that nobody takes them for measured ones."""


@dataclass(frozen=True)
class Band:
    """One curve and how far it may be off.

    steps, middle, low, high: (k,) each.
    members: (seeds, k), the single seeds; NaN where one has no value at a step.
    kind: What ``low`` and ``high`` are: "interval" of one run's responses (of several seeds the mean of theirs), or
        "range" from lowest to highest seed.
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
    ax = curves(bands, ax, reference=reference, ylabel="correlation of strength and entropy (ρ)", title=title)
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
    return table_bands(frame, "method")


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
    ax = curves(training_bands(frame), axes_or_new(ax), ylabel=ylabel, title=title)
    _legend(ax)
    return ax


def table_bands(frame: Any, by: str, value: str = "value", *, intervals: bool = False) -> list[Band]:
    """Turn a long table into bands: a curve a value of ``by``, in order of appearance.

    Several seeds give their mean and the range from lowest to highest. A single seed gives its own value, and the
    interval in the columns ``low`` and ``high`` where the table has them. Steps without any value are left out.

    Args:
        frame: A DataFrame, one row a measurement, with columns step, seed, ``by`` and ``value``.
        by: Column that names the curves.
        value: Column that is drawn.
        intervals: Whether several seeds show the mean of their intervals instead, from the columns ``low`` and
            ``high``: for few seeds whose measurements are less certain than they are apart. Where they are measured on
            the same problems, the interval of their mean is no wider.

    Raises:
        InputError: A curve, seed and step occur twice, there is no row, or there are no intervals where they are to be
            shown.
    """
    if len(frame) == 0:
        raise InputError("the table has no rows, so there is no curve to draw.")
    if frame.duplicated(["step", by, "seed"]).any():
        raise InputError(f"a {by} has two values at the same step and seed; keep one of them.")
    with_intervals = {"low", "high"} <= set(frame.columns)
    if intervals and not with_intervals:
        raise InputError("the table has no columns low and high, so it has no intervals to show; leave intervals out.")
    bands = []
    for label in frame[by].drop_duplicates():
        rows = frame[(frame[by] == label) & frame[value].notna()].sort_values("step")
        if len(rows) == 0:
            continue
        table = rows.pivot(index="seed", columns="step", values=value)
        members, steps = table.to_numpy(dtype=float), table.columns.to_numpy(float)
        middle = np.nanmean(members, 0)
        if intervals or (len(members) == 1 and with_intervals):
            low, high = rows.groupby("step")[["low", "high"]].mean().to_numpy(dtype=float).T
            bands.append(Band(str(label), steps, middle, low, high, members, "interval"))
        else:
            bands.append(
                Band(str(label), steps, middle, np.nanmin(members, 0), np.nanmax(members, 0), members, "range")
            )
    return bands


@house_style_alone
def curves(
    bands: Sequence[Band],
    ax: "Axes | None" = None,
    *,
    reference: Mapping[str, Series] | None = None,
    log: bool = False,
    seeds: bool = True,
    looks: Sequence[dict[str, Any]] | None = None,
    xlabel: str = "training step",
    ylabel: str = "value",
    title: str = "",
) -> "Axes":
    """Draw curves with their bands; the legend is left to the caller.

    Args:
        bands: What :func:`table_bands`, :func:`trajectory_bands` or :func:`training_bands` computed.
        ax: Where to draw; a new figure by default.
        reference: Reported curves to draw as hollow marks. On a linear axis steps beyond the measured ones are cut off.
        log: Whether the steps go on a logarithmic axis that also has a place for 0.
        seeds: Whether to draw the single seeds and to name their number in the label.
        looks: Colour, marker and dashes of each curve; the house's own by default.
        xlabel: Label of the steps.
        ylabel: What is drawn, with its unit.
        title: Title of the Axes.
    """
    ax = axes_or_new(ax)
    for i, band in enumerate(bands):
        drawn = looks[i] if looks else look(i)
        label = band.label
        if seeds and len(band.members) > 1:
            label = f"{label} ({len(band.members)} seeds)".strip()
            for member in band.members:
                ax.plot(band.steps, member, color=drawn["color"], linewidth=0.4, alpha=0.5)
        ax.fill_between(band.steps, band.low, band.high, color=drawn["color"], alpha=0.15, linewidth=0)
        ax.plot(band.steps, band.middle, **{"markersize": 3, "linewidth": 1.1, **drawn}, label=label or "_nolegend_")
    for i, (name, series) in enumerate((reference or {}).items()):
        ax.plot(
            series.steps,
            series.correlations,
            linestyle="none",
            marker=REPORTED_MARKERS[i % len(REPORTED_MARKERS)],
            markersize=3.5,
            markerfacecolor="none",
            markeredgecolor=GREY,
            markeredgewidth=0.8,
            label=f"{name}, as reported",
        )
    steps = np.unique(np.concatenate([band.steps for band in bands]))
    if log and (steps > 0).any():
        shown = np.concatenate([steps, *(series.steps for series in (reference or {}).values())])
        _log_axis(ax, np.unique(shown))
    elif steps.size > 1:
        room = 0.03 * (steps[-1] - steps[0])
        ax.set_xlim(steps[0] - room, steps[-1] + room)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    return ax


def _log_axis(ax: "Axes", steps: np.ndarray) -> None:
    """Put 0 and the logarithms of positive steps on one axis, with ticks at 0 and at 1, 2 or 5 times powers of ten."""
    first, last = float(steps[steps > 0].min()), float(steps.max())
    ax.set_xscale("symlog", linthresh=first, linscale=0.4)
    decades = 10.0 ** np.arange(np.floor(np.log10(first)), np.ceil(np.log10(last)) + 1)
    factors = (1, 2, 5) if last / first < 100 else (1,)
    ticks = np.unique([0.0, *(f * d for d in decades for f in factors if first <= f * d <= last)])
    ax.set_xticks(ticks, [f"{tick:g}" if tick < 1e4 else f"{tick / 1000:g}k" for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlim(-0.2 * first, last * 1.2)


def _legend(ax: "Axes") -> None:
    if ax.get_legend_handles_labels()[1]:
        ax.legend(handlelength=2.6)
