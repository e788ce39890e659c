"""The correlation for every layer and projection, with adjusted p-values and simultaneous intervals."""

import numpy as np
import xarray as xr

from inversion.errors import InputError
from inversion.statistics._data import has_grid, layer_labels, projection_labels, strength_grid, tokens_of
from inversion.statistics._infer import (
    NAN,
    Inference,
    critical,
    flip_bounds,
    from_z,
    infer,
    sign_flips,
)
from inversion.statistics._options import Options, make_sample
from inversion.statistics._ranks import Floats, Ints

COLUMNS = ("estimate", "low", "high", "p_value", "q_value", "simultaneous_low", "simultaneous_high", "standard_error")


def layer_map(
    run: xr.Dataset,
    norm: str = "nuclear",
    method: str = "spearman",
    unit: str = "position",
    layers=None,
    projections=None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    *,
    given=(),
    interval: str = "signflip",
    cluster: str = "response",
) -> xr.Dataset:
    """Correlate strength with entropy for each layer and projection apart; arguments as for ``correlate``.

    Returns a Dataset over (layer, projection): estimate, low, high (each interval holds on its own), p_value, q_value
    (Benjamini-Hochberg over the map: the share of false finds among those with q below a bound is at most that bound),
    simultaneous_low and simultaneous_high (at the same level for the whole map at once), standard_error, n_tokens,
    and reason (text, empty unless something is NaN). How it was made is in its attrs.
    """
    options = Options(
        norm, method, unit, layers, projections, level, resamples, seed, given=given, interval=interval, cluster=cluster
    )
    if not has_grid(run, norm) and norm == "logit_space":
        raise InputError("logit_space has no layers; use correlate(run, norm='logit_space').")
    grid = strength_grid(run, norm, layers, projections)
    tokens = tokens_of(run, cluster, options.given, unit == "token_type")
    values = grid.values.astype(float)
    shape = values.shape[1:]
    found, labels, counts = [], [], []
    for i, j in np.ndindex(shape):  # one sample at a time: each holds tables as large as the tokens
        sample, used = make_sample(values[:, i, j], tokens, options)
        found.append(infer(sample, options.settings))
        labels.append(sample.labels)
        counts.append(int(used.sum()))
    table = _table(labels, found, options, len(tokens.cluster_names))
    arrays = {name: (("layer", "projection"), column.reshape(shape)) for name, column in table.items()}
    n_tokens = np.array(counts, dtype=np.intp).reshape(shape)
    reasons = np.array([f.reason or "" for f in found], dtype=object).astype(str).reshape(shape)
    arrays |= {"n_tokens": (("layer", "projection"), n_tokens), "reason": (("layer", "projection"), reasons)}
    coords = {"layer": layer_labels(grid), "projection": projection_labels(grid)}
    return xr.Dataset(arrays, coords=coords, attrs=_attrs(run, options, tokens, found))


def _table(labels: list[Ints], found: list[Inference], options: Options, n_clusters: int) -> dict[str, Floats]:
    names = ("estimate", "low", "high", "p_value", "standard_error")
    table = {name: np.array([getattr(f, name) for f in found], dtype=float) for name in names}
    table["q_value"] = benjamini_hochberg(table["p_value"])
    low, high = simultaneous(labels, found, options, n_clusters)
    return table | {"simultaneous_low": low, "simultaneous_high": high}


def benjamini_hochberg(p: Floats) -> Floats:
    """Benjamini-Hochberg q-values of (m,) p-values; NaN stays NaN and does not count as a test."""
    q = np.full(p.shape, NAN)
    good = np.flatnonzero(np.isfinite(p))
    order = good[np.argsort(p[good], kind="stable")]
    scaled = p[order] * order.size / np.arange(1, order.size + 1)
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q


def simultaneous(labels: list[Ints], found: list[Inference], options: Options, n_clusters: int):
    """Limits that hold for all of m correlations at once: two (m,) arrays.

    One flip of the responses' signs is applied to the whole map, and the largest deviation over the map, in standard
    errors, is kept; its quantile over flips widens every interval alike (max-t, on Fisher's z scale).
    """
    low, high = np.full(len(found), NAN), np.full(len(found), NAN)
    loos = {i: f.loo for i, f in enumerate(found) if f.loo is not None and f.standard_error > 0}
    if not loos:
        return low, high
    flips = sign_flips(n_clusters, options.resamples, options.seed)
    largest = np.zeros((2, len(flips)))  # below, above
    for i, loo in loos.items():
        deviations = np.stack(flip_bounds(loo, flips[:, labels[i]])) / loo.standard_error
        largest = np.maximum(largest, deviations)
    down, up = (critical(row, options.level) for row in largest)
    for i, loo in loos.items():
        low[i] = from_z(loo.estimate - down * loo.standard_error)
        high[i] = from_z(loo.estimate + up * loo.standard_error)
    return low, high


def _attrs(run: xr.Dataset, options: Options, tokens, found: list[Inference]) -> dict:
    kinds = dict.fromkeys(f.interval for f in found)
    return {
        "method": options.method,
        "unit": options.unit,
        "norm": options.norm,
        "quantity": str(run.attrs.get("quantity", "")),
        "model": str(run.attrs.get("model", "")),
        "given": list(options.given),
        "interval": " / ".join(kinds),
        "level": float(options.level),
        "resamples": int(options.resamples),
        "seed": int(options.seed),
        "cluster": options.cluster,
        "n_responses": int(np.unique(tokens.response).size),
        "n_clusters": len(tokens.cluster_names),
        "notes": list(dict.fromkeys(tokens.notes + tuple(n for f in found for n in f.notes))),
    }
