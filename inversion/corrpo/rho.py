"""The inversion within one response: a number that a reward can use."""

from typing import Literal

import numpy as np

from inversion.errors import InputError

Method = Literal["spearman", "pearson"]
Unit = Literal["position", "token_type"]
RHO_METHODS: tuple[Method, ...] = ("spearman", "pearson")
RHO_UNITS: tuple[Unit, ...] = ("position", "token_type")
MIN_POINTS = 3
"""Points below which :func:`inversion.correlate` calls a correlation undefined, too."""


def response_rho(
    strength: np.ndarray,
    entropy_bits: np.ndarray,
    token_ids: np.ndarray,
    method: Method = "spearman",
    unit: Unit = "position",
    min_tokens: int = MIN_POINTS,
) -> float | None:
    """Correlate strength and entropy over one response, as :func:`inversion.correlate` does.

    Args:
        strength: S of each token, (t,).
        entropy_bits: H of each token, (t,).
        token_ids: The tokens written, (t,); used by the unit ``token_type`` only.
        method: ``spearman`` or ``pearson``.
        unit: ``position``: every token is a point. ``token_type``: every distinct token id is one, S and H averaged
            over its occurrences.
        min_tokens: Tokens below which the correlation counts as undefined.

    Returns:
        A number in -1..1; None where it is undefined: too few tokens or points, or one of the two is constant.
    """
    if method not in RHO_METHODS or unit not in RHO_UNITS:
        raise InputError(f"{method!r} over {unit!r} is not offered; choose {RHO_METHODS} over {RHO_UNITS}.")
    x, y = np.asarray(strength, float), np.asarray(entropy_bits, float)
    used = np.isfinite(x) & np.isfinite(y)
    x, y = x[used], y[used]
    if len(x) < min_tokens:
        return None
    if unit == "token_type":
        _, types, counts = np.unique(np.asarray(token_ids)[used], return_inverse=True, return_counts=True)
        x, y = (np.bincount(types, values) / counts for values in (x, y))
    if len(x) < MIN_POINTS or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    if method == "spearman":
        x, y = _ranks(x), _ranks(y)
    x, y = _unit_vector(x), _unit_vector(y)
    return float(np.clip(x @ y, -1.0, 1.0))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 1, ties sharing their mean: what scipy's rankdata does, without its cost per call."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def _unit_vector(values: np.ndarray) -> np.ndarray:
    """Centre a column that is not constant and scale it to length 1."""
    centred = values - values.mean()
    # By its largest entry first, so that squares of tiny strengths do not underflow.
    centred = centred / np.abs(centred).max()
    return centred / np.linalg.norm(centred)
