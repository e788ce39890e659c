"""Signals agree with the probe and leave the policy as it was."""

import numpy as np
import pytest
import torch
import xarray as xr
from corrpo_samples import policy
from tiny import tiny_model, token_ids

import inversion
from inversion.corrpo.policy import decoder_layers, last_projections
from inversion.corrpo.recording import recording
from inversion.corrpo.reward import InversionReward
from inversion.corrpo.rho import response_rho
from inversion.corrpo.signals import Exact, LastLayer
from inversion.errors import InputError

PROMPTS = [token_ids(n, seed=n) for n in (5, 3, 9)]
RESPONSES = [token_ids(n, seed=10 + n) for n in (14, 20, 9)]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "mistral"])
def test_last_layer_equals_probe(family):
    model = policy(family)
    bridge = inversion.load_model(model)
    found = LastLayer()(model, PROMPTS, RESPONSES)
    for prompt, response, readings in zip(PROMPTS, RESPONSES, found, strict=True):
        capture = inversion.probe(bridge, prompt, response, layers=(-1,), projections=("q", "o"))
        for norm in ("nuclear", "frobenius"):
            expected = capture[norm].mean(["layer", "projection"]).values
            np.testing.assert_allclose(readings.strength, expected, rtol=2e-4)
        np.testing.assert_allclose(readings.entropy_bits, capture.entropy_bits.values, rtol=1e-4)
        np.testing.assert_array_equal(readings.token_ids, response)


@pytest.mark.parametrize("family", ["gpt_neo", "gptj", "opt", "phi"])
def test_last_layer_equals_the_gradient_of_the_weights(family):
    """Families that not every bridge has, the dumb way: one token, one backward pass, two weights."""
    model = policy(family)
    (found,) = LastLayer()(model, PROMPTS[:1], RESPONSES[:1])
    ids, start = torch.tensor([PROMPTS[0] + RESPONSES[0]]), len(PROMPTS[0])
    logits = model(ids).logits[0]
    weights = [module.weight for module in last_projections(model).values()]
    for i, token in enumerate(RESPONSES[0]):
        gradients = torch.autograd.grad(logits[start + i - 1, token], weights, retain_graph=True)
        expected = np.mean([torch.linalg.svdvals(gradient).sum().item() for gradient in gradients])
        assert found.strength[i] == pytest.approx(expected, rel=1e-3)


def test_last_layer_does_not_depend_on_batching(monkeypatch):
    model = policy()
    together = LastLayer()(model, PROMPTS, RESPONSES)
    monkeypatch.setattr("inversion.corrpo.signals.PADDED_TOKENS", 30)
    apart = LastLayer()(model, PROMPTS, RESPONSES)
    for a, b in zip(together, apart, strict=True):
        np.testing.assert_allclose(a.strength, b.strength, rtol=1e-4)
        np.testing.assert_allclose(a.entropy_bits, b.entropy_bits, rtol=1e-5)


def test_last_layer_takes_one_projection():
    model = policy()
    q, o, both = (LastLayer(p)(model, PROMPTS, RESPONSES)[0].strength for p in (("q",), ("o",), ("q", "o")))
    np.testing.assert_allclose((q + o) / 2, both, rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"layers": (0, 2), "norm": "frobenius"}, {"targets": 6, "seed": 3}])
def test_exact_equals_probe(options):
    model = policy()
    # TRL replaces the instance's forward; the signal has to see through that.
    own = model.forward
    model.forward = lambda *args, **kwargs: own(*args, **kwargs)
    found = Exact(**options)(model, PROMPTS, RESPONSES)[1]
    norm = options.pop("norm", "nuclear")
    capture = inversion.probe(inversion.load_model(policy()), PROMPTS[1], RESPONSES[1], norms=(norm,), **options)
    expected = capture[norm].mean(["layer", "projection"]).values
    np.testing.assert_allclose(found.strength, expected, rtol=1e-4)
    np.testing.assert_array_equal(found.token_ids, capture.token_id.values)
    assert "<lambda>" in repr(model.forward)


