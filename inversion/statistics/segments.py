"""The correlation in parts of the responses: thinking and answer, uncertain tokens and the rest, right and wrong."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from inversion.errors import InputError
from inversion.responses.thinking import ANSWER, THINK, THINK_TAGS, check_tags, token_parts
from inversion.statistics._data import check_run, column, reading_order, response_of
from inversion.statistics._options import Options
from inversion.statistics.difference import difference_of
from inversion.statistics.results import Correlation, Difference, Result, measured, number, p_text, sizes, span

if TYPE_CHECKING:
    import pandas as pd

Mask = np.ndarray
NAMES = {"think": ("think", "answer"), "entropy": ("rest", "forking"), "score": ("wrong", "right")}


@dataclass(frozen=True, repr=False)
class Segments(Result):
    """The correlation in two parts of the same run, and the second minus the first."""

    by: str
    a: Correlation
    b: Correlation
    difference: Difference
    notes: tuple[str, ...] = ()

    def to_pandas(self) -> "pd.DataFrame":
        """One row a part."""
        import pandas as pd

        return pd.concat([self.a.to_pandas(), self.b.to_pandas()], ignore_index=True)

    def _title(self) -> str:
        return f"Correlation of {self.a.norm} strength and entropy by {self.by}"

    def _rows(self) -> Iterator[tuple[str, str]]:
        for part in (self.a, self.b):
            text = f"{number(part.estimate)} {span(part.low, part.high)}, {p_text(part.p_value)}, {sizes(part)}"
            yield part.label, text + (f" ({part.reason})" if part.reason else "")
        d = self.difference
        yield f"{self.b.label} - {self.a.label}", f"{number(d.estimate)} {span(d.low, d.high)}, {p_text(d.p_value)}"
        yield "measured", measured(self.a)
        yield "resampling", f"{d.level:.4g} {d.interval}, {d.resamples} resamples of {d.cluster}s, seed {d.seed}"


def segments(
    run: xr.Dataset,
    by: str = "think",
    norm: str = "nuclear",
    *,
    tags: tuple[str, str] | None = None,
    top: float = 0.2,
    right: float = 1.0,
    **options: Any,
) -> Segments:
    """Correlate within two parts of a run and compare them; options as for ``correlate``.

    by="think": the thinking tokens against those of the answer, as the run was measured (``--think-tags``), or told by
    other ``tags``; the tags' own tokens are in neither. by="entropy": the ``top`` share of the run's tokens by entropy
    (forking tokens) against the rest; both span less entropy than the whole, so both correlations shrink, the rest's
    included. by="score": responses whose ``score`` is at least ``right`` against the others.
    """
    check_run(run)
    if by not in NAMES:
        raise InputError(f"by must be one of {', '.join(NAMES)}, not {by!r}.")
    chosen = Options(norm, **options)
    if by == "think":
        a, b = think_masks(run, tags)
    elif by == "entropy":
        a, b = entropy_masks(run, top)
    else:
        score = column(run, "score").astype(float)
        a, b = score < right, score >= right
    # Right and wrong answers are different responses; the other parts share theirs.
    paired = by != "score" or chosen.cluster == "prompt"
    name_a, name_b = NAMES[by]
    d = difference_of(run, run, chosen, a, b, paired=paired, label=f"{name_b} - {name_a}", names=(name_a, name_b))
    return Segments(by, d.a, d.b, d)


def entropy_masks(run: xr.Dataset, top: float) -> tuple[Mask, Mask]:
    """Masks (n,) of the rest and of the ``top`` share of tokens by entropy (ties at the border count as top)."""
    if not 0 < top < 1:
        raise InputError(f"top must lie between 0 and 1, such as 0.2, not {top!r}.")
    entropy = column(run, "entropy_bits").astype(float)
    finite = entropy[np.isfinite(entropy)]
    if finite.size == 0:
        return np.zeros(entropy.size, bool), np.zeros(entropy.size, bool)
    border = np.sort(finite)[::-1][max(int(np.ceil(top * finite.size)) - 1, 0)]
    return entropy < border, entropy >= border


def think_masks(run: xr.Dataset, tags: tuple[str, str] | None = None) -> tuple[Mask, Mask]:
    """Masks (n,) of thinking and answer tokens.

    A run holds for each token which it is, found in the whole response when that was measured, with the tags that its
    manifest names. Other tags, or a capture without that, are looked for in the texts of the tokens, which takes all
    tokens of every response: a draw of them may have missed a tag.
    """
    recorded = recorded_tags(run)
    if "part" in run.variables and tags in (None, recorded):
        part = column(run, "part")
        return part == THINK, part == ANSWER
    tags = check_tags(recorded if tags is None else tags)
    if "weight" in run.variables and (column(run, "weight") != 1).any():
        raise InputError(
            f"the tags {tags[0]} and {tags[1]} cannot be looked for, since this run holds some of each response's "
            "tokens only; measure it again with these as --think-tags."
        )
    text = np.array(["" if t is None or t != t else str(t) for t in column(run, "token_text")], dtype=object)
    response = response_of(run)
    order = reading_order(run, np.ones(text.size, bool))
    think, answer = np.zeros(text.size, bool), np.zeros(text.size, bool)
    for rows in np.split(order, np.flatnonzero(np.diff(response[order])) + 1):
        think[rows], answer[rows] = split_thinking(list(text[rows]), tags)
    return think, answer


def recorded_tags(run: xr.Dataset) -> tuple[str, str]:
    """Return the tags that a run's thinking was told by."""
    responses = run.attrs.get("responses")
    recorded = responses.get("think_tags") if isinstance(responses, dict) else None
    return check_tags(recorded) if recorded else THINK_TAGS


def split_thinking(pieces: list[str], tags: tuple[str, str]) -> tuple[Mask, Mask]:
    """Which of n pieces of text, which are a whole response, are thinking and which answer; see ``token_parts``."""
    parts = np.array(token_parts(pieces, tags), dtype=object)
    return parts == THINK, parts == ANSWER
