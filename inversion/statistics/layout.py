"""What a run looks like to the statistics: plain columns, read once, response by response and in reading order."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr

from inversion.errors import InputError
from inversion.statistics.core.cells import Floats, Ints, numbered
from inversion.statistics.strengths import (
    SiteMean,
    blocks,
    check_run,
    column,
    has_grid,
    layer_labels,
    part,
    pick_layers,
    pick_projections,
    projection_labels,
    strength_grid,
    strength_norms,
)

CELL_BYTES = 5 * 2**27
"""Strengths of single layers are held up to about this size; more are read in several passes."""
SHORT_NAMES = {"surprisal": "surprisal_bits", "entropy": "entropy_bits", "frequency": "log_frequency"}
HOLDABLE = ("position", "surprisal_bits", "log_frequency", "logit_space")


@dataclass(frozen=True)
class Selection:
    """Which strength of a token is meant: the mean of a norm over layers and projections (None: all of them)."""

    norm: str = "nuclear"
    layers: tuple[int, ...] | None = None
    projections: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class Strength:
    """Strength of n tokens, and the layers and projections it is a mean over (none for logit_space)."""

    values: Floats  # (n,) as the norm; NaN where one of the sites has no value
    layers: tuple[int, ...]
    projections: tuple[str, ...]
    notes: tuple[str, ...] = ()


def told_of_responses(run: xr.Dataset) -> Mapping[str, Any]:
    """What a run says about its responses; as JSON text too, since a NetCDF file holds no mappings."""
    told = run.attrs.get("responses")
    if isinstance(told, str):
        try:
            told = json.loads(told)
        except ValueError:
            return {}
    return told if isinstance(told, Mapping) else {}


@dataclass(frozen=True)
class Measured:
    """What a run says about how it was made; empty where it says nothing."""

    model: str = ""
    quantity: str = ""
    dtype: str = ""
    attention: str = ""
    temperature: str = ""
    targets: str = ""

    @classmethod
    def of(cls, run: xr.Dataset) -> "Measured":
        """Read a run's attributes."""
        named = {name: run.attrs.get(name) for name in ("model", "quantity", "dtype", "attention", "targets")}
        named["temperature"] = told_of_responses(run).get("temperature")
        return cls(**{name: "" if value is None else str(value) for name, value in named.items()})


