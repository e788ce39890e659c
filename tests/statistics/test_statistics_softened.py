"""What a cluster adds to a correlation over token types, against the dumb way and against simulations."""

import numpy as np
import pytest
from scipy import stats

from inversion.statistics.core.cells import TypeCells
from inversion.statistics.core.inference import Sample, leave_one_out
from inversion.statistics.core.moves import _products_by_shift, _turned
from inversion.statistics.core.ranks import Variable
from inversion.statistics.core.softened import TypeMeans, _half_width, _Ranks, _Values, softened_amounts
from inversion.statistics.core.token_types import type_statistic


def tokens(n=400, k=12, n_types=30, seed=0):
    rng = np.random.default_rng(seed)
    types = np.concatenate([np.arange(n_types), rng.integers(0, n_types - 5, n - n_types)])
    cluster = rng.integers(0, k, n)
    cluster[:k] = np.arange(k)
    x = rng.normal(size=n) + rng.normal(size=k)[cluster]
    y = rng.normal(size=n) + rng.normal(size=n_types)[types] + 0.5 * x
    return x, y, types, cluster


def test_moves_of_averages_are_those_of_leaving_a_cluster_out_by_half():
    x, _, types, cluster = tokens()
    means = TypeMeans.of(x, TypeCells.of(types, cluster, 12))
    table = means.table(means.move)
    for t in range(30):
        own = types == t
        assert means.mean[t] == pytest.approx(x[own].mean())
        for k in range(12):
            here, rest = own & (cluster == k), own & (cluster != k)
            share = here.sum() / own.sum()
            left = means.mean[t] - x[rest].mean() if 0 < share < 1 else 0.0
            assert table[k, t] == pytest.approx(left * np.sqrt(1 - share), abs=1e-12)


@pytest.mark.parametrize("scale", [_Ranks, _Values])
def test_slopes_are_derivatives_of_the_correlation(scale):
    x, y, types, cluster = tokens()
    a, b = (scale(TypeMeans.of(v, TypeCells.of(types, cluster, 12))) for v in (x, y))
    mean, half = a.means.mean, _half_width(a.means)

    def correlation(moved):
        if scale is _Values:
            return stats.pearsonr(moved, b.means.mean).statistic
        # Ranks that rise evenly while a type passes through the window of another.
        ranks = np.clip((moved[:, None] - mean[None, :]) / (2 * half), -0.5, 0.5)
        return (ranks.sum(axis=1) * b.values).sum() / mean.size / (a.spread * b.spread)

    for t in range(0, 30, 7):
        up, down = (mean + sign * 1e-6 * (np.arange(30) == t) for sign in (1, -1))
        slope = (correlation(up) - correlation(down)) / 2e-6
        if scale is _Ranks:
            # Each of its neighbours, which it passes, loses what it gains.
            near = np.abs(mean - mean[t]) <= half
            slope -= b.values[near].sum() / (2 * half * 30) / (a.spread * b.spread)
        assert a.slopes(b)[t] == pytest.approx(slope, rel=1e-3, abs=1e-6)
    assert a.slopes(b).sum() == pytest.approx(0, abs=1e-9)  # moving all alike changes nothing


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_presence_is_what_leaving_a_type_out_takes_away(method):
    rng = np.random.default_rng(3)
    x = rng.normal(size=2000)
    y = -0.6 * x + rng.normal(size=2000)
    types, cluster = np.arange(2000), rng.integers(0, 5, 2000)
    a, b = (
        (_Ranks if method == "spearman" else _Values)(TypeMeans.of(v, TypeCells.of(types, cluster, 5))) for v in (x, y)
    )
    found = a.presence(b)
    correlate = {"spearman": stats.spearmanr, "pearson": stats.pearsonr}[method]
    whole = correlate(x, y).statistic
    for t in (0, 17, int(np.argmax(x)), int(np.argmin(y))):
        without = correlate(np.delete(x, t), np.delete(y, t)).statistic
        assert found[t] == pytest.approx(whole - without, rel=0.05, abs=2e-6)


