"""Figures of a study of a pretrained model: as it is, and along fine-tuning."""

from collections.abc import Collection, Iterator, Sequence
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
    signed,
    spread,
    within,
)
from inversion.figures.sources import NUMBERS, Sources, Table
from inversion.plots import PAGE_INCHES, Band, curves, new_figure, style, table_bands
from inversion.plots.style import GREY, look
from inversion.reference import SFT
from inversion.tables import markdown_table

ARMS = {
    "full": "worked solutions, all weights",
    "lora": "worked solutions, LoRA",
    "chains": "chains with tags",
    "traces": "reasoning traces",
    "shuffled": "control: shuffled solutions",
    "prompts": "control: prompts",
}
"""Arms of the study that comes along, with their names in figures; others keep their own."""
TEXTS = {"sampled": "own responses", "worked": "worked solutions"}
CONTROLS = {
    "none": "as it is",
    "partial": "given position\nand surprisal",
    "within": "within\nresponses",
    "between": "between\nresponses",
    "forking": "most uncertain\nfifth of tokens",
    "rest": "the other\ntokens",
    "shuffled": "shuffled within\nresponses",
    "logit_space": "|e − p|",
}
"""Controls of the study, with their names in figures."""
MAIN = "full"
"""The arm that stands for fine-tuning where there is room for one."""
NOT_PUBLISHED = "Weights that were dequantised are not the published ones: no number here is that of a released model."
ByText = dict[str, list[Band]]
"""By the names of :data:`TEXTS`, a curve an arm."""


def arm_rows(table: Table, texts: str, unit: str, norm: str, control: str = "none") -> Table:
    """Rows of all arms on some texts, each arm with its name in figures."""
    kept = (table["texts"] == texts) & (table["unit"] == unit) & (table["norm"] == norm) & (table["control"] == control)
    rows = table[kept]
    return rows.assign(label=rows["arm"].map(lambda arm: ARMS.get(arm, arm)))


def arm_bands(table: Table, texts: str, unit: str, norm: str, control: str = "none") -> list[Band]:
    """The correlation along fine-tuning, a curve an arm."""
    rows = arm_rows(table, texts, unit, norm, control)
    return table_bands(rows, "label", "estimate", intervals=True) if len(rows) else []


def accuracy_bands(table: Table, norm: str) -> list[Band]:
    """The share of right answers along fine-tuning, a curve an arm, over seeds alone."""
    rows = arm_rows(table, "sampled", "position", norm)
    return table_bands(rows[["seed", "step", "label", "accuracy"]], "label", "accuracy")


def control_bands(table: Table, norm: str) -> dict[str, ByText]:
    """The correlation over positions and its controls along fine-tuning, by the names of :data:`CONTROLS`."""
    found = {}
    for control, name in CONTROLS.items():
        of = ("logit_space", "none") if control == "logit_space" else (norm, control)
        bands = {text: arm_bands(table, texts, "position", *of) for texts, text in TEXTS.items()}
        if any(bands.values()):
            found[name] = bands
    return found


def _every(rows: dict[str, ByText]) -> list[Band]:
    return [band for row in rows.values() for bands in row.values() for band in bands]


def _by_arm(rows: dict[str, ByText], steps: np.ndarray, marked: Collection[str] = ()) -> Any:
    """Draw a panel for every row and arm, with the post's values in the rows of ``marked``."""
    arms = dict.fromkeys(band.label for band in _every(rows))
    reported = within(SFT, 0, steps[-1])
    figure, axes = new_figure(PAGE_INCHES, 1.1 + len(rows), len(arms), len(rows), sharex=True, sharey="row")
    with style():
        for line, (name, row) in zip(axes, rows.items(), strict=True):
            for ax, arm in zip(line, arms, strict=True):
                shown = {text: band for text, bands in row.items() for band in bands if band.label == arm}
                if shown:
                    bands = [replace(band, label=text) for text, band in shown.items()]
                    looks = [look(list(TEXTS.values()).index(text)) for text in shown]
                    marks = reported if name in marked else None
                    curves(bands, ax, log=True, seeds=False, looks=looks, reference=marks, xlabel="", ylabel="")
                ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
            line[0].set_ylabel(name)
        for ax, arm in zip(axes[0], arms, strict=True):
            ax.set_title(arm.replace(": ", ":\n").replace(", ", ",\n"))
        for ax in axes[-1]:
            ax.set_xlabel("training step")
            ax.set_xticks(steps, [f"{step:g}" if step in (*steps[:2], steps[-1]) else "" for step in steps])
        figure.align_ylabels()
        legend_of_figure(figure, 4)
    return figure


