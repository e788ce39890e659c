"""Texts recovered from gradients, against the texts."""

import pytest
import torch
from tiny import tiny_model, token_ids

import inversion
from inversion.probes.capture import Site, frozen
from inversion.probes.gradients.whole import WholePass
from inversion.recover import Span, recover, row_span, share_recovered, text_gradient
from inversion.recover.gradient import PROJECTIONS, SharedGradient, add_noise
from inversion.recover.search import _tokens, layer_inputs, positions_added


def bridge(family, dtype=torch.float32, **overrides):
    return inversion.load_model(tiny_model(family, dtype=dtype, **overrides))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_gradient_is_that_of_plain_transformers(family):
    original = tiny_model(family)
    texts = [token_ids(9, seed=0), token_ids(6, seed=1)]
    found = text_gradient(inversion.load_model(original), texts)
    original.set_attn_implementation("eager")
    losses = []
    for text in texts:
        ids = torch.tensor([text])
        losses.append(original(input_ids=ids, labels=ids).loss * (len(text) - 1))
    (sum(losses) / sum(len(text) - 1 for text in texts)).backward()
    for layer in (0, 1):
        if family == "gpt2":
            fused = original.transformer.h[layer].attn.c_attn.weight.grad.T.chunk(3)
        else:
            attention = original.model.layers[layer].self_attn
            fused = [getattr(attention, f"{name}_proj").weight.grad for name in PROJECTIONS]
        for name, expected in zip(PROJECTIONS, fused, strict=True):
            torch.testing.assert_close(found.weights[layer, name], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "gemma2", "gpt_neox"])
def test_a_batch_of_two_lengths_comes_back_whole(family, dtype):
    model = bridge(family, dtype)
    texts = [token_ids(8, seed=0), token_ids(6, seed=1)]
    recovery = recover(model, text_gradient(model, texts), longest=16)
    assert not recovery.reason
    assert sorted(recovery.sequences) == sorted(text[:-1] for text in texts)
    assert recovery.ranks[1] == 12


def test_positions_are_found_to_be_added_or_not():
    assert positions_added(bridge("gpt2"))
    assert not positions_added(bridge("llama"))


def test_texts_that_share_a_beginning_and_tokens_that_repeat():
    model = bridge("llama")
    texts = [[5, 6, 7, 8, 9], [5, 6, 10, 11, 12], [20, 20, 21, 20, 22, 23]]
    recovery = recover(model, text_gradient(model, texts), longest=16)
    assert sorted(recovery.sequences) == sorted(text[:-1] for text in texts)
    assert sorted(recovery.tokens[0]) == sorted({token for text in texts for token in text[:-1]})


def test_the_query_alone_does_not_show_the_first_token():
    """A single position is attended to whatever the query is."""
    model = bridge("llama")
    text = [5, 6, 7, 8, 9]
    gradient = text_gradient(model, [text])
    query = SharedGradient({key: w for key, w in gradient.weights.items() if key[1] == "q"}, gradient.dtype)
    read = layer_inputs(model, torch.tensor([text]), 0)[0]
    whole, alone = (row_span(g.layer(0), g.dtype).distances(read) < 1 for g in (gradient, query))
    assert whole.tolist() == [True, True, True, True, False]
    assert alone.tolist() == [False, True, True, True, False]


def test_the_inputs_that_the_probe_records_span_the_gradient():
    """The factor A of the probe, against gradients that torch took of the weights."""
    model = bridge("gpt2")
    text = token_ids(10)
    gradient = text_gradient(model, [text])
    sites = [Site(layer, name) for layer in (0, 1) for name in PROJECTIONS]
    with frozen(model):
        recording = WholePass(model, torch.tensor([text]), sites, batched=True, prefix=True).recording
    for layer in (0, 1):
        span = row_span(gradient.layer(layer), gradient.dtype, layer=layer)
        assert span.rank == 9
        for name in PROJECTIONS:
            assert span.distances(recording.inputs[Site(layer, name)][:-1]).amax() < 1


def test_more_tokens_than_dimensions_tell_nothing():
    model = bridge("llama")
    texts = [token_ids(16, seed=seed) for seed in range(5)]
    recovery = recover(model, text_gradient(model, texts))
    assert not recovery.sequences
    assert recovery.ranks[0] == 32
    assert "100% of the vocabulary" in recovery.reason


def test_few_tokens_in_more_places_than_dimensions_show_the_tokens_only():
    """Layer 0 of a rotary model has one direction for a token, layer 1 has one for every prefix."""
    model = bridge("llama")
    texts = [token_ids(16, seed=seed, vocabulary=12) for seed in range(5)]
    recovery = recover(model, text_gradient(model, texts), prefixes=8)
    assert set(recovery.tokens[0]) == {token for text in texts for token in text[:-1]}
    assert recovery.ranks[1] == 32
    assert not recovery.sequences
    assert "prefixes fit the span of layer 1, of rank 32" in recovery.reason


def test_no_more_tokens_are_kept_than_there_are_directions():
    """Where errors are large many tokens fit a span; no more than its rank can be real, and it is said."""
    model = bridge("llama", vocab_size=400)
    basis = torch.linalg.qr(torch.randn(32, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    vague = Span(basis, torch.full((3,), 1e9, dtype=torch.float64), 1.0, 0.3)
    (kept,), share, reason = _tokens(model, vague, 8)
    distances = vague.distances(layer_inputs(model, torch.arange(400)[:, None], 0)[:, 0])
    assert share == pytest.approx((distances < 1).double().mean().item())
    assert 3 < share * 400 < 200
    assert kept == distances.argsort()[:3].tolist()
    assert "than its rank, 3" in reason


def test_noise_hides_texts_once_it_is_large_enough():
    model = bridge("llama")
    texts = [token_ids(8, seed=0)]
    gradient = text_gradient(model, texts)
    shares = [share_recovered(recover(model, add_noise(gradient, level)), texts) for level in (1e-6, 10.0)]
    assert shares[0].sequences == 1
    assert shares[1].sequences == shares[1].tokens == 0


def test_shares_by_hand():
    recovery = inversion.recover.Recovery(sequences=[[1, 2, 3], [4, 9]], tokens=[[1, 2, 3, 4, 9, 8]])
    share = share_recovered(recovery, [[1, 2, 3, 7], [4, 5, 6]])
    assert share.tokens == pytest.approx(4 / 5)  # 5 was not found
    assert share.in_place == pytest.approx(4 / 5)
    assert share.sequences == pytest.approx(1 / 2)
    assert share.false_tokens == 2  # 9 and 8
    placed = inversion.recover.Recovery(sequences=[], tokens=[[1], [2, 5]])
    assert share_recovered(placed, [[1, 2, 3], [5, 1, 3]]).tokens == pytest.approx(1 / 2)
    assert share_recovered(placed, [[1, 2, 3], [5, 1, 3]]).false_tokens == 1


def test_a_model_is_left_as_it_was():
    model = bridge("llama")
    required = {name: p.requires_grad for name, p in model.original_model.named_parameters()}
    recover(model, text_gradient(model, [token_ids(6)]))
    assert {name: p.requires_grad for name, p in model.original_model.named_parameters()} == required
    assert all(p.grad is None for p in model.original_model.parameters())