def test_exact_follows_training():
    model, signal = policy(), Exact(layers=(1,), norm="frobenius")
    before = signal(model, PROMPTS, RESPONSES)[0].strength
    with torch.no_grad():
        model.model.layers[1].self_attn.v_proj.weight.mul_(2)
    after = signal(model, PROMPTS, RESPONSES)[0].strength
    fresh = Exact(layers=(1,), norm="frobenius")(model, PROMPTS, RESPONSES)[0].strength
    np.testing.assert_array_equal(after, fresh)
    assert not np.allclose(before, after)


def state_of(model):
    return {
        "parameters": [p.detach().clone() for p in model.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "training": [m.training for m in model.modules()],
        "hooks": [
            (dict(m._forward_hooks), dict(m._forward_pre_hooks), dict(m._backward_hooks)) for m in model.modules()
        ],
        "modules": [(name, id(m)) for name, m in model.named_modules()],
        "attention": model.config._attn_implementation,
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].copy(),  # noqa: NPY002
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@pytest.mark.parametrize("signal", [LastLayer(), Exact(targets=4)])
def test_signals_leave_the_policy_as_it_was(signal):
    model = policy(attention_dropout=0.3).train()
    model.model.layers[1].eval()
    model.model.layers[0].self_attn.k_proj.weight.requires_grad_(False)
    model(input_ids=torch.tensor([PROMPTS[0]])).logits.sum().backward()
    before = state_of(model)
    signal(model, PROMPTS, RESPONSES)
    after = state_of(model)
    for name, value in before.items():
        assert same(value, after[name]), name


def test_hooks_go_even_when_the_policy_fails(monkeypatch):
    model = policy().train()
    before = state_of(model)
    monkeypatch.setattr(model.lm_head, "forward", lambda hidden: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        LastLayer()(model, PROMPTS, RESPONSES)
    assert all(same(value, state_of(model)[name]) for name, value in before.items())


@pytest.mark.parametrize("method", ["spearman", "pearson"])
@pytest.mark.parametrize("unit", ["position", "token_type"])
def test_rho_equals_the_statistics(method, unit):
    model = policy()
    bridge = inversion.load_model(model)
    reward = InversionReward(method=method, unit=unit)
    # Repeated tokens, so that the two units differ.
    responses = [[token % 7 + 2 for token in response] for response in RESPONSES]
    for prompt, response, found in zip(PROMPTS, responses, reward.measure(model, PROMPTS, responses), strict=True):
        run = inversion.probe(bridge, prompt, response, layers=(-1,), projections=("q", "o"))
        expected = inversion.correlate(run, method=method, unit=unit, resamples=10).estimate
        assert found == pytest.approx(expected, abs=1e-3 if method == "pearson" else 1e-9)


@pytest.mark.parametrize("method", ["spearman", "pearson"])
@pytest.mark.parametrize("unit", ["position", "token_type"])
def test_rho_of_tied_numbers_equals_the_statistics(method, unit):
    generator = np.random.default_rng(0)
    for _ in range(20):
        x, y, ids = generator.integers(0, 5, (3, 25))
        columns = {"nuclear": (("token", "layer", "projection"), x[:, None, None].astype(float))}
        columns |= {"entropy_bits": ("token", y.astype(float)), "token_id": ("token", ids)}
        run = xr.Dataset(columns, {"layer": [0], "projection": ["q"]})
        expected = inversion.correlate(run, method=method, unit=unit, resamples=10).estimate
        assert response_rho(x, y, ids, method, unit) == pytest.approx(expected, abs=1e-12)


def test_rho_is_undefined_where_it_says_nothing():
    x = np.arange(10.0)
    assert response_rho(x, x, x) == pytest.approx(1)
    assert response_rho(x, -x, x) == pytest.approx(-1)
    assert response_rho(x, np.ones(10), x) is None
    assert response_rho(np.ones(10), x, x) is None
    assert response_rho(x, x, x, min_tokens=11) is None
    assert response_rho(x, x, x.astype(int) // 5, unit="token_type") is None
    assert response_rho(x[:0], x[:0], x[:0]) is None


def test_fused_projections_are_refused_in_one_sentence():
    with pytest.raises(InputError, match="separate q and o"):
        last_projections(tiny_model("gpt2"))
    assert len(Exact(layers=(-1,))(tiny_model("gpt2"), PROMPTS, RESPONSES)) == 3


def test_a_last_layer_without_attention_is_refused():
    model = policy()
    model.config.num_hidden_layers = 4
    with pytest.raises(InputError, match="last layer"):
        LastLayer()(model, PROMPTS, RESPONSES)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: LastLayer(("k",)),
        lambda: LastLayer(()),
        lambda: Exact(norm="trace"),
        lambda: Exact(targets=1),
        lambda: InversionReward(method="kendall"),
        lambda: InversionReward(unit="word"),
        lambda: InversionReward(min_tokens=1),
        lambda: InversionReward()(["a"], [[1]]),
        lambda: LastLayer()(policy(), [[]], [[3, 4]]),
    ],
)
def test_bad_settings_are_one_sentence(bad):
    with pytest.raises(InputError) as caught:
        bad()
    assert str(caught.value).endswith(".")


def test_empty_responses_are_empty_readings():
    for signal in (LastLayer(), Exact()):
        empty, full = signal(policy(), PROMPTS[:2], [[], RESPONSES[1]])
        assert len(empty.strength) == 0
        assert len(full.strength) == len(RESPONSES[1])


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "mistral", "gpt_neo", "gptj", "opt", "phi"])
def test_recorded_while_writing_equals_read_again(family):
    model = policy(family)
    longest = max(map(len, PROMPTS))
    padded = torch.tensor([[0] * (longest - len(p)) + p for p in PROMPTS])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in PROMPTS])
    signal = LastLayer()
    with signal.writing(model) as done, torch.no_grad():
        torch.manual_seed(0)
        written = model.generate(
            padded, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=15, eos_token_id=None, pad_token_id=0
        )[:, longest:].tolist()
        # Responses may end before the others do.
        written[1] = written[1][:6]
        done(PROMPTS, written)
    before = state_of(model)
    ran: list[bool] = []
    hook = next(decoder_layers(model)[0].children()).register_forward_hook(lambda *_: ran.append(True))
    short = signal(model, PROMPTS, written)
    assert not ran
    whole = signal(model, PROMPTS, written)  # what was kept is used once
    assert ran
    hook.remove()
    for a, b in zip(short, whole, strict=True):
        np.testing.assert_allclose(a.strength, b.strength, rtol=1e-3)
        np.testing.assert_allclose(a.entropy_bits, b.entropy_bits, rtol=1e-4)
    assert all(same(value, state_of(model)[name]) for name, value in before.items())
    assert not any("forward" in layer.__dict__ for layer in decoder_layers(model))


