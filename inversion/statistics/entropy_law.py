"""How accuracy is paid for with entropy: R = -a exp(H) + b, the law of arXiv 2505.22617, fitted to training curves."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import curve_fit
from scipy.stats import spearmanr

from inversion.errors import InputError
from inversion.statistics.seeds import seed_interval

NATS_A_BIT = float(np.log(2))
FEWEST = 4
"""Points of a curve below which no law is fitted."""


@dataclass(frozen=True)
class EntropyLaw:
    """The law fitted to the first part of a method's curves, one fit a seed.

    method: Name of the method.
    a: Of each seed, (s,): accuracy that a falling entropy still buys.
    b: Of each seed, (s,): less a, the accuracy at which entropy is used up.
    error: Root of the mean squared error of predicted accuracy on the rest of each curve, (s,).
    last_value: The same of the guess that accuracy stays what it was on average at the end of the first part, (s,).
    fitted: Points of each curve that were fitted, (s,).
    """

    method: str
    a: np.ndarray
    b: np.ndarray
    error: np.ndarray
    last_value: np.ndarray
    fitted: np.ndarray

    @property
    def ceiling(self) -> np.ndarray:
        """Accuracy at entropy 0, b - a, of each seed, (s,)."""
        return self.b - self.a

    def __str__(self) -> str:
        parts = []
        for name, values in (("a", self.a), ("b", self.b), ("ceiling", self.ceiling), ("error", self.error)):
            mean, low, high = seed_interval(values)
            parts.append(f"{name} {mean:.3f}" + (f" [{low:.3f}, {high:.3f}]" if len(values) > 1 else ""))
        mean, *_ = seed_interval(self.last_value)
        return f"{self.method}: {', '.join(parts)}; keeping the last value: {mean:.3f}"


def accuracy_at(entropy_nats: np.ndarray, a: float, b: float) -> np.ndarray:
    """Return -a exp(H) + b."""
    return -a * np.exp(entropy_nats) + b


def fit_entropy_law(curves: Any, first: float = 0.5, tail: int = 4) -> list[EntropyLaw]:
    """Fit the law to the first part of every curve and predict the rest.

    Args:
        curves: A DataFrame with ``method``, ``seed``, ``step``, ``accuracy`` and ``entropy_bits``: ``entropy.csv`` of a
            comparison, which is of held-out problems, or ``curves.csv``, which is of those trained on.
        first: Share of the points that are fitted.
        tail: Points at the end of the first part whose mean is the simpler guess.

    Returns:
        One law a method, in order of appearance, with an interval over seeds when printed.

    Raises:
        InputError: The table lacks a column, or a curve is too short.
    """
    missing = {"method", "seed", "step", "accuracy", "entropy_bits"} - set(curves)
    if missing:
        raise InputError(f"the curves have no {sorted(missing)[0]}; give entropy.csv of inversion train compare.")
    laws = []
    for method, group in curves.groupby("method", sort=False):
        found = [_fit(curve.sort_values("step"), first, tail) for _, curve in group.groupby("seed")]
        laws.append(EntropyLaw(str(method), *np.array(found).T))
    return laws


def long_enough(curves: Any, first: float = 0.5) -> bool:
    """Say whether every curve has the points that a fit to its first part needs."""
    counts = curves.dropna(subset=["accuracy", "entropy_bits"]).groupby(["method", "seed"]).size()
    return bool((first * counts >= FEWEST).all())


def entropy_changes(curves: Any) -> Any:
    """Set the covariance of log-probability and advantage beside what entropy did, as a DataFrame.

    To first order a step of size eta changes entropy by -eta times the covariance (arXiv 2505.22617, theorem 1).

    Args:
        curves: ``entropy.csv`` of a comparison.

    Returns:
        A row for each two neighbouring points of a curve: ``method``, ``seed``, ``step`` of the first of them,
        ``covariance`` and ``predicted`` (nats, means over the updates between them), and ``change``, the measured
        change of entropy an update, in nats.
    """
    curves = curves.sort_values(["seed", "step"])
    following = curves.groupby(["method", "seed"], sort=False)[["step", "entropy_bits"]].shift(-1)
    change = (following.entropy_bits - curves.entropy_bits) * NATS_A_BIT / (following.step - curves.step)
    found = curves[["method", "seed", "step", "covariance"]].assign(
        predicted=curves.predicted_entropy_change, change=change
    )
    return found.dropna(subset="change")


def change_correlations(changes: Any) -> dict[str, np.ndarray]:
    """Return method -> Spearman's correlation of covariance and change of entropy, one a seed, (s,).

    Args:
        changes: From :func:`entropy_changes`.
    """
    return {
        str(method): np.array([spearmanr(c.covariance, c.change)[0] for _, c in group.groupby("seed")])
        for method, group in changes.groupby("method", sort=False)
    }


def _fit(curve: Any, first: float, tail: int) -> tuple[float, float, float, float, int]:
    """Return a, b, the error of the prediction, that of the simpler guess, and the points fitted, of one curve."""
    curve = curve.dropna(subset=["accuracy", "entropy_bits"])
    cut = int(first * len(curve))
    if cut < FEWEST or cut == len(curve):
        raise InputError(f"a curve has {len(curve)} points; the law needs {FEWEST} or more in the part that is fitted.")
    entropy, accuracy = curve.entropy_bits.to_numpy() * NATS_A_BIT, curve.accuracy.to_numpy()
    (a, b), _ = curve_fit(accuracy_at, entropy[:cut], accuracy[:cut], p0=(0.1, 1.0))
    error = np.sqrt(np.mean((accuracy_at(entropy[cut:], a, b) - accuracy[cut:]) ** 2))
    guess = np.sqrt(np.mean((accuracy[max(0, cut - tail) : cut].mean() - accuracy[cut:]) ** 2))
    return float(a), float(b), float(error), float(guess), cut
