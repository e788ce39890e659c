"""Small runs for the tests of the statistics."""

import numpy as np
import xarray as xr


def make_run(k=20, layers=2, projections="qo", rho=-0.5, mean=20, seed=0, n_types=15) -> xr.Dataset:
    """A run of k responses of uneven length whose tokens depend on one another."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, 2 * mean, k)
    response = np.repeat(np.arange(k), lengths)
    n, shape = response.size, (response.size, layers, len(projections))
    entropy = rng.normal(size=n) + rng.normal(size=k)[response]
    strength = rho * entropy[:, None, None] + rng.normal(size=shape) + rng.normal(size=k)[response][:, None, None]
    columns = {
        "token_id": rng.integers(0, n_types, n),
        "position": np.concatenate([np.arange(m) for m in lengths]),
        "entropy_bits": np.exp(entropy),
        "surprisal_bits": np.exp(entropy) + rng.exponential(size=n),
        "logit_space": np.tanh(entropy),
        "score": (response % 2).astype(float),
    }
    grid = ("token", "layer", "projection")
    return xr.Dataset(
        {name: ("token", values) for name, values in columns.items()}
        | {"nuclear": (grid, np.exp(strength)), "frobenius": (grid, np.exp(strength) ** 0.5)},
        coords={
            "layer": np.arange(layers),
            "projection": list(projections),
            "response": ("token", response),
            "prompt_id": ("token", np.array([f"p{r:03d}" for r in response])),
        },
        attrs={"model": "toy", "quantity": "logit"},
    )


def arrays(n=60, k=6, ties=True, seed=0):
    """Columns x, y and the cluster of each of n tokens, every cluster present."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 12, n).astype(float) if ties else rng.normal(size=n)
    y = 0.4 * x + (rng.integers(-5, 5, n) if ties else rng.normal(size=n))
    cluster = rng.integers(0, k, n)
    cluster[:k] = np.arange(k)
    return x, y, cluster
