import numpy as np
import pytest
from scipy import stats
from statistics_samples import make_run

import inversion
from inversion import InputError
from inversion.statistics import (
    controls,
    per_response,
    plan_sample_size,
    segments,
    within_between,
    within_response_shuffle,
)
from inversion.statistics.core.decomposition import part_statistics
from inversion.statistics.core.ranks import Variable
from inversion.statistics.planning import interval_width
from inversion.statistics.segmentation import split_thinking

RUN = make_run()
S = RUN.nuclear.mean(("layer", "projection")).values
H, RESPONSE = RUN.entropy_bits.values, RUN.response.values


def centred(values):
    means = np.bincount(RESPONSE, values) / np.bincount(RESPONSE)
    return values - means[RESPONSE], means[RESPONSE]


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_parts_are_correlations_of_deviations_and_of_means(method):
    found = within_between(RUN, method=method)
    columns = [stats.rankdata(v) if method == "spearman" else v for v in (S, H)]
    (dx, mx), (dy, my) = (centred(v) for v in columns)
    assert found.within.estimate == pytest.approx(stats.pearsonr(dx, dy).statistic, abs=1e-10)
    assert found.between.estimate == pytest.approx(stats.pearsonr(mx, my).statistic, abs=1e-10)
    assert found.total.estimate == inversion.correlate(RUN, method=method).estimate


def test_kendall_parts_are_pairs_of_the_same_and_of_different_responses():
    found = within_between(RUN, method="kendall")
    sx, sy = (np.sign(v[:, None] - v[None, :]) for v in (S, H))
    same = RESPONSE[:, None] == RESPONSE[None, :]
    for part, pairs in ((found.within, same), (found.between, ~same)):
        expected = (sx * sy)[pairs].sum() / np.sqrt(np.abs(sx[pairs]).sum() * np.abs(sy[pairs]).sum())
        assert part.estimate == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("method", ["spearman", "pearson", "kendall"])
def test_parts_at_weights_are_parts_of_the_repeated_responses(method):
    weights = np.array([[2.0, 0, 1, 3, 0, 1] + [1.0] * 14])
    rows = np.concatenate([np.flatnonzero(r == RESPONSE) for r, w in enumerate(weights[0]) for _ in range(int(w))])
    copies = [(r, i) for r, w in enumerate(weights[0]) for i in range(int(w))]
    names = np.repeat(np.arange(len(copies)), [np.sum(r == RESPONSE) for r, _ in copies])
    weighted = part_statistics(*(Variable(v, RESPONSE, 20) for v in (S, H)), np.arange(20), 20, method)
    k = names.max() + 1
    repeated = part_statistics(*(Variable(v[rows], names, k) for v in (S, H)), np.arange(k), k, method)
    assert weighted[0](weights)[0] == pytest.approx(repeated[0](np.ones((1, names.max() + 1)))[0], abs=1e-10)
    if method != "kendall":  # a response and its copy are no pair of different responses
        assert weighted[1](weights)[0] == pytest.approx(repeated[1](np.ones((1, names.max() + 1)))[0], abs=1e-10)


@pytest.mark.parametrize("method", ["spearman", "kendall"])
@pytest.mark.parametrize("apart", [0, 1, 5])
def test_parts_of_a_large_run_are_exact_and_their_intervals_close(monkeypatch, method, apart):
    """Also where responses lie so far apart that a group of neighbouring ranks holds most of one."""
    run = make_run(k=30, mean=40)
    level = np.random.default_rng(1).normal(size=(2, 30))[:, run.response.values] * apart
    run = run.assign(
        entropy_bits=run.entropy_bits * np.exp(level[0]), nuclear=run.nuclear * np.exp(level[1])[:, None, None]
    )
    exact = within_between(run, method=method, resamples=200)
    monkeypatch.setattr("inversion.statistics.core.coefficients.EXACT_TOKENS", 100)
    grouped = within_between(run, method=method, resamples=200)
    for name in ("within", "between"):
        a, b = getattr(exact, name), getattr(grouped, name)
        assert b.estimate == pytest.approx(a.estimate, abs=1e-12)
        assert (b.low, b.high) == pytest.approx((a.low, a.high), abs=1e-2)


def test_simpsons_paradox_is_pointed_out():
    level = np.random.default_rng(0).normal(size=20)[RESPONSE] * 5
    noise = np.random.default_rng(1).normal(size=H.size)
    run = RUN.assign(nuclear=RUN.nuclear * 0 + (level - noise)[:, None, None], entropy_bits=("token", level + noise))
    found = within_between(run)
    assert found.within.high < 0 < found.between.low
    assert found.reversal
    assert "Simpson" in str(found)


