"""Figures of single runs: density, layer map, fingerprint, specification curve."""

from collections.abc import Iterator

import numpy as np
import xarray as xr

from inversion.errors import InputError
from inversion.figures.panels import REPORTED, UNIT_NAMES, Drawn, signed
from inversion.figures.sources import STAGES, Sources, Table
from inversion.findings import Findings
from inversion.plots import (
    PAGE_INCHES,
    Bar,
    SpecificationRows,
    entropy_strength,
    fingerprint,
    fingerprint_bars,
    layer_heat_map,
    new_figure,
    specification_curve,
    specification_rows,
    style,
)
from inversion.plots.maps import colour_bar, share_axes
from inversion.reference import FINGERPRINT
from inversion.statistics import specification_curve as all_specifications
from inversion.statistics.results import span


def grid(count: int, height: float, *, shared: bool = True):
    """A figure of ``count`` panels, at most three a row, sharing both axes or none; panels too many are taken away."""
    columns = min(3, count)
    rows = -(-count // columns)
    width = PAGE_INCHES * (0.55 if count == 1 else 1)
    figure, axes = new_figure(width, height * rows + 0.2, columns, rows, sharex=shared, sharey=shared)
    for ax in axes.flat[count:]:
        ax.remove()
    kept = list(axes.flat[:count])
    for ax in kept[-columns:]:  # the lowest of each column, also where the last row is not full
        ax.tick_params(labelbottom=True)
    return figure, kept


def outer_labels(axes: list) -> None:
    """Keep axis labels only where a panel has no neighbour below or to the left."""
    columns = min(3, len(axes))
    for i, ax in enumerate(axes):
        if i % columns:
            ax.set_ylabel("")
        if i + columns < len(axes):
            ax.set_xlabel("")


def entropy_strength_figure(sources: Sources) -> Iterator[Drawn]:
    """Density of tokens over entropy and strength, a panel a run."""
    if not sources.runs:
        return
    found = sources.found
    figure, axes = grid(len(found), 2.3)
    with style():
        for ax, f in zip(axes, found, strict=True):
            title = f"{f.run.name}: {f.positions.n_tokens:,} tokens"
            entropy_strength(f.run.tokens, ax, norm=sources.norm, result=f.positions, title=title)
        outer_labels(axes)
    said = "; ".join(f"{f.run.name} {_number(f)}" for f in found)
    c = found[0].positions
    yield Drawn(
        "entropy-strength",
        figure,
        f"**Token entropy and logit-gradient strength.** Density of tokens (darker: more, logarithmic); line: medians "
        f"of groups of equal size. {c.method.capitalize()} ρ over positions, with {c.level:.4g} intervals over "
        f"{c.cluster}s: {said}. Strength: {c.norm} norm, mean over layers and projections.",
    )


def _number(f: Findings) -> str:
    c = f.positions
    return f"{signed(c.estimate)} {span(c.low, c.high, 2).replace('-', '−')} ({c.n_responses} responses)"


def last_map(layers: Table, stage: str) -> xr.Dataset:
    """The layer map at the last step of a stage, of the lowest seed that has one."""
    rows = layers[layers["stage"] == stage]
    rows = rows[rows["seed"] == rows["seed"].min()]
    rows = rows[rows["step"] == rows["step"].max()]
    projections = list(dict.fromkeys(rows["projection"]))
    table = xr.Dataset.from_dataframe(rows.set_index(["layer", "projection"])[["estimate", "q_value"]])
    return table.sel(projection=projections).assign_attrs(
        method="spearman", seed=int(rows["seed"].iloc[0]), step=int(rows["step"].iloc[0])
    )


def layer_maps(sources: Sources) -> dict[str, xr.Dataset]:
    """The layer map of every run; without runs, of every stage's last step in ``layers.csv``."""
    if sources.runs:
        return {f.run.name: f.table for f in sources.found}
    layers = sources.table("layers")
    if layers is None:
        return {}
    present = [stage for stage in STAGES if (layers["stage"] == stage).any()]
    return {STAGES[stage]: last_map(layers, stage) for stage in present}


def layer_map_figure(sources: Sources) -> Iterator[Drawn]:
    """Correlation by layer and projection, a panel a run or stage."""
    maps = layer_maps(sources)
    if not maps:
        return
    limit = max(0.1, *(float(np.nanmax(np.abs(table["estimate"].values), initial=0)) for table in maps.values()))
    shared = share_axes(maps.values())
    figure, axes = grid(len(maps), 1.7, shared=shared)
    said = []
    with style():
        for ax, (name, table) in zip(axes, maps.items(), strict=True):
            layer_heat_map(table, ax, limit=limit, bar=False, title=name)
            estimate, clear = table["estimate"].values, table["q_value"].values < 0.05
            below, above = int((clear & (estimate < 0)).sum()), int((clear & (estimate > 0)).sum())
            said.append(
                f"{name}: {signed(np.nanmin(estimate))} to {signed(np.nanmax(estimate))}, of {estimate.size} cells "
                f"{below} clearly negative and {above} clearly positive"
            )
        if shared:
            outer_labels(axes)
        colour_bar(axes, next(iter(maps.values())))
    seeds = "" if sources.runs else f" Last step of each stage, seed {min(t.attrs['seed'] for t in maps.values())}."
    yield Drawn(
        "layer-map",
        figure,
        "**Correlation by layer and projection.** Spearman ρ of entropy and strength over positions; marked cells have "
        f"a Benjamini-Hochberg q-value below 0.05 within their map. {'; '.join(said)}.{seeds}",
    )


def stage_bars(lineage: Table, norm: str) -> list[Bar]:
    """Bars for a random model and for the last step of each stage: the mean over seeds, and from lowest to highest.

    One seed has the interval over its responses instead.
    """
    own = lineage[(lineage["texts"] == "own") & (lineage["norm"] == norm) & (lineage["control"] == "none")]
    groups = [("random weights", own[(own["stage"] == "base") & (own["step"] == 0)])]
    for stage, name in STAGES.items():
        rows = own[(own["stage"] == stage) & (own["step"] > 0)]
        if len(rows):
            groups.append((name, rows[rows["step"] == rows["step"].max()]))
    bars = []
    present = [(name, rows) for name, rows in groups if len(rows)]
    for i, (name, rows) in enumerate(present):
        for k, (unit, series) in enumerate(UNIT_NAMES.items()):
            mine = rows[rows["unit"] == unit]
            if not len(mine):
                continue
            values = mine["estimate"].to_numpy(float)
            several = len(values) > 1
            low, high = (values.min(), values.max()) if several else (mine["low"].iloc[0], mine["high"].iloc[0])
            bars.append(Bar(name, series, i + (k - 0.5) * 0.4, 0.4, float(values.mean()), float(low), float(high)))
    return bars


def fingerprint_figure(sources: Sources) -> Iterator[Drawn]:
    """Correlations of runs, or of a lineage's stages, beside the values of the post."""
    lineage = sources.table("lineage")
    if lineage is not None:
        bars = stage_bars(lineage, sources.norm)
        most = lineage["seed"].nunique()
        what = "one seed, 95 % intervals over responses"
        if most > 1:
            what = f"mean and range of up to {most} seeds; where there is one seed, its 95 % interval over responses"
    elif sources.runs:
        bars = fingerprint_bars({f.run.name: {"positions": f.positions, "token types": f.types} for f in sources.found})
        what = f"{sources.found[0].positions.level:.4g} intervals over responses"
    else:
        return
    if not bars:
        return
    figure, axes = new_figure(PAGE_INCHES, 2.5)
    with style():
        fingerprint(bars, axes[0, 0], reference=FINGERPRINT)
    said = "; ".join(
        f"{b.group}, {b.series}: {signed(b.estimate)} {span(b.low, b.high, 2).replace('-', '−')}" for b in bars
    )
    yield Drawn(
        "fingerprint",
        figure,
        f"**Fingerprint.** Spearman ρ of token entropy and {sources.norm} strength ({what}). {said}. {REPORTED}",
    )


CHOICES = ("seed", "texts", "norm", "unit", "control")
KEPT = ("none", "partial", "within", "sure", "computed")
"""Controls that are an answer to the same question, not a null."""
CHOICE_NAMES = {
    "own": "sampled",
    "reference": "teacher-forced",
    "sure": "low-entropy tokens",
    "own_t0.5": "sampled at 0.5",
}
"""Values in the tables of a lineage -> their names in figures, where the field has another word."""


def lineage_rows(lineage: Table, stage: str) -> SpecificationRows:
    """A specification curve over what a lineage varies, at the last step of a stage; the ``logit_space`` norm is left
    out, since it follows entropy by construction, and so are the controls that are a null.

    Raises:
        InputError: The stage has no defined correlation.
    """
    rows = lineage[(lineage["stage"] == stage) & (lineage["norm"] != "logit_space") & lineage["control"].isin(KEPT)]
    rows = rows[(rows["step"] == rows["step"].max()) & rows["estimate"].notna()].sort_values("estimate", kind="stable")
    if len(rows) == 0:
        raise InputError(f"the lineage has no correlation of stage {stage}, so there is nothing to draw.")
    choices, chosen = [], []
    for kind in CHOICES:
        values = rows[kind].astype(str)
        for value in dict.fromkeys(sorted(values)) if values.nunique() > 1 else []:
            choices.append(f"{kind}: {CHOICE_NAMES.get(value, value.replace('_', ' '))}")
            chosen.append((values == value).to_numpy())
    estimate, low, high, p = (rows[name].to_numpy(float) for name in ("estimate", "low", "high", "p_value"))
    clear = ((high < 0) | (low > 0)) & (p <= 0.05)
    mask = np.array(chosen, dtype=bool).reshape(len(choices), len(rows))
    return SpecificationRows(estimate, low, high, clear, tuple(choices), mask)


def specification_figure(sources: Sources) -> Iterator[Drawn]:
    """The correlation under every choice at once: a figure a run, or one of a lineage's fine-tuned models."""
    lineage = sources.table("lineage")
    if lineage is not None and (lineage["stage"] == "finetune").any():
        yield _specifications("specification-curve", "the fine-tuned models", lineage_rows(lineage, "finetune"))
        return
    for f in sources.found if sources.runs else []:
        curve = all_specifications(f.run.tokens, resamples=sources.resamples, seed=sources.seed)
        name = "".join(c if c.isalnum() else "-" for c in f.run.name).strip("-").lower()
        yield _specifications(f"specification-curve-{name}", f.run.name, specification_rows(curve))


def _specifications(name: str, of: str, rows: SpecificationRows) -> Drawn:
    figure, axes = new_figure(PAGE_INCHES, 1.8 + 0.16 * len(rows.choices))
    with style():
        specification_curve(rows, axes[0, 0])
    below, above = (int((rows.clear & (sign * rows.estimate > 0)).sum()) for sign in (-1, 1))
    return Drawn(
        name,
        figure,
        f"**Specification curve of {of}.** {rows.estimate.size} ways to compute ρ, sorted: from "
        f"{signed(rows.estimate[0])} over a median of {signed(float(np.median(rows.estimate)))} to "
        f"{signed(rows.estimate[-1])}; {below} lie clearly below 0 and {above} clearly above, by interval and p-value. "
        "Intervals: 95 %, each on its own, over responses. The rows below say which choices made each point.",
    )
