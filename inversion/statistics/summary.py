"""Everything the statistics say about one run, in the order a reader should see it."""

from dataclasses import replace
from typing import Unpack

import numpy as np
import xarray as xr

from inversion.statistics.confounds import controls_of
from inversion.statistics.correlation import correlation_of
from inversion.statistics.layout import Columns
from inversion.statistics.maps import layer_map_of, map_text
from inversion.statistics.options import Overviewed, read_choices
from inversion.statistics.planning import plan_sample_size
from inversion.statistics.results import Result
from inversion.statistics.samples import Sampler
from inversion.statistics.segmentation import segments_of
from inversion.statistics.specifications import specification_curve_of


def overview(
    run: xr.Dataset | Columns,
    random_weights: xr.Dataset | Columns | None = None,
    norm: str = "nuclear",
    width: float = 0.1,
    **options: Unpack[Overviewed],
) -> list[Result | str]:
    """Everything about a run: both units, controls, layer map, segments, specification curve, sample size.

    Args:
        run: A run or capture; it is read once.
        random_weights: A run of the same model with random weights, as a control.
        norm: Norm of the strength.
        width: Interval width that the sample-size plan aims at.
        options: As for :func:`inversion.correlate`, except ``unit``.

    Returns:
        Results that print themselves, and the layer map as text.

    Raises:
        InputError: The run lacks the norm, or an option cannot be used.
    """
    chosen = read_choices("overview", options, Overviewed, norm=norm)
    sampler = Sampler.of(run, chosen)
    columns = sampler.columns
    main = correlation_of(sampler, chosen)
    types = correlation_of(sampler, replace(chosen, unit="token_type"))
    found: list[Result | str] = [main, types, controls_of(sampler, chosen, random_weights, main)]
    if norm != "logit_space":
        found.append(map_text(layer_map_of(sampler, chosen)))
    found += [segments_of(sampler, chosen, by) for by in _segmentations(columns)]
    methods = [chosen.method] if chosen.method == "kendall" else ["spearman", "pearson"]
    curve = replace(chosen, layers=None)
    found.append(specification_curve_of({"": sampler}, curve, methods=methods))
    found.append(plan_sample_size(main, width))
    return found


def _segmentations(columns: Columns) -> list[str]:
    parts = ["entropy"]
    if columns.has("token_text"):
        parts.insert(0, "think")
    if columns.has("score") and np.isfinite(columns.number("score")).any():
        parts.append("score")
    return parts
