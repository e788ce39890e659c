"""Everything the module says about one run, in the order a reader should see it."""

from typing import Any

import numpy as np
import xarray as xr

from inversion.statistics.controls import controls
from inversion.statistics.correlation import correlate
from inversion.statistics.maps import layer_map
from inversion.statistics.planning import plan_sample_size
from inversion.statistics.results import number
from inversion.statistics.segments import segments
from inversion.statistics.specifications import specification_curve


def overview(
    run: xr.Dataset, random_weights: xr.Dataset | None = None, norm: str = "nuclear", width: float = 0.1, **options: Any
) -> list[Any]:
    """Return the results for a run: both units, controls, layer map, segments, specification curve, sample size.

    Args:
        run: A run.
        random_weights: A run of the same model with random weights, as a control.
        norm: Norm of the strength.
        width: Interval width that the sample-size plan aims at.
        options: As for ``correlate``, except ``unit``.

    Returns:
        Results that print themselves, and the layer map as text.
    """
    found: list[Any] = [correlate(run, norm, unit=unit, **options) for unit in ("position", "token_type")]
    found.append(controls(run, random_weights, norm, **options))
    if norm != "logit_space":
        found.append(map_text(layer_map(run, norm=norm, **options)))
    parts = ["entropy"]
    if "token_text" in run:
        parts.insert(0, "think")
    if "score" in run and np.isfinite(run["score"]).any():
        parts.append("score")
    found += [segments(run, by, norm, **options) for by in parts]
    method = options.pop("method", None)
    found.append(
        specification_curve(run, methods=[method] if method == "kendall" else ("spearman", "pearson"), **options)
    )
    if method:
        options["method"] = method
    found.append(plan_sample_size(run, width, norm=norm, **options))
    return found


def map_text(table: xr.Dataset) -> str:
    """Lay out a layer map for a terminal: estimates, starred where the q-value is below 0.05."""
    projections = [str(name) for name in table["projection"].values]
    lines = [
        f"Correlation by layer and projection ({table.attrs['norm']}, {table.attrs['method']}, {table.attrs['unit']})",
        "  layer  " + "  ".join(f"{name:>7}" for name in projections),
    ]
    for layer in table["layer"].values:
        row = table.sel(layer=layer)
        cells = [
            number(float(estimate)) + ("*" if q < 0.05 else " ")
            for estimate, q in zip(row["estimate"].values, row["q_value"].values, strict=True)
        ]
        lines.append(f"  {layer:>5}  " + "  ".join(f"{cell:>7}" for cell in cells))
    return "\n".join([*lines, "  * Benjamini-Hochberg q-value below 0.05"])
