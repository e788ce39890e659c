"""Score a response against a known answer: between answer tags, as a number, as mathematics, as a choice, exactly.

A score is 1.0 for a right response and 0.0 for a wrong one. Where a response cannot be scored it is NaN with a reason:
a response that does not have the form that a scorer looks for is not thereby wrong, and a known answer that is no
number makes no response wrong. :func:`accuracy` is the one place that says what share is right; it leaves out what was
not scored and says how much that was.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from decimal import Decimal, DecimalException
from typing import Any

from inversion import mathematics
from inversion.errors import InputError, first_line

THINK_TAGS = ("<think>", "</think>")
"""What opens and what closes a model's thinking, unless it is known to use other tags."""
SECONDS = 10.0
"""Time that scoring one response in a process of its own may take."""

_TAGGED = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_NUMBER = re.compile(
    r"(?:(?<![\w.)])[-+−] ?)?(?:\d{1,3}(?:,\d{3})+(?!,?\d)|\d+|(?<!\d)(?=\.\d))(?:\.\d+)?"
    r"(?:[eE][-+]?\d+)?(?:/\d+)?"
)
_STATED = re.compile(
    r"\banswer[\s*_]*(?:is|=|:)[\s:=*_`~≈€£\\(\[{\"']*(?:(?:approximately|about|exactly|simply|just|[a-z] ?=)\s*)?",
    re.IGNORECASE,
)
_LINK = re.compile(r"[\s)}%*_]*(?:(?!x\b)[A-Za-z]+[\s)}]*)?(=|[-+−*/×·÷x^]|\\(?:times|cdot|div))?[\s({€£*_]*")
LONGEST_LINK = 40
"""Characters between two numbers of one calculation, at most."""
_BULLET = re.compile(r"^[ \t]*[-+*•−–][ \t]+", re.MULTILINE)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]{1,40})\}\s*\{([^{}]{1,40})\}")
_IN_WORDS = re.compile(r"\\(?:text|textbf|textrm|mathrm|mbox)\s*\{([^{}]*)\}(?:\s*\^\s*(?:\d|\{[^{}]*\}))?")
_STATED_CHOICE = re.compile(r"\b(?:answer|option|choice)[\s*_]*(?:is|=|:)([^.\n]*(?:\n+[^.\n]*)?)", re.IGNORECASE)
# "I believe" chooses nothing.
_CHOICE = re.compile(r"\(([A-Za-z])\)|(?<![A-Za-z'’])(?!I\s+[a-z])([A-Z])(?![A-Za-z'’])")
_ONLY_CHOICE = re.compile(r"\s*\(?([A-Za-z])\)?\s*(?:[.:)].*)?", re.DOTALL)
_WORD = re.compile(r"[A-Za-z]{3,}")


class Score(float):
    """A score, and why there is none where it is NaN (or why it is 0 without an answer)."""

    reason: str

    def __new__(cls, value: float, reason: str = "") -> "Score":
        """Make one; a NaN needs a reason."""
        made = super().__new__(cls, value)
        if math.isnan(value) and not reason:
            raise ValueError("a response without a score needs a reason")
        made.reason = reason
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return Score, (float(self), self.reason)


NAN = math.nan


class AnswerScorer(ABC):
    """Scores the answer that a response gives; its thinking is no part of that."""

    def __call__(
        self, response: str, finished: bool = True, tags: tuple[str, str] = THINK_TAGS, opened: bool = False
    ) -> Score:
        """Score a response; one that was cut at its greatest length before it gave an answer is wrong.

        Args:
            response: Its text.
            finished: Whether it came to an end by itself.
            tags: What opens and what closes the thinking.
            opened: Whether the prompt has opened it.
        """
        return self.score(without_thinking(response, tags, opened), finished)

    @abstractmethod
    def score(self, text: str, finished: bool) -> Score:
        """Score what a response says after its thinking."""


@dataclass(frozen=True)
class Scorer(AnswerScorer):
    """Scores responses to one problem, whose answer is known.

    find: Returns the answer that a text without thinking gives, None where it gives none.
    judge: Returns the score of an answer that was given.
    lacking: What a response without an answer lacks, for the reason.
    form_required: Whether a response without an answer is wrong, rather than unscored.
    """

    find: Callable[[str], str | None]
    judge: Callable[[str], float]
    lacking: str
    form_required: bool = False

    def score(self, text: str, finished: bool) -> Score:
        """Score a text; see :class:`AnswerScorer`."""
        given = self.find(text)
        return _without_answer(self, finished) if given is None else Score(self.judge(given))


@dataclass(frozen=True)
class MathScorer(AnswerScorer):
    """Compares as mathematics; whether a response has any is known only once it has been compared.

    answer: The known answer.
    lacking, form_required: As for :class:`Scorer`.
    """

    answer: str
    lacking: str = "it has no formula or number"
    form_required: bool = False

    def score(self, text: str, finished: bool) -> Score:
        """Score a text; see :class:`AnswerScorer`."""
        reply = mathematics.compare(self.answer, text, SECONDS)
        if "score" in reply:
            return Score(reply["score"])
        if reply["reason"] == "response":
            return _without_answer(self, finished)
        reasons = {
            "answer": f"the known answer {_short(self.answer)} is not mathematics",
            "failed": f"comparing it as mathematics failed ({reply.get('error')})",
            "time": f"comparing it as mathematics took more than {SECONDS:g} s",
        }
        return Score(NAN, reasons[reply["reason"]])


