"""The report's first part: what the runs say in words, a table, and figures."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np

from inversion import scoring
from inversion.findings import Findings, NamedRun, number, sentences
from inversion.plots import PAGE_INCHES, entropy_strength, fingerprint, layer_heat_map, new_figure, style
from inversion.plots.maps import share_axes
from inversion.runs import mean_entropy
from inversion.statistics import compare
from inversion.statistics.results import p_text

HEADINGS = (
    "run", "model", "responses", "tokens", "right", "entropy (bits)", "ρ, positions", "p", "ρ, token types",
    "ρ of |e − p| (control)",
)  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A figure of the page: the base64 text of a PNG, and a caption that repeats its numbers."""

    png: str
    caption: str


@dataclass(frozen=True)
class Summary:
    """What the first part of the page shows, as plain text: the template escapes it.

    paragraphs: What each run says, and each difference to the first one. rows: Cells below :data:`HEADINGS`.
    """

    paragraphs: tuple[str, ...]
    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    pictures: tuple[Picture, ...]


def summarise(found: list[Findings], norm: str, **options: Any) -> Summary:
    """Put what was found into words, rows and pictures; options as for ``correlate``."""
    c = found[0].positions
    caption = (
        f"{c.method.capitalize()} correlations of entropy and {c.norm} strength with {c.level:.4g} intervals "
        f"({c.interval}, over {c.cluster}s, {c.resamples} resamples, seed {c.seed})."
    )
    words = [" ".join(sentences(f)) for f in found]
    words += [_difference(found[0], other, norm, **options) for other in found[1:]]
    rows = tuple(_row(f) for f in found)
    return Summary(tuple(words), caption, HEADINGS, rows, tuple(_pictures(found)))


def accuracy(run: NamedRun) -> str:
    """Share of right responses among those that were scored."""
    found = scoring.accuracy(run.responses["score"].astype(float))
    if not found.scored:
        return "not scored"
    left_out = f", {found.unscored} not scored" if found.unscored else ""
    return f"{found.share:.1%} of {found.scored}{left_out}"


def _difference(first: Findings, other: Findings, norm: str, **options: Any) -> str:
    d = compare(first.run.tokens, other.run.tokens, norm=norm, **options)
    how = "paired by prompt" if d.paired else "independent runs"
    said = f"{other.run.name} minus {first.run.name}: {number(d)} ({how}, {p_text(d.p_value)}, null: equal)."
    notes = "; ".join(note for note in (d.reason, *d.notes) if note)
    return said + (f" Where a is {first.run.name} and b is {other.run.name}: {notes}." if notes else "")


def _row(f: Findings) -> tuple[str, ...]:
    c = f.positions
    return (
        f.run.name,
        str(f.run.tokens.attrs.get("model", "")),
        f"{c.n_responses:,}",
        f"{c.n_tokens:,}",
        accuracy(f.run),
        f"{mean_entropy(f.run.tokens):.3f}",
        number(c),
        p_text(c.p_value).removeprefix("p = "),
        number(f.types),
        number(f.control) if f.control is not None else "not measured",
    )


def _pictures(found: list[Findings]) -> Iterator[Picture]:
    bars = {
        f.run.name: {"positions": f.positions, "token types": f.types}
        | ({"|e − p| (control)": f.control} if f.control is not None else {})
        for f in found
    }
    said = "; ".join(f"{f.run.name} {number(f.positions)}, token types {number(f.types)}" for f in found)
    yield _picture(lambda axes: fingerprint(bars, axes[0, 0]), 2.4, 1, f"Correlations with intervals: {said}.")
    limit = max(0.1, *(float(np.nanmax(np.abs(f.table["estimate"].values), initial=0.0)) for f in found))
    for i in range(0, len(found), 2):
        pair = found[i : i + 2]
        names = " and ".join(f.run.name for f in pair)
        yield _picture(
            lambda axes, pair=pair: [
                entropy_strength(f.run.tokens, ax, norm=f.positions.norm, result=f.positions, title=f.run.name)
                for ax, f in zip(axes.flat, pair, strict=True)
            ],
            2.6,
            len(pair),
            f"Tokens by entropy and strength, and medians of groups of equal size: {names}.",
        )
        yield _picture(
            lambda axes, pair=pair: [
                layer_heat_map(f.table, ax, limit=limit, title=f.run.name)
                for ax, f in zip(axes.flat, pair, strict=True)
            ],
            2.0,
            len(pair),
            f"Correlation by layer and projection: {names}.",
            shared=share_axes(f.table for f in pair),
        )


def _picture(draw: Any, height: float, columns: int, caption: str, *, shared: bool = True) -> Picture:
    # Panels of a kind share their vertical axis, so that they can be compared across.
    figure, axes = new_figure(PAGE_INCHES if columns > 1 else PAGE_INCHES * 0.75, height, columns, sharey=shared)
    with style():
        draw(axes)
        return picture_of(figure, caption)


def picture_of(figure: Any, caption: str) -> Picture:
    """Return a figure as the page holds it."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "inversion"})
    return Picture(base64.b64encode(buffer.getvalue()).decode("ascii"), caption)
