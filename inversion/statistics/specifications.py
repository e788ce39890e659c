"""The correlation under every reasonable choice at once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Unpack

import numpy as np
import xarray as xr

from inversion.errors import InputError
from inversion.statistics.core.coefficients import COEFFICIENTS
from inversion.statistics.correlation import correlation_of
from inversion.statistics.layout import Columns
from inversion.statistics.options import UNITS, Options, Specified, read_choices
from inversion.statistics.results import Correlation, Result, clear_sign, number, span
from inversion.statistics.samples import Sampler
from inversion.statistics.strengths import has_grid, layer_labels, strength_grid

if TYPE_CHECKING:
    import pandas as pd

Layers = Sequence[int] | None


@dataclass(frozen=True, repr=False)
class SpecificationCurve(Result):
    """Correlations sorted from lowest to highest; those that are NaN come last. Each ``label`` names its layers."""

    correlations: tuple[Correlation, ...]
    level: float
    resamples: int
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def estimates(self) -> np.ndarray:
        """The defined estimates, ascending."""
        values = np.array([c.estimate for c in self.correlations])
        return values[np.isfinite(values)]

    @property
    def share_negative(self) -> float:
        """Share of the defined estimates below 0."""
        return float(np.mean(self.estimates < 0)) if self.estimates.size else float("nan")

    def share_clear(self, sign: int) -> float:
        """Share of the defined estimates that are clearly below (sign=-1) or above (sign=1) 0.

        Their interval lies wholly on that side, and their p-value rejects 0 at its level.
        """
        clear = [clear_sign(c) == sign for c in self.correlations if np.isfinite(c.estimate)]
        return float(np.mean(clear)) if clear else float("nan")

    def to_pandas(self) -> "pd.DataFrame":
        """One row per specification."""
        import pandas as pd

        return pd.concat([c.to_pandas() for c in self.correlations], ignore_index=True)

    def _title(self) -> str:
        return f"Specification curve: {self.estimates.size} of {len(self.correlations)} correlations defined"

    def _rows(self) -> Iterator[tuple[str, str]]:
        values = self.estimates
        if values.size:
            yield "from, median, to", ", ".join(number(v) for v in (values[0], np.median(values), values[-1]))
            yield "below 0", f"{self.share_negative:.0%}; clearly {self.share_clear(-1):.0%}"
            yield "above 0", f"{1 - self.share_negative:.0%}; clearly {self.share_clear(1):.0%}"
        shown = self.correlations
        if len(shown) > 12:
            shown = shown[:4] + self.correlations[len(shown) // 2 - 1 : len(shown) // 2 + 1] + shown[-4:]
        for c in shown:
            name = " ".join(filter(None, (c.quantity, c.norm, c.unit, c.method, c.label)))
            yield number(c.estimate), f"{span(c.low, c.high)} {name}"
        yield "resampling", f"{self.level:.4g} intervals, {self.resamples} resamples, seed {self.seed}"


def specification_curve(
    runs: xr.Dataset | Columns | Sequence[xr.Dataset | Columns] | Mapping[str, xr.Dataset | Columns],
    norms: Sequence[str] | None = None,
    units: Sequence[str] | None = None,
    methods: Sequence[str] = tuple(COEFFICIENTS),
    layer_ranges: Mapping[str, Layers] | None = None,
    **options: Unpack[Specified],
) -> SpecificationCurve:
    """Correlate under every combination of norm, unit, method, layer range and run.

    Args:
        runs: One run, or several that measure different quantities of the same responses; a mapping's keys rename the
            quantities, and tell runs of the same quantity apart.
        norms: By default all that are over layers (not logit_space, which is a control).
        units: By default both, or position alone where there are no token ids.
        methods: Which correlations.
        layer_ranges: Name to layers; by default all, the first, middle and last third, and the last layer.
        options: As for :func:`inversion.correlate`.

    Returns:
        All correlations, sorted.

    Raises:
        InputError: A run lacks what is asked for, several in a list measure the same quantity, or an option cannot be
            used.
    """
    shared = read_choices("specification_curve", options, Specified)
    samplers = {name: Sampler.of(run, shared) for name, run in _named(runs).items()}
    return specification_curve_of(samplers, shared, norms, units, methods, layer_ranges)


def specification_curve_of(
    samplers: Mapping[str, Sampler],
    options: Options,
    norms: Sequence[str] | None = None,
    units: Sequence[str] | None = None,
    methods: Sequence[str] = tuple(COEFFICIENTS),
    layer_ranges: Mapping[str, Layers] | None = None,
) -> SpecificationCurve:
    """``specification_curve`` from samplers, one for each quantity, and options."""
    found: list[Correlation] = []
    for quantity, sampler in samplers.items():
        columns = sampler.columns
        chosen_norms = norms or [n for n in columns.norms() if has_grid(columns.run, n)]
        if not chosen_norms:
            raise InputError("The run has no norm over layers; name the norms to use.")
        chosen_units = units or (UNITS if columns.token_id is not None else UNITS[:1])
        for norm in chosen_norms:
            grid = has_grid(columns.run, norm)
            ranges = (layer_ranges or default_ranges(columns, norm)) if grid else {"": None}
            rows = {name: replace(options, norm=norm, layers=layers) for name, layers in ranges.items()}
            columns.strengths([row.selection for row in rows.values()])  # in one pass over the tokens
            for (name, row), unit, method in product(rows.items(), chosen_units, methods):
                label = f"layers {name}" if name else ""
                one = correlation_of(sampler, replace(row, unit=unit, method=method), label=label)
                found.append(replace(one, quantity=quantity or one.quantity))
    order = sorted(found, key=lambda c: (np.isnan(c.estimate), c.estimate))
    notes = dict.fromkeys(note for c in order for note in c.notes)
    level, resamples, seed = float(options.level), int(options.resamples), int(options.seed)
    return SpecificationCurve(tuple(order), level, resamples, seed, tuple(notes))


def _named(
    runs: xr.Dataset | Columns | Sequence[xr.Dataset | Columns] | Mapping[str, xr.Dataset | Columns],
) -> dict[str, xr.Dataset | Columns]:
    if isinstance(runs, xr.Dataset | Columns):
        return {"": runs}
    if isinstance(runs, Mapping):
        named = dict(runs)
    else:
        named = {}
        for i, run in enumerate(runs):
            quantity = Columns.of(run).measured.quantity or f"run {i}"
            if quantity in named:
                raise InputError(
                    f"several runs measure that of the {quantity}; pass a mapping from a name to each run."
                )
            named[quantity] = run
    if not named:
        raise InputError("specification_curve needs at least one run; pass a run or a list of them.")
    return named


def default_ranges(columns: Columns, norm: str) -> dict[str, Layers]:
    """All layers, each third of them (from three layers on) and the last one (from two on)."""
    labels = layer_labels(strength_grid(columns.run, norm))
    ranges: dict[str, Layers] = {"all": None}
    if len(labels) >= 3:
        thirds = np.array_split(np.array(labels), 3)
        ranges |= {name: [int(v) for v in t] for name, t in zip(("first", "middle", "last third"), thirds, strict=True)}
    if len(labels) > 1:
        ranges["last"] = [labels[-1]]
    return ranges
