"""Figures of a lineage: how the correlation moves along training."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from inversion.figures.of_pretrained import NOT_PUBLISHED, main_bands
from inversion.figures.panels import (
    ACCURACY,
    REPORTED,
    RHO,
    UNIT_NAMES,
    Drawn,
    band_table,
    legend_above,
    legend_of_figure,
    spread,
    within,
)
from inversion.figures.sources import STAGES, Sources, Table
from inversion.plots import COLUMN_INCHES, PAGE_INCHES, Band, curves, new_figure, style, table_bands
from inversion.plots.style import GREY, MARKERS, look
from inversion.reference import RL_FROM_BASE, SFT, SFT_THEN_RL, Series

CONTROLS = {
    "none": "as it is",
    "partial": "given position and surprisal",
    "within": "within responses",
    "between": "between responses",
    "sure": "tokens under half a bit",
    "computed": "without words that are free to vary",
    "shuffled": "shuffled within responses",
    "logit_space": "|e − p|, follows entropy by construction",
}
WAYS = ({}, {"marker": "v", "linestyle": (0, (4, 1, 1, 1))}, {"marker": "D", "linestyle": (0, (1, 1))})
"""What tells the stages of one panel apart; colour tells the units."""
ACCURACY_LOOK = {"color": "#000000", "marker": "P", "linestyle": (0, (4, 1, 1, 1))}


def stage_rows(lineage: Table, stage: str, norm: str) -> Table:
    """Rows of a stage's own texts with the plain correlation."""
    kept = (lineage["stage"] == stage) & (lineage["texts"] == "own") & (lineage["norm"] == norm)
    return lineage[kept & (lineage["control"] == "none")]


def unit_bands(lineage: Table, stage: str, norm: str) -> list[Band]:
    """The correlation along a stage, a curve a unit of analysis."""
    rows = stage_rows(lineage, stage, norm)
    rows = rows.assign(unit=rows["unit"].map(UNIT_NAMES))
    return table_bands(rows[rows["unit"].notna()], "unit", "estimate")


def accuracy_band(lineage: Table, stage: str, norm: str) -> Band:
    """Accuracy along a stage."""
    rows = stage_rows(lineage, stage, norm)
    rows = rows[rows["unit"] == "position"][["seed", "step", "accuracy"]].assign(label=ACCURACY)
    return table_bands(rows, "label", "accuracy")[0]


def _stage_figure(
    sources: Sources, name: str, title: str, stage: str, reference: Mapping[str, Series]
) -> Iterator[Drawn]:
    """The correlation at both units above the accuracy, along one stage."""
    lineage = sources.table("lineage")
    if lineage is None or not len(stage_rows(lineage, stage, sources.norm)):
        return
    bands, accuracy = unit_bands(lineage, stage, sources.norm), accuracy_band(lineage, stage, sources.norm)
    figure, axes = new_figure(COLUMN_INCHES, 3.3, rows=2, sharex=True, height_ratios=(2.3, 1))
    with style():
        upper, lower = axes[:, 0]
        curves([accuracy], lower, log=True, seeds=False, looks=[ACCURACY_LOOK], ylabel=ACCURACY)
        lower.set_ylim(-0.03, 1.03)
        # Last, since both panels share the steps' axis, and this one reaches as far as the reported marks.
        curves(bands, upper, reference=reference, log=True, xlabel="", ylabel=RHO)
        upper.axhline(0, color=GREY, linewidth=0.6, zorder=0)
        legend_above(upper, 2)
    yield Drawn(
        name,
        figure,
        f"**{title}** Above: Spearman ρ of token entropy and {sources.norm} strength on sampled responses. "
        f"Below: their accuracy. {spread(bands, thin=True)} {REPORTED}\n\n{band_table([*bands, accuracy])}",
    )


def finetune_figure(sources: Sources) -> Iterator[Drawn]:
    """The correlation along fine-tuning on chains of thought."""
    title = "The correlation along fine-tuning on chains of thought."
    yield from _stage_figure(sources, "finetune-curve", title, "finetune", SFT)


