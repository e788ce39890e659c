"""The correlation under every reasonable choice at once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from inversion.errors import InputError
from inversion.statistics._data import check_run, has_grid, layer_labels, strength_grid, strength_norms
from inversion.statistics._options import METHODS, UNITS, Options
from inversion.statistics.correlation import correlation_of
from inversion.statistics.results import Correlation, Result, number, span

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
        """Share of the defined estimates whose interval lies wholly below (sign=-1) or above (sign=1) 0."""
        clear = [c.high < 0 if sign < 0 else c.low > 0 for c in self.correlations if np.isfinite(c.estimate)]
        return float(np.mean(clear)) if clear else float("nan")

    def to_pandas(self) -> "pd.DataFrame":
        """One row a specification."""
        import pandas as pd

        return pd.concat([c.to_pandas() for c in self.correlations], ignore_index=True)

    def _title(self) -> str:
        return f"Specification curve: {self.estimates.size} of {len(self.correlations)} correlations defined"

    def _rows(self) -> Iterator[tuple[str, str]]:
        values = self.estimates
        if values.size:
            yield "from, median, to", ", ".join(number(v) for v in (values[0], np.median(values), values[-1]))
            yield "below 0", f"{self.share_negative:.0%}; interval wholly below {self.share_clear(-1):.0%}"
            yield "above 0", f"{1 - self.share_negative:.0%}; interval wholly above {self.share_clear(1):.0%}"
        shown = self.correlations
        if len(shown) > 12:
            shown = shown[:4] + self.correlations[len(shown) // 2 - 1 : len(shown) // 2 + 1] + shown[-4:]
        for c in shown:
            name = " ".join(filter(None, (c.quantity, c.norm, c.unit, c.method, c.label)))
            yield number(c.estimate), f"{span(c.low, c.high)} {name}"
        yield "resampling", f"{self.level:.4g} intervals, {self.resamples} resamples, seed {self.seed}"


def specification_curve(
    runs: xr.Dataset | Sequence[xr.Dataset] | Mapping[str, xr.Dataset],
    norms: Sequence[str] | None = None,
    units: Sequence[str] | None = None,
    methods: Sequence[str] = tuple(METHODS),
    layer_ranges: Mapping[str, Layers] | None = None,
    **options: Any,
) -> SpecificationCurve:
    """Correlate under every combination of norm, unit, method, layer range and run.

    runs: one run, or several that measure different quantities of the same responses (a mapping's keys rename the
    quantities). norms: by default all that are over layers (not logit_space, which is a control). units: by default
    both, or position alone where there are no token ids. layer_ranges: name to layers; by default all, first, middle
    and last third, and the last layer. Other options as for ``correlate``.
    """
    named = _named(runs)
    found = []
    for quantity, run in named:
        chosen_norms = norms or [n for n in strength_norms(run) if has_grid(run, n)]
        if not chosen_norms:
            raise InputError("The run has no norm over layers; name the norms to use.")
        chosen_units = units or (UNITS if "token_id" in run.variables else UNITS[:1])
        for norm in chosen_norms:
            ranges = (layer_ranges or default_ranges(run, norm)) if has_grid(run, norm) else {"": None}
            for (name, layers), unit, method in product(ranges.items(), chosen_units, methods):
                chosen = Options(norm, method, unit, layers, **options)
                found.append(_one(run, chosen, name, quantity))
    shared = Options(**options)
    order = sorted(found, key=lambda c: (np.isnan(c.estimate), c.estimate))
    return SpecificationCurve(tuple(order), float(shared.level), int(shared.resamples), int(shared.seed))


def _named(runs) -> list[tuple[str | None, xr.Dataset]]:
    if isinstance(runs, xr.Dataset):
        return [(None, check_run(runs))]
    pairs = list(runs.items()) if isinstance(runs, Mapping) else [(None, run) for run in runs]
    if not pairs:
        raise InputError("specification_curve needs at least one run; pass a run or a list of them.")
    return [(name, check_run(run)) for name, run in pairs]


def _one(run: xr.Dataset, options: Options, name: str, quantity: str | None) -> Correlation:
    if quantity is not None:
        run = run.assign_attrs(quantity=quantity)
    return correlation_of(run, options, label=f"layers {name}" if name else "")


def default_ranges(run: xr.Dataset, norm: str) -> dict[str, Layers]:
    """All layers, each third of them (from three layers on) and the last one (from two on)."""
    labels = layer_labels(strength_grid(run, norm))
    ranges: dict[str, Layers] = {"all": None}
    if len(labels) >= 3:
        thirds = np.array_split(np.array(labels), 3)
        ranges |= {name: [int(v) for v in t] for name, t in zip(("first", "middle", "last third"), thirds, strict=True)}
    if len(labels) > 1:
        ranges["last"] = [labels[-1]]
    return ranges