@dataclass(frozen=True)
class Unscorable(AnswerScorer):
    """Scores nothing, for a reason that lies in the known answer: no response is wrong because of that."""

    reason: str

    def score(self, text: str, finished: bool) -> Score:
        """Return NaN with the reason."""
        return Score(NAN, self.reason)


@dataclass(frozen=True)
class KeptScore(AnswerScorer):
    """Gives one response the score that it has already; what gave it is not known."""

    kept: Score

    def score(self, text: str, finished: bool) -> Score:
        """Return it."""
        return self.kept


def scorer_for(kind: str, answer: Any, *, form_required: bool = False) -> AnswerScorer | None:
    """Return the scorer of one problem.

    Args:
        kind: ``tags``: what stands between the last answer tags equals the answer up to white space. ``number``: the
            stated or last number of the response equals it. ``math``: its final formula or number equals it as
            mathematics (math-verify). ``choice``: the letter that it chooses is the answer. ``exact``: the whole of it,
            without thinking, equals the answer up to white space. ``none``: nothing is scored.
        answer: The known answer, text or a number; None where there is none.
        form_required: Count a response as wrong, rather than unscored, where it lacks the form that the scorer looks
            for. That is right for models that were trained or told to write it.

    Returns:
        None for ``none`` or without an answer.

    Raises:
        InputError: There is no such scorer, or math-verify is not installed.
    """
    if kind != "none" and kind not in _MAKERS:
        raise InputError(f"there is no scorer {kind!r}; choose among {', '.join(KINDS)}.")
    if kind == "none" or answer is None:
        return None
    made = _MAKERS[kind](str(answer))
    return made if isinstance(made, Unscorable) else replace(made, form_required=form_required)


def kept_score(score: float, reason: str) -> KeptScore:
    """Return a scorer of one response, which has a score, and a reason where that is NaN."""
    return KeptScore(Score(score, reason or ("it had no score" if score != score else "")))


def tagged_answer(response: str) -> str | None:
    """Return the text between the last pair of answer tags, or None where there is no closed pair."""
    found = _TAGGED.findall(response)
    return found[-1].strip() if found else None


def without_thinking(response: str, tags: tuple[str, str] = THINK_TAGS, opened: bool = False) -> str:
    """Return what a response says after its thinking: all of one without, none of one that never ends it.

    Args:
        response: Its text.
        tags: What opens and what closes the thinking.
        opened: Whether the prompt has opened it.
    """
    _, closed, rest = response.rpartition(tags[1])
    return "" if opened and not closed else rest.partition(tags[0])[0]


@dataclass(frozen=True)
class Accuracy:
    """Of ``scored`` responses ``right`` are right; ``unscored`` more could not be scored and do not count."""

    right: int
    scored: int
    unscored: int

    @property
    def share(self) -> float:
        """Right among scored, 0..1; NaN where nothing was scored."""
        return self.right / self.scored if self.scored else NAN

    def __str__(self) -> str:
        if not self.scored:
            return "not scored"
        return f"{self.share:.0%}" + (f" ({self.unscored} not scored)" if self.unscored else "")


def score_of(
    scorer: Callable[[str], float] | None,
    response: str,
    finished: bool = True,
    tags: tuple[str, str] = THINK_TAGS,
    opened: bool = False,
) -> Score:
    """Score a response by an :class:`AnswerScorer`, or by any function from its whole text to a number.

    Args:
        scorer: None where there is nothing to score against.
        response: Its text.
        finished: Whether it came to an end by itself.
        tags: What opens and what closes the thinking.
        opened: Whether the prompt has opened it.
    """
    if scorer is None:
        return Score(NAN, "its problem has no known answer")
    if isinstance(scorer, AnswerScorer):
        return scorer(response, finished, tags, opened)
    try:
        value = scorer(response)
    except Exception as error:  # One response that it does not expect must not cost the others.
        return Score(NAN, f"its scorer failed ({type(error).__name__}: {first_line(error)})")
    return value if isinstance(value, Score) else Score(value, "its scorer gave no number" if value != value else "")


def accuracy(scores: Iterable[float]) -> Accuracy:
    """Count what is right: a score of 1 or more, among those that are not NaN."""
    values = [float(score) for score in scores]
    scored = [value for value in values if not math.isnan(value)]
    return Accuracy(sum(value >= 1 for value in scored), len(scored), len(values) - len(scored))


def _without_answer(scorer: Scorer | MathScorer, finished: bool) -> Score:
    if not finished:
        return Score(0.0, "cut before it gave an answer")
    return Score(0.0 if scorer.form_required else NAN, scorer.lacking)


def _tags(answer: str) -> Scorer:
    """Never more generous than reasoning-gym at full marks, and free of its partial credit.

    It is stricter where reasoning-gym forgives a format that the prompt does not ask for (capitals, ``+7``, sorted
    values off by one).
    """
    return Scorer(tagged_answer, lambda given: float(given.split() == answer.split()), "it has no answer tags")


