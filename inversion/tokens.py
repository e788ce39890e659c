"""One response's tokens as something to read: visible texts, quantities and their units."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from inversion.errors import InputError
from inversion.statistics.strengths import check_run, column, has_grid, strength, strength_norms

READING_UNITS = {"entropy_bits": "bits", "surprisal_bits": "bits", "logit_space": ""}
LABELS = {"entropy_bits": "token entropy", "surprisal_bits": "surprisal", "logit_space": "logit-space strength |e − p|"}
# Signs for characters that leave no mark of their own on paper.
SIGNS = {"\n": "↵", "\t": "⇥", "\r": "␍"}


@dataclass(frozen=True)
class Reading:
    """One number a token, (n,), with a name and a unit for legends; NaN where it was not measured."""

    values: np.ndarray
    label: str
    unit: str


def quantity_of(
    capture: xr.Dataset,
    by: str = "entropy_bits",
    layer: int | Sequence[int] | None = None,
    projection: str | Sequence[str] | None = None,
) -> Reading:
    """Read what to colour tokens by.

    Args:
        capture: A capture or a run.
        by: ``"entropy_bits"``, ``"surprisal_bits"``, ``"logit_space"`` or a norm that was measured.
        layer: For a norm, the layer or layers it is a mean over; all by default.
        projection: For a norm, the projection or projections it is a mean over; all by default.

    Raises:
        InputError: The capture lacks what is asked for, or a layer or projection is given for a quantity without them.
    """
    check_run(capture)
    if has_grid(capture, by):
        layers = [layer] if isinstance(layer, int) else layer
        values, used, projections = strength(capture, by, layers, projection)
        where = f"layer {used[0]}" if len(used) == 1 else f"mean of {len(used)} layers"
        return Reading(values, f"{by} norm, {where}, {''.join(projections)}", "logit per weight")
    if by not in READING_UNITS or by not in capture:
        known = [name for name in (*READING_UNITS, *strength_norms(capture)) if name in capture]
        raise InputError(f"tokens cannot be coloured by {by!r}; choose among {', '.join(dict.fromkeys(known))}.")
    if layer is not None or projection is not None:
        raise InputError(f"{by} has no layers or projections; leave them out or choose a norm.")
    return Reading(column(capture, by).astype(float), LABELS[by], READING_UNITS[by])


def one_response(capture: xr.Dataset, response: int | None = None) -> xr.Dataset:
    """Return the tokens of one response of a run, in order; a capture is one already.

    Raises:
        InputError: The run has several responses and none is named, or it lacks the one that is.
    """
    check_run(capture)
    if "response" in capture.variables:
        numbers = column(capture, "response")
        there = np.unique(numbers)
        if response is None and there.size > 1:
            raise InputError(
                f"this run holds {there.size} responses; say which one to show, such as response={there[0]}."
            )
        if response is not None:
            if response not in there:
                raise InputError(
                    f"there is no response {response} in this run; choose among {there[0]} to {there[-1]}."
                )
            capture = capture.isel(token=np.flatnonzero(numbers == response))
    elif response is not None:
        raise InputError("this capture is a single response; leave response out.")
    if "token_text" not in capture:
        raise InputError("the capture has no token_text, so there is nothing to read; probe with a tokenizer.")
    return capture


def texts_of(capture: xr.Dataset) -> list[str]:
    """Text of each token; empty where there is none."""
    return [str(text) if isinstance(text, str) else "" for text in column(capture, "token_text").tolist()]


def visible(text: str) -> str:
    """Rewrite what cannot be seen: line breaks and tabs get signs, control and direction marks their code point.

    A token of spaces alone becomes that many dots, an empty one ∅.
    """
    if not text:
        return "∅"
    if text.strip(" ") == "":
        return "·" * len(text)
    return "".join(_visible_character(c) for c in text)


def _visible_character(character: str) -> str:
    if character in SIGNS:
        return SIGNS[character]
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return f"⟨U+{ord(character):04X}⟩"
    return character


def limits_of(values: np.ndarray) -> tuple[float, float]:
    """Range that colours span: lowest to highest finite value; (0, 1) where there is none."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def shares(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Place of each value between the limits, 0..1; NaN stays NaN, and all are 0 where the limits coincide."""
    low, high = limits
    span = high - low
    placed = np.clip((values - low) / span, 0, 1) if span > 0 else np.zeros_like(values)
    return np.where(np.isfinite(values), placed, np.nan)


def figure_text(value: float) -> str:
    """A value for reading, with three significant digits."""
    return "not measured" if not np.isfinite(value) else f"{value:.3g}"
