"""A model in several parts. Here all of them are on the CPU: that parts fetch what they need is what can be tested."""

import numpy as np
import pytest
import torch
from tiny import tiny_model, token_ids

import inversion
from inversion import InputError
from inversion.models.spread import spread

TOKENS = token_ids(24)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_model_in_parts_is_probed_as_a_whole_one(family):
    expected = inversion.probe(inversion.load_model(tiny_model(family)), TOKENS[:8], TOKENS[8:])
    parts = spread(tiny_model(family), {"": "cpu"}, force_hooks=True)
    assert any("forward" in vars(module) for module in parts.modules())
    found = inversion.probe(inversion.load_model(parts), TOKENS[:8], TOKENS[8:])
    for name in ("entropy_bits", "nuclear", "frobenius", "layer_entropy_bits"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="auto would take the GPUs")
def test_auto_takes_the_cpu_where_there_is_nothing_else(checkpoint):
    bridge = inversion.load_model(checkpoint("llama"), device_map="auto")
    assert next(bridge.original_model.parameters()).device.type == "cpu"
    assert inversion.probe(bridge, TOKENS[:8], TOKENS[8:]).nuclear.notnull().all()


@pytest.mark.parametrize("device_map", ["balanced", {"": "disk"}])
def test_a_map_that_cannot_be_followed_is_one_sentence(device_map):
    with pytest.raises(InputError):
        spread(tiny_model("llama"), device_map)
