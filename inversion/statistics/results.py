"""The results that the statistics return: frozen, self-describing, at home in a terminal and a notebook."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

NUMBERS = ("estimate", "low", "high", "p_value", "n_tokens", "n_responses")


def number(value: Any, digits: int = 3) -> str:
    """A number for reading: signed with ``digits`` decimals, or NaN."""
    return "NaN" if value is None or not np.isfinite(value) else f"{value:+.{digits}f}"


def p_text(p: float) -> str:
    """A p-value for reading: two significant digits, never 0."""
    return "p = NaN" if not np.isfinite(p) else f"p = {p:.2g}"


def plain(value: Any) -> Any:
    """A value as JSON has it: no numpy types, tuples as lists, nested results as dicts."""
    if isinstance(value, Result):
        return value.to_dict()
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    return value.item() if isinstance(value, np.generic) else value


class Result:
    """Base of all results: ``_title``, ``_rows`` and ``_notes`` say what to show; the rest follows from the fields."""

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON has them (NaN stays NaN)."""
        return {f.name: plain(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]

    def to_pandas(self) -> "pd.DataFrame":
        """One row, a column a field; several results concatenate into a table. Of results inside, the numbers."""
        import pandas as pd

        row: dict[str, Any] = {}
        for name, value in self.to_dict().items():
            if isinstance(value, dict):
                row |= {f"{name}_{k}": value[k] for k in NUMBERS if k in value}
            else:
                row[name] = _cell(value)
        return pd.DataFrame([row])

    def _title(self) -> str:
        return type(self).__name__

    def _rows(self) -> Iterator[tuple[str, str]]:
        yield from ()

    def _notes(self) -> tuple[str, ...]:
        reason = getattr(self, "reason", None)
        return ((f"why NaN: {reason}",) if reason else ()) + tuple(getattr(self, "notes", ()))

    def __str__(self) -> str:
        rows = list(self._rows())
        width = max((len(label) for label, _ in rows), default=0)
        lines = [self._title(), *(f"  {label:<{width}}  {text}" for label, text in rows)]
        return "\n".join(lines + [f"  ! {note}" for note in self._notes()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        # Colours are inherited, so that dark and light notebooks both work; nothing is loaded from elsewhere.
        cell = "padding:1px 12px 1px 0;text-align:left;vertical-align:top;background:transparent"
        rows = "".join(
            f'<tr style="background:transparent"><th scope="row" style="{cell};font-weight:600">{escape(label)}</th>'
            f'<td style="{cell}">{escape(text)}</td></tr>'
            for label, text in self._rows()
        )
        notes = "".join(f"<div><em>{escape(note)}</em></div>" for note in self._notes())
        caption = f'<caption style="text-align:left;font-weight:700;color:inherit">{escape(self._title())}</caption>'
        return (
            f'<div style="color:inherit"><table style="border-collapse:collapse">{caption}{rows}</table>{notes}</div>'
        )


def _cell(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(v, int | str) for v in value):
        return " ".join(str(v) for v in value)
    return value


@dataclass(frozen=True, repr=False, kw_only=True)
class Estimate(Result):
    """What every estimate says: its value, how sure it is, and how it was made.

    estimate: In -1..1 for a correlation, -2..2 for a difference; NaN where undefined.
    low: Lower limit of the interval.
    high: Upper limit of the interval.
    p_value: Of the hypothesis that the value in the population of responses is 0.
    standard_error: On the scale of the estimate.
    n_clusters: Number of independent units that were resampled.
    method: Which correlation: spearman, pearson or kendall.
    unit: What a point is: position or token_type.
    norm: Norm of the gradient, or logit_space.
    quantity: What the gradient is of: logit, log_prob or entropy.
    given: Columns held fixed.
    interval: Kind of interval that was in fact used.
    level: Level of the interval.
    resamples: Number of resamples.
    seed: Their seed.
    cluster: What was resampled: response or prompt.
    label: What it is called among others.
    reason: Why something is NaN.
    notes: What must be known besides: what was left out, and what was not as it was asked for.
    """

    estimate: float
    low: float
    high: float
    p_value: float
    standard_error: float
    n_clusters: int
    method: str
    unit: str
    norm: str
    quantity: str
    given: tuple[str, ...]
    interval: str
    level: float
    resamples: int
    seed: int
    cluster: str
    label: str = ""
    reason: str | None = None
    notes: tuple[str, ...] = ()

    def _of(self) -> str:
        """What was correlated, for a title."""
        held = f" given {', '.join(self.given)}" if self.given else ""
        return f"{self.norm} strength and entropy{held}" + (f": {self.label}" if self.label else "")

    def _head(self, null: str) -> Iterator[tuple[str, str]]:
        yield "estimate", number(self.estimate)
        yield f"{self.level:.4g} interval", f"{span(self.low, self.high)} ({self.interval})"
        yield "p-value", f"{p_text(self.p_value)} (sign flips of whole {self.cluster}s; null: {null})"


@dataclass(frozen=True, repr=False, kw_only=True)
class Correlation(Estimate):
    """Correlation of strength and entropy in one run. Besides the fields of :class:`Estimate`:

    n_tokens: Number of tokens used.
    n_points: Number of points correlated: tokens, or distinct token ids.
    n_responses: Number of responses they come from.
    n_tokens_left_out: Number of tokens that lack a number; ``notes`` say which.
    n_responses_left_out: Number of responses none of whose tokens could be used.
    layers: Layers that the strength is a mean over.
    projections: Projections that it is a mean over.
    model: The model.
    """

    n_tokens: int
    n_points: int
    n_responses: int
    n_tokens_left_out: int = 0
    n_responses_left_out: int = 0
    layers: tuple[int, ...]
    projections: tuple[str, ...]
    model: str = ""

    def _title(self) -> str:
        return f"Correlation of {self._of()}"

    def _rows(self) -> Iterator[tuple[str, str]]:
        yield from self._head("correlation 0")
        yield "from", sizes(self)
        yield "measured", measured(self)
        yield "resampling", f"{self.cluster}s, {self.resamples} resamples, seed {self.seed}"


@dataclass(frozen=True, repr=False, kw_only=True)
class Difference(Estimate):
    """Correlation of b minus that of a; its p-value is of equal correlations in the populations of responses.

    The p-value comes from the difference of Fisher's z, the interval from that of the correlations: two tests, of which
    one can exclude 0 where the other does not.

    Besides the fields of :class:`Estimate`:

    a: The first run.
    b: The second run.
    paired: Whether responses to the same prompts were resampled together.
    """

    a: Correlation
    b: Correlation
    paired: bool

    def _title(self) -> str:
        return f"Difference of correlations (b - a) of {self._of()}"

    def _rows(self) -> Iterator[tuple[str, str]]:
        yield from self._head("no difference")
        for name, part in (("a", self.a), ("b", self.b)):
            yield name, f"{number(part.estimate)} {span(part.low, part.high)}, {sizes(part)}"
        both = measured(self.a), measured(self.b)
        for name, text in zip(
            ("measured",) if both[0] == both[1] else ("a measured", "b measured"), both, strict=False
        ):
            yield name, text
        how = f"paired by {self.cluster}" if self.paired else "independent runs"
        yield "resampling", f"{how}, {self.resamples} resamples, seed {self.seed}"

    def _notes(self) -> tuple[str, ...]:
        return super()._notes() + both_notes(a=self.a, b=self.b)


def both_notes(**parts: Correlation) -> tuple[str, ...]:
    """The notes of several correlations: once where all have them, else with the name of the one that has."""
    notes = dict.fromkeys(note for part in parts.values() for note in part.notes)
    found = []
    for note in notes:
        having = [name for name, part in parts.items() if note in part.notes]
        found.append(note if len(having) == len(parts) else f"{', '.join(having)}: {note}")
    return tuple(found)


def span(low: float, high: float, digits: int = 3) -> str:
    """An interval for reading."""
    return f"[{number(low, digits)}, {number(high, digits)}]"


def clear_sign(result: Estimate) -> int:
    """-1 or 1 where a result is clearly below or above 0, else 0.

    Both its interval and its p-value have to exclude 0 at its level. With few responses they can differ: a jackknife
    interval, which stands in then, can leave 0 out where the sign-flip test cannot reject anything.
    """
    if not result.p_value <= 1 - result.level + 1e-9:
        return 0
    return int(result.low > 0) - int(result.high < 0)


def with_interval(result: "Estimate", digits: int = 2) -> str:
    """An estimate and its interval for reading."""
    return f"{number(result.estimate, digits)} {span(result.low, result.high, digits)}"


def sizes(result: Correlation) -> str:
    """How much data: tokens, points and responses."""
    points = "" if result.n_points == result.n_tokens else f", {result.n_points} token types"
    return f"{result.n_tokens} tokens{points}, {result.n_responses} responses"


def measured(result: Correlation) -> str:
    """Which correlation of which strength over which unit."""
    unit = "positions" if result.unit == "position" else "token types"
    parts = [f"{result.method} over {unit}", f"norm {result.norm}"]
    if result.quantity:
        parts.append(f"gradient of {result.quantity}")
    if result.layers:
        parts.append(f"layers {shorten(result.layers)} of {''.join(result.projections)}")
    if result.model:
        parts.append(f"model {result.model}")
    return ", ".join(parts)


def shorten(numbers: tuple[int, ...]) -> str:
    """Whole numbers for reading: a run of neighbours as first..last."""
    if len(numbers) > 2 and numbers == tuple(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}..{numbers[-1]}"
    return " ".join(str(n) for n in numbers)