def test_typical_is_the_mean_over_long_enough_responses():
    table = per_response(RUN, min_tokens=10)
    long = [r for r in range(20) if np.sum(r == RESPONSE) >= 10]
    values = [stats.spearmanr(S[r == RESPONSE], H[r == RESPONSE]).statistic for r in long]
    np.testing.assert_allclose(table.estimate.sel(response=long), values)
    assert np.isnan(table.estimate.drop_sel(response=long)).all()
    assert table.n_tokens.values.tolist() == np.bincount(RESPONSE).tolist()
    assert within_between(RUN).typical.estimate == pytest.approx(np.mean(values), abs=1e-12)
    typical, lengths = within_between(RUN).typical, np.bincount(RESPONSE)[long]
    assert (typical.n_tokens, typical.n_points) == (lengths.sum(), lengths.sum())
    assert (typical.n_responses, typical.n_clusters) == (len(long), len(long))
    assert typical.n_tokens_left_out == H.size - lengths.sum()
    assert typical.n_responses_left_out == 20 - len(long)
    none = within_between(RUN, min_tokens=1000).typical
    assert (none.n_tokens, none.n_responses, none.n_clusters) == (0, 0, 0)
    assert np.isnan(none.estimate)
    assert "no response has 1000" in none.reason


def test_parts_need_positions():
    with pytest.raises(InputError, match="within_between does not use unit"):
        within_between(RUN, unit="token_type")


@pytest.mark.parametrize("kind", ["shift", "permute"])
@pytest.mark.parametrize("method", ["spearman", "pearson", "kendall"])
def test_shuffle_keeps_the_between_part_and_no_more(kind, method):
    found = within_response_shuffle(RUN, method=method, kind=kind, resamples=100)
    assert found.estimate == pytest.approx(inversion.correlate(RUN, method=method).estimate, abs=1e-12)
    assert found.low <= found.expected <= found.high
    assert found.p_value == pytest.approx(1 / 101)
    if method == "spearman":
        _, mx = centred(stats.rankdata(S))
        _, my = centred(stats.rankdata(H))
        between_covariance = np.mean((mx - mx.mean()) * (my - my.mean())) / np.var(stats.rankdata(S))
        assert found.expected == pytest.approx(between_covariance, abs=0.02)


def test_shuffle_of_unrelated_strengths_is_not_surprising():
    rng = np.random.default_rng(3)
    p_values = []
    for seed in range(40):
        noise = rng.normal(size=(H.size, 1, 1)) * np.ones((1, 2, 2))
        p_values.append(
            within_response_shuffle(RUN.assign(nuclear=(RUN.nuclear.dims, noise)), resamples=60, seed=seed).p_value
        )
    assert 0.3 < np.mean(p_values) < 0.7


def test_shuffle_of_nothing_is_nan_with_a_reason():
    found = within_response_shuffle(RUN.assign(nuclear=RUN.nuclear * 0))
    assert np.isnan([found.estimate, found.expected, found.p_value]).all()
    assert found.reason == "strength is constant"
    with pytest.raises(InputError, match="kind must be"):
        within_response_shuffle(RUN, kind="stir")


def test_controls_show_the_logit_space_strength_beside_the_other():
    random = make_run(rho=0.0, seed=9)
    found = controls(RUN, random)
    labels = [c.label for c in found.others]
    assert labels[0] == "logit_space (control)"
    assert found.others[0].estimate == pytest.approx(1.0)
    assert {"within", "between", "typical", "given position", "given surprisal", "given log_frequency"} <= set(labels)
    assert found.random_weights.estimate == pytest.approx(found.main.estimate - inversion.correlate(random).estimate)
    assert found.shuffle.resamples == 500
    text = str(found)
    assert "random weights" in text
    assert "within-response shift" in text
    assert len(found.to_pandas()) == 2 + len(labels)


def test_controls_of_a_bare_run_say_what_is_missing():
    found = controls(RUN[["entropy_bits", "nuclear"]])
    assert [c.label for c in found.others] == ["within", "between", "typical"]
    assert any("no surprisal_bits" in n for n in found.notes)


@pytest.mark.parametrize(
    ("pieces", "think", "answer"),
    [
        (["<think>", "a", "b", "</think>", "c"], "ab", "c"),
        (["<th", "ink>", "a", "</", "think>", "c"], "a", "c"),
        (["a", "b", "</think>", "c"], "ab", "c"),
        (["<think>", "a", "b"], "ab", ""),
        (["a", "b"], "", "ab"),
        (["<think>a", "b", "c</think>", "d"], "b", "d"),
        (["x", "<think>", "a", "</think>", "d"], "a", "xd"),
    ],
)
def test_thinking_is_what_lies_between_the_tags(pieces, think, answer):
    masks = split_thinking(pieces, ("<think>", "</think>"))
    found = ["".join(p for p, m in zip(pieces, mask, strict=True) if m) for mask in masks]
    assert found == [think, answer]