def _numbers(rows: dict[str, ByText], *, signs: bool = True) -> str:
    """Every number that is drawn, for captions; a share is said without a sign."""
    return "\n\n".join(
        f"{' '.join(name.split())}, {text}:\n\n{band_table(bands, signs=signs)}"
        for name, row in rows.items()
        for text, bands in row.items()
        if bands
    )


def change_rows(table: Table) -> list[list[str]]:
    """By how much rho at the last step is above that of another checkpoint: a row an arm, seed and other, a column for
    each unit and kind of texts, as in :data:`UNIT_NAMES` and :data:`TEXTS`.
    """
    last = table[table["step"] == table["step"].max()]
    rows = []
    for (arm, seed, against), part in last.groupby(["arm", "seed", "against"], sort=False):
        found = {(row["unit"], row["texts"]): row for row in part.to_dict("records")}
        cells = [found.get((unit, texts)) for unit in UNIT_NAMES for texts in TEXTS]
        said = [_said([cell[name] for name in NUMBERS]) if cell else "" for cell in cells]
        rows.append([ARMS.get(arm, arm), str(seed), ARMS.get(against, against), *said])
    return rows


def _changes(sources: Sources) -> str:
    """The changes for a caption; nothing where there is no table of them."""
    table = sources.table("finetuning-changes")
    if table is None:
        return ""
    columns = [f"{unit}, {texts}" for unit in UNIT_NAMES.values() for texts in TEXTS.values()]
    paired = markdown_table(["arm", "seed", "minus", *columns], change_rows(table))
    return f"\n\nρ of nuclear strength at step {table['step'].max()} minus another, paired by problem:\n\n{paired}"


def curve_figure(sources: Sources) -> Iterator[Drawn]:
    """The correlation along fine-tuning of a pretrained model, a column an arm, beside the post's values."""
    table = sources.table("finetuning")
    if table is None:
        return
    rows = {
        f"ρ over\n{name}": {text: arm_bands(table, texts, unit, sources.norm) for texts, text in TEXTS.items()}
        for unit, name in UNIT_NAMES.items()
    }
    accuracy = accuracy_bands(table, sources.norm)
    right = {"share\nright": {TEXTS["sampled"]: accuracy}}
    several = any(len(band.members) > 1 for band in accuracy)
    shares = " Bands of the share right: lowest to highest seed." if several else ""
    yield Drawn(
        "pretrained-curve",
        _by_arm(rows | right, np.unique(table["step"]), marked=rows),
        f"**The correlation along fine-tuning of a pretrained model.** Spearman ρ of token entropy and {sources.norm} "
        f"strength on held-out problems, the same at every step; the arm on chains has problems of its own kind. "
        f"{spread(_every(rows))}{shares} {REPORTED} Later steps than the measured ones are left out. {NOT_PUBLISHED}"
        f"\n\n{_numbers(rows)}\n\n{_numbers(right, signs=False)}{_changes(sources)}",
    )


def controls_figure(sources: Sources) -> Iterator[Drawn]:
    """What could explain the correlation away along fine-tuning, a column an arm."""
    table = sources.table("finetuning")
    if table is None or not (rows := control_bands(table, sources.norm)):
        return
    yield Drawn(
        "pretrained-controls",
        _by_arm(rows, np.unique(table["step"])),
        f"**Controls along fine-tuning of a pretrained model.** Spearman ρ of token entropy and {sources.norm} "
        f"strength over positions, and what could explain it; |e − p| follows entropy by construction. "
        f"{spread(_every(rows))} {NOT_PUBLISHED}\n\n{_numbers(rows)}",
    )


def main_bands(table: Table, norm: str) -> list[Band]:
    """The correlation along the main arm on own responses, a curve a unit."""
    kept = (table["arm"] == MAIN) & (table["texts"] == "sampled") & (table["norm"] == norm)
    rows = table[kept & (table["control"] == "none")]
    rows = rows.assign(unit=rows["unit"].map(UNIT_NAMES))
    return table_bands(rows[rows["unit"].notna()], "unit", "estimate", intervals=True) if len(rows) else []


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


def _said(numbers: Sequence[float]) -> str:
    estimate, low, high = map(signed, numbers)
    return f"{estimate} [{low}, {high}]"
