"""Several correlations side by side: fingerprints of models, and specification curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from inversion.errors import InputError
from inversion.plots.style import GREY, PAGE_INCHES, axes_or_new, house_style_alone, look
from inversion.reference import SOURCE
from inversion.statistics import Correlation, SpecificationCurve
from inversion.statistics.results import clear_sign

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HATCHES = ("", "////", "....", "xxxx")


@dataclass(frozen=True)
class Bar:
    """One bar: its group and series, where it stands, its value and its interval (NaN where there is none)."""

    group: str
    series: str
    place: float
    width: float
    estimate: float
    low: float
    high: float


def fingerprint_bars(results: Mapping[str, Any] | Sequence[Correlation] | Correlation) -> list[Bar]:
    """Compute what :func:`fingerprint` draws.

    Args:
        results: A correlation or several, named by their label or model; or a mapping from a group's name to a
            correlation, or to a mapping from a series' name to a correlation. Groups stand at 0, 1, 2, ...; their bars
            share 0.8.

    Raises:
        InputError: There is nothing to draw, something that is no Correlation, or two have the same name.
    """
    if not isinstance(results, Mapping):
        listed = list(results) if isinstance(results, Sequence) else [results]
        named: dict[str, Any] = {}
        for i, c in enumerate(listed):
            name = (c.label or c.model or str(i)) if isinstance(c, Correlation) else str(i)
            if name in named:
                raise InputError(f"several correlations are called {name!r}; pass a mapping from a name to each.")
            named[name] = c
        results = named
    groups = {
        str(name): entry if isinstance(entry, Mapping) else {"": entry}
        for name, entry in results.items()
    }  # fmt: skip
    found = [c for entries in groups.values() for c in entries.values()]
    if not found or not all(isinstance(c, Correlation) for c in found):
        raise InputError("there is no correlation to draw; pass what correlate returned, by name.")
    series = list(dict.fromkeys(str(name) for entries in groups.values() for name in entries))
    width = 0.8 / len(series)
    bars = []
    for i, (group, entries) in enumerate(groups.items()):
        for name, c in entries.items():
            place = i + (series.index(str(name)) - (len(series) - 1) / 2) * width
            bars.append(Bar(group, str(name), place, width, c.estimate, c.low, c.high))
    return bars


@house_style_alone
def fingerprint(
    results: Mapping[str, Any] | Sequence[Correlation] | Correlation | Sequence[Bar],
    ax: "Axes | None" = None,
    *,
    reference: Mapping[str, float] | None = None,
    title: str = "",
) -> "Axes":
    """Draw correlations side by side with their intervals.

    Args:
        results: As :func:`fingerprint_bars`, or bars that were computed otherwise.
        ax: Where to draw; a new figure by default.
        reference: Reported values to draw as hollow marks to the right, such as ``inversion.reference.FINGERPRINT``.
        title: Title of the Axes.

    Raises:
        InputError: As :func:`fingerprint_bars`.
    """
    listed = list(results) if isinstance(results, Sequence) else []
    given = [bar for bar in listed if isinstance(bar, Bar)]
    bars = given if given and given == listed else fingerprint_bars(results)  # pyright: ignore[reportArgumentType]
    ax = axes_or_new(ax)
    series = list(dict.fromkeys(bar.series for bar in bars))
    for i, name in enumerate(series):
        mine = [bar for bar in bars if bar.series == name]
        place, estimate, low, high = (
            np.array([getattr(bar, field) for bar in mine]) for field in ("place", "estimate", "low", "high")
        )
        # Light bars under dark intervals: both ends of an interval can be seen.
        ax.bar(
            place,
            estimate,
            0.92 * mine[0].width,
            facecolor=(*_rgb(look(i)["color"]), 0.45),
            edgecolor=look(i)["color"],
            hatch=HATCHES[i % len(HATCHES)],
            linewidth=0.6,
            label=name or "_nolegend_",
        )
        ax.vlines(place, low, high, color="black", linewidth=1)
        ax.plot(place, estimate, "o", color="black", markersize=2.2)
    groups = list(dict.fromkeys(bar.group for bar in bars))
    names = [*groups, *(reference or {})]
    if reference:
        places = len(groups) + np.arange(len(reference))
        ax.plot(places, list(reference.values()), "D", markerfacecolor="none", color=GREY, markersize=4, label=SOURCE)
        ax.axvline(len(groups) - 0.5, color=GREY, linewidth=0.6, linestyle=(0, (2, 2)))
    ax.axhline(0, color="black", linewidth=0.6)
    turn = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) * len(names) > 40 else {}
    ax.set_xticks(range(len(names)), names, **turn)
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.set(ylabel="correlation of strength\nand entropy (ρ)", title=title)
    if ax.get_legend_handles_labels()[1]:
        # Above, where no bar can be: bars may reach -1 and 1.
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1, ncols=4, columnspacing=1.2)
        ax.set_title(title, pad=16)
    return ax


def _rgb(colour: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(colour)


@dataclass(frozen=True)
class SpecificationRows:
    """A specification curve, ascending, and the choices behind each of its points.

    estimate, low, high: (m,), the limits NaN where there is no interval.
    clear: (m,) whether interval and p-value exclude zero.
    choices: ``"kind: value"`` for every choice that varies. chosen: (choices, m), which specification made it.
    """

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    clear: np.ndarray
    choices: tuple[str, ...]
    chosen: np.ndarray


def specification_rows(curve: SpecificationCurve) -> SpecificationRows:
    """Compute what :func:`specification_curve` draws; specifications that are NaN are left out.

    Raises:
        InputError: No specification is defined.
    """
    kept = [c for c in curve.correlations if np.isfinite(c.estimate)]
    if not kept:
        raise InputError("no specification has a defined correlation, so there is nothing to draw.")
    estimate, low, high = (np.array([getattr(c, name) for c in kept], float) for name in ("estimate", "low", "high"))
    kinds = {
        "quantity": [c.quantity for c in kept],
        "norm": [c.norm for c in kept],
        "unit": [c.unit.replace("_", " ") for c in kept],
        "method": [c.method for c in kept],
        "layers": [c.label.removeprefix("layers ") for c in kept],
    }
    choices, chosen = [], []
    for kind, values in kinds.items():
        options = list(dict.fromkeys(values))
        for option in sorted(options) if len(options) > 1 else []:
            choices.append(f"{kind}: {option}")
            chosen.append([value == option for value in values])
    mask = np.array(chosen, dtype=bool).reshape(len(choices), len(kept))
    clear = np.array([clear_sign(c) != 0 for c in kept])
    return SpecificationRows(estimate, low, high, clear, tuple(choices), mask)


@house_style_alone
def specification_curve(
    curve: SpecificationCurve | SpecificationRows, ax: "Axes | None" = None, *, title: str = ""
) -> "Axes":
    """Draw every specification's correlation, ascending, above the choices that made it.

    Args:
        curve: What ``statistics.specification_curve`` or :func:`specification_rows` returned.
        ax: Where to draw; a new figure by default.
        title: Title of the Axes.

    Raises:
        InputError: No specification is defined.
    """
    rows = curve if isinstance(curve, SpecificationRows) else specification_rows(curve)
    ax = axes_or_new(ax, PAGE_INCHES, 1.8 + 0.16 * len(rows.choices))
    x = np.arange(rows.estimate.size)
    ends = np.concatenate([[0.0], rows.estimate, rows.low, rows.high])
    bottom, top = float(np.nanmin(ends)), float(np.nanmax(ends))
    # One Axes for both: the choices are rows below the curve, each as high as 0.11 of the curve's range.
    height = 0.11 * (top - bottom)
    ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
    bounded = np.isfinite(rows.low) & np.isfinite(rows.high)
    blue = look(0)["color"]
    for these, label, marker, colour, face in (
        (bounded & ~rows.clear, "not clear of zero", "o", GREY, "white"),
        (bounded & rows.clear, "clear of zero", "o", blue, blue),
        (~bounded, "no interval", "x", GREY, GREY),
    ):
        if these.any():
            ax.vlines(x[these], rows.low[these], rows.high[these], color=colour, linewidth=0.8, alpha=0.6)
            shown = {"color": colour, "markerfacecolor": face, "markersize": 2.6, "label": label}
            ax.plot(x[these], rows.estimate[these], marker, **shown)
    places = bottom - height * (np.arange(len(rows.choices)) + 1.4)
    for place, row in zip(places, rows.chosen, strict=True):
        ax.plot(x, np.full(x.size, place), ".", color="#DDDDDD", markersize=1.5)
        ax.plot(x[row], np.full(int(row.sum()), place), "|", color="black", markersize=4, markeredgewidth=0.9)
    values = [v for v in np.round(np.arange(-1, 1.01, 0.2), 1) if bottom <= v <= top]
    ax.set_yticks([*values, *places], [*(f"{v:+.1f}".replace("-", "−") if v else "0" for v in values), *rows.choices])
    ax.set_ylim(bottom - height * (len(rows.choices) + 1.2), top + 0.5 * height)
    ax.set_xticks([])
    ax.spines["bottom"].set_visible(False)
    ax.set(title=title)
    level = f"; {curve.level:.4g} intervals" if isinstance(curve, SpecificationCurve) else ""
    ax.set_xlabel(f"{x.size} specifications, sorted by ρ{level}")
    ax.legend(loc="upper left", handletextpad=0.2)
    return ax
