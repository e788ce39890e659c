import numpy as np
import pytest
from scipy import stats
from statistics_samples import make_run

import inversion
from inversion import InputError
from inversion.statistics import specification_curve
from inversion.statistics.core.adjust import q_values

RUN = make_run(layers=3, projections="qkvo", rho=-0.3)


def test_every_cell_is_the_correlation_of_that_layer_and_projection():
    found = inversion.layer_map(RUN)
    assert found.estimate.dims == ("layer", "projection")
    for layer in (0, 2):
        one = inversion.correlate(RUN, layers=[layer], projections=["v"])
        cell = found.sel(layer=layer, projection="v")
        for name in ("estimate", "low", "high", "p_value"):
            assert float(cell[name]) == pytest.approx(getattr(one, name), abs=1e-15)


def test_q_values_are_benjamini_hochberg():
    found = inversion.layer_map(RUN)
    expected = stats.false_discovery_control(found.p_value.values.ravel())
    np.testing.assert_allclose(found.q_value.values.ravel(), expected)
    assert (found.q_value >= found.p_value).all()


def test_q_values_leave_nan_out():
    p = np.array([0.01, np.nan, 0.04, 0.03])
    q = q_values(p)
    assert np.isnan(q[1])
    np.testing.assert_allclose(q[[0, 2, 3]], stats.false_discovery_control(p[[0, 2, 3]]))


def test_simultaneous_intervals_hold_the_single_ones_of_a_whole_map_but_less_than_bonferroni():
    found = inversion.layer_map(RUN)
    single, joint = (found.high - found.low), (found.simultaneous_high - found.simultaneous_low)
    assert (joint > single).all()
    bonferroni = inversion.layer_map(RUN, level=1 - 0.05 / 12, interval="jackknife")
    assert (joint < bonferroni.high - bonferroni.low).mean() > 0.5


def test_simultaneous_intervals_of_one_cell_match_its_own():
    found = inversion.layer_map(RUN, layers=0, projections="q").squeeze()
    assert float(found.simultaneous_low) == pytest.approx(float(found.low), abs=1e-12)
    assert float(found.simultaneous_high) == pytest.approx(float(found.high), abs=1e-12)


def test_a_layer_of_nan_is_nan_with_a_reason_and_leaves_the_others_alone():
    holes = RUN.nuclear.copy()
    holes[:, 1, :] = np.nan
    found = inversion.layer_map(RUN.assign(nuclear=holes))
    assert np.isnan(found.estimate.sel(layer=1)).all()
    assert (found.reason.sel(layer=1) == "no token has both a strength and an entropy").all()
    assert (found.reason.sel(layer=0) == "").all()
    assert (
        float(found.estimate.sel(layer=0, projection="q"))
        == inversion.correlate(RUN, layers=0, projections="q").estimate
    )


def test_map_says_how_it_was_made_and_can_be_saved(tmp_path):
    found = inversion.layer_map(RUN, method="kendall", seed=3, layers=[-1])
    assert found.layer.values.tolist() == [2]
    expected = {
        "method": "kendall",
        "norm": "nuclear",
        "unit": "position",
        "interval": "signflip",
        "seed": 3,
        "level": 0.95,
    }
    assert {k: found.attrs[k] for k in expected} == expected
    assert found.attrs["n_responses"] == 20


def test_map_of_one_response_is_estimates_without_intervals():
    found = inversion.layer_map(RUN.isel(token=RUN.response.values == 0))
    assert np.isfinite(found.estimate).all()
    assert np.isnan(found.simultaneous_low).all()
    assert (found.reason != "").all()


def test_map_of_logit_space_is_refused():
    with pytest.raises(InputError, match="has no layers"):
        inversion.layer_map(RUN, norm="logit_space")


def test_map_by_token_type_and_partial():
    by_type = inversion.layer_map(RUN, unit="token_type", layers=1, projections="k")
    assert (
        float(by_type.estimate.squeeze())
        == inversion.correlate(RUN, unit="token_type", layers=1, projections="k").estimate
    )
    held = inversion.layer_map(RUN, given=("position",), layers=1, projections="k")
    assert (
        float(held.estimate.squeeze())
        == inversion.correlate(RUN, given=("position",), layers=1, projections="k").estimate
    )


def test_specification_curve_holds_every_combination_sorted():
    other = RUN.assign(nuclear=1 / RUN.nuclear)
    found = specification_curve({"logit": RUN, "entropy": other}, resamples=100)
    assert len(found.correlations) == 2 * 2 * 2 * 3 * 5
    assert (np.diff(found.estimates) >= 0).all()
    assert {c.quantity for c in found.correlations} == {"logit", "entropy"}
    assert {c.label for c in found.correlations} == {
        f"layers {n}" for n in ("all", "first", "middle", "last third", "last")
    }
    assert 0 < found.share_negative < 1
    clear = [c.high < 0 and c.p_value <= 0.05 for c in found.correlations]
    assert found.share_clear(-1) == np.mean(clear)
    assert len(found.to_pandas()) == 120


def test_specification_curve_puts_undefined_ones_last():
    found = specification_curve(
        RUN.assign(frobenius=RUN.frobenius * 0), units=["position"], methods=["spearman"], resamples=50
    )
    undefined = [np.isnan(c.estimate) for c in found.correlations]
    assert undefined == sorted(undefined)
    assert sum(undefined) == 5
    assert found.estimates.size == 5


def test_specification_curve_takes_named_layer_ranges_and_needs_a_run():
    found = specification_curve(
        RUN, norms=["nuclear"], units=["position"], methods=["pearson"], layer_ranges={"odd": [1]}
    )
    assert [c.layers for c in found.correlations] == [(1,)]
    with pytest.raises(InputError, match="at least one run"):
        specification_curve([])


def test_runs_of_the_same_quantity_are_not_lost_but_have_to_be_named():
    one = {"norms": ["nuclear"], "units": ["position"], "methods": ["pearson"], "layer_ranges": {"odd": [1]}}
    with pytest.raises(InputError, match="several runs measure that of the logit; pass a mapping from a name to each"):
        specification_curve([RUN, RUN], **one)
    assert len(specification_curve({"a": RUN, "b": RUN}, **one).correlations) == 2


def test_few_responses_make_nothing_clear_that_the_test_cannot_reject():
    """Of four responses the sign-flip test rejects nothing at 5 %, whatever the jackknife interval says."""
    strong = make_run(k=4, rho=-4.0)
    found = specification_curve(strong, norms=["nuclear"], units=["position"])
    assert any(c.high < 0 for c in found.correlations)
    assert all(c.p_value > 0.05 for c in found.correlations)
    assert found.share_clear(-1) == 0
    assert specification_curve(make_run(k=20, rho=-4.0), norms=["nuclear"], units=["position"]).share_clear(-1) == 1


def test_a_map_counts_the_responses_that_were_used():
    holes = RUN.nuclear.copy()
    holes[RUN.response.values < 3] = np.nan
    found = inversion.layer_map(RUN.assign(nuclear=holes), layers=[0, 1], projections="q", resamples=50)
    one = inversion.correlate(RUN.assign(nuclear=holes), layers=0, projections="q", resamples=50)
    assert (found.attrs["n_responses"], found.attrs["n_clusters"]) == (one.n_responses, one.n_clusters) == (17, 17)
