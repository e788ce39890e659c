"""Vectors, classifiers, steering and places, each against an independent way."""

import numpy as np
import pytest
import torch
import xarray as xr
from tiny import tiny_model, token_ids

import inversion
from inversion.critique import Case, answer_means, auroc, correction, critique_vectors, fit_probes, steered
from inversion.critique.places import PLACES, mark, mean_interval, place_of, place_table, response_places, token_places
from inversion.critique.steering import ALPHAS, alphas, directions, farthest_layer
from inversion.scoring import scorer_for


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_means_over_answers_are_those_of_plain_transformers(family):
    original = tiny_model(family)
    ids = token_ids(9)
    with torch.no_grad():
        states = original(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    found = answer_means(inversion.load_model(original), ids, 5, 8)
    # The last of transformers' states has been through the final norm, so the last layer is compared before that.
    for layer in range(2):
        np.testing.assert_allclose(found[layer], states[layer + 1][0, 5:8].mean(0).numpy(), rtol=1e-4, atol=1e-6)
    final = {"gpt2": lambda m: m.transformer.ln_f, "llama": lambda m: m.model.norm}[family](original)
    normed = final(
        torch.stack(
            [torch.tensor(answer_means(inversion.load_model(original), ids, t, t + 1)[2]).float() for t in range(9)]
        )
    )
    torch.testing.assert_close(normed, states[3][0], rtol=1e-3, atol=1e-4)


def test_a_vector_is_the_mean_of_the_pairs_differences():
    recovered = np.arange(24.0).reshape(2, 3, 4)
    undisturbed = np.ones((2, 3, 4))
    by_hand = sum(recovered[i] - undisturbed[i] for i in range(2)) / 2
    np.testing.assert_allclose(critique_vectors(recovered, undisturbed), by_hand)
    with pytest.raises(ValueError, match="pairs need one shape"):
        critique_vectors(recovered[:1], undisturbed)


def test_auroc_counts_pairs():
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 5, 20), rng.integers(0, 5, 30)
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert auroc(positive, negative) == pytest.approx(np.mean(pairs))
    assert np.isnan(auroc(positive, negative[:0]))


def answers(count, shift, rng, layers=2, width=8):
    """Layer 0 is noise; in layer 1 the first feature is shifted."""
    features = rng.standard_normal((count, layers, width))
    features[:, 1, 0] += shift
    return features


def test_classifiers_find_the_layer_that_tells():
    rng = np.random.default_rng(0)
    parts = [(answers(60, 3.0, rng), answers(60, 0.0, rng)) for _ in range(3)]
    noise, telling = fit_probes(*parts, (answers(40, 3.0, rng), answers(40, 0.0, rng)), resamples=200)
    assert telling.auroc > 0.95
    assert telling.low > 0.9
    assert telling.unrecovered > 0.95
    assert noise.low < 0.5 < noise.high
    assert noise.validation_loss > telling.validation_loss
    assert telling.length > 4 * noise.length
    (only, _) = fit_probes(*parts, (answers(0, 0.0, rng),) * 2, resamples=200)
    assert np.isnan(only.unrecovered)


def test_the_interval_is_not_moved_by_the_likeness_of_the_two_answers_to_one_problem():
    """Problems differ much, and within each the recovered answer is a little higher: AUROC is near a half."""
    rng = np.random.default_rng(2)
    base = rng.standard_normal((3, 30, 1, 4))
    shifted = base + np.array([1e-2, 0, 0, 0])
    parts = [(shifted[i], base[i]) for i in range(3)]
    (probe,) = fit_probes(*parts, (base[2][:0],) * 2, resamples=500)
    assert probe.low <= 0.5 < probe.auroc < probe.high < 0.52
    assert probe.paired in (0.0, 1.0)
    assert probe.paired_high - probe.paired_low < 0.13


def test_training_stops_where_validation_stops_improving():
    """Validation labels that contradict the training labels: the untrained classifier is the best."""
    rng = np.random.default_rng(1)
    good = answers(40, 3.0, rng), answers(40, 0.0, rng)
    probe = fit_probes(good, good[::-1], good, (answers(0, 0.0, rng),) * 2, resamples=50)[1]
    assert probe.epoch == 0
    assert probe.validation_loss == pytest.approx(np.log(2))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_steering_adds_to_the_stream_and_is_gone_afterwards(family):
    original = tiny_model(family)
    blocks = {"gpt2": lambda m: m.transformer.h, "llama": lambda m: m.model.layers}[family](original)
    model = inversion.load_model(original)
    tokens = torch.tensor([token_ids(7)])
    vector = np.random.default_rng(0).standard_normal(32)

    def plain(module, args, output):
        added = torch.tensor(vector, dtype=torch.float32)
        return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added

    with torch.no_grad():
        before = model.original_model(input_ids=tokens).logits
        handle = blocks[1].register_forward_hook(plain)
        expected = original(input_ids=tokens).logits
        handle.remove()
        with steered(model, 1, vector):
            found = model.original_model(input_ids=tokens).logits
        after = model.original_model(input_ids=tokens).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, before, atol=1e-2)
    assert torch.equal(before, after)


