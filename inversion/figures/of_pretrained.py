"""Figures of a study of a pretrained model: as it is, and along fine-tuning."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from inversion.figures.panels import (
    REPORTED,
    RHO,
    UNIT_NAMES,
    Drawn,
    band_table,
    legend_of_figure,
    looks_of,
    signed,
    spread,
    within,
)
from inversion.figures.sources import Sources, Table
from inversion.plots import PAGE_INCHES, Band, curves, new_figure, style, table_bands
from inversion.plots.style import GREY, look
from inversion.reference import SFT

ARMS = {
    "full": "worked solutions, all weights",
    "lora": "worked solutions, LoRA",
    "chains": "chains with tags",
    "traces": "reasoning traces",
    "shuffled": "control: shuffled solutions",
    "prompts": "control: prompts",
}
"""Arms of the study that comes along, with their names in figures; others keep their own."""
SHARE_RIGHT = "own responses, share right"
TEXTS = {"sampled": "own responses", "worked": "worked solutions"}
CONTROLS = {
    "none": "as it is",
    "partial": "given position and surprisal",
    "within": "within responses",
    "between": "between responses",
    "forking": "the most uncertain fifth of tokens",
    "rest": "the other tokens",
    "shuffled": "shuffled within responses",
    "logit_space": "|e − p|, follows entropy by construction",
}
MAIN = "full"
NOT_PUBLISHED = "Weights that were dequantised are not the published ones: no number here is that of a released model."


def arm_rows(table: Table, texts: str, unit: str, norm: str, control: str = "none") -> Table:
    """Rows of all arms on some texts, each arm with its name in figures."""
    kept = (table["texts"] == texts) & (table["unit"] == unit) & (table["norm"] == norm) & (table["control"] == control)
    return table[kept].assign(label=table["arm"].map(lambda arm: ARMS.get(arm, arm)))


def arm_bands(table: Table, texts: str, unit: str, norm: str) -> list[Band]:
    """The correlation along fine-tuning, a curve an arm."""
    rows = arm_rows(table, texts, unit, norm)
    return table_bands(rows, "label", "estimate", intervals=True) if len(rows) else []


def accuracy_bands(table: Table, norm: str) -> list[Band]:
    """The share of right answers along fine-tuning, a curve an arm, over seeds alone."""
    rows = arm_rows(table, "sampled", "position", norm)
    return table_bands(rows[["seed", "step", "label", "accuracy"]], "label", "accuracy")


def curve_figure(sources: Sources) -> Iterator[Drawn]:
    """The correlation along fine-tuning of a pretrained model, a column an arm, beside the post's values."""
    table = sources.table("finetuning")
    if table is None:
        return
    panels = {
        f"{TEXTS[texts]}, {UNIT_NAMES[unit]}": arm_bands(table, texts, unit, sources.norm)
        for texts, unit in (("sampled", "position"), ("sampled", "token_type"), ("worked", "position"))
    }
    accuracy = accuracy_bands(table, sources.norm)
    rows = {**panels, SHARE_RIGHT: accuracy}
    looks = looks_of(rows.values())
    steps = np.unique(table["step"])
    reported = within(SFT, 0, steps[-1])
    figure, axes = new_figure(PAGE_INCHES, 5.6, len(looks), len(rows), sharex=True, sharey="row")
    with style():
        for line, (name, bands) in zip(axes, rows.items(), strict=True):
            found = {band.label: replace(band, label="") for band in bands}
            marks = None if name == SHARE_RIGHT else reported
            for ax, (label, drawn) in zip(line, looks.items(), strict=True):
                if label in found:
                    curves([found[label]], ax, log=True, seeds=False, looks=[drawn], reference=marks, xlabel="")
                ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
                ax.set_ylabel("")
            line[0].set_ylabel(name.replace(", ", "\n") + ("" if marks is None else ": ρ"))
        for ax, label in zip(axes[0], looks, strict=True):
            ax.set_title(label.replace(": ", ":\n").replace(", ", ",\n"))
        for ax in axes[-1]:
            ax.set_xlabel("training step")
            ax.set_xticks(steps, [f"{step:g}" if step in (*steps[:2], steps[-1]) else "" for step in steps])
        figure.align_ylabels()
        legend_of_figure(figure, 2)
    tables = "\n\n".join(f"{title}:\n\n{band_table(bands)}" for title, bands in panels.items())
    every = [band for bands in panels.values() for band in bands]
    several = any(len(band.members) > 1 for band in accuracy)
    shares = " Bands of the share right: lowest to highest seed." if several else ""
    yield Drawn(
        "pretrained-curve",
        figure,
        f"**The correlation along fine-tuning of a pretrained model.** Spearman ρ of token entropy and {sources.norm} "
        f"strength on held-out problems, the same at every step; the arm on chains has problems of its own kind. "
        f"{spread(every)}{shares} {REPORTED} Later steps than the measured ones are left out. {NOT_PUBLISHED}"
        f"\n\n{tables}\n\n{SHARE_RIGHT}:\n\n{band_table(accuracy, signs=False)}",
    )


