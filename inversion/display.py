"""Show one response with its tokens coloured by a quantity, in a notebook or a terminal."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import numpy as np
import xarray as xr

from inversion.errors import InputError
from inversion.tokens import (
    LABELS,
    READING_UNITS,
    Reading,
    figure_text,
    limits_of,
    one_response,
    quantity_of,
    shares,
    texts_of,
    visible,
)

# End points of both colour scales. Dark text on the light one and light text on the dark one keep a contrast ratio of
# at least 4.5 all along; lightness changes steadily, so that both can be read without colour.
LIGHT = {"page": "#ffffff", "ink": "#111111", "low": "#fbf6e9", "high": "#ee8a2c", "edge": "#767676"}
DARK = {"page": "#16181d", "ink": "#f3f3f3", "low": "#22262e", "high": "#a34a00", "edge": "#9a9a9a"}

# Which theme a notebook has: its own word counts before the system's. The names are those that Jupyter, VS Code and
# Sphinx themes set on html or body.
_DARK_THEMES = (
    'body[data-jp-theme-light="false"]',
    "body.vscode-dark",
    "body.vscode-high-contrast",
    'html[data-theme="dark"]',
    'html[theme="dark"]',
)
_LIGHT_THEMES = '[data-jp-theme-light="true"],.vscode-light,.vscode-high-contrast-light'


def _style_sheet() -> str:
    def colours(theme: dict[str, str]) -> str:
        return ";".join(f"--inv-{name}:{value}" for name, value in theme.items())

    dark = ",".join(f"{theme} .inv-tokens" for theme in _DARK_THEMES)
    return (
        f".inv-tokens{{{colours(LIGHT)};background:var(--inv-page);color:var(--inv-ink);padding:.6em;border-radius:4px}}"
        f"@media (prefers-color-scheme:dark){{body:not({_LIGHT_THEMES}) .inv-tokens{{{colours(DARK)}}}}}"
        f"{dark}{{{colours(DARK)}}}"
        ".inv-tokens .inv-text{white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.7;"
        "font-family:ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace}"
        ".inv-tokens [data-v]{color:var(--inv-ink)!important;unicode-bidi:isolate;border-radius:2px;"
        "background-color:color-mix(in srgb,var(--inv-high) var(--v),var(--inv-low))!important}"
        ".inv-tokens [data-v=nan]{background:none!important;outline:1px dotted var(--inv-edge)}"
        ".inv-tokens [data-v]:hover{outline:2px solid var(--inv-ink)}"
        ".inv-tokens .inv-legend{margin-top:.6em;font-size:.85em}"
        ".inv-tokens .inv-scale{display:inline-block;width:9em;height:.8em;vertical-align:middle;margin:0 .5em;"
        "background:linear-gradient(to right,var(--inv-low),var(--inv-high));border:1px solid var(--inv-edge)}"
    )


@dataclass(frozen=True, repr=False)
class TokenDisplay:
    """Tokens and the quantity that colours them; shows itself in notebooks, prints itself elsewhere.

    texts: n token texts. details: n texts of what hovering shows. quantity: values (n,). limits: range of the colours.
    """

    texts: tuple[str, ...]
    details: tuple[str, ...]
    quantity: Reading
    limits: tuple[float, float]

    def __repr__(self) -> str:
        shown = "".join(visible(text) for text in self.texts)
        return f"{len(self.texts)} tokens by {self._legend()}\n{shown if len(shown) < 2000 else shown[:1999] + '…'}"

    def _legend(self) -> str:
        unit = f" {self.quantity.unit}" if self.quantity.unit else ""
        return f"{self.quantity.label}, {figure_text(self.limits[0])} to {figure_text(self.limits[1])}{unit}"

    def _repr_html_(self) -> str:
        places = shares(self.quantity.values, self.limits)
        rows = zip(self.texts, self.details, places.tolist(), strict=True)
        spans = "".join(_span(text, detail, place) for text, detail, place in rows)
        unit = f" ({self.quantity.unit})" if self.quantity.unit else ""
        low, high = (escape(figure_text(limit)) for limit in self.limits)
        legend = (
            f'<div class="inv-legend">{escape(self.quantity.label + unit)}: {low}<span class="inv-scale"></span>{high}'
            f"; dotted: not measured. Hover for numbers.</div>"
        )
        # No white space between these: where white space is kept it would show as text.
        text = f'<div class="inv-text" dir="ltr">{spans}</div>'
        return f'<div class="inv-tokens"><style>{_style_sheet()}</style>{text}{legend}</div>'


def show_tokens(
    capture: xr.Dataset,
    by: str = "entropy_bits",
    layer: int | Sequence[int] | None = None,
    projection: str | Sequence[str] | None = None,
    *,
    response: int | None = None,
    limits: tuple[float, float] | None = None,
) -> TokenDisplay:
    """Show a response with each token on a colour that shows a quantity, and its numbers on hover.

    Args:
        capture: What ``probe`` returned, or a run with ``response`` naming one of its responses.
        by: ``"entropy_bits"``, ``"surprisal_bits"``, ``"logit_space"``, or a norm that was measured.
        layer: For a norm, the layer or layers it is a mean over; all by default, negative ones count from the end.
        projection: For a norm, the projection or projections it is a mean over; all by default.
        response: Number of the response in a run.
        limits: Values at the two ends of the colours, to show several responses on one scale; by default the lowest
            and highest of this response.

    Returns:
        An object that a notebook shows as text (it loads nothing and works in light and dark), and ``print`` as text.

    Raises:
        InputError: The capture lacks what is asked for, or the limits do not ascend.

    Example:
        >>> inversion.show_tokens(capture, by="nuclear", layer=-1, projection="q")
    """
    capture = one_response(capture, response)
    quantity = quantity_of(capture, by, layer, projection)
    if limits is not None and not limits[0] < limits[1]:
        raise InputError(f"limits {limits} do not ascend; give the lower one first.")
    return TokenDisplay(
        tuple(texts_of(capture)),
        tuple(_details(capture, quantity)),
        replace(quantity, values=np.asarray(quantity.values, dtype=float)),
        limits or limits_of(quantity.values),
    )


def _details(capture: xr.Dataset, quantity: Reading) -> list[str]:
    """What hovering over each token says: its place, the chosen quantity, then the other readings."""
    columns: list[tuple[str, Any, str]] = [(quantity.label, quantity.values, quantity.unit)]
    for name, unit in READING_UNITS.items():
        if name in capture and LABELS[name] != quantity.label:
            columns.append((LABELS[name], capture[name].values, unit))
    positions = capture["position"].values if "position" in capture else np.arange(capture.sizes["token"])
    return [
        "\n".join(
            [f"{visible(text)}  (position {int(positions[i])})"]
            + [f"{label}: {figure_text(float(values[i]))} {unit}".rstrip() for label, values, unit in columns]
        )
        for i, text in enumerate(texts_of(capture))
    ]


def _span(text: str, detail: str, place: float) -> str:
    """One token. The colours stand in it twice: viewers that drop style sheets still show the light scale."""
    # The break itself follows its sign, so that the text keeps its lines.
    shown = escape(visible(text)).replace("↵", "↵\n") if "\n" in text else escape(visible(text))
    # A raw line break inside an attribute is kept as it is by browsers, but not by every sanitiser.
    title = escape(detail).replace("\n", "&#10;")
    if np.isnan(place):
        return f'<span data-v="nan" title="{title}">{shown}</span>'
    style = f"--v:{100 * place:.1f}%;background-color:{_between(LIGHT, place)};color:{LIGHT['ink']}"
    return f'<span data-v="{place:.3f}" style="{style}" title="{title}">{shown}</span>'


def _between(theme: dict[str, str], place: float) -> str:
    """Colour at 0..1 between a theme's ends, mixed in sRGB as the style sheet does."""
    ends = [[int(theme[name][i : i + 2], 16) for i in (1, 3, 5)] for name in ("low", "high")]
    return "#" + "".join(f"{round(a + place * (b - a)):02x}" for a, b in zip(*ends, strict=True))
