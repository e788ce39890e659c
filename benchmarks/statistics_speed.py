"""Time the bootstrap of a whole layer map against a loop over ``scipy.stats.spearmanr``.

    python benchmarks/statistics_speed.py

100,000 tokens in 200 responses, 24 layers x 4 projections, 2,000 resamples. The loop is timed on a few resamples of a
few pairs of the same data, drawn by response, and multiplied up; the map is timed in full, with its p-values and
simultaneous intervals.
"""

import argparse
import resource
import time

import numpy as np
import xarray as xr
from scipy import stats

from inversion.statistics import layer_map


def make_run(n_tokens: int, n_responses: int, n_layers: int, seed: int) -> xr.Dataset:
    """Tokens that depend on one another inside responses of uneven length."""
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.choice(np.arange(1, n_tokens), n_responses - 1, replace=False))
    response = np.searchsorted(cuts, np.arange(n_tokens), side="right")
    entropy = rng.normal(size=n_tokens) + rng.normal(size=n_responses)[response]
    strength = rng.normal(size=(n_tokens, n_layers, 4)) + rng.normal(size=(n_responses, n_layers, 4))[response]
    return xr.Dataset(
        {
            "entropy_bits": ("token", entropy),
            "nuclear": (("token", "layer", "projection"), strength - 0.4 * entropy[:, None, None]),
        },
        coords={"layer": np.arange(n_layers), "projection": list("qkvo"), "response": ("token", response)},
    )


def loop_seconds(run: xr.Dataset, pairs: int, resamples: int, seed: int) -> float:
    """Seconds of one resample of one pair in a loop that draws responses and calls ``spearmanr``."""
    rng = np.random.default_rng(seed)
    response, entropy = run["response"].values, run["entropy_bits"].values
    rows = np.split(np.arange(response.size), np.flatnonzero(np.diff(response)) + 1)
    start = time.perf_counter()
    for pair in range(pairs):
        strength = np.ascontiguousarray(run["nuclear"].values[:, pair // 4, pair % 4])
        for _ in range(resamples):
            drawn = np.concatenate([rows[i] for i in rng.integers(0, len(rows), len(rows))])
            stats.spearmanr(strength[drawn], entropy[drawn])
    return (time.perf_counter() - start) / (pairs * resamples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--responses", type=int, default=200)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--loop-pairs", type=int, default=3)
    parser.add_argument("--loop-resamples", type=int, default=20)
    options = parser.parse_args()
    run = make_run(options.tokens, options.responses, options.layers, seed=0)
    n_pairs = 4 * options.layers
    one = loop_seconds(run, options.loop_pairs, options.loop_resamples, seed=0)
    loop = one * n_pairs * options.resamples
    print(
        f"scipy loop: {one * 1e3:.1f} ms a resample and pair (mean of {options.loop_pairs * options.loop_resamples}),"
    )
    print(f"            {loop:,.0f} s for {n_pairs} pairs x {options.resamples:,} resamples (multiplied up)")
    for interval in ("percentile", "signflip"):
        start = time.perf_counter()
        layer_map(run, interval=interval, resamples=options.resamples)
        seconds = time.perf_counter() - start
        print(f"layer_map(interval={interval!r}): {seconds:.1f} s, {loop / seconds:,.0f} times faster")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