def rl_from_base_figure(sources: Sources) -> Iterator[Drawn]:
    """The correlation along reinforcement learning that starts from the base model."""
    title = "The correlation along reinforcement learning from the base model."
    yield from _stage_figure(sources, "rl-from-base", title, "base_grpo", RL_FROM_BASE)


def trajectory_panels(lineage: Table, norm: str) -> dict[str, list[Band]]:
    """Bands of the panels base, fine-tuning and reinforcement learning; stages that are missing are left out."""
    panels = {}
    for title, stages in (
        ("base model", ("base",)),
        ("fine-tuning", ("finetune",)),
        ("reinforcement learning", ("grpo", "corrpo")),
    ):
        bands = []
        for stage in stages:
            if len(stage_rows(lineage, stage, norm)):
                for band in unit_bands(lineage, stage, norm):
                    name = f"{STAGES[stage]}, {band.label}" if len(stages) > 1 else band.label
                    bands.append(Band(name, band.steps, band.middle, band.low, band.high, band.members, band.kind))
        if bands:
            panels[title] = bands
    return panels


PRETRAINED = "a pretrained model"
"""Panel of a pretrained model's fine-tuning."""


def trajectory_figure(sources: Sources) -> Iterator[Drawn]:
    """The whole way: base, fine-tuning, reinforcement learning."""
    lineage = sources.table("lineage")
    panels = {} if lineage is None else trajectory_panels(lineage, sources.norm)
    pretrained = sources.table("finetuning")
    if pretrained is not None and (bands := main_bands(pretrained, sources.norm)):
        panels[PRETRAINED] = bands
    if lineage is None or len(panels) < 2:
        return
    marks = {
        "fine-tuning": within(SFT_THEN_RL, 0, 8000),
        "reinforcement learning": within(SFT_THEN_RL, 8000, 16000, -8000),
        PRETRAINED: SFT,
    }
    figure, axes = new_figure(PAGE_INCHES, 2.9, len(panels), sharey=True)
    with style():
        for ax, (title, bands) in zip(axes[0], panels.items(), strict=True):
            looks = _stage_looks(bands)
            label = RHO if ax is axes[0, 0] else ""
            curves(bands, ax, log=True, seeds=False, looks=looks, reference=marks.get(title), ylabel=label, title=title)
            ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
        legend_of_figure(figure, 4)
    starts = ""
    if "start" in lineage:
        chosen = lineage["stage"].isin(["finetune", "grpo", "corrpo"]) & lineage["start"].notna()
        named = lineage[chosen].drop_duplicates("stage")
        pairs = zip(named["stage"], named["start"], strict=True)
        told = [f"{STAGES[stage]} from {start.replace('/', ' step ')}" for stage, start in pairs]
        starts = f" Starts: {', '.join(told)}." if told else ""
    last = ""
    if PRETRAINED in panels:
        last = f" Last panel: fine-tuning on worked solutions. {spread(panels[PRETRAINED])} {NOT_PUBLISHED}"
    every = [band for title, bands in panels.items() if title != PRETRAINED for band in bands]
    tables = "\n\n".join(f"{title}:\n\n{band_table(bands)}" for title, bands in panels.items())
    yield Drawn(
        "trajectory",
        figure,
        f"**From random weights to reinforcement learning.** Spearman ρ of token entropy and {sources.norm} strength; "
        f"steps count from the start of each stage.{starts} {spread(every)} {REPORTED} "
        f"Their marks beside reinforcement learning count from the end of their fine-tuning.{last}\n\n{tables}",
    )


def _stage_looks(bands: list[Band]) -> list[dict[str, Any]]:
    """Looks of one panel's bands, which are called "UNIT" or "STAGE, UNIT"."""
    units = list(UNIT_NAMES.values())
    parts = [band.label.rpartition(", ") for band in bands]
    stages = list(dict.fromkeys(stage for stage, _, _ in parts))
    return [look(units.index(unit)) | WAYS[stages.index(stage) + (len(stages) > 1)] for stage, _, unit in parts]


