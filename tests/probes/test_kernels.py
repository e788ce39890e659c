"""Attention without the pattern, against the pattern written out in float64, at lengths of more than one tile."""

import numpy as np
import pytest
import torch
from tiny import FAMILIES, tiny_model, token_ids
from transformers import AutoModelForCausalLM, GPT2Config, GptOssConfig

import inversion
from inversion.probes.gradients import Plan, plans
from inversion.probes.kernels import TILE, piecewise_attention

LENGTH, HEADS, WIDTH = 2 * TILE + 37, 4, 8


def window(size):
    rows = torch.arange(LENGTH)
    distance = rows[:, None] - rows
    return ((distance >= 0) & (distance < size))[None, None]


KINDS = {
    "causal": {},
    "scaled": {"scaling": 0.7},
    "grouped": {"groups": 2},
    "one key-value head": {"groups": 4},
    "sliding window": {"mask": window(300)},
    "narrow window": {"mask": window(3), "groups": 2},
    "soft cap": {"softcap": 2.0},
    "soft cap in a window": {"softcap": 2.0, "mask": window(100), "groups": 2},
    "sinks": {"s_aux": torch.linspace(-1, 3, HEADS)},
    "sinks in a window": {"s_aux": torch.linspace(-1, 3, HEADS), "mask": window(40), "scaling": 0.2},
}


def written_out(q, k, v, *, scaling=None, groups=1, mask=None, softcap=None, s_aux=None):
    """The pattern as the definition has it."""
    k, v = (t.repeat_interleave(groups, dim=1) for t in (k, v))
    scores = q @ k.mT * (WIDTH**-0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~(window(LENGTH) if mask is None else mask), -torch.inf)
    if s_aux is not None:
        scores = torch.cat([scores, s_aux.double().view(1, -1, 1, 1).expand(1, -1, LENGTH, 1)], dim=-1)
    return (scores.softmax(-1)[..., :LENGTH] @ v).transpose(1, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_of_many_targets_are_those_of_the_pattern(kind):
    options = KINDS[kind]
    generator = torch.Generator().manual_seed(0)
    heads = (HEADS, HEADS // options.get("groups", 1), HEADS // options.get("groups", 1))
    exact = [2 * torch.randn(1, n, LENGTH, WIDTH, generator=generator, dtype=torch.float64) for n in heads]
    exact = [t.requires_grad_() for t in exact]
    leaves = [t.detach().float().requires_grad_() for t in exact]
    expected = written_out(*exact, **options)
    passed = {name: value for name, value in options.items() if name not in ("groups", "mask")}
    found, pattern = piecewise_attention(None, *leaves, options.get("mask"), **passed)
    assert pattern is None
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    cotangents = torch.randn(3, *expected.shape, generator=generator, dtype=torch.float64)
    pulled = torch.func.vmap(lambda c: torch.autograd.grad(found, leaves, c, retain_graph=True))(cotangents.float())
    for target, cotangent in enumerate(cotangents):
        for mine, theirs in zip(
            pulled, torch.autograd.grad(expected, exact, cotangent, retain_graph=True), strict=True
        ):
            error = torch.linalg.vector_norm(mine[target].double() - theirs) / torch.linalg.vector_norm(theirs)
            assert error < 1e-5


def test_what_is_not_known_is_refused():
    q = torch.randn(1, HEADS, 5, WIDTH)
    with pytest.raises(NotImplementedError):
        piecewise_attention(None, q, q, q, None, position_bias=torch.zeros(1, HEADS, 5, 5))
    with pytest.raises(NotImplementedError):
        piecewise_attention(None, q[:, :, -1:], q, q, None)


def gpt_oss(**options):
    config = GptOssConfig(
        vocab_size=53,
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        pad_token_id=1,
        **options,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model


def long_gpt2(**options):
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    return GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=1024, **ids, **options)


MODELS = {
    "llama": {"max_position_embeddings": 1024},
    "gpt2": {},
    "gpt_neox": {"max_position_embeddings": 1024},
    "qwen3": {"max_position_embeddings": 1024},
    "mistral": {"max_position_embeddings": 1024, "sliding_window": 270},
    "gemma2": {"max_position_embeddings": 1024, "sliding_window": 270},
    "gpt_oss": {"sliding_window": 270},
}


@pytest.mark.parametrize("family", MODELS)
def test_a_response_of_more_than_one_tile_is_measured_as_with_the_pattern(family, monkeypatch):
    options = MODELS[family]
    monkeypatch.setitem(FAMILIES, "gpt2", long_gpt2)
    model = gpt_oss(**options) if family == "gpt_oss" else tiny_model(family, **options)
    bridge = inversion.load_model(model)
    tokens = token_ids(TILE + 60)
    choice = {"targets": (0, 40, TILE, TILE + 40), "layers": (0, -1)}
    found = inversion.probe(bridge, tokens[:10], tokens[10:], **choice)
    assert found.attrs["attention"] == "piecewise"
    plans._PLANS[bridge] = Plan("whole", batched=False, prefix=False, piecewise=False)
    expected = inversion.probe(bridge, tokens[:10], tokens[10:], **choice)
    assert expected.attrs["attention"] == "eager"
    for name in ("entropy_bits", "nuclear", "frobenius"):
        # Routing among experts is left alone by rounding; what is tiny beside the rest is not.
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-5, atol=1e-6 * float(expected[name].max()))


def test_a_hook_on_the_pattern_brings_the_pattern_back():
    bridge = inversion.load_model(tiny_model("llama"))
    tokens = token_ids(20)
    plain = inversion.probe(bridge, tokens[:6], tokens[6:])
    bridge.blocks[1].attn.hook_pattern.add_hook(lambda pattern, hook: pattern * 0.5)
    changed = inversion.probe(bridge, tokens[:6], tokens[6:])
    assert changed.attrs["attention"] == "eager"
    assert not np.allclose(changed.nuclear, plain.nuclear, rtol=1e-2)
    bridge.blocks[1].attn.hook_pattern.remove_hooks()
    assert inversion.probe(bridge, tokens[:6], tokens[6:]).attrs["attention"] == "piecewise"
