"""From the columns of a run and the choices of a user to a sample: which tokens are used, in which clusters."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from zlib import crc32

import numpy as np
import xarray as xr

from inversion.errors import InputError
from inversion.statistics.core.cells import TypeCells, numbered
from inversion.statistics.core.coefficients import COEFFICIENTS, MIN_POINTS
from inversion.statistics.core.inference import Sample
from inversion.statistics.core.partial import partial_statistic
from inversion.statistics.core.ranks import Floats, Ints, Variable
from inversion.statistics.core.statistic import Statistic, undefined
from inversion.statistics.core.token_types import type_statistic
from inversion.statistics.layout import Columns, Strength
from inversion.statistics.options import Options

Mask = np.ndarray
MOST_CLUSTERS = 500
"""More responses (or prompts) than this are resampled in so many groups of equal size: as good, and much cheaper."""
MOST_VALUES = 30_000_000
"""Variables of more values than this in all are let go of when another one comes, the one used longest ago first."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """The independent units of a run: R responses in K clusters."""

    of_response: Ints  # (R,) number 0..K-1 of the cluster that each response belongs to
    names: np.ndarray  # (K,) texts
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, columns: Columns, kind: str, among: np.ndarray | None = None) -> "Clusters":
        """Responses, or prompts with all their responses.

        Args:
            columns: The run.
            kind: response or prompt.
            among: Names of those that will be used; all by default. Runs with the same ones have the same groups.

        Raises:
            InputError: The run has no prompts.
        """
        notes: tuple[str, ...] = ()
        if kind == "response":
            names, of_response = columns.response_names.astype(str), np.arange(columns.n_responses)
            notes = _shared_prompts(columns)
        elif columns.prompt is None or columns.prompt_names is None:
            raise InputError("The run has no prompt_id, which cluster='prompt' needs; use cluster='response'.")
        else:
            names, of_response = columns.prompt_names, columns.prompt
        used = names if among is None else among
        if used.size <= MOST_CLUSTERS:
            return cls(of_response, names, notes)
        # Dealt out evenly, in an order that has nothing to do with that of the problems.
        order = sorted(used.tolist(), key=lambda name: (crc32(name.encode()), name))
        number = {name: place % MOST_CLUSTERS for place, name in enumerate(order)}
        group = np.array([number.get(name, 0) for name in names.tolist()], dtype=np.intp)
        note = f"{used.size} {kind}s are resampled in {MOST_CLUSTERS} groups"
        labels = np.char.mod("group %03d", np.arange(MOST_CLUSTERS))
        return cls(group[of_response], labels, (*notes, note))


def _shared_prompts(columns: Columns) -> tuple[str, ...]:
    if columns.prompt_names is None or not columns.shares_prompts:
        return ()
    shared = f"{columns.n_responses} responses share {columns.prompt_names.size} prompts"
    return (f"{shared}; cluster='prompt' allows for their likeness",)


class Points:
    """The tokens that some statistics use, with what these share: variables, ranked once, and pairwise correlations.

    Args:
        columns: The run.
        clusters: Its independent units.
        used: Which tokens are used, (N,); n of them.
    """

    def __init__(self, columns: Columns, clusters: Clusters, used: Mask):
        self.columns, self.clusters, self.used = columns, clusters, used
        self._whole = bool(used.all())
        self._variables: dict[str, Variable] = {}
        self._pairs: dict[tuple, Statistic] = {}
        self._lock = Lock()  # cells of a map are worked on by several threads

    def take(self, values: np.ndarray) -> np.ndarray:
        """The used ones of (N,) values, (n,)."""
        return values if self._whole else values[self.used]

    @cached_property
    def responses(self) -> tuple[Ints, Ints]:
        """Which responses of the run have used tokens, (R,), and the number 0..R-1 of each token's, (n,)."""
        response = self.take(self.columns.response)
        first = np.diff(response, prepend=-1) > 0
        return response[first], np.cumsum(first, dtype=np.int32) - 1

    @cached_property
    def _clustering(self) -> tuple[Ints, Ints]:
        names, response = self.responses
        labels, cluster_of = np.unique(self.clusters.of_response[names], return_inverse=True)
        return labels.astype(np.intp), cluster_of.astype(np.int32)[response]

    @property
    def labels(self) -> Ints:
        """Which clusters of the run have used tokens, (K,)."""
        return self._clustering[0]

    @property
    def cluster(self) -> Ints:
        """Number 0..K-1 of each token's cluster, (n,)."""
        return self._clustering[1]

    @cached_property
    def shares(self) -> Floats:
        """Share of the tokens in each cluster, (K,)."""
        return np.bincount(self.cluster, minlength=self.labels.size) / max(self.cluster.size, 1)

    @cached_property
    def types(self) -> TypeCells:
        """The tokens' types and clusters."""
        types, _ = numbered(self.take(self.columns.ids()))
        return TypeCells.of(types, self.cluster, self.labels.size)

    def n_points(self, unit: str) -> int:
        """Number of points that are correlated."""
        return self.types.shape[1] if unit == "token_type" and self.cluster.size else self.cluster.size

    def new(self, values: np.ndarray) -> Variable:
        """A variable of (N,) values."""
        return Variable(self.take(values), self.cluster, self.labels.size)

    def variable(self, name: str, values: np.ndarray) -> Variable:
        """The variable of a name, made of (N,) ``values`` the first time."""
        with self._lock:
            if name not in self._variables:
                while self._variables and (len(self._variables) + 1) * self.cluster.size > MOST_VALUES:
                    self._let_go(next(iter(self._variables)))
                self._variables[name] = self.new(values)
            self._variables[name] = self._variables.pop(name)  # the one used last stands last
            return self._variables[name]

    def _let_go(self, name: str) -> None:
        gone = self._variables.pop(name)
        self._pairs = {key: pair for key, pair in self._pairs.items() if id(gone) not in key}

    def pair(self, x: Variable, y: Variable, options: Options) -> Statistic:
        """The correlation of two variables; made once where both have a name here."""
        key = (*sorted((id(x), id(y))), options.method, options.unit)
        if key in self._pairs:
            return self._pairs[key]
        if options.unit == "token_type":
            statistic = type_statistic(x, y, self.types, options.method)
        else:
            statistic = COEFFICIENTS[options.method](x, y)
        named = {id(variable) for variable in self._variables.values()}
        if {id(x), id(y)} <= named:
            self._pairs[key] = statistic
        return statistic