def test_controls_have_the_length_of_the_vector():
    vectors = np.random.default_rng(0).standard_normal((4, 16)) * np.array([[1], [2], [3], [4]])
    found = directions(vectors, 1, 2, seed=0)
    assert list(found) == ["critique vector", "random direction 1", "random direction 2", "vector of layer 3"]
    for vector in found.values():
        assert np.linalg.norm(vector) == pytest.approx(np.linalg.norm(vectors[1]))
    np.testing.assert_allclose(
        found["vector of layer 3"], vectors[3] * np.linalg.norm(vectors[1]) / np.linalg.norm(vectors[3])
    )
    again = directions(vectors, 1, 2, seed=0)
    np.testing.assert_array_equal(found["random direction 2"], again["random direction 2"])
    assert [farthest_layer(4, layer) for layer in range(4)] == [3, 3, 0, 0]
    assert len(ALPHAS) == 11
    assert 0 not in alphas(ALPHAS)


def spelling(opening, error):
    from inversion.critique.mistakes import _CONCLUSIONS

    score = scorer_for("tags", "tac", form_required=True)
    return Case("cat", opening, error, "tac", score, _CONCLUSIONS["spell_backward"], "spell_backward")


OPENING = "<think>\nSo take t leaving ca\nSo take x"
CASE = spelling(OPENING, (len(OPENING) - 1, len(OPENING)))
HIDDEN = OPENING + " leaving c\nSo take c</think><answer>tac</answer>"


def test_the_correction_is_where_the_answer_leaves_the_thinking():
    at = correction(CASE, HIDDEN)
    assert HIDDEN[at] == "a"
    assert HIDDEN[:at].endswith("<answer>t")
    assert correction(CASE, HIDDEN.replace("tac<", "txc<")) is None
    assert correction(CASE, OPENING) is None
    longer = HIDDEN.replace("\nSo take c", "")
    assert longer[correction(CASE, longer)] == "a"


def test_places_of_a_response_by_hand():
    marked = mark(CASE, HIDDEN)
    names = [place_of(marked, i, i + 1) for i in range(len(HIDDEN))]
    assert names[HIDDEN.index("take x") + 5] == "the error"
    assert names[HIDDEN.index("take x") + 4] == "before the error"
    assert names[HIDDEN.index("leaving c\n")] == "thinking after it"
    assert names[HIDDEN.index("</think>")] == "thinking after it"
    assert names[HIDDEN.index("<answer>")] == "answer"
    assert names.count("correction") == 1
    assert HIDDEN[names.index("correction")] == "a"


def test_percentiles_at_the_places():
    count = len(HIDDEN)
    strength = np.arange(count, dtype=float)
    run = xr.Dataset(
        {
            "nuclear": (("token", "layer", "projection"), strength[:, None, None] * np.ones((1, 2, 4))),
            "entropy_bits": ("token", -strength),
            "token_text": ("token", list(HIDDEN)),
        }
    )
    found = response_places(run, token_places(run, mark(CASE, HIDDEN)), "nuclear")
    at = correction(CASE, HIDDEN)
    assert found["correction"]["strength"] == pytest.approx(at / (count - 1))
    assert found["correction"]["entropy"] == pytest.approx(1 - at / (count - 1))
    error = CASE.error[0]
    assert found["before the error"]["strength"] == pytest.approx((error - 1) / 2 / (count - 1))
    table = place_table({"hidden critique": [found, found]}).set_index(["measure", "place"])
    assert set(PLACES) < set(table.loc["strength"].index)
    assert table.loc[("strength", "the error"), "mean"] == pytest.approx(error / (count - 1))
    assert table.loc[("strength", "correction minus answer"), "problems"] == 2


def test_an_interval_of_a_mean():
    values = np.random.default_rng(0).normal(1, 1, 400)
    count, mean, low, high = mean_interval(values)
    assert count == 400
    assert mean == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert np.isnan(mean_interval([1.0])[2])
    assert np.isnan(mean_interval([])[1])
