"""The nuclear norm by matrix products alone, for processors on which eigenvalues are slow.

The nuclear norm of M is the inner product of M with its polar factor, the matrix with M's singular vectors and all
singular values 1. An odd polynomial of M changes the singular values and nothing else, so a chain of polynomials that
takes every singular value to 1 makes the polar factor. Each link is the best of degree five on the interval that the
links before it leave, which makes the chain the best of its length (Polar Express, arXiv 2505.16932); the coefficients
are found here by linear programming.
"""

import time
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

SMALLEST = 1e-8
"""Singular values below this part of the Frobenius norm need not get to 1: they add less than rounding to the sum."""
CLOSE = 1e-6
"""The chain ends when singular values are this near to 1; what is missing counts in proportion."""
MARGIN = 1e-3
"""By how much an interval is widened, so that rounding puts no singular value outside of it."""
CUSHION = 0.02
"""A link is made for singular values above this part of the largest. The best one for smaller ones, too, would take
some of the larger ones to nearly 0, where rounding can change their sign."""
EIGENVALUES, POLAR = "eigenvalues", "polar factor"


def polar_nuclear_norms(matrices: Tensor) -> Tensor:
    """Return the nuclear norms of c matrices, (c,), in float64; NaN for one that is not finite.

    Args:
        matrices: (c, m, n) in float32. Sixteen digits would want a chain that goes on for longer.
    """
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT  # (c, s, l)
    scale = torch.linalg.vector_norm(wide, dim=(1, 2), dtype=torch.float64)
    finite = scale.isfinite()
    unit = wide / scale.clamp_min(torch.finfo(torch.float32).tiny).to(wide.dtype)[:, None, None]
    unit = unit.masked_fill(~finite[:, None, None], 0)
    factor = unit
    for a, b, c in coefficients(SMALLEST):
        gram = factor @ factor.mT  # (c, s, s)
        # a X + b (X X^T) X + c (X X^T)^2 X, with one product of the long side.
        factor = torch.baddbmm(factor, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), factor, beta=a)
    return ((factor * unit).sum((1, 2), dtype=torch.float64) * scale).masked_fill(~finite, torch.nan)


@cache
def coefficients(smallest: float) -> tuple[tuple[float, float, float], ...]:
    """Return a, b, c of the links a x + b x^3 + c x^5 that take [smallest, 1] to within ``CLOSE`` of 1."""
    links, low, high = [], smallest, 1.0
    while 1 - low > CLOSE:
        link, low, high = _best_link(low, high * (1 + MARGIN))
        links.append(link)
    return tuple(links)


def _best_link(low: float, high: float) -> tuple[tuple[float, float, float], float, float]:
    """Return the odd polynomial of degree five that stays nearest to 1 on [low, high], and its extremes there."""
    start = max(low, CUSHION * high)
    x = np.unique(np.concatenate([np.geomspace(start, high, 1000), np.linspace(start, high, 1000)]))
    powers = np.stack([x, x**3, x**5], axis=1)
    one = np.ones((len(x), 1))
    # Unknowns a, b, c and the distance e: |powers @ (a, b, c) - 1| <= e everywhere, e as small as can be.
    found = linprog(
        [0, 0, 0, 1],
        A_ub=np.block([[powers, -one], [-powers, -one]]),
        b_ub=np.concatenate([one, -one]).ravel(),
        bounds=[(None, None)] * 3 + [(0, None)],
        method="highs",
    )
    a, b, c = map(float, found.x[:3])
    values = powers @ found.x[:3]
    return (a, b, c), min(a * low + b * low**3 + c * low**5, float(values.min())), float(values.max())


class FasterWay:
    """Which way to the nuclear norm is the faster one for matrices of a size, found by trying each once.

    On a CPU it is the eigenvalues (docs/numerics.md), and float64 needs those.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], str] = {}

    def __call__(self, matrices: Tensor, ways: dict[str, Callable[[Tensor], Tensor]]) -> str:
        """Return the name of the fastest of ``ways`` for c matrices, (c, m, n)."""
        if matrices.device.type == "cpu" or matrices.dtype != torch.float32:
            return EIGENVALUES
        count, rows, columns = matrices.shape
        # Prefixes grow by a few rows at a time: sizes within a factor of two share a choice.
        key = (matrices.device, count.bit_length(), rows.bit_length(), columns)
        if key not in self._known:
            self._known[key] = min(ways, key=lambda name: _seconds(ways[name], matrices))
        return self._known[key]


def _seconds(way: Callable[[Tensor], Tensor], matrices: Tensor) -> float:
    """Time the second call: the first one may load libraries."""
    way(matrices)
    torch.accelerator.synchronize(matrices.device)
    start = time.perf_counter()
    way(matrices)
    torch.accelerator.synchronize(matrices.device)
    return time.perf_counter() - start
