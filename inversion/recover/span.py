"""The span of a gradient's rows, and how far from it rounding and noise may take a vector that belongs to it.

Write the gradient that arrives as ``G + E``. If E has independent entries of deviation 1, theory says where the
singular values of noise end, and how far a vector v of the true span lies from the span that is found:

- the largest singular value of E is about ``sqrt(m) + sqrt(d)`` (Marchenko and Pastur);
- with ``G + E = U S V^T`` cut to rank r, to first order v's part outside is ``(1 - V V^T) E^T U S^-1 V^T v``, of
  length ``|S^-1 V^T v| sqrt(d - r)``.

So rows are first divided by the deviation of their own entries, which is known: from the dtype, and from the noise
where noise was added. No threshold is set by hand but for one factor of safety.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SAFETY = 3.0
"""How many times its predicted size an error may have; benchmarks/recover_limits.py measures how many it has."""
ROUNDING = math.sqrt(3 / (8 * math.log(2)) / 3)
"""Root mean square of the relative error of one rounding, in units of the unit roundoff: 0.42.

A rounded number is off by up to half its last digit, uniformly, which is one third of a square unit on average; and
with mantissas spread as 1/x over [1, 2), the mean of 1/x^2 is 3 / (8 ln 2).
"""
STEPS = {0: 3, 1: 12}
"""Roundings on the way to what a layer's attention reads: embedding, position and norm; then those of block 0."""


@dataclass(frozen=True)
class Span:
    """The span of a gradient's rows, as far as it rises from rounding and noise.

    basis: (d, r) orthonormal, float64.
    strengths: (r,) singular values in units of an entry's error, largest first.
    error: Deviation of an entry's error in those units; 1 but for the rounding of the decomposition itself.
    input_error: Relative error of the vectors that will be tested.
    """

    basis: Tensor
    strengths: Tensor
    error: float
    input_error: float

    @property
    def width(self) -> int:
        """Dimension d of the space."""
        return self.basis.shape[0]

    @property
    def rank(self) -> int:
        """Dimension r of the span."""
        return self.basis.shape[1]

    def distances(self, vectors: Tensor) -> Tensor:
        """Return each vector's distance to the span over the distance that error can explain, (n,).

        Below 1 a vector is taken to lie in the span.

        Args:
            vectors: (n, d); their lengths do not matter.
        """
        vectors = vectors.double()
        unit = torch.nn.functional.normalize(vectors, dim=1)  # (n, d)
        inside = unit @ self.basis  # (n, r)
        outside = torch.linalg.vector_norm(unit - inside @ self.basis.T, dim=1)
        carried = torch.linalg.vector_norm(inside / self.strengths, dim=1) * math.sqrt(self.width - self.rank)
        distances = outside / (SAFETY * torch.sqrt((self.error * carried) ** 2 + self.input_error**2))
        # A zero vector lies in every span, but leaves nothing in a gradient, so no text can be told to hold it.
        return torch.where(vectors.abs().amax(1) > 0, distances, math.inf)


def row_span(gradient: Tensor, dtype: torch.dtype, *, noise: float = 0.0, layer: int = 0) -> Span:
    """Find the span of a gradient's rows.

    Args:
        gradient: (m, d), in float64.
        dtype: In which it was computed and kept.
        noise: Standard deviation of noise added to every entry.
        layer: Layer of the weights: 0 or 1.
    """
    gradient = gradient[gradient.abs().amax(1) > 0]
    rows, width = gradient.shape
    if not rows:
        return Span(gradient.new_zeros(width, 0), gradient.new_zeros(0), 1.0, 0.0)
    size = gradient.square().mean(1).sqrt()  # (m,)
    rank, seen = 0, set()
    while True:
        # Sums of more terms round more; there are at least as many terms as the rank. From 0 it mostly settles at once.
        deviation = torch.sqrt((rounding_error(dtype, rank) * size) ** 2 + noise**2)
        _, strengths, basis = torch.linalg.svd(gradient / deviation[:, None], full_matrices=False)
        # The decomposition rounds too, which shows only where the gradient is in float64 itself.
        error = math.hypot(1.0, torch.finfo(torch.float64).eps * strengths[0].item())
        edge = SAFETY * error * (math.sqrt(rows) + math.sqrt(width))
        found = int((strengths > edge).sum())
        if found == rank or found in seen:
            break
        seen.add(rank)
        rank = found
    # Many models take norms and rotary angles in float32 whatever their dtype.
    inputs = max(rounding_error(kind, width) for kind in (dtype, torch.float32)) * math.sqrt(STEPS[layer])
    return Span(basis[:found].T.contiguous(), strengths[:found], error, inputs)


def rounding_error(dtype: torch.dtype, terms: int) -> float:
    """Return the deviation of the relative error of a sum of products of random sign.

    Adding term k rounds a partial sum of size sqrt(k / terms), so n additions add n / 2 times the variance of the one
    rounding that the product of few terms has. Half precision sums in float32 and rounds once, at the end.

    Args:
        dtype: Of the sum.
        terms: How many are added.
    """
    unit = torch.finfo(dtype).eps / 2
    halves = dtype in (torch.float16, torch.bfloat16)
    return ROUNDING * unit * math.sqrt(1 if halves else 1 + terms / 2)
