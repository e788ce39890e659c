"""Figures of a training comparison: methods before and after, and their curves."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from inversion.figures.panels import (
    ACCURACY,
    RHO,
    UNIT_NAMES,
    Drawn,
    band_table,
    legend_above,
    legend_of_figure,
    looks_of,
    signed,
    spread,
)
from inversion.figures.sources import Sources, Table
from inversion.plots import PAGE_INCHES, Band, curves, new_figure, style, table_bands
from inversion.plots.style import COLOURS, GREY, look
from inversion.statistics.seeds import seed_interval
from inversion.tables import markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURES = {"accuracy": ACCURACY, "rho_position": "ρ, positions", "rho_token_type": "ρ, token types"}
MOST_POINTS = 10
LEAST_DOSE = 0.1
"""How far apart the methods' mean correlations have to be for accuracy to be drawn against them."""
REFERENCE = "grpo"
MOST_CURVES = 4
UNSTEERED = "none"
"""The condition of supervised fine-tuning that the others are compared with."""


@dataclass(frozen=True)
class Row:
    """A method's values after training: the mean over seeds, its 95 % t interval (NaN with one seed), the seeds.

    mean: NaN where it was not measured. before: mean before training, NaN where it was not measured. values: (seeds,).
    """

    method: str
    before: float
    mean: float
    low: float
    high: float
    values: np.ndarray


def method_rows(comparison: Table, measure: str) -> list[Row]:
    """Compute what :func:`draw_methods` draws, methods in order of appearance, also those without a value."""
    rows = []
    for method in dict.fromkeys(comparison["method"]):
        mine = comparison[comparison["method"] == method]
        values = mine.loc[mine["when"] == "after", measure].dropna().to_numpy(float)
        before = mine.loc[mine["when"] == "before", measure].dropna().to_numpy(float)
        start = float(before.mean()) if before.size else float("nan")
        mean, low, high = seed_interval(values) if values.size else np.full(3, np.nan)
        rows.append(Row(str(method), start, mean, low, high, values))
    return rows


