"""How accuracy is paid for with entropy: R = -a exp(H) + b, the law of arXiv 2505.22617, fitted to training curves."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import curve_fit

from inversion.errors import InputError
from inversion.statistics.seeds import seed_interval

NATS_A_BIT = float(np.log(2))


@dataclass(frozen=True)
class EntropyLaw:
    """The law fitted to the first part of a method's curves, one fit a seed.

    method: Name of the method.
    a: Of each seed, (s,): accuracy that a falling entropy still buys.
    b: Of each seed, (s,): less a, the accuracy at which entropy is used up.
    error: Root of the mean squared error of predicted accuracy on the rest of each curve, (s,).
    last_value: The same of the guess that accuracy stays what it was on average at the end of the first part, (s,).
    """

    method: str
    a: np.ndarray
    b: np.ndarray
    error: np.ndarray
    last_value: np.ndarray

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


def fit_entropy_law(curves: pd.DataFrame, first: float = 0.5, tail: int = 10) -> list[EntropyLaw]:
    """Fit the law to the first part of every curve and predict the rest.

    Args:
        curves: ``curves.csv`` of a comparison: ``method``, ``seed``, ``step``, ``accuracy``, ``entropy_bits``.
        first: Share of the steps that are fitted.
        tail: Steps at the end of the first part whose mean is the simpler guess.

    Returns:
        One law a method, in order of appearance, with an interval over seeds when printed.

    Raises:
        InputError: The table lacks a column, or a curve is too short.
    """
    missing = {"method", "seed", "step", "accuracy", "entropy_bits"} - set(curves)
    if missing:
        raise InputError(f"the curves have no column {sorted(missing)[0]}; give curves.csv of inversion train compare.")
    laws = []
    for method, group in curves.groupby("method", sort=False):
        found = [_fit(curve.sort_values("step"), first, tail) for _, curve in group.groupby("seed")]
        laws.append(EntropyLaw(str(method), *np.array(found).T))
    return laws


def _fit(curve: pd.DataFrame, first: float, tail: int) -> tuple[float, float, float, float]:
    """Return a, b, the error of the prediction and that of the simpler guess, of one curve."""
    curve = curve.dropna(subset=["accuracy", "entropy_bits"])
    cut = int(first * len(curve))
    if cut < 4 or cut == len(curve):
        raise InputError(f"a curve has {len(curve)} steps; the law needs more than 4 in the part that is fitted.")
    entropy, accuracy = curve.entropy_bits.to_numpy() * NATS_A_BIT, curve.accuracy.to_numpy()
    (a, b), _ = curve_fit(accuracy_at, entropy[:cut], accuracy[:cut], p0=(0.1, 1.0))
    error = np.sqrt(np.mean((accuracy_at(entropy[cut:], a, b) - accuracy[cut:]) ** 2))
    guess = np.sqrt(np.mean((accuracy[max(0, cut - tail) : cut].mean() - accuracy[cut:]) ** 2))
    return float(a), float(b), float(error), float(guess)
