"""Parts that several figures share: the finished figure, legends above panels, and numbers in captions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inversion.plots import Band, save_figure
from inversion.plots.style import look
from inversion.reference import SOURCE, Series
from inversion.tables import markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REPORTED = f"Hollow marks: values from the {SOURCE}, of much larger models; not results of this toolkit."
RHO = "ρ of strength and entropy"
ACCURACY = "accuracy"
UNIT_NAMES = {"position": "positions", "token_type": "token types"}
"""Units of analysis by the names that figures give them."""


@dataclass(frozen=True)
class Drawn:
    """A figure, the stem of its files, and its caption in Markdown."""

    name: str
    figure: "Figure"
    caption: str

    def save(self, folder: Path) -> list[Path]:
        """Write NAME.pdf, NAME.png and NAME.md; the same figure gives the same bytes."""
        save_figure(self.figure, str(folder / self.name))
        (folder / f"{self.name}.md").write_text(self.caption.rstrip() + "\n", encoding="utf-8")
        return [folder / f"{self.name}.{kind}" for kind in ("pdf", "png", "md")]


LEGEND: dict[str, Any] = {"handlelength": 2.4, "columnspacing": 1.2, "borderaxespad": 0.1}


def legend_above(ax: "Axes", columns: int, others: Iterable["Axes"] = ()) -> None:
    """Put the legend of ``ax``, and of other panels with the same looks, above it, where no curve can be."""
    handles = _named([ax, *others])
    ax.legend(handles.values(), handles.keys(), loc="lower left", bbox_to_anchor=(0, 1.01), ncols=columns, **LEGEND)


def looks_of(panels: Iterable[Sequence[Band]]) -> dict[str, dict[str, Any]]:
    """The look of every curve by its label, the same in all panels, also where some lack a curve."""
    labels = dict.fromkeys(band.label for bands in panels for band in bands)
    return {label: look(place) for place, label in enumerate(labels)}


def legend_of_figure(figure: "Figure", columns: int) -> None:
    """Put one legend above all panels, of everything that is named in any of them."""
    handles = _named(figure.axes)
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=columns, **LEGEND)


def _named(axes: Iterable["Axes"]) -> dict[str, Any]:
    """What stands for each label that is used in any of the panels."""
    handles: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    return handles


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, for captions; NaN is said in words."""
    return f"{value:+.{digits}f}".replace("-", "−") if np.isfinite(value) else "undefined"


def spread(bands: Sequence[Band], *, thin: bool = False) -> str:
    """What the bands are, in a sentence; ``thin`` says that the single seeds are drawn too."""
    counts = {len(band.members) for band in bands}
    if counts == {1}:
        if any(band.kind == "interval" for band in bands):
            return "One seed; bands: 95 % intervals over responses."
        return "One seed."
    seeds = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else f"{max(counts)}"
    seeds += " seeds, which are drawn thin" if thin else " seeds"
    pooled = all(band.kind == "interval" for band in bands)
    band = "mean of the seeds' 95 % intervals over responses" if pooled else "lowest to highest seed"
    single = " (curves with one seed: its 95 % interval over responses)" if 1 in counts and not pooled else ""
    partial = any(np.isnan(band.members).any() for band in bands)
    note = " Some seeds lack some steps, so neighbouring points may rest on different seeds." if partial else ""
    return f"Lines: mean of {seeds}; bands: {band}{single}.{note}"


def band_table(bands: Sequence[Band], *, signs: bool = True, digits: int = 2, along: str = "step") -> str:
    """Every number that the bands draw, as a Markdown table; a share, which has no sign, is said without one.

    ``along`` names what the bands run along.
    """
    steps = np.unique(np.concatenate([band.steps for band in bands]))
    rows = [[f"{step:g}", *(_cell(band, step, signs, digits) for band in bands)] for step in steps]
    return markdown_table([along, *(band.label for band in bands)], rows)


def _cell(band: Band, step: float, signs: bool, digits: int) -> str:
    def say(value: float) -> str:
        return signed(value, digits) if signs and band.label != ACCURACY else f"{value:.{digits}f}"

    at = np.flatnonzero(band.steps == step)
    if not at.size:
        return ""
    i = int(at[0])
    low, high = float(band.low[i]), float(band.high[i])
    return say(band.middle[i]) + (f" [{say(low)}, {say(high)}]" if high > low else "")


def within(reference: dict[str, Series], first: float, last: float, shift: float = 0) -> dict[str, Series]:
    """The reported points between two steps, their steps moved by ``shift`` afterwards."""
    cut = {}
    for name, series in reference.items():
        pairs = [(s, c) for s, c in zip(series.steps, series.correlations, strict=True) if first <= s <= last]
        cut[name] = Series(tuple(int(s + shift) for s, _ in pairs), tuple(c for _, c in pairs))
    return cut
