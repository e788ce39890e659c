import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statistics_samples import arrays

from inversion.statistics.core import coefficients as core
from inversion.statistics.core.ranks import Variable, doubled_ranks, merge_groups, relative_midranks

SCIPY = {
    core.pearson: stats.pearsonr,
    core.spearman: stats.spearmanr,
    core.kendall: stats.kendalltau,
}


def variables(x, y, cluster, n_clusters):
    return Variable(x, cluster, n_clusters), Variable(y, cluster, n_clusters)


@pytest.mark.parametrize("make", SCIPY)
@given(seed=st.integers(0, 10_000), ties=st.booleans())
def test_every_row_of_weights_equals_scipy_on_the_repeated_sample(make, seed, ties):
    x, y, cluster = arrays(ties=ties, seed=seed)
    weights = np.random.default_rng(seed).multinomial(6, np.ones(6) / 6, size=3).astype(float)
    found = make(*variables(x, y, cluster, 6))(weights)
    for value, row in zip(found, weights, strict=True):
        times = row[cluster].astype(int)
        expected = SCIPY[make](np.repeat(x, times), np.repeat(y, times)).statistic
        assert value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("make", SCIPY)
def test_leaving_out_a_cluster_equals_scipy_on_the_rest(make):
    x, y, cluster = arrays(seed=3)
    found = make(*variables(x, y, cluster, 6))(1 - np.eye(6))
    expected = [SCIPY[make](x[cluster != k], y[cluster != k]).statistic for k in range(6)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("make", SCIPY)
def test_a_resample_without_variation_is_nan(make):
    x, y, cluster = np.array([1.0, 1, 1, 2, 3]), np.array([1.0, 2, 3, 4, 9]), np.array([0, 0, 0, 1, 1])
    with_variation, without = make(*variables(x, y, cluster, 2))(np.array([[1.0, 1.0], [2.0, 0.0]]))
    assert np.isfinite(with_variation)
    assert np.isnan(without)


def test_pearson_keeps_its_digits_far_from_zero():
    x, y, cluster = arrays(ties=False)
    found = core.pearson(*variables(x + 1e8, y, cluster, 6))(np.ones((1, 6)))
    assert found[0] == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-7)


@pytest.fixture(scope="module")
def large():
    rng = np.random.default_rng(1)
    k, n = 40, 6000
    cluster = np.sort(rng.integers(0, k, n))
    x = (rng.normal(size=n) + rng.normal(size=k)[cluster]).round(3)
    y = 0.3 * x + rng.normal(size=n) + rng.normal(size=k)[cluster]
    return x, y, cluster, rng.multinomial(k, np.ones(k) / k, size=30).astype(float)


def test_grouped_spearman_is_exact_at_equal_weights_and_follows_the_resamples(large):
    x, y, cluster, weights = large
    quick = core.spearman(*variables(x, y, cluster, 40))
    assert quick(np.ones((1, 40)))[0] == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    exact = core.spearman(*variables(x, y, cluster, 40), exact=True)(weights)
    assert exact.std() > 0.02
    assert np.abs(quick(weights) - exact).max() < 0.02 * exact.std()


def test_grouped_kendall_is_exact_at_equal_weights_and_follows_the_resamples(large):
    x, y, cluster, weights = large
    quick = core.kendall(*variables(x, y, cluster, 40))
    assert quick(np.ones((1, 40)))[0] == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)
    exact = [
        stats.kendalltau(np.repeat(x, w[cluster].astype(int)), np.repeat(y, w[cluster].astype(int))).statistic
        for w in weights[:8]
    ]
    assert np.abs(quick(weights[:8]) - exact).max() < 0.06 * np.std(exact)


def test_grouped_spearman_with_few_distinct_values(large):
    x, y, cluster, weights = large
    x, y = np.sign(x), np.round(y)
    exact = core.spearman(*variables(x, y, cluster, 40), exact=True)(weights)
    quick = core.spearman(*variables(x, y, cluster, 40))(weights)
    assert np.abs(quick - exact).max() < 0.05 * exact.std()


def test_relative_midranks_are_scipys_average_ranks():
    values, weights = np.array([3.0, 1.0, 3.0, 2.0]), np.array([2, 1, 1, 3])
    m = Variable(values, np.arange(4), 4).margin()
    found = relative_midranks(weights[None, :] @ m.table)[0][m.ids]
    repeated = stats.rankdata(np.repeat(values, weights))
    total = weights.sum()
    expected = (repeated - (total + 1) / 2) / total
    np.testing.assert_allclose(np.repeat(found, weights), expected, atol=1e-15)


def test_margin_groups_neighbours_and_never_splits_a_tie():
    values = np.concatenate([np.zeros(50), np.arange(1, 951)])
    m = Variable(values, np.zeros(1000, int), 1).margin(10)
    assert m.mass.size <= 10
    assert np.unique(m.ids[:50]).size == 1
    assert (np.diff(m.ids[np.argsort(values, kind="stable")].astype(int)) >= 0).all()
    assert m.mass.sum() == 1000
    coarse = merge_groups(m, 3)
    assert coarse[0] == 0
    assert set(np.diff(coarse)) <= {0, 1}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@given(seed=st.integers(0, 1000))
def test_doubled_ranks_are_twice_scipys(dtype, seed):
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.integers(-4, 5, size=40) / 3, rng.normal(size=40), [0.0, -0.0]]).astype(dtype)
    ranks, n_distinct = doubled_ranks(values)
    np.testing.assert_array_equal(ranks, 2 * stats.rankdata(values))
    assert n_distinct == np.unique(values).size


def test_the_same_variable_in_other_clusters_keeps_its_ranks():
    x, _, cluster = arrays(seed=1)
    one = Variable(x, cluster, 6)
    other = one.by(cluster * 0, 1)
    assert other.doubled_ranks is one.doubled_ranks
    np.testing.assert_array_equal(other.margin().table[0], one.margin().mass)
