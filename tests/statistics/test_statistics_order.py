"""Statistics that look at the order of tokens take it from their positions, whatever the order of rows and holes."""

import numpy as np
import pytest
from scipy import stats
from statistics_samples import make_run

import inversion
from inversion.statistics import controls, partial, per_response, segments, trajectory, within_between
from inversion.statistics import within_response_shuffle as shuffle


def read_aloud(run):
    """The same tokens with a text, so that each response has a thought and an answer."""
    text = np.full(run.sizes["token"], "w", dtype=object)
    for r in np.unique(run.response):
        rows = np.flatnonzero(run.response.values == r)
        text[rows[0]], text[rows[len(rows) // 2]] = "<think>", "</think>"
    return run.assign(token_text=("token", text))


def with_holes(run):
    """A missing strength in one response and a missing entropy in another."""
    nuclear, entropy = run.nuclear.values.copy(), run.entropy_bits.values.copy()
    nuclear[7], entropy[-9] = np.nan, np.nan
    return run.assign(nuclear=(run.nuclear.dims, nuclear), entropy_bits=("token", entropy))


RUN = with_holes(read_aloud(make_run(k=12)))
MIXED = RUN.isel(token=np.random.default_rng(0).permutation(RUN.sizes["token"]))
OPTIONS = {"resamples": 50}
STATISTICS = {
    "shift": lambda run: shuffle(run, kind="shift", **OPTIONS),
    "shift, Kendall": lambda run: shuffle(run, kind="shift", method="kendall", **OPTIONS),
    "permute": lambda run: shuffle(run, kind="permute", **OPTIONS),
    "think": lambda run: segments(run, "think", **OPTIONS),
    "entropy": lambda run: segments(run, "entropy", **OPTIONS),
    "score": lambda run: segments(run, "score", **OPTIONS),
    "position held fixed": lambda run: partial(run, given="position", **OPTIONS),
    "parts": lambda run: within_between(run, **OPTIONS),
    "controls": lambda run: controls(run, **OPTIONS),
    "trajectory": lambda run: trajectory([run, make_run(k=12, seed=1), run.isel(token=slice(9, None))], **OPTIONS),
}


def numbers(value):
    """Every number of a result, in order."""
    if isinstance(value, dict):
        value = value.values()
    if isinstance(value, int | float):
        return [float(value)]
    return [] if value is None or isinstance(value, str) else [n for v in value for n in numbers(v)]


@pytest.mark.parametrize("name", STATISTICS)
def test_the_order_of_rows_changes_nothing_even_with_holes(name):
    # The trajectory drops its last run's first tokens, which must be the same tokens in both.
    mixed = MIXED if name != "trajectory" else RUN.isel(token=[*range(9), *range(RUN.sizes["token"] - 1, 8, -1)])
    expected, found = (numbers(STATISTICS[name](run).to_dict()) for run in (RUN, mixed))
    assert len(expected) > 5
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_correlations_inside_responses_do_not_depend_on_the_order_of_rows():
    np.testing.assert_allclose(per_response(MIXED).estimate, per_response(RUN).estimate, atol=1e-12)
    np.testing.assert_allclose(
        inversion.layer_map(MIXED, resamples=50).simultaneous_low,
        inversion.layer_map(RUN, resamples=50).simultaneous_low,
    )


def smooth(rng, lengths):
    """A slow series in each response, (n,): neighbours are alike, first and last included, so their order matters."""
    noise = [rng.normal(size=m) for m in lengths]
    return np.concatenate([sum(np.roll(one, shift) for shift in range(8)) for one in noise])


def test_a_shift_keeps_its_level_when_rows_are_permuted_and_a_value_is_missing():
    rng = np.random.default_rng(0)
    lengths, sets = np.full(6, 40), 200
    base = make_run(k=6, layers=1, projections="q").isel(token=[0] * lengths.sum())
    base = base.assign_coords(response=("token", np.repeat(np.arange(6), lengths)))
    base = base.assign(position=("token", np.concatenate([np.arange(m) for m in lengths])))
    rejected = 0
    for seed in range(sets):
        nuclear = smooth(rng, lengths)
        nuclear[3] = np.nan
        strength = (base.nuclear.dims, nuclear[:, None, None])
        run = base.assign(nuclear=strength, entropy_bits=("token", smooth(rng, lengths)))
        mixed = run.isel(token=rng.permutation(lengths.sum()))
        rejected += shuffle(mixed, resamples=39, seed=seed).p_value <= 0.05
    low, high = stats.binom.ppf([0.0005, 0.9995], sets, 0.05)
    assert low <= rejected <= high
