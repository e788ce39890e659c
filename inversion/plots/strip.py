"""One response's tokens as coloured text."""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from inversion.errors import InputError
from inversion.plots.style import PAGE_INCHES, axes_or_new, house_style_alone, ink_on
from inversion.tokens import Reading, limits_of, one_response, quantity_of, texts_of, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHARACTER_EM, LINE_EM = 0.602, 1.55
"""Advance of a character of the fixed-width font, and distance of lines, in units of its size."""


@dataclass(frozen=True)
class TokenStrip:
    """Where each token goes: (n,) pieces of text, the column and line each starts at, and its value.

    A token longer than a line is cut, its end shown as an ellipsis. Columns count characters.
    """

    pieces: tuple[str, ...]
    columns: np.ndarray
    lines: np.ndarray
    quantity: Reading

    @property
    def n_lines(self) -> int:
        """How many lines there are."""
        return int(self.lines.max()) + 1


def token_strip_cells(
    capture: xr.Dataset,
    by: str = "entropy_bits",
    layer: int | None = None,
    projection: str | None = None,
    response: int | None = None,
    width: int = 96,
    limit: int | None = 400,
) -> TokenStrip:
    """Compute what :func:`token_strip` draws: tokens fill lines of ``width`` characters; a line break starts a new one.

    Raises:
        InputError: As :func:`inversion.tokens.quantity_of` and ``one_response``; or there are no tokens, or
            ``width`` is below 8.
    """
    if width < 8:
        raise InputError(f"a line of {width} characters is too short; give 8 or more.")
    capture = one_response(capture, response).isel(token=slice(limit))
    if capture.sizes["token"] == 0:
        raise InputError("the response has no tokens, so there is nothing to draw.")
    pieces, columns, lines = [], [], []
    column = line = 0
    for text in texts_of(capture):
        shown = visible(text)
        piece = shown if len(shown) <= width else shown[: width - 1] + "…"
        if column and (column + len(piece) > width or text.startswith("\n")):
            column, line = 0, line + 1
        pieces.append(piece)
        columns.append(column)
        lines.append(line)
        column += len(piece)
    return TokenStrip(tuple(pieces), np.array(columns), np.array(lines), quantity_of(capture, by, layer, projection))


@house_style_alone
def token_strip(
    capture: xr.Dataset,
    ax: "Axes | None" = None,
    *,
    by: str = "entropy_bits",
    layer: int | None = None,
    projection: str | None = None,
    response: int | None = None,
    width: int = 96,
    limit: int | None = 400,
    title: str = "",
) -> "Axes":
    """Draw one response's text with each token on a colour that shows a quantity; NaN is hatched.

    Args:
        capture: A capture, or a run with ``response`` naming one of its responses.
        ax: Where to draw; a new figure by default.
        by: What to colour by, see :func:`inversion.tokens.quantity_of`.
        layer: For a norm, the layer; the mean over all by default.
        projection: For a norm, the projection; the mean over all by default.
        response: Number of the response.
        width: Characters a line.
        limit: Most tokens to draw; None for all.
        title: Title of the Axes.

    Raises:
        InputError: As :func:`token_strip_cells`.
    """
    import matplotlib as mpl
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    strip = token_strip_cells(capture, by, layer, projection, response, width, limit)
    filled = max(float(c + len(p)) for c, p in zip(strip.columns, strip.pieces, strict=True))
    across = CHARACTER_EM * max(filled, 0.6 * width)
    ax = axes_or_new(ax, PAGE_INCHES, PAGE_INCHES / across * LINE_EM * strip.n_lines + 0.75)
    values = strip.quantity.values
    shown = ScalarMappable(Normalize(*limits_of(values)), mpl.colormaps["cividis"])
    for piece, column, line, value in zip(strip.pieces, strip.columns, strip.lines, values, strict=True):
        _draw_token(ax, piece, CHARACTER_EM * column, LINE_EM * line, shown.to_rgba(value) if value == value else None)
    ax.set_xlim(0, across)
    ax.set_ylim(LINE_EM * strip.n_lines, 0)
    ax.set_aspect("equal", anchor="NW")
    ax.set_axis_off()
    ax.set_title(title)
    bar = ax.figure.colorbar(shown, ax=ax, location="bottom", pad=0.02, aspect=30, shrink=0.45, anchor=(0.0, 1.0))
    bar.set_label(strip.quantity.label + (f" ({strip.quantity.unit})" if strip.quantity.unit else ""), loc="left")
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return ax


def _draw_token(ax: "Axes", piece: str, x: float, y: float, colour: Any) -> None:
    from matplotlib.font_manager import FontProperties
    from matplotlib.patches import PathPatch, Rectangle
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    box = (x + 0.03, y + 0.06), CHARACTER_EM * len(piece) - 0.06, LINE_EM - 0.12
    fill: dict[str, Any] = {"facecolor": colour} if colour is not None else {"facecolor": "none", "hatch": "////"}
    ax.add_patch(Rectangle(*box, linewidth=0.3, edgecolor="none" if colour is not None else "#999999", **fill))
    # Outlines instead of text: they scale with the boxes. TextPath works at 100 units an em.
    path = TextPath((0, 0), _drawable(piece), size=1, prop=FontProperties(family="DejaVu Sans Mono"))
    placed = Affine2D().scale(1, -1).translate(x, y + 0.5 * LINE_EM + 0.36)
    ink = ink_on(colour) if colour is not None else "black"
    ax.add_patch(PathPatch(placed.transform_path(path), facecolor=ink, linewidth=0))


def _drawable(text: str) -> str:
    """Replace what the font has no glyph for; matplotlib would warn and draw a box as well."""
    known = _glyphs()
    return "".join(c if ord(c) in known else "▯" for c in text).replace("$", r"\$")


@cache
def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties(family="DejaVu Sans Mono"))).get_charmap())
