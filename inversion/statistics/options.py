"""The choices that the public functions share: their names and types, and one place that checks them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, Literal, TypedDict

from inversion.errors import InputError, whole
from inversion.names import meant
from inversion.statistics.core.coefficients import COEFFICIENTS
from inversion.statistics.core.inference import INTERVALS, Resampling
from inversion.statistics.layout import SHORT_NAMES, Selection

Method = Literal["spearman", "pearson", "kendall"]
Unit = Literal["position", "token_type"]
Interval = Literal["signflip", "jackknife", "percentile", "bca"]
Cluster = Literal["response", "prompt"]

UNITS: tuple[Unit, ...] = ("position", "token_type")
CLUSTERS: tuple[Cluster, ...] = ("response", "prompt")


class Sites(TypedDict, total=False):
    """Options that say which part of the model is meant."""

    layers: int | Sequence[int] | None
    projections: str | Sequence[str] | None


class Moved(Sites, total=False):
    """Options of a result that moves values about inside their responses."""

    level: float
    seed: int


class Positions(Moved, total=False):
    """Options of a result with an interval, over positions."""

    resamples: int
    interval: Interval
    cluster: Cluster


class Specified(TypedDict, total=False):
    """Options of a result that goes through norms, methods, units and layers by itself."""

    projections: str | Sequence[str] | None
    level: float
    resamples: int
    seed: int
    given: str | Sequence[str]
    interval: Interval
    cluster: Cluster


class Planned(Sites, total=False):
    """Options of a pilot's correlation but its norm and level."""

    method: Method
    unit: Unit
    resamples: int
    seed: int
    given: str | Sequence[str]
    interval: Interval
    cluster: Cluster


class Partial(Positions, total=False):
    """Options of :func:`inversion.correlate` but the norm and what is held fixed."""

    method: Method
    unit: Unit


class Overviewed(Positions, total=False):
    """Options of an overview, which goes through both units."""

    method: Method
    given: str | Sequence[str]


class Choices(Partial, total=False):
    """Options of :func:`inversion.correlate` but the norm."""

    given: str | Sequence[str]


@dataclass(frozen=True)
class Options:
    """What to correlate and how to judge it. Checked when it is made."""

    norm: str = "nuclear"
    method: str = "spearman"
    unit: str = "position"
    layers: Any = None  # a tuple once made, or None
    projections: Any = None
    level: float = 0.95
    resamples: int = 2000
    seed: int = 0
    given: Any = ()
    interval: str = "signflip"
    cluster: str = "response"

    def __post_init__(self) -> None:
        if self.interval == "influence":
            object.__setattr__(self, "interval", "jackknife")
        one_of("method", self.method, COEFFICIENTS)
        one_of("unit", self.unit, UNITS)
        one_of("interval", self.interval, INTERVALS)
        one_of("cluster", self.cluster, CLUSTERS)
        if not isinstance(self.norm, str):
            raise InputError(f"norm must be the name of a norm, such as 'nuclear', not {self.norm!r}.")
        object.__setattr__(self, "layers", _several("layers", self.layers, Integral, "whole numbers"))
        object.__setattr__(self, "projections", _several("projections", self.projections, str, "names"))
        given = _several("given", self.given, str, "names") or ()
        object.__setattr__(self, "given", tuple(SHORT_NAMES.get(name, name) for name in given))
        if not isinstance(self.level, Real) or not 0 < self.level < 1:
            raise InputError(f"level must lie between 0 and 1, such as 0.95, not {self.level!r}.")
        whole("resamples", self.resamples, 1)
        whole("seed", self.seed, 0)

    @property
    def resampling(self) -> Resampling:
        """The part that inference needs."""
        return Resampling(self.interval, float(self.level), int(self.resamples), int(self.seed))

    @property
    def selection(self) -> Selection:
        """The strength that is asked for."""
        return Selection(self.norm, self.layers, self.projections)


def read_choices(function: str, choices: Mapping[str, Any], allowed: type, **named: Any) -> Options:
    """Options from the keyword arguments of a public function.

    Args:
        function: Its name, for messages.
        choices: What the caller gave.
        allowed: The TypedDict that says which of them apply.
        named: Further options, from the function's own signature.

    Raises:
        InputError: A name is unknown or does not apply, or a value cannot be used.
    """
    known = set(allowed.__annotations__)
    every = {field.name for field in fields(Options)}
    for name in choices:
        if name in known:
            continue
        if name in every:
            raise InputError(f"{function} does not use {name}, so it has no effect there; leave it out.")
        remedy = meant(name, sorted(known | set(named))) or f"choose among {', '.join(sorted(known))}."
        raise InputError(f"{function} has no option {name!r}; {remedy}")
    return Options(**named, **choices)


def _several(name: str, value: Any, kind: type, what: str) -> tuple[Any, ...] | None:
    """One value or several of a kind as a tuple; None as it is."""
    if value is None:
        return None
    values = (value,) if isinstance(value, kind) else tuple(value) if isinstance(value, Iterable) else None
    if values is None or not all(isinstance(v, kind) for v in values):
        raise InputError(f"{name} must be {what}, not {value!r}.")
    return values


def one_of(name: str, value: Any, allowed: Iterable[str]) -> None:
    """Raise unless ``value`` is one of the names that an option may have."""
    allowed = tuple(allowed)
    if value in allowed:
        return
    question = meant(str(value), allowed)
    raise InputError(f"{name} must be one of {', '.join(allowed)}, not {value!r}{f'; {question}' if question else '.'}")