def _all(text: str) -> str:
    return text


def _exact(answer: str) -> Scorer:
    return Scorer(_all, lambda given: float(given.split() == answer.split()), "")


def _number(answer: str) -> Scorer | Unscorable:
    known = _decimal(answer)
    if known is None:
        return Unscorable(f"the known answer {_short(answer)} is not a number")
    return Scorer(_stated_number, lambda given: float(_decimal(given) == known), "it has no number")


def _stated_number(text: str) -> str | None:
    """The number of the most explicit place: answer tags, a box, what follows "answer is", the last of all."""
    places = [tagged_answer(text), *_BOXED.findall(text)[-1:], *re.findall(r"####(.*)", text)[-1:]]
    numbers = [found[-1] for place in places if place is not None and (found := _NUMBER.findall(_plain(place)))]
    if numbers:
        return numbers[0]
    plain = _BULLET.sub("", _plain(text))
    stated = list(_STATED.finditer(plain))
    if stated and (first := _NUMBER.match(plain, stated[-1].end())):
        return _outcome(plain, first.start())
    found = _NUMBER.findall(plain)
    return found[-1] if found else None


def _outcome(text: str, start: int) -> str:
    """The number that a calculation which begins there comes to: 12 + 30 = 42 is 42; a number alone is itself."""
    sides: list[list[str]] = [[]]
    end = start
    for number in _NUMBER.finditer(text, start):
        link = _LINK.fullmatch(text[end : number.start()]) if number.start() - end <= LONGEST_LINK else None
        # What has no operator before it may have one as its sign: 30 - 12.
        if sides[0] and (link is None or not (link[1] or number[0][0] in "-+−")):
            break
        if link is not None and link[1] == "=":
            sides.append([])
        sides[-1].append(number[0])
        end = number.end()
    alone = [side[0] for side in sides if len(side) == 1]
    return alone[-1] if alone else sides[-1][-1]


def _plain(text: str) -> str:
    """The text with numbers of LaTeX as plain ones, and without the units and exponents of units in it."""
    # LaTeX writes the comma between thousands as {,} or \!, or a thin space in its place.
    text = text.replace("{,}", ",").replace(",\\!", ",").replace("\\$", "").replace("$", "")
    text = re.sub(r"(?<=\d)\\[,;](?=\d{3}(?!\d))", "", text)
    text = _IN_WORDS.sub(lambda match: f" {match[1]} " if re.search(r"\d", match[1]) else " ", text)
    return _FRACTION.sub(lambda match: f" {match[1].strip()}/{match[2].strip()} ", text)


def _decimal(text: str) -> Decimal | None:
    """The value of a text that is one number or fraction, with a currency or per cent sign at most."""
    plain = text.strip().strip("$€£%\\ ").removesuffix(".").replace(",", "").replace("−", "-").replace(" ", "")
    above, _, below = plain.partition("/")
    try:
        # Decimals, since 1e999999999 is as short as any number in them.
        value = Decimal(above) / Decimal(below) if below else Decimal(above)
    except DecimalException:
        return None
    return value if value.is_finite() else None


def _choice(answer: str) -> Scorer | Unscorable:
    match = _ONLY_CHOICE.fullmatch(answer)
    if match is None:
        return Unscorable(f"the known answer {_short(answer)} is not a letter")
    known = match[1].upper()
    return Scorer(_chosen_letter, lambda given: float(given == known), "it chooses no letter")


def _chosen_letter(text: str) -> str | None:
    places = [tagged_answer(text), *_BOXED.findall(text)[-1:]]
    for place in places:
        if place is not None:
            match = _ONLY_CHOICE.fullmatch(re.sub(r"\\text\s*\{(.*)\}", r"\1", place))
            return match[1].upper() if match else None
    # First, since what begins with "A)" may go through all that can be chosen.
    stated = _STATED_CHOICE.findall(text)
    if stated and (match := _CHOICE.search(stated[-1])):
        return (match[1] or match[2]).upper()
    if match := _ONLY_CHOICE.fullmatch(text):
        return match[1].upper()
    # "I" and "A" are words too: elsewhere only a letter in brackets is a choice.
    bracketed = re.findall(r"\(([A-Z])\)", text)
    return bracketed[-1] if bracketed else None


def _math(answer: str) -> MathScorer | Unscorable:
    mathematics.require()
    # math-verify reads "Paris" as a product of five variables, and "sin(x)" as one of four.
    if _WORD.search(answer) and "\\" not in answer:
        return Unscorable(f"the known answer {_short(answer)} is a word, not mathematics in LaTeX")
    return MathScorer(answer)


def _short(answer: str) -> str:
    return repr(answer if len(answer) <= 40 else answer[:39] + "…")


_MAKERS: dict[str, Callable[[str], Scorer | MathScorer | Unscorable]] = {
    "math": _math,
    "number": _number,
    "tags": _tags,
    "choice": _choice,
    "exact": _exact,
}
KINDS = (*_MAKERS, "none")
"""Names of scorers."""
