"""From a labelled run to plain arrays: the one place that knows names, layers and projections."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral

import numpy as np
import xarray as xr

from inversion.errors import InputError
from inversion.statistics._ranks import Floats, Ints

COVARIATES = ("position", "surprisal_bits", "log_frequency", "logit_space")
CLUSTERS = ("response", "prompt")
SHORT = {"surprisal": "surprisal_bits", "entropy": "entropy_bits", "frequency": "log_frequency"}


@dataclass(frozen=True)
class Tokens:
    """The tokens of a run without their strength."""

    entropy: Floats  # (n,) bits
    cluster: Ints  # (n,) 0..K-1
    cluster_names: tuple[str, ...]  # (K,)
    response: Ints  # (n,)
    types: Ints | None  # (n,) token ids
    given: tuple[Floats, ...] = ()  # covariates, each (n,)
    given_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def take(self, keep) -> "Tokens":
        """The tokens where the (n,) mask is true, with the same cluster numbers."""
        types = None if self.types is None else self.types[keep]
        given = tuple(g[keep] for g in self.given)
        parts = {"entropy": self.entropy[keep], "cluster": self.cluster[keep], "response": self.response[keep]}
        return replace(self, types=types, given=given, **parts)


def check_run(run: xr.Dataset) -> xr.Dataset:
    """Raise unless ``run`` is a Dataset over tokens with an entropy."""
    if not isinstance(run, xr.Dataset):
        raise InputError(f"A run must be an xarray.Dataset as probe and load_run return it, not {type(run).__name__}.")
    if "token" not in run.dims or "entropy_bits" not in run:
        raise InputError("The run has no entropy_bits over a token dimension; pass what probe or load_run returned.")
    return run


def tokens_of(run: xr.Dataset, cluster: str = "response", given: Sequence = (), types: bool = False) -> Tokens:
    """Read the per-token columns of a run."""
    check_run(run)
    if cluster not in CLUSTERS:
        raise InputError(f"cluster must be one of {', '.join(CLUSTERS)}, not {cluster!r}.")
    response = response_of(run)
    label = response if cluster == "response" else column(run, "prompt_id")
    names, ids = np.unique(label, return_inverse=True)
    given = tuple(SHORT.get(name, name) if isinstance(name, str) else name for name in given)
    return Tokens(
        entropy=run["entropy_bits"].values.astype(float),
        cluster=ids.astype(np.intp),
        cluster_names=tuple(str(name) for name in names),
        response=response,
        types=column(run, "token_id").astype(np.intp) if types else None,
        given=tuple(covariate(run, name) for name in given),
        given_names=given,
        notes=_shared_prompts(run, response) if cluster == "response" else (),
    )


def _shared_prompts(run: xr.Dataset, response: Ints) -> tuple[str, ...]:
    if "prompt_id" not in run.variables:
        return ()
    pairs = np.unique(np.stack([response.astype(str), column(run, "prompt_id").astype(str)]), axis=1)
    n_prompts = np.unique(pairs[1]).size
    if n_prompts == pairs.shape[1]:
        return ()
    return (f"{pairs.shape[1]} responses share {n_prompts} prompts; cluster='prompt' allows for their likeness",)


def response_of(run: xr.Dataset) -> Ints:
    """Number 0..R-1 of the response of each token, (n,); a single capture is one response."""
    if "response" not in run.variables:
        return np.zeros(run.sizes["token"], np.intp)
    return np.unique(column(run, "response"), return_inverse=True)[1].astype(np.intp)


def reading_order(run: xr.Dataset, used: np.ndarray) -> Ints:
    """Rows of the tokens that are used, response by response and by position; by row where positions are unknown.

    Every statistic that looks at the order of tokens asks here, after it has dropped what it cannot use.

    Args:
        run: A run of n tokens.
        used: Which of them are used, (n,).

    Returns:
        Row numbers, one for each used token.
    """
    place = column(run, "position") if "position" in run.variables else np.arange(used.size)
    rows = np.flatnonzero(used)
    return rows[np.lexsort((place[rows], response_of(run)[rows]))]


def column(run: xr.Dataset, name: str) -> np.ndarray:
    """One per-token variable or coordinate as an (n,) array; a scalar one is repeated."""
    if name not in run.variables:
        raise InputError(f"The run has no {name}, which this needs; measure it or choose another option.")
    variable = run[name]
    if variable.ndim == 0:
        return np.full(run.sizes["token"], variable.values)
    if variable.dims != ("token",):
        raise InputError(f"{name} should have one value a token, but has dimensions {variable.dims}.")
    return variable.values


def covariate(run: xr.Dataset, name: str) -> Floats:
    """A column to hold fixed, (n,). ``log_frequency`` is the log of how often the token id occurs in the run."""
    if name == "log_frequency":
        _, ids, counts = np.unique(column(run, "token_id"), return_inverse=True, return_counts=True)
        return np.log(counts[ids])
    values = column(run, name)
    if not np.issubdtype(values.dtype, np.number):
        raise InputError(f"{name} is not a number, so it cannot be held fixed; choose among {', '.join(COVARIATES)}.")
    return values.astype(float)


def strength_norms(run: xr.Dataset) -> list[str]:
    """Names of the variables that can serve as a strength: those over layers and projections, and logit_space."""
    return [str(k) for k, v in run.data_vars.items() if _is_grid(v) or k == "logit_space"]


def _is_grid(variable: xr.DataArray) -> bool:
    has = set(variable.dims) | {str(c) for c in variable.coords}
    return "token" in variable.dims and {"layer", "projection"} <= has


def strength_grid(run: xr.Dataset, norm: str, layers=None, projections=None) -> xr.DataArray:
    """The chosen part of a norm, always with dims (token, layer, projection)."""
    check_run(run)
    if norm not in run or norm not in strength_norms(run):
        raise InputError(f"The run has no norm {norm!r}; it has {', '.join(strength_norms(run)) or 'none'}.")
    grid = run[norm]
    for dim in ("layer", "projection"):
        if dim not in grid.dims:
            grid = grid.expand_dims(dim)
    grid = grid.transpose("token", "layer", "projection")
    chosen_layers = pick_layers(layer_labels(grid), layers)
    return grid.isel(layer=chosen_layers, projection=pick_projections(projection_labels(grid), projections))


def has_grid(run: xr.Dataset, norm: str) -> bool:
    """Whether the norm has layers and projections (the logit-space strength has none)."""
    return norm in run and norm != "logit_space" and _is_grid(run[norm])


def layer_labels(grid: xr.DataArray) -> list[int]:
    """Layer numbers; 0, 1, ... where the run names none."""
    return [int(v) for v in (grid["layer"].values if "layer" in grid.coords else range(grid.sizes["layer"]))]


def projection_labels(grid: xr.DataArray) -> list[str]:
    """Projection names; "0", "1", ... where the run names none."""
    names: Iterable = grid["projection"].values if "projection" in grid.coords else range(grid.sizes["projection"])
    return [str(v) for v in names]


def pick_layers(labels: list[int], layers) -> list[int]:
    """Positions of the layers asked for: numbers are layer numbers, negative ones count from the last measured."""
    if layers is None:
        return list(range(len(labels)))
    wanted = [layers] if isinstance(layers, Integral) else list(layers)
    positions = []
    for layer in wanted:
        if isinstance(layer, bool) or not isinstance(layer, Integral):
            raise InputError(f"layers must be whole numbers, not {layer!r}.")
        number = int(layer)
        if -len(labels) <= number < 0:
            positions.append(len(labels) + number)
        elif number in labels:
            positions.append(labels.index(number))
        else:
            raise InputError(f"Layer {layer} was not measured; choose among {', '.join(map(str, labels))}.")
    if not positions:
        raise InputError("layers is empty; pass None for all of them.")
    return sorted(set(positions))


def pick_projections(labels: list[str], projections) -> list[int]:
    """Positions of the projections asked for: one name, or several."""
    if projections is None:
        return list(range(len(labels)))
    wanted: list[Hashable] = [projections] if isinstance(projections, str) else list(projections)
    missing = [p for p in wanted if p not in labels]
    if missing:
        raise InputError(f"Projection {missing[0]} was not measured; choose among {', '.join(labels)}.")
    if not wanted:
        raise InputError("projections is empty; pass None for all of them.")
    return sorted({labels.index(str(p)) for p in wanted})


def mean_strength(values: Floats) -> Floats:
    """S of each token from (n, layer, projection) norms, (n,): the mean over layers and projections.

    Layer-projection pairs that are NaN for every token count as not measured; a token that lacks one of the others
    gets NaN, since a mean over other matrices than its neighbours' would not compare.
    """
    flat = values.reshape(len(values), values.shape[1] * values.shape[2]).astype(float)
    measured = np.isfinite(flat).any(axis=0)
    if not measured.any():
        return np.full(len(values), np.nan)
    return flat[:, measured].mean(axis=1)


def strength(run: xr.Dataset, norm: str, layers=None, projections=None) -> tuple[Floats, tuple, tuple]:
    """S of each token (n,), and the layers and projections it was averaged over (empty for logit_space)."""
    if norm == "logit_space" and not has_grid(run, norm):
        return column(check_run(run), norm).astype(float), (), ()
    grid = strength_grid(run, norm, layers, projections)
    return mean_strength(grid.values), tuple(layer_labels(grid)), tuple(projection_labels(grid))
