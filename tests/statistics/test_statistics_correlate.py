import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statistics_samples import make_run

import inversion
from inversion import InputError

RUN = make_run()
SCIPY = {"pearson": stats.pearsonr, "spearman": stats.spearmanr, "kendall": stats.kendalltau}


@pytest.mark.parametrize("method", SCIPY)
def test_estimate_equals_scipy_on_the_mean_over_the_selection(method):
    found = inversion.correlate(RUN, method=method, layers=[-1], projections=["o"])
    x = RUN.nuclear.sel(layer=1, projection="o").values
    assert found.estimate == pytest.approx(SCIPY[method](x, RUN.entropy_bits.values).statistic, abs=1e-12)
    assert (found.layers, found.projections) == ((1,), ("o",))
    assert (found.n_tokens, found.n_responses) == (RUN.sizes["token"], 20)


@pytest.mark.parametrize("interval", ["signflip", "jackknife", "percentile", "bca"])
def test_every_interval_surrounds_the_estimate_and_is_named(interval):
    found = inversion.correlate(RUN, interval=interval)
    assert -1 <= found.low < found.estimate < found.high <= 1
    assert found.interval == interval
    assert 0 < found.p_value <= 1


def test_same_seed_same_result_and_another_seed_another_interval():
    assert inversion.correlate(RUN, seed=1) == inversion.correlate(RUN, seed=1)
    assert inversion.correlate(RUN, seed=1).low != inversion.correlate(RUN, seed=2).low


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_order_of_tokens_and_monotone_maps_change_nothing(seed):
    rng = np.random.default_rng(seed)
    expected = inversion.correlate(RUN, layers=0, projections="q", resamples=200)
    order = rng.permutation(RUN.sizes["token"])
    moved = inversion.correlate(RUN.isel(token=order), layers=0, projections="q", resamples=200)
    mapped = RUN.assign(nuclear=np.log(RUN.nuclear) * rng.uniform(0.1, 9), entropy_bits=np.sqrt(RUN.entropy_bits))
    mapped = inversion.correlate(mapped, layers=0, projections="q", resamples=200)
    for other in (moved, mapped):
        for name in ("estimate", "low", "high", "p_value"):
            assert getattr(other, name) == pytest.approx(getattr(expected, name), abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_names_of_responses_and_token_ids_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    renamed = RUN.assign_coords(response=("token", rng.permutation(20)[RUN.response.values] * 7 + 3))
    renamed = renamed.assign(token_id=("token", rng.permutation(15)[RUN.token_id.values] + 100))
    for unit in ("position", "token_type"):
        a, b = (inversion.correlate(r, unit=unit, interval="jackknife", resamples=50) for r in (RUN, renamed))
        assert (a.estimate, a.low, a.high) == pytest.approx((b.estimate, b.low, b.high), abs=1e-12)


def test_reversed_entropy_reverses_the_sign():
    a, b = inversion.correlate(RUN), inversion.correlate(RUN.assign(entropy_bits=-RUN.entropy_bits))
    assert a.estimate == pytest.approx(-b.estimate, abs=1e-12)
    assert a.p_value == b.p_value


def test_logit_space_is_a_strength_without_layers():
    found = inversion.correlate(RUN, norm="logit_space")
    assert found.estimate == pytest.approx(1.0)
    assert found.layers == ()


def test_a_capture_without_responses_is_one_response():
    capture = RUN.isel(token=RUN.response.values == 3).drop_vars(["response", "prompt_id"])
    found = inversion.correlate(capture)
    assert np.isfinite(found.estimate)
    assert np.isnan([found.low, found.high, found.p_value]).all()
    assert "single response" in found.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r.isel(token=slice(0, 2)), "2 tokens are too few"),
        (lambda r: r.assign(nuclear=r.nuclear * 0), "strength is constant"),
        (lambda r: r.assign(entropy_bits=r.entropy_bits * 0 + 1), "entropy is constant"),
        (lambda r: r.assign(nuclear=r.nuclear * np.nan), "no token has both"),
        (lambda r: r.isel(token=slice(0, 0)), "no token has both"),
    ],
)
@pytest.mark.parametrize("unit", ["position", "token_type"])
def test_undefined_is_nan_with_a_reason(change, reason, unit):
    found = inversion.correlate(change(RUN), unit=unit)
    assert np.isnan([found.estimate, found.low, found.high, found.p_value]).all()
    assert reason.replace("tokens", "distinct tokens" if unit == "token_type" else "tokens") in found.reason


def test_layers_that_are_nan_do_not_count_and_missing_tokens_are_left_out_with_a_note():
    holes = RUN.nuclear.copy()
    holes[:, 0, :] = np.nan
    found = inversion.correlate(RUN.assign(nuclear=holes))
    assert found.estimate == inversion.correlate(RUN, layers=[1]).estimate
    holes[5, 1, 0] = np.nan
    found = inversion.correlate(RUN.assign(nuclear=holes))
    assert found.n_tokens == RUN.sizes["token"] - 1
    assert found.n_tokens_left_out == 1
    assert found.notes == (
        "2 of 4 layer-projection pairs have no value for any token: 0.q, 0.o",
        "1 token left out: 1 without strength",
    )


def test_one_layer_as_a_scalar_coordinate_and_few_variables():
    bare = RUN.isel(layer=0, projection=1)[["entropy_bits", "nuclear"]]
    assert inversion.correlate(bare).estimate == inversion.correlate(RUN, layers=0, projections="o").estimate


def test_clusters_can_be_prompts_and_shared_prompts_are_pointed_out():
    shared = RUN.assign_coords(prompt_id=("token", (RUN.response.values // 2).astype(str)))
    by_response, by_prompt = inversion.correlate(shared), inversion.correlate(shared, cluster="prompt")
    assert (by_response.n_clusters, by_prompt.n_clusters, by_prompt.n_responses) == (20, 10, 20)
    assert "share 10 prompts" in by_response.notes[0]
    assert by_response.estimate == by_prompt.estimate


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "nucular"}, "no norm 'nucular'; it has logit_space, nuclear, frobenius"),
        ({"method": "cosine"}, "method must be one of"),
        ({"unit": "word"}, "unit must be one of"),
        ({"layers": [7]}, "Layer 7 was not measured; choose among 0, 1"),
        ({"layers": -3}, "Layer -3"),
        ({"layers": []}, "layers is empty"),
        ({"layers": [0.5]}, "whole numbers"),
        ({"projections": "z"}, "Projection z was not measured"),
        ({"projections": []}, "projections is empty"),
        ({"level": 95}, "level must lie between 0 and 1"),
        ({"resamples": 0}, "resamples"),
        ({"seed": -1}, "seed"),
        ({"interval": "normal"}, "interval must be one of"),
        ({"cluster": "token"}, "cluster must be one of"),
        ({"given": ("mood",)}, "no mood"),
    ],
)
def test_bad_input_is_told_in_one_sentence(options, message):
    with pytest.raises(InputError, match=message):
        inversion.correlate(RUN, **options)


def test_what_is_not_a_run_is_refused():
    with pytest.raises(InputError, match=r"must be an xarray\.Dataset"):
        inversion.correlate({"nuclear": 1})
    with pytest.raises(InputError, match="no entropy_bits"):
        inversion.correlate(RUN.drop_vars("entropy_bits"))
    with pytest.raises(InputError, match="no token_id"):
        inversion.correlate(RUN.drop_vars("token_id"), unit="token_type")