def draw_methods(rows: list[Row], ax: "Axes", *, xlabel: str) -> "Axes":
    """Draw a method a line: hollow before training, filled after it with its interval, and the single seeds."""
    for place, row in enumerate(rows):
        ax.plot(row.values, np.full(row.values.size, place - 0.22), "|", color=GREY, markersize=4, markeredgewidth=0.8)
        ax.hlines(place, row.low, row.high, color=look(0)["color"], linewidth=1.2)
        ax.plot(row.before, place, "o", markerfacecolor="white", color=GREY, markersize=4, zorder=3)
        ax.plot(row.mean, place, "o", color=look(0)["color"], markersize=4, zorder=4)
    ax.set_yticks(range(len(rows)), [row.method for row in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel=xlabel)
    return ax


def comparison_figure(sources: Sources) -> Iterator[Drawn]:
    """Accuracy and correlation of every method, before and after."""
    table = sources.table("comparison")
    if table is None:
        return
    # All panels have the same methods, since they share the axis that names them.
    after = table[table["when"] == "after"].dropna(subset=list(MEASURES), how="all")
    table = table[table["method"].isin(after["method"])]
    found = {measure: method_rows(table, measure) for measure in MEASURES if after[measure].notna().any()}
    if not found:
        return
    height = 0.75 + 0.24 * table["method"].nunique()
    figure, axes = new_figure(PAGE_INCHES, height, len(found), sharey=True)
    with style():
        for ax, (measure, rows) in zip(axes[0], found.items(), strict=True):
            draw_methods(rows, ax, xlabel=MEASURES[measure])
    lines = []
    for rows in zip(*found.values(), strict=True):
        cells = [
            _cell(row, signs=m != "accuracy") if row.values.size else "" for m, row in zip(found, rows, strict=True)
        ]
        lines.append([rows[0].method, *cells])
    counts = sorted({row.values.size for rows in found.values() for row in rows if row.values.size})
    seeds = " to ".join(map(str, counts[:: max(1, len(counts) - 1)]))
    yield Drawn(
        "training-comparison",
        figure,
        f"**Methods compared.** Filled: after training, mean over seeds ({seeds} per method) with a 95 % t interval; "
        "strokes: single seeds; hollow: before training. Held-out problems.\n\n"
        + markdown_table(["method", *(MEASURES[m] for m in found)], lines),
    )


def slopes(comparison: Table, x: str, y: str) -> np.ndarray:
    """Return, for each seed, by how much ``y`` rises with ``x`` over the methods after training: least squares.

    Within a seed all methods see the same problems, so what the seeds differ in does not enter.
    """
    after = comparison[comparison["when"] == "after"].dropna(subset=[x, y])
    return np.array(
        [np.polyfit(rows[x], rows[y], 1)[0] for _, rows in after.groupby("seed") if rows[x].nunique() > 1], float
    )


def dose_response_figure(sources: Sources) -> Iterator[Drawn]:
    """Accuracy against the correlation that was reached, every method and seed a point, where methods moved it."""
    table = sources.table("comparison")
    if table is None:
        return
    right = "pass_at_1" if "pass_at_1" in table else "accuracy"
    measures = [measure for measure in MEASURES if measure != "accuracy" and table[measure].notna().any()]
    after, before = (table[table["when"] == when] for when in ("after", "before"))
    # Where no method has moved the correlation, a slope would be one of noise on noise.
    reached = after.groupby("method")[measures].mean()
    if not ((reached.max() - reached.min()) >= LEAST_DOSE).any():
        return
    figure, axes = new_figure(PAGE_INCHES, 2.9, len(measures), sharey=True)
    with style():
        for ax, measure in zip(axes[0], measures, strict=True):
            ax.plot(before[measure], before[right], "o", markerfacecolor="white", color=GREY, ms=4, label="before")
            for place, (method, rows) in enumerate(after.groupby("method", sort=False)):
                shown = {**look(place), "linestyle": "none", "markersize": 4, "label": method}
                hollow = {"markerfacecolor": "none"} if place >= len(COLOURS) else {}  # colours come round again
                ax.plot(rows[measure], rows[right], **shown, **hollow)
            ax.set(xlabel=f"{MEASURES[measure]}, after training")
        axes[0][0].set_ylabel(ACCURACY)
        legend_of_figure(figure, 4)
    said = [f"{MEASURES[measure]}: {_slope(slopes(table, measure, right))}" for measure in measures]
    yield Drawn(
        "dose-response",
        figure,
        "**Accuracy against the correlation reached.** A point is a training run on held-out problems, hollow ones are "
        f"the model before. {'Mean over the samples of each problem. ' if right != 'accuracy' else ''}"
        "Rise of accuracy with ρ over the methods of a seed, in points per unit of ρ, mean over seeds with a 95 % t "
        f"interval: {'; '.join(said)}.",
    )


def before_after_bands(layers: Table, unit: str) -> list[Band]:
    """The correlation of each layer before training and after it, a band a method, layers in the place of steps."""
    import pandas as pd

    rows = layers[layers["unit"] == unit]
    # The start is the same for all methods: one measurement a seed.
    before = rows[rows["when"] == "before"].drop_duplicates(["seed", "layer"]).assign(method="before")
    rows = pd.concat([before, rows[rows["when"] == "after"]]).rename(columns={"layer": "step"})
    return table_bands(rows, "method", "rho")


def training_layers_figure(sources: Sources) -> Iterator[Drawn]:
    """The correlation in each layer, before training and after every method."""
    layers = sources.table("rho-by-layer")
    if layers is None:
        return
    measured = [unit for unit in UNIT_NAMES if layers.loc[layers["unit"] == unit, "rho"].notna().any()]
    found = {unit: before_after_bands(layers, unit) for unit in measured}
    if not found:
        return
    after = ([band for band in bands if band.label != "before"] for bands in found.values())
    looks = looks_of(after) | {"before": {"color": GREY, "linestyle": "--"}}
    figure, axes = new_figure(PAGE_INCHES, 2.6, len(found), sharey=True)
    with style():
        for ax, (unit, bands) in zip(axes[0], found.items(), strict=True):
            drawn, label = [looks[band.label] for band in bands], RHO if ax is axes[0, 0] else ""
            curves(bands, ax, seeds=False, looks=drawn, ylabel=label, xlabel="layer")
            ax.set(title=UNIT_NAMES[unit], xticks=bands[0].steps)
            ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
        legend_of_figure(figure, 4)
    every = [band for bands in found.values() for band in bands]
    tables = "\n\n".join(
        f"{UNIT_NAMES[unit].capitalize()}:\n\n{band_table(bands, along='layer')}" for unit, bands in found.items()
    )
    yield Drawn(
        "training-layers",
        figure,
        "**Layers before and after training.** Spearman ρ of token entropy and the strength of a single layer, all "
        f"projections, on held-out problems. {spread(every)}\n\n{tables}",
    )


def lead(supervised: Table, condition: str, reference: str = UNSTEERED) -> np.ndarray:
    """Return by how much a condition is ahead in accuracy along training, for each seed that both have, (s,).

    Differences are averaged over the steps after 0. These about double, so it is the area between two learning curves
    over the logarithm of steps: positive where the condition learns faster, or more.
    """
    trained = supervised[supervised["step"] > 0]
    means = trained.groupby(["condition", "seed"])["accuracy"].mean().unstack("condition")
    if not {condition, reference} <= set(means):
        return np.empty(0)
    return (means[condition] - means[reference]).dropna().to_numpy(float)


def supervised_figure(sources: Sources) -> Iterator[Drawn]:
    """Accuracy and correlation along supervised fine-tuning with rho steered, a curve a condition."""
    table = sources.table("supervised")
    if table is None:
        return
    panels = {measure: bands for measure in MEASURES if (bands := table_bands(table, "condition", measure))}
    if not panels:
        return
    looks = looks_of(panels.values())
    figure, axes = new_figure(PAGE_INCHES, 2.6, len(panels))
    with style():
        for ax, (measure, bands) in zip(axes[0], panels.items(), strict=True):
            drawn = [looks[band.label] for band in bands]
            curves(bands, ax, log=True, seeds=False, looks=drawn, ylabel=MEASURES[measure])
        signed_axes = [ax for ax, measure in zip(axes[0], panels, strict=True) if measure != "accuracy"]
        for ax in signed_axes:
            ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
            ax.sharey(signed_axes[0])
            ax.autoscale(axis="y")  # to what all of them hold
        legend_of_figure(figure, 4)
    every = [band for bands in panels.values() for band in bands]
    conditions = [name for name in dict.fromkeys(table["condition"]) if name != UNSTEERED]
    ahead = "; ".join(f"{name}: {_points(lead(table, name))}" for name in conditions)
    tables = "\n\n".join(f"{MEASURES[m]}:\n\n{band_table(bands, signs=m != 'accuracy')}" for m, bands in panels.items())
    yield Drawn(
        "supervised-curve",
        figure,
        "**Learning with the correlation set.** Supervised fine-tuning with a term that steers ρ, and without it "
        f"(none); held-out problems. {spread(every)} Accuracy minus that of none, in points, mean over the steps "
        f"after 0; mean over seeds with a 95 % t interval, paired by seed: {ahead or 'no condition'}.\n\n{tables}",
    )


def _slope(found: np.ndarray) -> str:
    return _points(found) if found.size else "one method only"


def _points(found: np.ndarray) -> str:
    """Say shares, one a seed, in percentage points: their mean, its interval, how many there are."""
    if not found.size:
        return "no seed in common"
    mean, low, high = (100 * value for value in seed_interval(found))
    interval = f" [{low:+.1f}, {high:+.1f}]" if np.isfinite(low) else ""
    return f"{mean:+.1f}{interval}, {found.size} seed{'s' if found.size > 1 else ''}"


def _cell(row: Row, *, signs: bool) -> str:
    def say(value: float) -> str:
        return signed(value) if signs else f"{value:.2f}"

    interval = f" [{say(row.low)}, {say(row.high)}]" if np.isfinite(row.low) else ""
    start = f"{say(row.before)} → " if np.isfinite(row.before) else ""
    return start + say(row.mean) + interval


def block_bands(table: Table, measure: str, most: int = MOST_POINTS) -> list[Band]:
    """Training curves, a band a method: means over blocks of neighbouring steps, at most ``most`` of them.

    Each block stands at its last step.
    """
    rows = table[["method", "seed", "step", measure]].dropna()
    if not len(rows):
        return []
    size = -(-int(rows["step"].max()) // most)
    block = -(-rows["step"].clip(lower=1) // size) * size
    means = rows.assign(step=block).groupby(["method", "seed", "step"], sort=False, as_index=False)[measure].mean()
    return table_bands(means, "method", measure)


def method_groups(methods: Sequence[str]) -> list[list[str]]:
    """Share methods out to panels that can be read: CorR-PO and its controls, then the others, the reference in all."""
    own = [method for method in methods if method.startswith("corrpo")]
    others = [method for method in methods if method not in own and method != REFERENCE]
    count = -(-len(others) // MOST_CURVES)
    parts = np.array_split(np.array(others, dtype=object), count) if count else []
    groups = [own, *(list(part) for part in parts)]
    shared = [method for method in methods if method == REFERENCE]
    return [[*shared, *group] for group in groups if group] or [shared]


def training_curves_figure(sources: Sources) -> Iterator[Drawn]:
    """Accuracy and correlation of every method along training, a few methods a panel."""
    table = sources.table("curves")
    if table is None:
        return
    names = {"accuracy": f"{ACCURACY}\nin training", "rho": f"{RHO},\nwithin responses"}
    found = {measure: block_bands(table, measure) for measure in names}
    found = {measure: bands for measure, bands in found.items() if bands}
    if not found:
        return
    groups = method_groups(list(dict.fromkeys(table["method"])))
    figure, axes = new_figure(PAGE_INCHES, 0.9 + 1.6 * len(found), len(groups), len(found), sharex=True, sharey="row")
    with style():
        for column, group in zip(axes.T, groups, strict=True):
            for ax, bands in zip(column, found.values(), strict=True):
                shown = {place: band for place, name in enumerate(group) for band in bands if band.label == name}
                if shown:
                    curves(list(shown.values()), ax, seeds=False, looks=[look(i) for i in shown], xlabel="", ylabel="")
            legend_above(column[0], 2, column[1:])
            column[-1].set_xlabel("training step")
        for ax, measure in zip(axes[:, 0], found, strict=True):
            ax.set_ylabel(names[measure])
    size = -(-int(table["step"].max()) // MOST_POINTS)
    every = [band for bands in found.values() for band in bands]
    tables = "\n\n".join(
        f"{names[m].replace(chr(10), ' ')}:\n\n{band_table(bands, signs=m != 'accuracy')}" for m, bands in found.items()
    )
    yield Drawn(
        "training-curves",
        figure,
        f"**Methods along training.** Means over blocks of {size} steps of the sampled responses. "
        f"{spread(every)}\n\n{tables}",
    )
