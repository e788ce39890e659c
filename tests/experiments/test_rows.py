"""What the intervals of a table's rows are over."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import inversion
from inversion.experiments.rows import control_rows, forking_rows, kept_row, layer_rows, main_rows


@pytest.fixture
def run():
    """Twelve responses of 12 tokens, two layers; alike in fours as responses to the same prompt."""
    random = np.random.default_rng(3)
    response = np.repeat(np.arange(12), 12)
    entropy = random.gamma(2, 1, response.size)
    slopes = np.repeat([1.0, -1.0, 0.4], 4)[response]
    strength = np.exp(slopes * entropy + random.normal(0, 0.5, response.size))
    norms = strength[:, None, None] * np.ones((1, 2, 1))
    values = {
        "entropy_bits": ("token", entropy),
        "surprisal_bits": ("token", entropy + random.normal(0, 1, response.size)),
        "position": ("token", np.tile(np.arange(12), 12)),
        "token_id": ("token", random.integers(0, 40, response.size)),
        "logit_space": ("token", entropy + random.normal(0, 0.1, response.size)),
        "nuclear": (("token", "layer", "projection"), norms),
    }
    coords = {"layer": [0, 1], "projection": ["q"], "response": ("token", response)}
    return xr.Dataset(values, coords).assign_coords(prompt_id=("token", (response // 4).astype(str)))


def rows(run):
    found = [*main_rows(run, {}, ["nuclear"]), *control_rows(run, {}), *forking_rows(run, {})]
    return pd.DataFrame([*found, kept_row(run, run.position.values < 8, "position", "first", {})])


def test_several_responses_to_a_prompt_are_resampled_together(run):
    alone = run.assign_coords(prompt_id=("token", run.response.values.astype(str)))
    together, apart = rows(run), rows(alone)
    assert together["estimate"].tolist() == pytest.approx(apart["estimate"].tolist(), nan_ok=True)
    for found, cluster in ((together, "prompt"), (apart, "response")):
        for row, unit in zip(found.to_dict("records"), ("position", "token_type"), strict=False):
            expected = inversion.correlate(run, unit=unit, cluster=cluster)
            assert (row["low"], row["high"]) == (expected.low, expected.high)
    plain = together[together["control"].isin(["none", "partial", "within", "typical", "first"])]
    widths = [(found["high"] - found["low"])[plain.index] for found in (together, apart)]
    assert (widths[0] > 1.3 * widths[1]).all()
    for data, cluster in ((run, "prompt"), (alone, "response")):
        expected = inversion.layer_map(run, cluster=cluster)
        assert layer_rows(data, {})["low"].tolist() == expected["low"].values.ravel().tolist()


def test_a_run_without_prompts_is_resampled_by_response(run):
    without = run.drop_vars("prompt_id")
    expected = inversion.correlate(run)
    assert next(main_rows(without, {}, ["nuclear"]))["low"] == expected.low