def test_what_was_recorded_is_not_used_once_the_policy_has_changed():
    model, signal = policy(), LastLayer()
    with signal.writing(model) as done, torch.no_grad():
        model(input_ids=torch.tensor([[3, 4]]))
        done([[3, 4]], [[5]])
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(3)
    after = signal(model, [[3, 4]], [[5]])[0]
    np.testing.assert_array_equal(after.strength, LastLayer()(model, [[3, 4]], [[5]])[0].strength)


def test_nothing_is_recorded_with_dropout_or_where_generation_went_elsewhere():
    model = policy(attention_dropout=0.1)
    with recording(model, decoder_layers(model)) as recorder:
        model(input_ids=torch.tensor([[3, 4]]))
    assert recorder.by_sequence([[3]], [[4]]).hidden == {}
    model = policy()
    with recording(model, decoder_layers(model)) as recorder:
        model(input_ids=torch.tensor([[3, 4]]))
    assert recorder.by_sequence([[3, 4], [5]], [[6], [7]]).hidden == {}
    assert recorder.by_sequence([[3, 4]], [[5, 6]]).hidden == {}
    assert list(recorder.by_sequence([[3, 4]], [[5]]).hidden) == [(3, 4, 5)]


def test_nothing_is_recorded_where_every_step_reads_everything():
    model = policy()
    with recording(model, decoder_layers(model)) as recorder, torch.no_grad():
        model.generate(torch.tensor([[3, 4]]), max_new_tokens=4, do_sample=False, eos_token_id=None, use_cache=False)
    assert len(recorder.parts) == 4
    assert recorder.by_sequence([[3, 4]], [[5, 6, 7, 8]]).hidden == {}
