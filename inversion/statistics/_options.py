"""The options that the public functions share, checked once."""

from dataclasses import dataclass
from numbers import Integral

import numpy as np
import xarray as xr

from inversion.errors import InputError
from inversion.statistics._correlations import Statistic, kendall, pearson, spearman
from inversion.statistics._data import Tokens, strength, tokens_of
from inversion.statistics._infer import INTERVALS, Sample, Settings
from inversion.statistics._partial import Pairwise, partial_statistic
from inversion.statistics._ranks import Floats, Ints
from inversion.statistics._types import type_statistic

METHODS = {"spearman": spearman, "pearson": pearson, "kendall": kendall}
UNITS = ("position", "token_type")
MIN_POINTS = 3


@dataclass(frozen=True)
class Options:
    """What to correlate and how to judge it."""

    norm: str = "nuclear"
    method: str = "spearman"
    unit: str = "position"
    layers: object = None
    projections: object = None
    level: float = 0.95
    resamples: int = 2000
    seed: int = 0
    given: tuple[str, ...] = ()
    interval: str = "signflip"
    cluster: str = "response"

    def __post_init__(self):
        _one_of("method", self.method, tuple(METHODS))
        _one_of("unit", self.unit, UNITS)
        object.__setattr__(self, "interval", "jackknife" if self.interval == "influence" else self.interval)
        _one_of("interval", self.interval, INTERVALS)
        given = (self.given,) if isinstance(self.given, str) else tuple(self.given or ())
        object.__setattr__(self, "given", given)
        if not 0 < self.level < 1:
            raise InputError(f"level must lie between 0 and 1, such as 0.95, not {self.level!r}.")
        if not isinstance(self.resamples, Integral) or self.resamples < 1:
            raise InputError(f"resamples must be a whole number of at least 1, not {self.resamples!r}.")
        if not isinstance(self.seed, Integral) or self.seed < 0:
            raise InputError(f"seed must be a whole number of at least 0, not {self.seed!r}.")

    @property
    def settings(self) -> Settings:
        """The part that inference needs."""
        return Settings(self.interval, float(self.level), int(self.resamples), int(self.seed))


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(allowed)}, not {value!r}.")


@dataclass(frozen=True)
class Facts:
    """What a sample was made of."""

    n_tokens: int
    n_points: int
    n_responses: int
    n_clusters: int
    layers: tuple[int, ...]
    projections: tuple[str, ...]
    quantity: str
    model: str
    notes: tuple[str, ...]


def sample_of(run: xr.Dataset, options: Options, keep=None) -> tuple[Sample, Facts]:
    """Sample and facts of a run under the options; ``keep`` is an (n,) mask of tokens to use."""
    tokens = tokens_of(run, options.cluster, options.given, options.unit == "token_type")
    values, layers, projections = strength(run, options.norm, options.layers, options.projections)
    sample, used = make_sample(values, tokens, options, keep)
    kept = tokens.take(used)
    missing = int(np.count_nonzero(~used if keep is None else keep & ~used))
    lost = (f"{missing} tokens with missing values were left out",) if missing else ()
    points = int(used.sum()) if options.unit == "position" else int(np.unique(kept.types).size)  # type: ignore[arg-type]
    facts = Facts(
        n_tokens=int(used.sum()),
        n_points=points,
        n_responses=int(np.unique(kept.response).size),
        n_clusters=int(np.unique(kept.cluster).size),
        layers=layers,
        projections=projections,
        quantity=str(run.attrs.get("quantity", "")),
        model=str(run.attrs.get("model", "")),
        notes=tokens.notes + lost,
    )
    return sample, facts


def make_sample(values: Floats, tokens: Tokens, options: Options, keep=None) -> tuple[Sample, np.ndarray]:
    """The sample of one strength (n,) over the tokens, and the (n,) mask of tokens it uses."""
    used = np.isfinite(values) & np.isfinite(tokens.entropy)
    for extra in tokens.given:
        used &= np.isfinite(extra)
    if keep is not None:
        used &= keep
    x, part = values[used], tokens.take(used)
    labels, cluster = np.unique(part.cluster, return_inverse=True)
    shares = np.bincount(cluster, minlength=labels.size) / max(cluster.size, 1)
    reason = why_undefined(x, part, options.unit)
    statistic = nothing if reason else _statistic(x, part, cluster.astype(np.intp), labels.size, options)
    return Sample(statistic, shares, labels.astype(np.intp), reason), used


def nothing(weights: Floats) -> Floats:
    """The statistic of an undefined sample: (B, K) -> (B,) NaN."""
    return np.full(len(weights), np.nan)


def why_undefined(x: Floats, tokens: Tokens, unit: str) -> str | None:
    """The reason why no correlation can be computed, or None."""
    if x.size == 0:
        return "no token has both a strength and an entropy"
    points = x.size if unit == "position" else np.unique(tokens.types).size  # type: ignore[arg-type]
    if points < MIN_POINTS:
        what = "tokens" if unit == "position" else "distinct tokens"
        return f"{points} {what} are too few: at least {MIN_POINTS} are needed"
    names = ("strength", "entropy", *tokens.given_names)
    for name, values in zip(names, (x, tokens.entropy, *tokens.given), strict=True):
        if values.min() == values.max():
            return f"{name} is constant"
    return None


def _statistic(x: Floats, tokens: Tokens, cluster: Ints, n_clusters: int, options: Options) -> Statistic:
    pairwise = _pairwise(tokens, cluster, n_clusters, options)
    if tokens.given:
        return partial_statistic(x, tokens.entropy, list(tokens.given), pairwise)
    return pairwise(x, tokens.entropy)


def _pairwise(tokens: Tokens, cluster: Ints, n_clusters: int, options: Options) -> Pairwise:
    if options.unit == "position":
        make = METHODS[options.method]
        return lambda a, b: make(a, b, cluster, n_clusters)
    types = np.unique(tokens.types, return_inverse=True)[1].astype(np.intp)  # type: ignore[arg-type]
    return lambda a, b: type_statistic(a, b, types, cluster, n_clusters, options.method)