def test_amounts_do_not_change_when_all_averages_move_alike_or_are_relabelled():
    x, y, types, cluster = tokens()
    amounts = softened_amounts(*(TypeMeans.of(v, TypeCells.of(types, cluster, 12)) for v in (x, y)), "spearman")
    assert amounts.sum() == pytest.approx(0, abs=1e-12)
    shifted = softened_amounts(*(TypeMeans.of(v + 3, TypeCells.of(types, cluster, 12)) for v in (x, y)), "spearman")
    np.testing.assert_allclose(shifted, amounts, atol=1e-9)
    order = np.random.default_rng(1).permutation(12)
    renamed = softened_amounts(*(TypeMeans.of(v, TypeCells.of(types, order[cluster], 12)) for v in (x, y)), "spearman")
    np.testing.assert_allclose(renamed[order], amounts, atol=1e-12)


def simulated(rng, k=40, n_types=60):
    """Types with a level of their own, in responses with a level of theirs."""
    sizes = rng.integers(5, 60, k)
    cluster = np.repeat(np.arange(k), sizes)
    weights = 1 / np.arange(1, n_types + 1)
    types = rng.choice(n_types, cluster.size, p=weights / weights.sum())
    levels = np.random.default_rng(9).normal(size=(2, n_types))
    x, y = (rng.normal(size=cluster.size) + rng.normal(size=k)[cluster] + level[types] for level in levels)
    return [Variable(v, cluster, k) for v in (x, y)], np.unique(types, return_inverse=True)[1]


@pytest.mark.parametrize("method", ["spearman", "pearson", "kendall"])
def test_the_error_is_the_spread_over_data_sets_where_leaving_out_overstates_it(method):
    rng = np.random.default_rng(0)
    sets = 40 if method == "kendall" else 150
    estimates, softened, plain = np.empty((3, sets))
    for i in range(sets):
        (x, y), types = simulated(rng)
        statistic = type_statistic(x, y, TypeCells.of(types, x.cluster, x.n_clusters), method)
        shares = np.bincount(x.cluster) / x.cluster.size
        loo = leave_one_out(Sample(statistic, shares))
        estimates[i], softened[i] = loo.estimate, loo.standard_error
        whole = type(statistic)(statistic.at, statistic.n_clusters)
        plain[i] = leave_one_out(Sample(whole, shares)).standard_error
    spread = estimates.std()
    assert np.sqrt((softened**2).mean()) == pytest.approx(spread, rel=0.2)
    if method != "pearson":
        assert np.sqrt((plain**2).mean()) > 1.25 * np.sqrt((softened**2).mean())


def test_one_response_with_all_of_a_type_and_a_perfect_order_are_no_trouble():
    types, cluster = np.array([0, 1, 2, 3, 0, 1]), np.array([0, 0, 1, 1, 2, 2])
    x = np.array([1.0, 2, 3, 4, 1, 2])
    cells = TypeCells.of(types, cluster, 3)
    statistic = type_statistic(Variable(x, cluster, 3), Variable(x**3, cluster, 3), cells, "spearman")
    assert statistic.estimate == pytest.approx(1)
    np.testing.assert_allclose(statistic.without, 1)


def test_products_at_every_shift_are_those_of_turning():
    rng = np.random.default_rng(0)
    sizes = np.array([5, 1, 8, 7])
    starts = np.cumsum(sizes) - sizes
    a, b = rng.normal(size=(2, sizes.sum()))
    products = _products_by_shift(a, b, starts, sizes)
    for turns in (np.zeros(4, int), sizes - 1, rng.integers(0, sizes)):
        turned = a[_turned(starts, sizes, turns)]
        np.testing.assert_allclose(products[starts + turns].sum(), (turned * b).sum(), atol=1e-12)
