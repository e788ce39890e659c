import numpy as np
import pytest
import xarray as xr
from scipy import stats
from statistics_samples import make_run

import inversion
from inversion import InputError
from inversion.statistics import trajectory
from inversion.statistics.core.change import contrasts

A = make_run(rho=0.0, seed=1)
B = make_run(rho=-1.5, seed=2)


def spearman(run):
    return stats.spearmanr(run.nuclear.mean(("layer", "projection")), run.entropy_bits).statistic


@pytest.mark.parametrize("pairing", ["auto", "paired", "independent"])
@pytest.mark.parametrize("interval", ["signflip", "jackknife", "percentile", "bca"])
def test_difference_is_b_minus_a(pairing, interval):
    found = inversion.compare(A, B, pairing=pairing, interval=interval)
    assert found.estimate == pytest.approx(spearman(B) - spearman(A), abs=1e-12)
    assert found.low < found.estimate < found.high
    assert found.paired == (pairing != "independent")
    assert found.interval == interval


def test_a_clear_difference_is_found_and_none_is_not():
    assert inversion.compare(A, B).p_value < 0.01
    same = inversion.compare(A, A, pairing="independent")
    assert (same.estimate, same.p_value) == (0.0, 1.0)


def test_the_same_run_paired_differs_by_exactly_nothing():
    found = inversion.compare(A, A)
    assert (found.estimate, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_pairing_sharpens_a_comparison_of_alike_runs():
    noise = np.random.default_rng(0).normal(scale=0.3, size=A.nuclear.shape)
    alike = A.assign(nuclear=A.nuclear * np.exp(noise))
    widths = []
    for pairing in ("paired", "independent"):
        found = inversion.compare(A, alike, pairing=pairing)
        widths.append(found.high - found.low)
    assert widths[0] < 0.5 * widths[1]


def test_paired_error_is_the_jackknife_over_prompts():
    found = inversion.compare(A, B)
    prompts = np.unique(A.prompt_id)
    without = [
        spearman(B.isel(token=B.prompt_id.values != p)) - spearman(A.isel(token=A.prompt_id.values != p))
        for p in prompts
    ]
    k = len(prompts)
    assert found.standard_error == pytest.approx(
        np.sqrt((k - 1) / k * np.sum((without - np.mean(without)) ** 2)), rel=1e-9
    )


def test_partly_shared_prompts_are_not_paired_unless_asked_for():
    part = B.isel(token=B.response.values < 15)
    auto, paired = inversion.compare(A, part), inversion.compare(A, part, pairing="paired")
    assert not auto.paired
    assert "15 of 20 prompts" in auto.notes[0]
    assert paired.paired
    assert paired.a.n_responses == paired.b.n_responses == 15


def test_pairing_goes_by_prompt_not_by_number_of_the_response():
    renumbered = B.assign_coords(response=("token", 50 - B.response.values))
    assert inversion.compare(A, renumbered).low == pytest.approx(inversion.compare(A, B).low, abs=1e-12)


def test_an_undefined_side_makes_the_difference_nan_with_a_reason():
    for pairing in ("paired", "independent"):
        found = inversion.compare(A, B.assign(nuclear=B.nuclear * 0), pairing=pairing)
        assert np.isnan([found.estimate, found.low, found.p_value]).all()
        assert found.reason == "b: strength is constant"


def test_single_responses_give_a_difference_without_an_interval():
    found = inversion.compare(*(r.isel(token=r.response.values == 1) for r in (A, B)))
    assert np.isfinite(found.estimate)
    assert np.isnan(found.low)
    assert "single response" in found.reason


@pytest.mark.parametrize("pairing", ["paired", "independent"])
@pytest.mark.parametrize("interval", ["signflip", "jackknife"])
def test_no_limit_of_a_difference_lies_where_no_difference_can(pairing, interval):
    """From -1 to 1, but for a response each that has it the other way round."""
    runs = []
    for sign in (-1, 1):
        run = make_run(k=6, layers=1, projections="q", seed=3)
        strength = run.entropy_bits.values * np.where(run.response.values == 2, -sign, sign)
        runs.append(run.assign(nuclear=(run.nuclear.dims, strength[:, None, None])))
    found = inversion.compare(*runs, pairing=pairing, interval=interval)
    assert found.low < found.estimate < found.high == 2.0


def test_pairing_errors():
    with pytest.raises(InputError, match="pairing must be"):
        inversion.compare(A, B, pairing="sometimes")
    with pytest.raises(InputError, match="lacks"):
        inversion.compare(A, B.drop_vars("prompt_id"), pairing="paired")
    other = B.assign_coords(prompt_id=("token", np.char.add("x", B.prompt_id.values)))
    with pytest.raises(InputError, match="share no prompt"):
        inversion.compare(A, other, pairing="paired")


def steps(rhos) -> list[xr.Dataset]:
    return [make_run(rho=rho, seed=i, k=25) for i, rho in enumerate(rhos)]


@pytest.mark.parametrize("paired", [True, False])
def test_trajectory_finds_a_jump(paired):
    runs = steps([0.0, 0.0, 0.0, -2.0, -2.0, -2.0])
    if not paired:
        runs = [r.drop_vars("prompt_id") for r in runs]
    found = trajectory(runs, steps=[0, 10, 20, 30, 40, 50])
    assert (found.change_after, found.change_before) == (20, 30)
    assert found.change_low <= 20
    assert found.change_high >= 30
    rho = [c.estimate for c in found.correlations]
    assert found.change_size == pytest.approx(np.mean(rho[3:]) - np.mean(rho[:3]))
    assert found.p_value < 0.01
    assert found.paired == paired
    assert found.to_pandas().step.tolist() == [0, 10, 20, 30, 40, 50]


def test_trajectory_without_a_jump_does_not_claim_one():
    assert trajectory(steps([-0.5] * 5)).p_value > 0.05


def test_trajectory_of_two_runs_has_no_change_point_and_says_why():
    found = trajectory(steps([0.0, -1.0]))
    assert np.isnan(found.change_after)
    assert "at least 3 steps" in found.reason
    with pytest.raises(InputError, match="increasing"):
        trajectory([A, B], steps=[1, 1])
    with pytest.raises(InputError, match="at least one run"):
        trajectory([])


def test_contrast_squared_is_the_sum_of_squares_that_a_jump_explains():
    z = np.random.default_rng(0).normal(size=7)
    for m, c in enumerate(contrasts(z), start=1):
        left = np.concatenate([z[:m] - z[:m].mean(), z[m:] - z[m:].mean()])
        assert c**2 == pytest.approx(np.sum((z - z.mean()) ** 2) - np.sum(left**2))


def test_runs_of_different_quantities_are_refused():
    other = B.assign_attrs(quantity="entropy")
    with pytest.raises(InputError, match="a that of the logit, b that of the entropy.*do not compare"):
        inversion.compare(A, other)
    with pytest.raises(InputError, match="step 0 that of the logit, step 2 that of the entropy"):
        trajectory([A, other], steps=[0, 2])
    unsaid = B.copy()
    del unsaid.attrs["quantity"]
    assert np.isfinite(inversion.compare(A, unsaid).estimate)


def test_a_run_without_the_norm_is_named():
    with pytest.raises(InputError, match="Run b has no norm 'nuclear'; it has logit_space, frobenius"):
        inversion.compare(A, B.drop_vars("nuclear"))


def test_what_differs_between_runs_is_said():
    a = A.assign_attrs(dtype="float32", responses={"temperature": 1.0}, model="before", attention="eager")
    b = B.isel(layer=[1]).assign_attrs(dtype="bfloat16", responses={"temperature": 0.7}, model="after")
    found = inversion.compare(a, b, resamples=50)
    assert found.notes == (
        "dtype differs: a float32, b bfloat16",
        "temperature differs: a 1.0, b 0.7",
        "layers differ: a 0 1, b 1",
    )
    text = str(found)
    assert (
        "a measured     spearman over positions, norm nuclear, gradient of logit, layers 0 1 of qo, model before"
        in text
    )
    assert (
        "b measured     spearman over positions, norm nuclear, gradient of logit, layers 1 of qo, model after" in text
    )
    assert "temperature differs: step 0 1.0, step 1 0.7" in trajectory([a, b], resamples=50).notes
    assert inversion.compare(a, b, layers=[1], resamples=50).notes == found.notes[:2]


def test_many_clusters_are_resampled_in_groups_that_pair(monkeypatch):
    whole = inversion.correlate(A), inversion.compare(A, B)
    monkeypatch.setattr("inversion.statistics.samples.MOST_CLUSTERS", 12)
    grouped = inversion.correlate(A), inversion.compare(A, B)
    for one, other in zip(whole, grouped, strict=True):
        assert other.estimate == one.estimate
        assert other.n_clusters == 12 < one.n_clusters
        assert other.high - other.low == pytest.approx(one.high - one.low, rel=0.5)
    assert "20 responses are resampled in 12 groups" in grouped[0].notes[0]
    assert grouped[1].paired
    # A prompt that one run lacks does not move the others to other groups.
    fewer = inversion.compare(A, B.isel(token=B.response.values > 0), pairing="paired")
    assert fewer.standard_error == pytest.approx(grouped[1].standard_error, rel=0.5)


@pytest.mark.parametrize("most", [5, 12, 15])
def test_a_run_with_more_prompts_than_the_other_is_still_paired(monkeypatch, most):
    """Also where one of them alone would be grouped: the same tokens differ by exactly nothing."""
    monkeypatch.setattr("inversion.statistics.samples.MOST_CLUSTERS", most)
    found = inversion.compare(A, A.isel(token=A.response.values < 12), pairing="paired")
    assert (found.estimate, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    assert found.n_clusters == min(most, 12)
