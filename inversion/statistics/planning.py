"""How many responses a wanted precision takes, judged from a pilot."""

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Unpack

import numpy as np
import xarray as xr
from scipy import stats

from inversion.errors import InputError
from inversion.statistics.core.inference import from_z, to_z
from inversion.statistics.correlation import correlation_of
from inversion.statistics.layout import Columns
from inversion.statistics.options import Planned, read_choices
from inversion.statistics.results import Correlation, Result, measured, number, span
from inversion.statistics.samples import Sampler

LARGEST = 10**9


@dataclass(frozen=True, repr=False)
class SamplePlan(Result):
    """Responses needed for an interval of a wanted width; ``low`` and ``high`` allow for the pilot's own error."""

    n_responses: float
    low: float
    high: float
    n_tokens: float
    width: float
    level: float
    pilot: Correlation
    reason: str | None = None

    def _title(self) -> str:
        return f"Responses for a {self.level:.4g} interval of width {self.width:g}"

    def _rows(self) -> Iterator[tuple[str, str]]:
        yield (
            "responses",
            f"{self.n_responses:.0f} (80 % range of the pilot's error: {self.low:.0f} to {self.high:.0f})",
        )
        yield "tokens", f"about {self.n_tokens:.0f}"
        pilot = self.pilot
        text = f"{number(pilot.estimate)} {span(pilot.low, pilot.high)} from {pilot.n_responses} responses"
        yield "pilot", text
        yield "measured", measured(pilot)


def plan_sample_size(
    pilot: xr.Dataset | Columns | Correlation,
    width: float = 0.1,
    level: float | None = None,
    norm: str = "nuclear",
    **options: Unpack[Planned],
) -> SamplePlan:
    """How many responses like the pilot's give an interval for the correlation no wider than ``width``.

    The standard error on Fisher's z scale shrinks with the square root of the number of responses; the range allows
    for how roughly the pilot knows that error (a chi-square spread with the pilot's degrees of freedom).

    Args:
        pilot: A run, or the Correlation of one.
        width: Width of the interval that is wanted, in units of the correlation.
        level: Level of that interval; by default the pilot's.
        norm: Norm of the strength, where the pilot is a run.
        options: As for :func:`inversion.correlate`, where the pilot is a run.

    Returns:
        The number of responses, with its range.

    Raises:
        InputError: The width cannot be reached, or an option cannot be used.
    """
    if isinstance(pilot, Correlation):
        if options:
            raise InputError(f"a Correlation is made already, so {', '.join(options)} cannot be chosen; leave it out.")
    else:
        asked = {} if level is None else {"level": level}
        chosen = read_choices("plan_sample_size", options, Planned, norm=norm, **asked)
        pilot = correlation_of(Sampler.of(pilot, chosen), chosen)
    level = pilot.level if level is None else level
    if not all(isinstance(v, Real) for v in (width, level)) or not 0 < width < 2 or not 0 < level < 1:
        raise InputError("width must lie between 0 and 2 and level between 0 and 1, both numbers.")
    error = pilot.standard_error / (1 - pilot.estimate**2) if abs(pilot.estimate) < 1 else np.nan
    if not np.isfinite(error):
        reason = pilot.reason or "the pilot has no standard error"
        return SamplePlan(np.nan, np.nan, np.nan, np.nan, width, level, pilot, reason)
    df = max(pilot.n_clusters - 1, 1)
    spread = np.sqrt(df / stats.chi2.ppf([0.9, 0.1], df))
    z, per_response = float(to_z(pilot.estimate)), error * np.sqrt(pilot.n_responses)
    needed, low, high = (float(responses_needed(z, per_response * s, width, level)) for s in (1.0, *spread))
    tokens = needed * pilot.n_tokens / pilot.n_responses
    return SamplePlan(needed, low, high, tokens, width, level, pilot)


def interval_width(z: float, per_response: float, n: int, level: float) -> float:
    """Width on the correlation scale of an interval from n responses, each of standard error ``per_response`` in z."""
    half = stats.t.ppf(0.5 + level / 2, n - 1) * per_response / np.sqrt(n)
    return float(from_z(z + half) - from_z(z - half))


def responses_needed(z: float, per_response: float, width: float, level: float) -> int:
    """The smallest n of at least 2 whose ``interval_width`` is at most ``width``."""
    low, high = 1, 2
    while interval_width(z, per_response, high, level) > width:
        low, high = high, high * 2
        if high > LARGEST:
            raise InputError(f"A width of {width:g} would take more than {LARGEST:,} responses; ask for a wider one.")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if interval_width(z, per_response, middle, level) > width else (low, middle)
    return high