def with_text(run, tags=("<think>", "</think>")):
    text = np.full(run.sizes["token"], "w", dtype=object)
    for r in np.unique(run.response):
        rows = np.flatnonzero(run.response.values == r)
        text[rows[0]], text[rows[len(rows) // 2]] = tags
    return run.assign(token_text=("token", text))


def test_segments_by_thinking_follow_positions_not_the_order_of_rows():
    run = with_text(RUN, ("[", "]"))
    found = segments(run, "think", tags=("[", "]"), resamples=200)
    assert (found.a.label, found.b.label) == ("think", "answer")
    assert found.a.n_tokens + found.b.n_tokens == run.sizes["token"] - 40
    assert found.difference.estimate == pytest.approx(found.b.estimate - found.a.estimate)
    assert found.difference.paired
    mixed = run.isel(token=np.random.default_rng(0).permutation(run.sizes["token"]))
    assert segments(mixed, "think", tags=("[", "]"), resamples=200).a.estimate == pytest.approx(
        found.a.estimate, abs=1e-12
    )


def test_segments_by_entropy_are_the_top_fifth_and_the_rest():
    found = segments(RUN, "entropy")
    top = np.argsort(-H)[: int(np.ceil(0.2 * H.size))]
    assert found.b.label == "forking"
    assert found.b.estimate == pytest.approx(stats.spearmanr(S[top], H[top]).statistic, abs=1e-12)
    assert found.a.n_tokens == H.size - top.size


def test_segments_by_score_leave_unknown_out():
    score = np.where(RESPONSE % 3 == 0, np.nan, RESPONSE % 3 - 1.0)
    found = segments(RUN.assign(score=("token", score)), "score")
    for part, value in ((found.a, 0.0), (found.b, 1.0)):
        expected = stats.spearmanr(S[score == value], H[score == value]).statistic
        assert part.estimate == pytest.approx(expected, abs=1e-12)
    assert not found.difference.paired
    assert (found.a.n_responses, found.b.n_responses) == (7, 6)


def test_an_empty_segment_is_nan_with_a_reason():
    found = segments(RUN.assign(score=("token", np.ones(H.size))), "score")
    assert np.isnan(found.a.estimate)
    assert np.isfinite(found.b.estimate)
    assert np.isnan(found.difference.estimate)
    assert found.a.reason == "no token is in this part"
    assert "! why NaN (a is wrong, b is right): a: no token is in this part" in str(found)


def test_notes_of_the_difference_of_two_segments_are_printed():
    """With two responses a part both parts and their difference fall back on the jackknife."""
    few = RUN.isel(token=RESPONSE < 4)
    found = segments(few, "score")
    (note,) = found.difference.notes
    assert "jackknife interval instead" in note
    assert f"! right - wrong: {note}" in str(found)


def test_segment_errors():
    for by, options, message in (
        ("word", {}, "by must be"),
        ("entropy", {"top": 20}, "top must lie"),
        ("think", {}, "no token_text"),
        ("think", {"tags": ("", "x")}, "tags must be"),
    ):
        with pytest.raises(InputError, match=message):
            segments(RUN, by, **options)


def test_planned_size_just_reaches_the_width():
    plan = plan_sample_size(RUN, width=0.2)
    pilot = plan.pilot
    z, each = np.arctanh(pilot.estimate), pilot.standard_error / (1 - pilot.estimate**2) * np.sqrt(20)
    n = int(plan.n_responses)
    assert interval_width(z, each, n, 0.95) <= 0.2 < interval_width(z, each, n - 1, 0.95)
    assert plan.low < plan.n_responses < plan.high
    assert plan.n_tokens == pytest.approx(n * H.size / 20)


def test_planned_size_is_about_right_in_truth():
    plan = plan_sample_size(make_run(k=60, seed=4), width=0.3, level=0.9)
    new = inversion.correlate(make_run(k=int(plan.n_responses), seed=5), level=0.9)
    assert new.high - new.low == pytest.approx(0.3, rel=0.35)


def test_a_plan_from_a_pilot_of_one_response_is_nan_with_a_reason():
    plan = plan_sample_size(RUN.isel(token=RESPONSE == 0))
    assert np.isnan(plan.n_responses)
    assert "single response" in plan.reason
    with pytest.raises(InputError, match="width must lie"):
        plan_sample_size(RUN, width=3)
    with pytest.raises(InputError, match="more than"):
        plan_sample_size(RUN, width=1e-7)


def test_thinking_is_read_off_the_run_where_it_is_recorded():
    drawn = with_text(RUN).isel(token=slice(None, None, 3))
    part = np.where(np.arange(drawn.sizes["token"]) % 2, "think", "answer").astype(object)
    part[0] = "tag"
    recorded = drawn.assign(part=("token", part), weight=("token", np.full(len(part), 3.0)))
    recorded.attrs["responses"] = {"think_tags": ["[", "]"]}
    for tags in (None, ("[", "]")):
        found = segments(recorded, "think", tags=tags, resamples=200)
        assert (found.a.n_tokens, found.b.n_tokens) == ((part == "think").sum(), (part == "answer").sum())
    with pytest.raises(InputError, match="some of each response's tokens only.*--think-tags"):
        segments(recorded, "think", tags=("<think>", "</think>"))
    with pytest.raises(InputError, match="some of each response's tokens only"):
        segments(recorded.drop_vars("part"), "think")
