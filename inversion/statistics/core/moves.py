"""Correlations after moving the values of one variable about inside their responses."""

import numpy as np

from inversion.statistics.core.coefficients import standardise, tau
from inversion.statistics.core.ranks import Floats, Ints, Variable

KINDS = ("shift", "permute")


def moved_correlations(
    x: Variable, y: Variable, method: str, kind: str, resamples: int, seed: int
) -> tuple[float, Floats]:
    """The correlation as it is, and after each move of x, (B,).

    Args:
        x: A variable whose clusters are responses; their tokens stand together and in order.
        y: Another one of the same tokens.
        method: Which correlation.
        kind: shift turns each response's values by a random number of places; permute scatters them.
        resamples: B.
        seed: Seed of the moves.
    """
    rng = np.random.default_rng(seed)
    if method == "kendall":
        a, b = x.values, y.values
    else:
        a, b = (standardise(v.doubled_ranks.astype(float) if method == "spearman" else v.values) for v in (x, y))
    sizes = np.bincount(x.cluster, minlength=x.n_clusters)
    starts = np.cumsum(sizes) - sizes

    def correlate(values: Floats) -> float:
        return tau(values, b) if method == "kendall" else float((values * b).mean())

    if kind == "permute":
        moved = [correlate(a[np.lexsort((rng.random(a.size), x.cluster))]) for _ in range(resamples)]
    elif method == "kendall":
        moved = [correlate(a[_turned(starts, sizes, rng.integers(0, sizes))]) for _ in range(resamples)]
    else:
        products = _products_by_shift(a, b, starts, sizes)
        moved = [products[starts + rng.integers(0, sizes)].sum() / a.size for _ in range(resamples)]
    return correlate(a), np.array(moved)


def _turned(starts: Ints, sizes: Ints, turns: Ints) -> Ints:
    """Where each token's value comes from after each response is turned by its number of places, (n,)."""
    offset = np.arange(sizes.sum()) - np.repeat(starts, sizes)
    return np.repeat(starts, sizes) + (offset + np.repeat(turns, sizes)) % np.repeat(sizes, sizes)


def _products_by_shift(a: Floats, b: Floats, starts: Ints, sizes: Ints) -> Floats:
    """Sum of products of each response's values with a turned by 0, 1, ... places, (n,): response by response.

    All turns at once, by Fourier transform: the sums at every turn are the circular cross-correlation.
    """
    products = np.empty(a.size)
    for first, size in zip(starts.tolist(), sizes.tolist(), strict=True):
        rows = slice(first, first + size)
        spectrum = np.fft.rfft(a[rows]) * np.conj(np.fft.rfft(b[rows]))
        products[rows] = np.fft.irfft(spectrum, size)
    return products
