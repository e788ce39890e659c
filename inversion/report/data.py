"""What the report's reader works on: a run as compact arrays in plain JSON types."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from inversion.findings import NamedRun
from inversion.statistics.segmentation import think_masks
from inversion.statistics.strengths import (
    has_grid,
    layer_labels,
    mean_strength,
    projection_labels,
    strength,
    strength_grid,
    strength_norms,
)
from inversion.tokens import texts_of

MOST_VALUES = 24_000_000
"""Norms of single pairs that a page holds over all its runs, 2 bytes each; beyond, means over layers or projections."""
HALF_MAX = 60_000.0


def run_payload(run: NamedRun, most_values: int) -> dict[str, Any]:
    """One run in JSON types.

    Arrays are base64 of little-endian numbers: ``u32`` and ``u8`` whole ones, ``f32`` and ``f16`` floating ones, the
    last to be multiplied by their ``scale``. Strengths come per norm: the mean over everything, and ``cells``, a column
    a layer and projection. A norm that would bring these over ``most_values`` has ``layer_means`` and
    ``projection_means`` instead, a column each.
    """
    tokens, responses = run.tokens, run.responses
    numbers = tokens["response"].values
    order = np.argsort(numbers, kind="stable")
    tokens, numbers = tokens.isel(token=order), numbers[order]
    there, starts = np.unique(numbers, return_index=True)
    vocabulary, ids = np.unique(np.array(texts_of(tokens), dtype=object), return_inverse=True)
    think, answer = think_masks(tokens)
    measured = [name for name in ("entropy_bits", "surprisal_bits", "logit_space") if name in tokens]
    norms = [name for name in strength_norms(tokens) if has_grid(tokens, name)]
    return {
        "name": run.name,
        "model": str(tokens.attrs.get("model", "")),
        "quantity": str(tokens.attrs.get("quantity", "logit")),
        "starts": [*(int(v) for v in starts), len(ids)],
        "responses": [_response(responses.loc[number], int(number)) for number in there],
        "vocabulary": [str(text) for text in vocabulary],
        "text": packed(ids, "u32"),
        "segment": packed(think + 2 * answer, "u8"),
        "position": packed(tokens["position"].values, "u32"),
        "columns": {name: packed(tokens[name].values, "f32") for name in measured},
        "norms": _norms(tokens, norms, most_values),
    }


def _norms(tokens: xr.Dataset, norms: Sequence[str], most_values: int) -> dict[str, Any]:
    """The norms in order, each whole as long as there is room."""
    found = {}
    for norm in norms:
        whole = tokens[norm].size <= most_values
        found[norm] = _norm(tokens, norm, cells=whole)
        most_values -= tokens[norm].size if whole else 0
    return found


def _norm(tokens: xr.Dataset, norm: str, *, cells: bool) -> dict[str, Any]:
    grid = strength_grid(tokens, norm)
    layers, projections = layer_labels(grid), projection_labels(grid)
    found: dict[str, Any] = {
        "layers": layers,
        "projections": projections,
        "mean": packed(strength(tokens, norm)[0], "f32"),
        "cells": None,
    }
    arrays = grid.values
    if cells:
        found["cells"] = [[packed(arrays[:, i, j], "f16") for j in range(len(projections))] for i in range(len(layers))]
    else:
        by_layer, by_projection = np.split(arrays, len(layers), 1), np.split(arrays, len(projections), 2)
        found["layer_means"] = [packed(mean_strength(part), "f16") for part in by_layer]
        found["projection_means"] = [packed(mean_strength(part), "f16") for part in by_projection]
    return found


def _response(row: pd.Series, number: int) -> dict[str, Any]:
    def text(name: str) -> str | None:
        value = row.get(name)
        return value if isinstance(value, str) else None

    value: Any = row.get("score")
    score = float("nan") if value is None else float(value)
    return {
        "number": number,
        "prompt_id": text("prompt_id"),
        "prompt": text("prompt"),
        "answer": text("answer"),
        "task": text("task"),
        "score": score if np.isfinite(score) else None,
        "finished": bool(row["finished"]),
    }


def packed(values: np.ndarray, kind: str) -> dict[str, Any]:
    """An (n,) array as ``{"kind", "data"}``, and a ``scale`` for half floats, whose relative error is at most 2^-11."""
    values = np.asarray(values)
    if kind == "f16":
        values = values.astype(np.float64)
        finite = np.abs(values[np.isfinite(values)])
        largest = float(finite.max()) if finite.size else 0.0
        scale = largest / HALF_MAX if largest > 0 else 1.0
        return {"kind": kind, "scale": scale, "data": _base64((values / scale).astype("<f2"))}
    return {"kind": kind, "data": _base64(values.astype({"u8": "<u1", "u32": "<u4", "f32": "<f4"}[kind]))}


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