@dataclass(frozen=True, eq=False)
class Columns:
    """A run as the statistics see it: n tokens of R responses to P prompts.

    Tokens stand response by response, each in the order of its positions; where positions are not known, in the order
    of the rows. Everything here is in memory but the norms, which :meth:`strengths` reads when they are asked for, and
    keeps.

    entropy_bits: Token entropy in bits, NaN where there is none, (n,).
    response: Number 0..R-1 of each token's response, never decreasing, (n,).
    response_names: What the run calls its responses, ascending, (R,).
    prompt: Number 0..P-1 of the prompt that each response answers, (R,); None where the run does not say.
    prompt_names: What the run calls its prompts, ascending, (P,).
    token_id: Token ids, (n,); None where the run has none.
    numbers: Other columns of one number per token, each (n,): position, surprisal_bits, logit_space, score, weight, ...
    measured: How the run was made.
    run: The run, for its norms and texts.
    order: Rows of the run in this order, (n,); None where they are in order.
    kept: Strengths that have been read.
    """

    entropy_bits: Floats
    response: Ints
    response_names: np.ndarray
    prompt: Ints | None
    prompt_names: np.ndarray | None
    token_id: Ints | None
    numbers: Mapping[str, np.ndarray]
    measured: Measured
    run: xr.Dataset = field(repr=False)
    order: Ints | None = field(default=None, repr=False)
    kept: dict[Selection, Strength] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        n, r = self.response.size, self.response_names.size
        columns = {"entropy_bits": self.entropy_bits, "token_id": self.token_id, "order": self.order, **self.numbers}
        for name, values in columns.items():
            if values is not None and values.shape != (n,):
                raise InputError(f"{name} should have one value per token, {n}, but its shape is {values.shape}.")
        if self.prompt is not None and self.prompt.shape != (r,):
            raise InputError(f"prompt should have one value per response, {r}, but its shape is {self.prompt.shape}.")
        if n and (np.diff(self.response) < 0).any():
            raise InputError("the tokens must stand response by response; make Columns by Columns.of(run).")

    @classmethod
    def of(cls, run: "xr.Dataset | Columns") -> "Columns":
        """Read a run, as :func:`inversion.probe` and :func:`inversion.load_run` return it; Columns stay as they are.

        Raises:
            InputError: This is no run.
        """
        if isinstance(run, Columns):
            return run
        check_run(run)
        names, response = _responses(run)
        numbers = {
            str(name): variable.values
            for name, variable in run.variables.items()
            if variable.dims == ("token",) and np.issubdtype(variable.dtype, np.number) and name != "response"
        }
        order = _reading_order(response, numbers.get("position"))
        if order is not None:
            response = response[order]
            numbers = {name: values[order] for name, values in numbers.items()}
        entropy = numbers.pop("entropy_bits", None)
        if entropy is None:
            raise InputError("entropy_bits should be one number per token, in bits.")
        token_id = numbers.pop("token_id", None)
        prompt_names, prompt = _prompts(run, response, names.size, order)
        return cls(
            entropy_bits=entropy.astype(float, copy=False),
            response=response,
            response_names=names,
            prompt=prompt,
            prompt_names=prompt_names,
            token_id=token_id if token_id is None or token_id.dtype.kind in "iu" else token_id.astype(np.intp),
            numbers=numbers,
            measured=Measured.of(run),
            run=run,
            order=order,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What the run itself lacks, and what that does to a correlation over it."""
        said = self.run.attrs
        notes = []
        if lacking := said.get("unmeasured", 0):
            because = next((f" ({reason})" for reason in said.get("unmeasured_because", ())), "")
            notes.append(f"{lacking:,} responses could not be measured{because} and are not in the run")
        if skipped := told_of_responses(self.run).get("skipped"):
            notes.append(f"{len(skipped):,} problems were left out beforehand ({skipped[0]['reason']})")
        if not said.get("complete", True):
            notes.append("the run is not finished: more responses are to come")
        if self.is_drawn:
            notes.append(
                "some tokens of each response were drawn, and each of them counts once: a response weighs by how many "
                "were drawn, not by its length"
            )
        return tuple(notes)

    @property
    def is_drawn(self) -> bool:
        """Whether tokens stand for others of their response that were not measured."""
        return "weight" in self.numbers and bool((self.numbers["weight"] != 1).any())

    @property
    def n_tokens(self) -> int:
        """Number of tokens."""
        return self.response.size

    @property
    def n_responses(self) -> int:
        """Number of responses."""
        return self.response_names.size

    @property
    def shares_prompts(self) -> bool:
        """Whether some prompt is known to have several responses, which are then alike."""
        return self.prompt_names is not None and self.prompt_names.size < self.n_responses

    def number(self, name: str) -> Floats:
        """One number per token, (n,). ``log_frequency`` is the log of how often the token id occurs in the run.

        Raises:
            InputError: The run has no such column, or it is not a number.
        """
        name = SHORT_NAMES.get(name, name)
        if name == "log_frequency":
            ids, counts = numbered(self.ids())
            return np.log(counts)[ids]
        if name == "entropy_bits":
            return self.entropy_bits
        if name in self.numbers:
            return self.numbers[name].astype(float, copy=False)
        values = column(self.run, name)
        if not np.issubdtype(values.dtype, np.number):
            raise InputError(f"{name} is not a number, so it cannot be held fixed; choose among {', '.join(HOLDABLE)}.")
        return values.astype(float) if self.order is None else values[self.order].astype(float)

    def has(self, name: str) -> bool:
        """Whether :meth:`number` knows the column."""
        name = SHORT_NAMES.get(name, name)
        return self.token_id is not None if name == "log_frequency" else name in self.run.variables

    def ids(self) -> Ints:
        """Token ids, (n,).

        Raises:
            InputError: The run has none.
        """
        if self.token_id is None:
            raise InputError("The run has no token_id, which this needs; measure it or choose another option.")
        return self.token_id

    def labels(self, name: str) -> np.ndarray:
        """One label per token, such as the part of the response it belongs to, (n,)."""
        values = column(self.run, name)
        return values if self.order is None else values[self.order]

    def norms(self) -> list[str]:
        """Names of what can serve as a strength."""
        return strength_norms(self.run)

    def of_prompts(self, names: np.ndarray) -> np.ndarray:
        """Which tokens answer one of these prompts, (n,)."""
        if self.prompt is None or self.prompt_names is None:
            raise InputError("The run has no prompt_id, which this needs; measure it or choose another option.")
        return np.isin(self.prompt_names, names)[self.prompt][self.response]

    def texts(self) -> Iterator[tuple[slice, list[str]]]:
        """The tokens' texts, response by response: where they stand, and the texts; empty where there is none.

        Raises:
            InputError: The run has no texts.
        """
        if "token_text" not in self.run.variables:
            raise InputError("The run has no token_text, which this needs; measure it or choose another option.")
        texts = self.run["token_text"]
        starts = np.searchsorted(self.response, np.arange(self.n_responses + 1))
        for first, last in pairwise(starts):
            rows = slice(first, last)
            values = texts.isel(token=rows if self.order is None else self.order[rows]).values
            yield rows, [value if isinstance(value, str) else "" for value in values.tolist()]

    def strength(self, selection: Selection) -> Strength:
        """Strength of each token under a selection."""
        return self.strengths([selection])[0]

    def strengths(self, selections: Sequence[Selection]) -> list[Strength]:
        """Strengths under several selections, read in one pass over the tokens.

        Raises:
            InputError: The run lacks a norm, a layer or a projection.
        """
        wanted = [s for s in dict.fromkeys(selections) if s not in self.kept]
        for norm in dict.fromkeys(s.norm for s in wanted):
            self.kept.update(self._read(norm, [s for s in wanted if s.norm == norm]))
        return [self.kept[s] for s in selections]

    def _read(self, norm: str, selections: list[Selection]) -> dict[Selection, Strength]:
        if norm == "logit_space" and norm in self.run and not has_grid(self.run, norm):
            return {s: Strength(self.number(norm), (), ()) for s in selections}
        grid = strength_grid(self.run, norm)
        all_layers, all_projections = layer_labels(grid), projection_labels(grid)
        places = [
            (pick_layers(all_layers, s.layers), pick_projections(all_projections, s.projections)) for s in selections
        ]
        means = [SiteMean(len(layers) * len(projections), self.n_tokens) for layers, projections in places]
        for rows, block in blocks(grid):
            for mean, (layers, projections) in zip(means, places, strict=True):
                mean.add(rows, part(block, layers, projections))
        found = {}
        for selection, (layers, projections), mean in zip(selections, places, means, strict=True):
            names = tuple(all_layers[i] for i in layers), tuple(all_projections[i] for i in projections)
            values = mean.take()
            values = values if self.order is None else values[self.order]
            found[selection] = Strength(values, *names, _unmeasured(mean, *names))
        return found

    def cells(self, norm: str, layers: Any, projections: Any) -> Iterator[list[tuple[int, int, np.ndarray]]]:
        """Strengths of single layers and projections: their places in the selection, and the (n,) values.

        Some layers come at a time, and only until the next are asked for, so that a run larger than the memory can be
        read, in several passes.
        """
        grid = strength_grid(self.run, norm, layers, projections)
        n_layers, n_projections = grid.sizes["layer"], grid.sizes["projection"]
        one_layer = max(grid.dtype.itemsize * self.n_tokens * n_projections, 1)
        at_once = min(max(CELL_BYTES // one_layer, 1), n_layers)
        held = np.empty((at_once, n_projections, self.n_tokens), grid.dtype)
        for first in range(0, n_layers, at_once):
            some = grid.isel(layer=slice(first, first + at_once))
            for rows, block in blocks(some):
                held[: block.shape[1], :, rows] = np.moveaxis(block, 0, -1)
            places = np.ndindex(some.sizes["layer"], n_projections)
            yield [(first + i, j, held[i, j] if self.order is None else held[i, j][self.order]) for i, j in places]


def _unmeasured(mean: SiteMean, layers: tuple[int, ...], projections: tuple[str, ...]) -> tuple[str, ...]:
    """A note on sites without a value, where only some have none."""
    missing = np.flatnonzero(~mean.measured)
    if missing.size in (0, mean.measured.size):
        return ()
    names = [f"{layers[i // len(projections)]}.{projections[i % len(projections)]}" for i in missing]
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return (f"{len(names)} of {mean.measured.size} layer-projection pairs have no value for any token: {shown}",)


def _responses(run: xr.Dataset) -> tuple[np.ndarray, Ints]:
    """Names of the responses (R,), and the number 0..R-1 of each token's; a single capture is one response."""
    if "response" not in run.variables:
        return np.array([0][: run.sizes["token"]]), np.zeros(run.sizes["token"], np.intp)
    names = column(run, "response")
    if names.size and (names[1:] >= names[:-1]).all():
        first = np.concatenate([[True], names[1:] != names[:-1]])
        return names[first], np.cumsum(first, dtype=np.int32) - 1
    names, response = np.unique(names, return_inverse=True)
    return names, response.astype(np.intp, copy=False)


def _reading_order(response: Ints, position: np.ndarray | None) -> Ints | None:
    """Rows by response and position, (n,), or None where they are in that order already.

    The only place that orders tokens, before anything is dropped.
    """
    place = np.arange(response.size) if position is None else position
    later = np.diff(response)
    if ((later > 0) | ((later == 0) & (np.diff(place) >= 0))).all():
        return None
    return np.lexsort((place, response))


def _prompts(
    run: xr.Dataset, response: Ints, n_responses: int, order: Ints | None
) -> tuple[np.ndarray | None, Ints | None]:
    """Names of the prompts (P,), and the number 0..P-1 of each response's, (R,), or None where the run has none.

    All tokens of a response have one prompt, so only its first token is looked at.
    """
    if "prompt_id" not in run.variables:
        return None, None
    ids = run["prompt_id"]
    if ids.ndim == 0:
        labels = np.full(n_responses, ids.values)
    else:
        first = np.searchsorted(response, np.arange(n_responses))
        labels = ids.isel(token=first if order is None else order[first]).values
    names, prompt = np.unique(labels.astype(str), return_inverse=True)
    return names, prompt.astype(np.intp)
