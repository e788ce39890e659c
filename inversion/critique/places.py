"""Strength and entropy before the error, at it, and where the model corrects itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.stats import bootstrap, rankdata

from inversion.critique.cases import Case
from inversion.critique.judging import split_response
from inversion.responses.thinking import THINK_TAGS
from inversion.scoring import tagged_answer

PLACES = ("before the error", "the error", "thinking after it", "answer", "correction")
MEASURES = ("strength", "entropy")


@dataclass(frozen=True)
class Marked:
    """Where things are in a response, in characters: the error, where thinking ends, where the answer departs from it.

    error: First character of the wrong result, and the one behind its last.
    end: Where the final answer begins.
    correction: Where the final answer departs from what thinking concluded; None where it does not.
    """

    error: tuple[int, int]
    end: int
    correction: int | None


def correction(case: Case, response: str, tags: tuple[str, str] = THINK_TAGS) -> int | None:
    """Return the first character at which a right answer departs from what thinking concluded.

    None where the answer is wrong, cannot be found, or says the same as the thinking.
    """
    thinking, answer = split_response(response, tags)
    if case.plain or not answer or case.score(answer) != 1:
        return None
    given = tagged_answer(answer) or case.answer
    at = answer.rfind(given)
    if at < 0:
        return None
    concluded = tagged_answer(case.conclude(thinking.removeprefix(tags[0])))
    start = len(response) - len(answer) + at
    if concluded is None:
        return start
    differing = next((i for i, (a, b) in enumerate(zip(given, concluded, strict=False)) if a != b), None)
    if differing is not None:
        return start + differing
    return start + len(concluded) if len(given) > len(concluded) else None


def mark(case: Case, response: str, tags: tuple[str, str] = THINK_TAGS) -> Marked:
    """Find the places of an injected response."""
    answer = split_response(response, tags)[1]
    return Marked(case.error, len(response) - len(answer), correction(case, response, tags))


def place_of(marked: Marked, start: int, stop: int) -> str:
    """Name the place of a token from its characters; the token that holds the correction is no ordinary answer."""
    if marked.correction is not None and start <= marked.correction < stop:
        return "correction"
    if stop <= marked.error[0]:
        return "before the error"
    if start < marked.error[1]:
        return "the error"
    return "answer" if start >= marked.end else "thinking after it"


def percentiles(values: np.ndarray) -> np.ndarray:
    """Return each token's rank within its response, 0 for the lowest and 1 for the highest, ties averaged."""
    return (rankdata(values) - 1) / max(1, len(values) - 1)


def token_strength(run: xr.Dataset, norm: str) -> np.ndarray:
    """Return the mean over layers and projections of a norm, (token,)."""
    return run[norm].mean(("layer", "projection")).values


def token_places(capture: xr.Dataset, marked: Marked) -> np.ndarray:
    """Return the name of each token's place in a response, (token,)."""
    ends = np.cumsum([len(text) for text in capture["token_text"].values])
    starts = np.concatenate([[0], ends[:-1]])
    return np.array([place_of(marked, int(a), int(b)) for a, b in zip(starts, ends, strict=True)])


def response_places(capture: xr.Dataset, names: np.ndarray, norm: str) -> dict[str, dict[str, float]]:
    """Return the mean percentile of strength and of entropy at each place of one response."""
    values = {"strength": token_strength(capture, norm), "entropy": capture["entropy_bits"].values}
    return {
        place: {measure: float(percentiles(v)[names == place].mean()) for measure, v in values.items()}
        for place in PLACES
        if (names == place).any()
    }


def place_table(
    found: Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]], seed: int = 0, resamples: int = 2000
) -> Any:
    """Return the mean percentile at each place, with intervals over problems, and paired differences, as a DataFrame.

    Args:
        found: Group of responses -> ``response_places`` of each.
        seed: Seed of the resampling.
        resamples: Resamples of the problems.
    """
    rows = []
    for group, responses in found.items():
        for measure in MEASURES:
            for place in PLACES:
                values = [places[place][measure] for places in responses if place in places]
                rows.append((group, measure, place, *mean_interval(values, seed, resamples)))
            pairs = [p for p in responses if "correction" in p and "answer" in p]
            values = [p["correction"][measure] - p["answer"][measure] for p in pairs]
            rows.append((group, measure, "correction minus answer", *mean_interval(values, seed, resamples)))
    return pd.DataFrame(rows, columns=["group", "measure", "place", "problems", "mean", "low", "high"])


def mean_interval(values: Sequence[float], seed: int = 0, resamples: int = 2000) -> tuple[int, float, float, float]:
    """Return how many there are, their mean, and its 95 % bootstrap interval; NaN below two."""
    array = np.asarray(values, dtype=float)
    mean = float(array.mean()) if len(array) else float("nan")
    if len(array) < 2 or np.ptp(array) == 0:
        return len(array), mean, float("nan"), float("nan")
    found = bootstrap(
        (array,), np.mean, n_resamples=resamples, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return len(array), mean, float(found.low), float(found.high)
