"""The report's first part: what the runs say in words, a table, and figures."""

import base64
from dataclasses import dataclass
from html import escape
from io import BytesIO
from typing import Any

import numpy as np
import xarray as xr

from inversion.plots import PAGE_INCHES, entropy_strength, fingerprint, layer_heat_map, new_figure, style
from inversion.report.data import Loaded
from inversion.statistics import Correlation, Difference, compare, correlate, layer_map
from inversion.statistics.results import p_text, span

FEW = 30
"""Below this many responses the sentence says that they are few."""


@dataclass(frozen=True)
class Findings:
    """What was computed of one run. ``control`` is None where logit_space was not measured."""

    run: Loaded
    positions: Correlation
    types: Correlation
    control: Correlation | None
    table: xr.Dataset


def findings(run: Loaded, norm: str, **options: Any) -> Findings:
    """Correlate at both units, the control, and every layer and projection; options as for ``correlate``."""
    return Findings(
        run,
        correlate(run.tokens, norm, **options),
        correlate(run.tokens, norm, unit="token_type", **options),
        correlate(run.tokens, "logit_space", **options) if "logit_space" in run.tokens else None,
        layer_map(run.tokens, norm, **options),
    )


def verdict(result: Correlation) -> str:
    """One sentence on what an interval allows one to say."""
    if not np.isfinite(result.estimate):
        return f"The correlation is undefined: {result.reason}."
    if not (np.isfinite(result.low) and np.isfinite(result.high)):
        return "Its uncertainty could not be determined, so it decides nothing."
    if result.high < 0:
        return "The whole interval lies below 0: uncertain tokens are weakly driven, which is the inversion."
    if result.low > 0:
        return "The whole interval lies above 0: strength rises with entropy, the opposite of the inversion."
    return "The interval holds 0, so this run decides neither for the inversion nor against it."


def sentences(found: Findings) -> list[str]:
    """What one run says, in words."""
    c, tokens = found.positions, found.run.tokens
    averaged = f"{len(c.layers)} layers and projections {', '.join(c.projections)}"
    said = [
        f"{found.run.name} ({tokens.attrs.get('model', 'unnamed model')}): over {c.n_tokens:,} tokens of "
        f"{c.n_responses:,} responses, token entropy and logit-gradient strength ({c.norm} norm of the gradient of the "
        f"{c.quantity or 'logit'}, mean over {averaged}) correlate at {number(c)} "
        f"({c.level:.0%} interval, {p_text(c.p_value)}).",
        verdict(c),
        f"Over {found.types.n_points:,} token types instead of positions it is {number(found.types)}.",
    ]
    if found.control is not None:
        said.append(
            f"The control |e − p|, which follows entropy almost by construction and is never the finding, comes out at "
            f"{number(found.control)}."
        )
    estimate, q = found.table["estimate"].values, found.table["q_value"].values
    clear = q < 0.05
    said.append(
        f"Of {estimate.size} layer-projection pairs, {int((clear & (estimate < 0)).sum())} are clearly negative and "
        f"{int((clear & (estimate > 0)).sum())} clearly positive (q < 0.05)."
    )
    if c.n_responses < FEW:
        said.append(f"{c.n_responses} responses are few: take the interval as rough.")
    if not tokens.attrs.get("complete", True):
        said.append("The run is not finished; more responses are to come.")
    return said + [f"Note: {note}." for note in c.notes]


def number(result: Correlation | Difference) -> str:
    """A correlation for reading, with its interval."""
    sign = f"{result.estimate:+.3f}" if np.isfinite(result.estimate) else "undefined"
    return f"{sign} {span(result.low, result.high)}".replace("-", "−")


def accuracy(run: Loaded) -> str:
    """Share of right responses among those that were scored."""
    score = run.responses["score"].astype(float).dropna()
    return f"{(score >= 1).mean():.1%} of {len(score)}" if len(score) else "not scored"


COLUMNS = ("run", "model", "responses", "tokens", "right", "entropy (bits)", "ρ, positions", "p", "ρ, token types")


