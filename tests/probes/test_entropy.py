import math

import numpy as np
import pytest
import torch
from tiny import tiny_model, token_ids

import inversion
from inversion.probes import entropy
from inversion.probes.entropy import layer_entropy_bits, sampled_entropy_bits, token_uncertainty
from inversion.responses import Generation


def test_a_uniform_distribution_has_log2_v_bits():
    found = token_uncertainty(torch.full((3, 50), 1.7), torch.tensor([0, 7, 49]))
    np.testing.assert_allclose(found.entropy_bits, math.log2(50), rtol=1e-12)
    np.testing.assert_allclose(found.surprisal_bits, math.log2(50), rtol=1e-12)
    np.testing.assert_allclose(found.logit_space, math.sqrt(1 - 2 / 50 + 1 / 50), rtol=1e-12)


def test_readings_equal_torch_distributions():
    logits = 4 * torch.randn(200, 31, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ids = torch.arange(200) % 31
    found = token_uncertainty(logits, ids)
    expected = torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(found.entropy_bits, expected.entropy() / math.log(2))
    torch.testing.assert_close(found.surprisal_bits, -expected.log_prob(ids) / math.log(2))
    gradient = torch.nn.functional.one_hot(ids, 31) - expected.probs
    torch.testing.assert_close(found.logit_space, gradient.norm(dim=1))


def test_what_is_certain_has_no_entropy_and_that_is_not_minus_zero():
    logits = torch.tensor([[0.0, 9999.0, 0.0]])
    found = sampled_entropy_bits(logits, Generation(temperature=0.0))
    assert found.item() == 0
    assert not torch.signbit(found)
    assert not torch.signbit(token_uncertainty(logits, torch.tensor([1])).entropy_bits)


@pytest.mark.parametrize("gap", [30.0, 300.0])
def test_certainty_loses_no_digits(gap):
    logits = torch.zeros(1, 3)
    logits[0, 1] = gap
    found = token_uncertainty(logits, torch.tensor([1]))
    p = math.exp(-gap)
    assert found.logit_space.item() == pytest.approx(math.sqrt(6) * p, rel=1e-6)
    assert found.surprisal_bits.item() == pytest.approx(2 * p / math.log(2), rel=1e-6, abs=1e-300)
    assert found.entropy_bits.item() == pytest.approx(2 * p * (gap + 1) / math.log(2), rel=1e-6)


def test_impossible_tokens_add_nothing():
    found = token_uncertainty(torch.tensor([[0.0, 0.0, -math.inf]]), torch.tensor([0]))
    assert found.entropy_bits.item() == pytest.approx(1.0)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_the_last_layer_reads_out_the_models_own_entropy(family):
    tokens = token_ids(16)
    capture = inversion.probe(inversion.load_model(tiny_model(family)), tokens[:4], tokens[4:])
    np.testing.assert_allclose(capture.layer_entropy_bits[:, -1], capture.entropy_bits, rtol=1e-4)
    assert (abs(capture.layer_entropy_bits[:, 0] - capture.entropy_bits) > 1e-3).any()


@pytest.mark.parametrize("at_once", [1, 64 * 7, 2**21])
def test_layers_read_together_read_as_by_themselves(at_once, monkeypatch):
    model = inversion.load_model(tiny_model("llama"))
    monkeypatch.setattr(entropy, "AT_ONCE", at_once)
    streams = [torch.randn(3, model.cfg.d_model, generator=torch.Generator().manual_seed(i)) for i in range(5)]
    with torch.no_grad():
        probs = model.unembed(model.ln_final(torch.stack(streams))).double().softmax(-1)
    expected = -(probs * probs.log2()).sum(-1).T
    torch.testing.assert_close(layer_entropy_bits(model, streams, 3), expected, rtol=1e-5, atol=1e-5)
    with pytest.warns(UserWarning, match="one residual stream"):
        found = layer_entropy_bits(model, [*streams[:2], None, *streams[3:]], 3)
    torch.testing.assert_close(found[:, [0, 1, 3, 4]], expected[:, [0, 1, 3, 4]], rtol=1e-5, atol=1e-5)
    assert found[:, 2].isnan().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_have_no_entropy_as_in_plain_torch(bad):
    logits = torch.randn(3, 7)
    logits[1, 4] = bad
    found = token_uncertainty(logits, torch.tensor([0, 1, 2]))
    probs = logits.double().softmax(1)
    assert (-(probs * probs.log()).sum(1)).isnan().tolist() == [False, True, False]
    for reading in found:
        assert reading.isnan().tolist() == [False, True, False]