@dataclass(frozen=True)
class Facts:
    """What a sample was made of, and what was left out."""

    n_tokens: int
    n_points: int
    n_responses: int
    n_clusters: int
    n_tokens_left_out: int
    n_responses_left_out: int
    layers: tuple[int, ...]
    projections: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Drawn:
    """A sample, what it was made of, and its two variables."""

    sample: Sample
    facts: Facts
    points: Points
    x: Variable  # strength
    y: Variable  # entropy


class Sampler:
    """Makes the samples of one run, keeping what they share.

    Args:
        columns: The run.
        cluster: What is resampled, response or prompt.
        among: Names of the clusters that will be used; all by default.
    """

    def __init__(self, columns: Columns, cluster: str, among: np.ndarray | None = None):
        self.columns, self.clusters = columns, Clusters.of(columns, cluster, among)
        self._points: list[Points] = []

    @classmethod
    def of(cls, run: xr.Dataset | Columns, options: Options) -> "Sampler":
        """Read a run for the options."""
        return cls(Columns.of(run), options.cluster)

    def draw(self, options: Options, keep: Mask | None = None, strength: Strength | None = None) -> Drawn:
        """The sample under the options.

        Args:
            options: What to correlate.
            keep: Which tokens to use, (N,); all by default.
            strength: Strength of the tokens, where it is not the options' selection and used this once.
        """
        columns, once = self.columns, strength is not None
        if strength is None:
            strength = columns.strength(options.selection)
        if options.unit == "token_type":
            columns.ids()
        held = {name: columns.number(name) for name in options.given}
        used, lost = usable({"strength": strength.values, "entropy": columns.entropy_bits, **held}, keep)
        points = self._points_of(used)
        x = points.new(strength.values) if once else points.variable(repr(options.selection), strength.values)
        y = points.variable("entropy", columns.entropy_bits)
        variables = [x, y, *(points.variable(name, values) for name, values in held.items())]
        empty = keep is not None and not keep.any()
        reason = "no token is in this part" if empty else _why_undefined(points, variables, options)
        statistic = undefined(points.labels.size) if reason else _statistic(points, variables, options)
        facts = self._facts(points, options, strength, keep, lost)
        return Drawn(Sample(statistic, points.shares, points.labels, reason), facts, points, x, y)

    def _facts(
        self, points: Points, options: Options, strength: Strength, keep: Mask | None, lost: dict[str, int]
    ) -> Facts:
        wanted = points.used.size if keep is None else int(np.count_nonzero(keep))
        asked = self.columns.n_responses if keep is None else np.unique(self.columns.response[keep]).size
        names, response = points.responses
        tokens_out, responses_out = wanted - response.size, asked - names.size
        return Facts(
            n_tokens=response.size,
            n_points=points.n_points(options.unit),
            n_responses=names.size,
            n_clusters=points.labels.size,
            n_tokens_left_out=tokens_out,
            n_responses_left_out=responses_out,
            layers=strength.layers,
            projections=strength.projections,
            notes=(
                *self.columns.notes,
                *self.clusters.notes,
                *strength.notes,
                *left_out_notes(tokens_out, responses_out, lost),
            ),
        )

    def _points_of(self, used: Mask) -> Points:
        # Those of the whole run are kept, and those that were asked for last.
        for points in self._points:
            if np.array_equal(points.used, used):
                return points
        points = Points(self.columns, self.clusters, used)
        self._points = [*self._points[:1], points]
        return points


