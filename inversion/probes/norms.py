"""Norms of a weight gradient ``G = Delta^T A`` from its factors, without forming it.

With the QR decomposition ``A^T = Q R`` the singular values of G are those of ``R Delta``. R is upper triangular, so
its leading columns belong to the leading rows of A: one decomposition serves every prefix.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from inversion.probes.polar import EIGENVALUES, POLAR, FasterWay, polar_nuclear_norms

NORMS = ("nuclear", "frobenius", "spectral", "l1")
PANEL = 64
"""Rows at a time where half of a product is not needed. Smaller panels skip more of it, larger ones run faster."""
NUCLEAR: dict[str, Callable[[Tensor], Tensor]] = {
    EIGENVALUES: lambda matrices: singular_values(matrices).sum(-1),
    POLAR: polar_nuclear_norms,
}
"""Ways to nuclear norms, functions of c matrices (c, m, n) that return (c,), by name."""
_faster = FasterWay()


def triangular_factor(inputs: Tensor) -> Tensor:
    """Return R of ``inputs^T = Q R``.

    Args:
        inputs: A, (b, d_in).

    Returns:
        (min(b, d_in), b), upper triangular, in float32 or float64; ``R[:n, :n]`` (or ``R[:, :n]`` where n > d_in)
        belongs to the first n rows of A.
    """
    return torch.linalg.qr(_wide(inputs).T, mode="r").R


def factored_norms(factor: Tensor, delta: Tensor, names: Sequence[str], ways: set[str]) -> dict[str, Tensor]:
    """Return norms of ``Delta^T A``, each (c,), for c tokens over a prefix of n positions.

    Args:
        factor: R of the whole sequence, from :func:`triangular_factor`.
        delta: (c, n, d_out).
        names: Among nuclear, frobenius and spectral.
        ways: The way that nuclear norms were computed, a key of :data:`NUCLEAR`, is added here.
    """
    prefix = delta.shape[1]
    core = _triangular_product(factor[:prefix, :prefix], delta.to(factor.dtype))  # (c, min(n, d_in), d_out)
    norms = {}
    if "frobenius" in names:
        # A long sum of squares loses more digits in float32 than the entries have lost so far.
        norms["frobenius"] = torch.linalg.vector_norm(core, dim=(1, 2), dtype=torch.float64)
    # The spectral norm takes singular values, whose sum then costs nothing.
    values = singular_values(core) if "spectral" in names else None
    if values is not None:
        norms["spectral"] = values.amax(-1)
    if "nuclear" in names:
        way = _faster(core, NUCLEAR) if values is None else EIGENVALUES
        norms["nuclear"] = NUCLEAR[way](core) if values is None else values.sum(-1)
        ways.add(way)
    return norms


def singular_values(matrices: Tensor) -> Tensor:
    """Return all singular values of c matrices, (c, min(m, n)), largest last; NaN for one that is not finite.

    Matrices in float32 go through the eigenvalues of their smaller Gram matrix in float64, which is far faster: the
    square root halves the sixteen digits of float64, and the eight that remain are all that float32 holds. For float64
    that would not do, so those take a true decomposition.

    Args:
        matrices: (c, m, n) in float32 or float64.
    """
    # A sum of squares shows whether any entry is infinite or not a number, where LAPACK would raise.
    if matrices.dtype == torch.float64:
        broken = ~matrices.square().sum((1, 2)).isfinite()
        values = torch.linalg.svdvals(matrices.masked_fill(broken[:, None, None], 0)).flip(-1)
    else:
        wide = matrices.double()
        gram = _lower_gram(wide if wide.shape[1] <= wide.shape[2] else wide.mT)
        broken = ~gram.diagonal(dim1=1, dim2=2).sum(1).isfinite()
        gram[broken] = 0
        values = torch.linalg.eigvalsh(gram, UPLO="L").clamp_min(0).sqrt()
    return values.masked_fill(broken[:, None], torch.nan)


def _triangular_product(factor: Tensor, matrices: Tensor) -> Tensor:
    """Return ``R @ M``, (c, m, d), for upper triangular R (m, n) and c matrices M (c, n, d)."""
    if matrices.device.type != "cpu":
        return factor @ matrices
    result = matrices.new_empty(len(matrices), len(factor), matrices.shape[2])
    for start in range(0, len(factor), 2 * PANEL):
        panel = slice(start, start + 2 * PANEL)
        result[:, panel] = factor[panel, start:] @ matrices[:, start:]
    return result


def _lower_gram(matrices: Tensor) -> Tensor:
    """Return ``M @ M^T``, (c, m, m), for c matrices (c, m, n), right on the diagonal and below only."""
    if matrices.device.type != "cpu":
        return matrices @ matrices.mT
    count, rows, _ = matrices.shape
    gram = matrices.new_zeros(count, rows, rows)
    for start in range(0, rows, PANEL):
        stop = min(start + PANEL, rows)
        gram[:, start:stop, :stop] = matrices[:, start:stop] @ matrices[:, :stop].mT
    return gram


def rank_one_norms(inputs: Tensor, delta: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Return norms of the outer products ``delta_i a_i^T``, each (c,).

    Args:
        inputs: Each token's own a_i, (c, d_in).
        delta: Each token's own delta_i, (c, d_out).
        names: Any of the norms: of a rank-one matrix nuclear, frobenius and spectral are the same.
    """
    a, d = _wide(inputs), _wide(delta)
    length = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(d, dim=1)
    absolute = a.abs().sum(1) * d.abs().sum(1)
    return {name: absolute if name == "l1" else length for name in names}


def l1_norm(inputs: Tensor, delta: Tensor, tile: int = 1024) -> Tensor:
    """Return the sum of absolute entries of ``Delta^T A``, (c,). Slow: it needs every entry, so it forms G in tiles.

    Args:
        inputs: A, (n, d_in).
        delta: (c, n, d_out).
        tile: Most columns of G formed at once.
    """
    a = _wide(inputs)
    rows = delta.to(a.dtype).mT  # (c, d_out, n)
    return torch.stack([(rows @ part).abs().sum((1, 2)) for part in a.split(tile, dim=1)]).sum(0)


def _wide(tensor: Tensor) -> Tensor:
    """Half precision is for models; norms are computed in float32 at least."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
