"""One jump in a short series of correlations: where, how large, and whether there is one at all."""

from dataclasses import dataclass

import numpy as np

from inversion.statistics.core.inference import NAN, Resampling, sign_flips, to_z
from inversion.statistics.core.ranks import Floats
from inversion.statistics.core.statistic import in_chunks


@dataclass(frozen=True)
class Change:
    """Places are indices of the series; None and NaN with a reason where there is nothing to estimate."""

    before: int | None = None
    after: int | None = None
    low: int | None = None
    high: int | None = None
    size: float = NAN
    p_value: float = NAN
    reason: str | None = None


def contrasts(z: Floats) -> Floats:
    """Jump contrasts of series (..., T) at each of T-1 places: sqrt(m (T - m) / T) * (mean after - mean before).

    The square of a contrast is the sum of squares that a jump after the first m points explains, so the largest one
    marks the least-squares fit.
    """
    steps = z.shape[-1]
    m = np.arange(1, steps)
    head = np.cumsum(z, axis=-1)
    before = head[..., :-1] / m
    after = (head[..., -1:] - head[..., :-1]) / (steps - m)
    return np.sqrt(m * (steps - m) / steps) * (after - before)


def find_change(rho: Floats, amounts: Floats, leverage: Floats, resampling: Resampling) -> Change:
    """The jump in T correlations, with what each of K clusters adds to each (K, T) on Fisher's z scale.

    Place: least squares on z. Its interval: the places found when the clusters' amounts are added with random signs (a
    wild bootstrap). p-value of "no jump anywhere": the largest contrast in standard errors against its sign-flip
    distribution with a common value imposed, which allows for having searched; every flip has standard errors of its
    own, since few uneven clusters know theirs roughly.
    """
    z = to_z(rho)
    flips = sign_flips(len(amounts), resampling.resamples, resampling.seed)
    place = int(np.argmax(np.abs(contrasts(z)))) + 1
    noise = np.einsum("fk,kt->ft", flips, amounts)
    found = np.argmax(np.abs(contrasts(z + noise)), axis=1) + 1
    tails = [0.5 - resampling.level / 2, 0.5 + resampling.level / 2]
    low, high = (int(v) for v in np.quantile(found, tails, method="closest_observation"))
    error = np.sqrt((contrasts(amounts) ** 2).sum(axis=0))
    size = float(rho[place:].mean() - rho[:place].mean())
    if not (error > 0).all():
        return Change(place - 1, place, low - 1, high, size, reason="the responses do not vary, so no test is possible")
    imposed = amounts + leverage * (z - z.mean())
    largest = in_chunks(lambda rows: _largest(rows, imposed, leverage), flips, imposed.size)
    p_value = float(np.mean(largest >= largest[0] * (1 - 1e-9)))  # the first flip turns nothing
    return Change(place - 1, place, min(low, place) - 1, max(high, place), size, p_value)


def _largest(flips: Floats, imposed: Floats, leverage: Floats) -> Floats:
    """The largest contrast in standard errors under each flip, (F,)."""
    flipped = flips[:, :, None] * imposed  # (F, K, T)
    totals = flipped.sum(axis=1)
    errors = np.sqrt((contrasts(flipped - leverage * totals[:, None, :]) ** 2).sum(axis=1))
    jumps = np.abs(contrasts(totals))
    return np.divide(jumps, errors, out=np.zeros_like(jumps), where=errors > 0).max(axis=1)