def usable(numbers: Mapping[str, Floats], keep: Mask | None) -> tuple[Mask, dict[str, int]]:
    """Which of n tokens have all of the numbers, (n,), and how many of those in ``keep`` lack each of them."""
    used: Mask | None = keep
    lost = {}
    for name, values in numbers.items():
        finite = np.isfinite(values)
        lost[name] = int(np.count_nonzero(~finite if keep is None else keep & ~finite))
        used = finite if used is None else used & finite
    assert used is not None
    return used, lost


def left_out_notes(tokens: int, responses: int, lost: Mapping[str, int]) -> tuple[str, ...]:
    """Sentences on tokens and responses that could not be used, and why."""
    if not tokens:
        return ()
    why = ", ".join(f"{count:,} without {name}" for name, count in lost.items() if count)
    notes = [f"{counted(tokens, 'token')} left out: {why}"]
    if responses:
        notes.append(f"{counted(responses, 'response')} left out: none of the tokens can be used")
    return tuple(notes)


def counted(count: int, what: str) -> str:
    """A number of things: 1 token, 2 tokens."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _why_undefined(points: Points, variables: list[Variable], options: Options) -> str | None:
    """The reason why no correlation can be computed, or None."""
    n_points = points.n_points(options.unit)
    if n_points == 0:
        return "no token has both a strength and an entropy"
    if n_points < MIN_POINTS:
        what = "distinct token" if options.unit == "token_type" else "token"
        few = "is too few" if n_points == 1 else "are too few"
        return f"{counted(n_points, what)} {few}: at least {MIN_POINTS} are needed"
    for variable, shown in zip(variables, ("strength", "entropy", *options.given), strict=True):
        if variable.values.min() == variable.values.max():
            return f"{shown} is constant"
    return None


def _statistic(points: Points, variables: list[Variable], options: Options) -> Statistic:
    if not options.given:
        return points.pair(variables[0], variables[1], options)
    return partial_statistic(len(variables), lambda i, j: points.pair(variables[i], variables[j], options))