def main_bands(table: Table, norm: str) -> list[Band]:
    """The correlation along the main arm on own responses, a curve a unit."""
    kept = (table["arm"] == MAIN) & (table["texts"] == "sampled") & (table["norm"] == norm)
    rows = table[kept & (table["control"] == "none")]
    rows = rows.assign(unit=rows["unit"].map(UNIT_NAMES))
    return table_bands(rows[rows["unit"].notna()], "unit", "estimate", intervals=True) if len(rows) else []


def control_bands(table: Table, texts: str, norm: str) -> dict[str, Band]:
    """The correlation over positions and its controls along the main arm, by the names of :data:`CONTROLS`."""
    rows = table[(table["arm"] == MAIN) & (table["texts"] == texts) & (table["unit"] == "position")]
    logits = (rows["norm"] == "logit_space") & (rows["control"] == "none")
    rows = rows[(rows["norm"] == norm) | logits]
    names = rows["control"].where(rows["norm"] != "logit_space", "logit_space").map(CONTROLS)
    rows = rows.assign(control=names)[names.notna()]
    bands = table_bands(rows, "control", "estimate", intervals=True) if len(rows) else []
    return {band.label: band for band in bands}


def controls_figure(sources: Sources) -> Iterator[Drawn]:
    """What could explain the correlation away, along the main arm, on both kinds of texts."""
    table = sources.table("finetuning")
    panels = {} if table is None else {name: control_bands(table, texts, sources.norm) for texts, name in TEXTS.items()}
    panels = {name: bands for name, bands in panels.items() if bands}
    if not panels:
        return
    figure, axes = new_figure(PAGE_INCHES, 3.4, len(panels), sharey=True)
    order = list(CONTROLS.values())
    with style():
        for ax, (name, found) in zip(axes[0], panels.items(), strict=True):
            bands = [found[label] for label in order if label in found]
            looks = [_control_look(order.index(band.label)) for band in bands]
            label = RHO if ax is axes[0, 0] else ""
            curves(bands, ax, log=True, seeds=False, looks=looks, ylabel=label, title=name)
            ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
        legend_of_figure(figure, 2)
    every = [band for bands in panels.values() for band in bands.values()]
    tables = "\n\n".join(f"{name}:\n\n{band_table(list(bands.values()))}" for name, bands in panels.items())
    yield Drawn(
        "pretrained-controls",
        figure,
        f"**Controls along fine-tuning of a pretrained model.** Spearman ρ of token entropy and {sources.norm} "
        f"strength over positions, arm {MAIN}, and what could explain it. {spread(every)} {NOT_PUBLISHED}\n\n{tables}",
    )


def _control_look(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of a control; the last ones, of which there are more than colours, are grey."""
    return look(index) if index < 7 else {"color": GREY, "marker": "*", "linestyle": "-"}


MARKS = {"position": "positions", "token_type": "token types", "logit_space": "|e − p|, positions"}


def baseline_rows(table: Table, norm: str) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Estimate and interval of every run of the baseline, by its name and by the names of :data:`MARKS`."""
    found: dict[str, dict[str, tuple[float, float, float]]] = {}
    plain = table[table["control"] == "none"]
    for row in plain.to_dict("records"):
        key = row["unit"] if row["norm"] == norm else row["norm"]
        if key in MARKS and not (row["norm"] == "logit_space" and row["unit"] != "position"):
            name = f"{row['model']}, {row['texts']}, {row['measurement']}"
            cell = found.setdefault(f"{row['survey']}: {name}", {})
            cell[MARKS[key]] = (row["estimate"], row["low"], row["high"])
    return found


def baseline_figure(sources: Sources) -> Iterator[Drawn]:
    """Every run of the untouched model: the correlation at both units and the control, with intervals."""
    from inversion.tables import markdown_table

    table = sources.table("baseline")
    if table is None:
        return
    rows = baseline_rows(table, sources.norm)
    figure, axes = new_figure(PAGE_INCHES, 0.9 + 0.24 * len(rows))
    ax = axes[0, 0]
    with style():
        for i, name in enumerate(MARKS.values()):
            drawn = look(i)
            for place, cell in enumerate(rows.values()):
                if name in cell:
                    estimate, low, high = cell[name]
                    y = place + 0.22 * (i - 1)
                    ax.plot([low, high], [y, y], color=drawn["color"], linewidth=1)
                    ax.plot(estimate, y, drawn["marker"], color=drawn["color"], markersize=3.2, label=name)
        ax.axvline(0, color=GREY, linewidth=0.6, zorder=0)
        ax.set_yticks(range(len(rows)), list(rows))
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_xlim(-1.03, 1.03)
        ax.set_xlabel(RHO)
        legend_of_figure(figure, 3)
    head = ["survey: model, texts, measurement", *MARKS.values()]
    lines = [
        [name, *(_said(cell[mark]) if mark in cell else "" for mark in MARKS.values())] for name, cell in rows.items()
    ]
    yield Drawn(
        "pretrained-baseline",
        figure,
        f"**A pretrained model as it is.** Spearman ρ of token entropy and {sources.norm} strength with 95 % intervals "
        f"over responses, or over problems where some have several responses. {NOT_PUBLISHED}\n\n"
        f"{markdown_table(head, lines)}",
    )


def _said(numbers: tuple[float, float, float]) -> str:
    estimate, low, high = map(signed, numbers)
    return f"{estimate} [{low}, {high}]"
