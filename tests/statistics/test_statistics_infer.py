import numpy as np
import pytest
from scipy import stats

from inversion.statistics.core import inference
from inversion.statistics.core.inference import (
    Resampling,
    Sample,
    infer,
    infer_difference,
    leave_one_out,
    sign_flips,
)
from inversion.statistics.core.statistic import Statistic


def mean_sample(values):
    """The mean of one value a cluster, all of the same size: everything about it is known."""
    values = np.asarray(values, float)
    mean = Statistic(lambda w: w @ values / w.sum(axis=1), values.size)
    return Sample(mean, np.full(values.size, 1 / values.size))


VALUES = np.random.default_rng(0).normal(0.6, 1.0, 9)


def test_leave_one_out_of_a_mean_gives_the_textbook_standard_error():
    loo = leave_one_out(mean_sample(VALUES), fisher=False)
    assert loo.standard_error == pytest.approx(stats.sem(VALUES), rel=1e-12)
    assert loo.df == pytest.approx(8)
    assert loo.amounts.sum() == pytest.approx(0, abs=1e-15)


def test_sign_flip_p_value_of_a_mean_equals_scipys_exact_one_sample_permutation_test():
    exact = stats.permutation_test((VALUES,), np.mean, permutation_type="samples", n_resamples=np.inf)
    # Contributions equal the values up to the factor sqrt(1 - share) on the deviations, which the signs' order hardly
    # notices; without that factor the two agree exactly.
    loo = leave_one_out(mean_sample(VALUES), fisher=False)
    plain = inference.LeaveOneOut(loo.estimate, (VALUES - VALUES.mean()) / 9, loo.leverage, 0.0, 8.0, 0.0)
    assert inference.flip_p_value(plain, sign_flips(9, 1000, 0)) == pytest.approx(exact.pvalue, abs=1e-12)
    assert infer(mean_sample(VALUES), Resampling(), fisher=False).p_value == pytest.approx(exact.pvalue, abs=0.02)


def test_the_sign_flip_interval_holds_exactly_the_values_that_its_test_keeps():
    found = infer(mean_sample(VALUES), Resampling(), fisher=False)

    def p_value(hypothesised):
        return infer(mean_sample(VALUES - hypothesised), Resampling(), fisher=False).p_value

    step = 1e-6 * (found.high - found.low)
    assert p_value(found.low + step) > 0.05 >= p_value(found.low - step)
    assert p_value(found.high - step) > 0.05 >= p_value(found.high + step)


def test_sign_flips_enumerate_when_they_can():
    few = sign_flips(4, 100, seed=0)
    assert few.shape == (16, 4)
    assert len({tuple(row) for row in few}) == 16
    many = sign_flips(50, 100, seed=0)
    assert many.shape == (101, 50)
    assert (many[0] == 1).all()
    assert set(np.unique(many)) == {-1.0, 1.0}


def test_jackknife_interval_of_a_mean_is_students():
    found = infer(mean_sample(VALUES), Resampling("jackknife", 0.9), fisher=False)
    expected = stats.t.interval(0.9, 8, VALUES.mean(), stats.sem(VALUES))
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("ours", "scipys"), [("percentile", "percentile"), ("bca", "BCa")])
def test_bootstrap_intervals_agree_with_scipys(ours, scipys):
    values = np.random.default_rng(4).exponential(size=40)
    found = infer(mean_sample(values), Resampling(ours, 0.95, 20_000), fisher=False)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method=scipys, rng=1).confidence_interval
    assert (found.low, found.high) == pytest.approx(tuple(theirs), abs=0.02)


def test_too_few_clusters_fall_back_to_the_jackknife_and_say_so():
    found = infer(mean_sample(VALUES[:4]), Resampling(), fisher=False)
    assert found.interval == "jackknife"
    assert "too few" in found.notes[0]
    assert found.p_value >= 2 / 2**4


def test_one_cluster_has_an_estimate_and_no_error():
    found = infer(mean_sample([0.3]), Resampling())
    assert found.estimate == pytest.approx(0.3)
    assert np.isnan([found.low, found.high, found.p_value]).all()
    assert "single response" in found.reason


def test_undefined_without_a_cluster_gives_no_interval():
    sample = Sample(Statistic(lambda w: np.where(w[:, 0] > 0, 0.5, np.nan), 3), np.full(3, 1 / 3))
    found = infer(sample, Resampling())
    assert found.estimate == 0.5
    assert np.isnan(found.low)
    assert "without one" in found.reason


def test_many_undefined_resamples_give_no_bootstrap_interval():
    often = Statistic(lambda w: np.where((w == 0).sum(axis=1) > 1, np.nan, w[:, 0] * 0.01 + w[:, 1] * 0.02), 8)
    sample = Sample(often, np.full(8, 1 / 8))
    found = infer(sample, Resampling("percentile"))
    assert np.isnan(found.low)
    assert "resamples were undefined" in found.reason


def test_difference_of_independent_means_is_welchs():
    a, b = VALUES, np.random.default_rng(2).normal(1.5, 2, 14)
    found = infer_difference(mean_sample(a), mean_sample(b), Resampling("jackknife"))
    welch = stats.ttest_ind(b, a, equal_var=False).confidence_interval()
    assert found.estimate == pytest.approx(b.mean() - a.mean())
    assert (found.low, found.high) == pytest.approx((welch.low, welch.high), rel=1e-9)


def test_fishers_z_returns_plus_and_minus_one():
    np.testing.assert_array_equal(inference.from_z(inference.to_z(np.array([-1.0, 1.0]))), [-1.0, 1.0])
    assert inference.from_z(inference.to_z(0.25)) == pytest.approx(0.25)


def test_leaving_out_each_of_many_clusters_goes_block_by_block():
    values = np.random.default_rng(0).normal(size=1203)
    expected = (values.sum() - values) / 1202
    np.testing.assert_allclose(mean_sample(values).statistic.without, expected, rtol=1e-10)
