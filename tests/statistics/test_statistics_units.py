import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statistics_samples import arrays, make_run

import inversion
from inversion.statistics import partial
from inversion.statistics.core import coefficients as core
from inversion.statistics.core.cells import TypeCells
from inversion.statistics.core.partial import partial_statistic
from inversion.statistics.core.ranks import Variable
from inversion.statistics.core.token_types import type_statistic

SCIPY = {"pearson": stats.pearsonr, "spearman": stats.spearmanr, "kendall": stats.kendalltau}


@pytest.mark.parametrize("method", SCIPY)
def test_token_types_are_averaged_again_with_the_multiplicities(method):
    x, y, cluster = arrays(n=120, ties=False, seed=5)
    rng = np.random.default_rng(5)
    types = rng.integers(0, 25, 120)
    types[:25] = np.arange(25)
    weights = rng.multinomial(6, np.ones(6) / 6, size=10).astype(float)
    cells = TypeCells.of(types, cluster, 6)
    found = type_statistic(Variable(x, cluster, 6), Variable(y, cluster, 6), cells, method)(weights)
    for value, row in zip(found, weights, strict=True):
        times = row[cluster].astype(int)
        frame = pd.DataFrame({"t": types, "x": x, "y": y}).loc[np.repeat(np.arange(120), times)]
        means = frame.groupby("t").mean()
        assert value == pytest.approx(SCIPY[method](means.x, means.y).statistic, abs=1e-12)


def test_token_type_unit_equals_the_correlation_of_averages():
    run = make_run()
    found = inversion.correlate(run, unit="token_type")
    frame = pd.DataFrame(
        {"t": run.token_id, "s": run.nuclear.mean(("layer", "projection")), "h": run.entropy_bits}
    ).groupby("t")
    means = frame.mean()
    assert found.estimate == pytest.approx(stats.spearmanr(means.s, means.h).statistic, abs=1e-12)
    assert found.n_points == len(means)
    assert found.n_tokens == run.sizes["token"]
    assert found.low < found.estimate < found.high


def test_partial_pearson_equals_the_correlation_of_residuals():
    run = make_run(layers=1, projections="q")
    found = partial(run, given=("position", "surprisal_bits"), method="pearson")
    design = np.column_stack([np.ones(run.sizes["token"]), run.position, run.surprisal_bits])
    left = [
        v - design @ np.linalg.lstsq(design, v, rcond=None)[0]
        for v in (run.nuclear.values.ravel(), run.entropy_bits.values)
    ]
    assert found.estimate == pytest.approx(stats.pearsonr(*left).statistic, abs=1e-10)
    assert found.given == ("position", "surprisal_bits")


def test_partial_spearman_equals_residuals_of_ranks_and_kendall_the_textbook_formula():
    x, y, cluster = arrays(seed=2)
    z = x + np.random.default_rng(2).integers(0, 9, x.size)
    one = np.ones((1, 6))

    def value(make):
        columns = [Variable(v, cluster, 6) for v in (x, y, z)]
        return partial_statistic(3, lambda i, j: make(columns[i], columns[j]))(one)[0]

    ranks = [stats.rankdata(v) for v in (x, y, z)]
    design = np.column_stack([np.ones(x.size), ranks[2]])
    left = [r - design @ np.linalg.lstsq(design, r, rcond=None)[0] for r in ranks[:2]]
    assert value(core.spearman) == pytest.approx(stats.pearsonr(*left).statistic, abs=1e-10)
    xy, xz, yz = (stats.kendalltau(a, b).statistic for a, b in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert value(core.kendall) == pytest.approx(expected, abs=1e-12)


def test_partial_given_itself_is_nan_with_a_reason():
    found = partial(make_run(), given=("entropy_bits",))
    assert np.isnan(found.estimate)
    assert found.reason


def test_token_frequency_is_counted_in_the_run():
    run = make_run()
    counts = pd.Series(run.token_id.values).map(pd.Series(run.token_id.values).value_counts())
    by_hand = run.assign(log_count=("token", np.log(counts.values)))
    assert partial(run, given="log_frequency").estimate == partial(by_hand, given="log_count").estimate