def layer_bands(layers: Table, stage: str, projection: str) -> list[Band]:
    """The correlation of one projection along a stage, a curve a layer."""
    rows = layers[(layers["stage"] == stage) & (layers["projection"] == projection)].sort_values(["layer", "step"])
    return table_bands(rows.assign(layer="layer " + rows["layer"].astype(str)), "layer", "estimate")


def layer_curves_figure(sources: Sources) -> Iterator[Drawn]:
    """Every layer's correlation along fine-tuning, a panel a projection."""
    import matplotlib as mpl

    layers = sources.table("layers")
    if layers is None or not (layers["stage"] == "finetune").any():
        return
    rows = layers[layers["stage"] == "finetune"]
    panels = {name: layer_bands(layers, "finetune", name) for name in dict.fromkeys(rows["projection"])}
    labels = [f"layer {layer}" for layer in sorted(set(rows["layer"]))]
    shades = mpl.colormaps["cividis"].resampled(256)(0.85 * np.arange(len(labels)) / max(1, len(labels) - 1))
    looks = {
        label: {"color": shade, "marker": MARKERS[i % len(MARKERS)], "linestyle": "-"}
        for i, (label, shade) in enumerate(zip(labels, shades, strict=True))
    }
    figure, axes = new_figure(PAGE_INCHES, 2.3, len(panels), sharey=True)
    with style():
        for ax, (name, bands) in zip(axes[0], panels.items(), strict=True):
            drawn, label = [looks[band.label] for band in bands], RHO if ax is axes[0, 0] else ""
            curves(bands, ax, log=True, seeds=False, looks=drawn, ylabel=label, title=name)
            ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
        legend_of_figure(figure, 8)
    every = [band for bands in panels.values() for band in bands]
    tables = "\n\n".join(f"{name}:\n\n{band_table(bands)}" for name, bands in panels.items())
    yield Drawn(
        "layer-curves",
        figure,
        "**Layers along fine-tuning.** Spearman ρ of token entropy and the strength of a single layer and projection, "
        f"over positions. {spread(every)}\n\n{tables}",
    )


def control_bands(lineage: Table, stage: str, norm: str) -> dict[str, Band]:
    """The correlation over positions and its controls along a stage, by the names of :data:`CONTROLS`."""
    rows = lineage[(lineage["stage"] == stage) & (lineage["texts"] == "own") & (lineage["unit"] == "position")]
    logits = (rows["norm"] == "logit_space") & (rows["control"] == "none")
    rows = rows[(rows["norm"] == norm) | logits]
    names = rows["control"].where(rows["norm"] != "logit_space", "logit_space").map(CONTROLS)
    rows = rows.assign(control=names)[names.notna()]
    if not len(rows):
        return {}
    return {band.label: band for band in table_bands(rows, "control", "estimate")}


def controls_figure(sources: Sources) -> Iterator[Drawn]:
    """What could explain the correlation away, along fine-tuning."""
    lineage = sources.table("lineage")
    found = {} if lineage is None else control_bands(lineage, "finetune", sources.norm)
    if len(found) < 2:
        return
    plain, nulls = CONTROLS["none"], [CONTROLS[name] for name in ("shuffled", "logit_space", "sure", "computed")]
    panels = [
        [band for name, band in found.items() if name not in nulls],
        [band for name, band in found.items() if name in nulls or name == plain],
    ]
    figure, axes = new_figure(PAGE_INCHES, 3.1, 2, sharey=True)
    with style():
        for ax, bands in zip(axes[0], panels, strict=True):
            curves(bands, ax, log=True, seeds=False, ylabel=RHO if ax is axes[0, 0] else "")
            ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
            legend_above(ax, 1)
    yield Drawn(
        "controls",
        figure,
        f"**Controls along fine-tuning.** Spearman ρ of token entropy and {sources.norm} strength over positions, and "
        f"what could explain it. {spread(list(found.values()))}\n\n"
        f"{band_table(list(found.values()))}",
    )
