"""Thinking and final answer judged apart, and how often each combination occurs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from scipy.stats import binomtest

from inversion.critique.cases import Case
from inversion.responses.thinking import THINK_TAGS

OUTCOMES = {
    (True, True): "both right",
    (False, True): "hidden critique",
    (True, False): "lost at the end",
    (False, False): "both wrong",
}
"""(thinking right, answer right) -> its name. Injected and both right: the error was corrected within the thinking."""


@dataclass(frozen=True)
class Verdict:
    """Whether thinking came to the right conclusion, and whether the final answer is right."""

    thinking: bool
    answer: bool

    @property
    def outcome(self) -> str:
        """Its name in ``OUTCOMES``."""
        return OUTCOMES[self.thinking, self.answer]


def split_response(response: str, tags: tuple[str, str] = THINK_TAGS) -> tuple[str, str]:
    """Return thinking and final answer; the latter is empty where thinking never ends."""
    thinking, closed, answer = response.rpartition(tags[1])
    return (thinking, answer) if closed else (response, "")


def judge(case: Case, response: str, tags: tuple[str, str] = THINK_TAGS) -> Verdict:
    """Judge a response, opening included; what is missing or cannot be scored is not right.

    Of a model that does not think, the whole response is judged, as both.
    """
    if case.plain:
        right = case.score(response) == 1
        return Verdict(right, right)
    thinking, answer = split_response(response, tags)
    thinking = thinking.removeprefix(tags[0])
    return Verdict(case.score(case.conclude(thinking)) == 1, bool(answer) and case.score(answer) == 1)


def interval(successes: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a share."""
    found = binomtest(successes, count).proportion_ci(level, "wilson")
    return float(found.low), float(found.high)


def rates(verdicts: Mapping[str, Sequence[Verdict]], tasks: Sequence[str]) -> Any:
    """Return how often each outcome occurs in each condition, over all problems and by task, as a DataFrame.

    Args:
        verdicts: Condition -> verdicts of all problems, in one order.
        tasks: Task of each problem; empty where it has none.
    """
    rows = []
    for condition, found in verdicts.items():
        for task in dict.fromkeys(["all", *filter(None, tasks)]):
            chosen = [v for v, own in zip(found, tasks, strict=True) if task in ("all", own)]
            counts = {name: sum(v.outcome == name for v in chosen) for name in OUTCOMES.values()}
            counts["answer right"] = sum(v.answer for v in chosen)
            for outcome, count in counts.items():
                low, high = interval(count, len(chosen))
                rows.append((condition, task, outcome, len(chosen), count, count / len(chosen), low, high))
    names = ("condition", "task", "outcome", "problems", "count", "share", "low", "high")
    return pd.DataFrame(rows, columns=list(names)).drop_duplicates()