def table_rows(found: list[Findings]) -> list[tuple[str, ...]]:
    """The cells below :data:`COLUMNS` and a last column for the control."""
    rows = []
    for f in found:
        c = f.positions
        rows.append(
            (
                f.run.name,
                str(f.run.tokens.attrs.get("model", "")),
                f"{c.n_responses:,}",
                f"{c.n_tokens:,}",
                accuracy(f.run),
                f"{float(f.run.tokens['entropy_bits'].mean()):.3f}",
                number(c),
                p_text(c.p_value).removeprefix("p = "),
                number(f.types),
                number(f.control) if f.control is not None else "not measured",
            )
        )
    return rows


def summary_html(found: list[Findings], norm: str, **options: Any) -> str:
    """The part of the page that needs no script. All text in it is escaped here."""
    words = "".join(f"<p>{escape(' '.join(sentences(f)))}</p>" for f in found)
    if len(found) > 1:
        first = found[0]
        for other in found[1:]:
            d = compare(first.run.tokens, other.run.tokens, norm=norm, **options)
            how = "paired by prompt" if d.paired else "independent runs"
            text = f"{other.run.name} minus {first.run.name}: {number(d)} ({how}, {p_text(d.p_value)}, null: equal)."
            words += f"<p>{escape(text)}</p>"
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in (*COLUMNS, "ρ of |e − p| (control)"))
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in table_rows(found)
    )
    c = found[0].positions
    caption = (
        f"{c.method.capitalize()} correlations of entropy and {c.norm} strength with {c.level:.0%} intervals "
        f"({c.interval}, over {c.cluster}s, {c.resamples} resamples, seed {c.seed})."
    )
    return (
        f'<section aria-labelledby="summary-title"><h2 id="summary-title">Summary</h2>{words}'
        f'<div class="wide"><table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></section>"
        f'<section aria-labelledby="figures-title"><h2 id="figures-title">Figures</h2>{figures_html(found)}</section>'
    )


def figures_html(found: list[Findings]) -> str:
    """The figures as images inside the page, each with a caption that repeats its numbers."""
    bars = {
        f.run.name: {"positions": f.positions, "token types": f.types}
        | ({"|e − p| (control)": f.control} if f.control is not None else {})
        for f in found
    }
    said = "; ".join(f"{f.run.name} {number(f.positions)}, token types {number(f.types)}" for f in found)
    shown = [_figure(lambda axes: fingerprint(bars, axes[0, 0]), 2.4, 1, f"Correlations with intervals: {said}.")]
    limit = max(0.1, *(float(np.nanmax(np.abs(f.table["estimate"].values), initial=0.0)) for f in found))
    for i in range(0, len(found), 2):
        pair = found[i : i + 2]
        names = " and ".join(f.run.name for f in pair)
        shown.append(
            _figure(
                lambda axes, pair=pair: [
                    entropy_strength(f.run.tokens, ax, norm=f.positions.norm, result=f.positions, title=f.run.name)
                    for ax, f in zip(axes.flat, pair, strict=True)
                ],
                2.6,
                len(pair),
                f"Tokens by entropy and strength, and medians of groups of equal size: {names}.",
            )
        )
        shown.append(
            _figure(
                lambda axes, pair=pair: [
                    layer_heat_map(f.table, ax, limit=limit, title=f.run.name)
                    for ax, f in zip(axes.flat, pair, strict=True)
                ],
                2.0,
                len(pair),
                f"Correlation by layer and projection: {names}.",
            )
        )
    return "".join(shown)


def _figure(draw: Any, height: float, columns: int, caption: str) -> str:
    # Panels of a kind share their vertical axis, so that they can be compared across.
    figure, axes = new_figure(PAGE_INCHES if columns > 1 else PAGE_INCHES * 0.75, height, columns, sharey=True)
    with style():
        draw(axes)
        buffer = BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": "inversion"})
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    text = escape(caption)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'
