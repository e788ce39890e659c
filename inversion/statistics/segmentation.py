"""The correlation in parts of the responses: thinking and answer, uncertain tokens and the rest, right and wrong."""

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Literal, Unpack

import numpy as np
import xarray as xr

from inversion.errors import InputError
from inversion.responses.thinking import ANSWER, THINK, THINK_TAGS, check_tags, token_parts
from inversion.statistics.difference import difference_of
from inversion.statistics.layout import Columns, told_of_responses
from inversion.statistics.options import Choices, Options, one_of, read_choices
from inversion.statistics.results import (
    Correlation,
    Difference,
    Result,
    both_notes,
    measured,
    number,
    p_text,
    sizes,
    span,
)
from inversion.statistics.samples import Mask, Sampler, counted

if TYPE_CHECKING:
    import pandas as pd

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
        """One row per part."""
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

    def _notes(self) -> tuple[str, ...]:
        a, b, d = self.a, self.b, self.difference
        reason = (f"why NaN (a is {a.label}, b is {b.label}): {d.reason}",) if d.reason else ()
        of_difference = tuple(f"{b.label} - {a.label}: {note}" for note in d.notes)
        return reason + both_notes(**{a.label: a, b.label: b}) + of_difference + self.notes


def segments(
    run: xr.Dataset | Columns,
    by: Literal["think", "entropy", "score"] = "think",
    norm: str = "nuclear",
    *,
    tags: tuple[str, str] | None = None,
    top: float = 0.2,
    right: float = 1.0,
    **options: Unpack[Choices],
) -> Segments:
    """Correlate within two parts of a run and compare them.

    Args:
        run: A run or capture.
        by: ``"think"``: the thinking tokens against those of the answer, as the run was measured (``--think-tags``),
            or told by other ``tags``; the tags' own tokens are in neither. ``"entropy"``: the ``top`` share of the
            run's tokens by entropy (forking tokens) against the rest; both span less entropy than the whole, so both
            correlations shrink, the rest's included. ``"score"``: responses whose score is at least ``right`` against
            the others; those without a score are in neither.
        norm: Norm of the strength.
        tags: What opens and what closes thinking, where it is not to be told as the run was measured.
        top: Share of tokens that count as forking.
        right: Score from which a response is right.
        options: As for :func:`inversion.correlate`.

    Returns:
        The two correlations, and the second minus the first.

    Raises:
        InputError: The run lacks what is asked for, or an option cannot be used.
    """
    one_of("by", by, NAMES)
    chosen = read_choices("segments", options, Choices, norm=norm)
    return segments_of(Sampler.of(run, chosen), chosen, by, tags=tags, top=top, right=right)


def segments_of(
    sampler: Sampler,
    options: Options,
    by: str,
    *,
    tags: tuple[str, str] | None = None,
    top: float = 0.2,
    right: float = 1.0,
) -> Segments:
    """``segments`` from a sampler and options."""
    columns = sampler.columns
    if by == "think":
        masks = think_masks(columns, tags)
    elif by == "entropy":
        masks = entropy_masks(columns, top)
    else:
        if not isinstance(right, Real):
            raise InputError(f"right must be a number, such as 1.0, not {right!r}.")
        score = columns.number("score")
        masks = score < right, score >= right
    # Right and wrong answers are different responses; the other parts share theirs.
    paired = by != "score" or options.cluster == "prompt"
    names = NAMES[by]
    label = f"{names[1]} - {names[0]}"
    d = difference_of(sampler, sampler, options, masks, paired=paired, label=label, names=names)
    return Segments(by, d.a, d.b, d, _in_neither(columns, by, masks))


def _in_neither(columns: Columns, by: str, masks: tuple[Mask, Mask]) -> tuple[str, ...]:
    """A note on tokens that are in neither part because they lack what the parts are made by."""
    left = ~(masks[0] | masks[1])
    tokens = int(np.count_nonzero(left))
    if by == "think" or not tokens:
        return ()
    if by == "entropy":
        return (f"{counted(tokens, 'token')} left out: no entropy",)
    responses = np.unique(columns.response[left]).size
    return (f"{counted(responses, 'response')} left out ({counted(tokens, 'token')}): no score",)


def entropy_masks(columns: Columns, top: float) -> tuple[Mask, Mask]:
    """Masks (n,) of the rest and of the ``top`` share of tokens by entropy (ties at the border count as top)."""
    if not isinstance(top, Real) or not 0 < top < 1:
        raise InputError(f"top must lie between 0 and 1, such as 0.2, not {top!r}.")
    entropy = columns.entropy_bits
    finite = entropy[np.isfinite(entropy)]
    if finite.size == 0:
        return np.zeros(entropy.size, bool), np.zeros(entropy.size, bool)
    place = finite.size - max(int(np.ceil(top * finite.size)), 1)
    border = np.partition(finite, place)[place]
    return entropy < border, entropy >= border


def think_masks(run: xr.Dataset | Columns, tags: tuple[str, str] | None = None) -> tuple[Mask, Mask]:
    """Masks (n,) of thinking and answer tokens, in the order of the tokens in ``run``.

    A run holds for each token which it is, found in the whole response when that was measured, with the tags that its
    manifest names. Other tags, or a capture without that, are looked for in the texts of the tokens, which takes all
    tokens of every response: a draw of them may have missed a tag.
    """
    columns = Columns.of(run)
    recorded = recorded_tags(columns.run)
    if columns.has("part") and tags in (None, recorded):
        part = columns.labels("part")
        think, answer = part == THINK, part == ANSWER
    else:
        think, answer = _told_by_tags(columns, check_tags(recorded if tags is None else tags))
    if columns.order is None or isinstance(run, Columns):
        return think, answer
    back = np.argsort(columns.order)
    return think[back], answer[back]


def _told_by_tags(columns: Columns, tags: tuple[str, str]) -> tuple[Mask, Mask]:
    if columns.is_drawn:
        raise InputError(
            f"the tags {tags[0]} and {tags[1]} cannot be looked for, since this run holds some of each response's "
            "tokens only; measure it again with these as --think-tags."
        )
    think, answer = np.zeros(columns.n_tokens, bool), np.zeros(columns.n_tokens, bool)
    for rows, texts in columns.texts():
        think[rows], answer[rows] = split_thinking(texts, tags)
    return think, answer


def recorded_tags(run: xr.Dataset) -> tuple[str, str]:
    """Return the tags that a run's thinking was told by."""
    recorded = told_of_responses(run).get("think_tags")
    return check_tags(recorded) if recorded else THINK_TAGS


def split_thinking(pieces: list[str], tags: tuple[str, str]) -> tuple[Mask, Mask]:
    """Which of n pieces of text, which are a whole response, are thinking and which answer; see ``token_parts``."""
    parts = np.array(token_parts(pieces, tags), dtype=object)
    return parts == THINK, parts == ANSWER
