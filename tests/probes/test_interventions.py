"""What somebody has hooked into a model, or put it into, before it is probed: counted once, or left out, or refused."""

import numpy as np
import pytest
import torch
from dumb import norms, weight_gradients
from tiny import tiny_model, token_ids

import inversion
from inversion import InputError
from inversion.critique import steered
from inversion.models.bridge import is_hooked
from inversion.probes.gradients import plans

TOKENS = token_ids(20)
PROMPT, RESPONSE = TOKENS[:6], TOKENS[6:]


def change(part, factor):
    """Scale some positions of what comes along, or all of it."""

    def changed(x):
        x = x.clone()
        x[:, part] = factor * x[:, part]
        return x

    return changed


def as_output(function):
    return lambda module, args, output: function(output)


def as_input(function):
    return lambda module, args: (function(args[0]), *args[1:])


def check(model, capture):
    """Compare a capture with autograd on the weights of the original, which has the same hooks."""
    for i, layer, projection, gradient in weight_gradients(model, PROMPT, RESPONSE):
        expected = norms(gradient)
        for name in ("nuclear", "frobenius"):
            found = float(capture[name].sel(layer=layer, projection=projection)[i])
            assert found == pytest.approx(expected[name], rel=2e-5, abs=1e-7), (i, layer, projection)
    with torch.no_grad():
        logits = model(torch.tensor([TOKENS])).logits[0, len(PROMPT) - 1 : -1].double()
    np.testing.assert_allclose(
        capture.entropy_bits, torch.distributions.Categorical(logits=logits).entropy() / np.log(2), rtol=1e-5
    )


def added(x):
    return x + torch.arange(32.0).sin()


CASES = {
    # Where in the bridge and in the original, whether before or after it, and what is changed.
    "last block": ("blocks.2", "model.layers.2", "after", added),
    "lowest block": ("blocks.0", "model.layers.0", "before", added),
    "final norm, some positions": ("ln_final", "model.norm", "after", change(slice(10, 12), 0.5)),
    "final norm, last position": ("ln_final", "model.norm", "after", change(-1, 0.5)),
    "final norm, one position": ("ln_final", "model.norm", "after", change(12, 0.5)),
    "projection's input": ("blocks.1.attn.q", "model.layers.1.self_attn.q_proj", "before", change(slice(3, 9), 0.5)),
    "projection's output": ("blocks.1.attn.v", "model.layers.1.self_attn.v_proj", "after", change(slice(3, 9), 0.0)),
    "a patch of all": ("blocks.1", "model.layers.1", "after", lambda x: torch.arange(640.0).view(1, 20, 32).sin()),
    "a patch of all that is read": ("ln_final", "model.norm", "after", lambda x: torch.full_like(x, 0.1)),
}


@pytest.mark.filterwarnings("ignore:layer_entropy_bits is NaN")
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_a_torch_hook_counts_once_and_where_it_is(case, warm):
    place, original, when, function = CASES[case]
    model = tiny_model("llama")
    bridge = inversion.load_model(model)
    if warm:
        inversion.probe(bridge, PROMPT, RESPONSE)
    modules = (bridge.get_submodule(place), model.get_submodule(original))
    for module in modules:
        if when == "after":
            module.register_forward_hook(as_output(function))
        else:
            module.register_forward_pre_hook(as_input(function))
    capture = inversion.probe(bridge, PROMPT, RESPONSE)
    check(model, capture)
    assert capture.attrs["attention"] == "eager"


def in_place(x, hook):
    x[:, 10:12] *= 0.5


@pytest.mark.filterwarnings("ignore:layer_entropy_bits is NaN")
@pytest.mark.parametrize(
    ("point", "original"),
    [
        ("ln_final.hook_out", "model.norm"),
        ("blocks.0.attn.q.hook_out", "model.layers.0.self_attn.q_proj"),
        ("blocks.1.hook_out", "model.layers.1"),
    ],
)
def test_a_hook_point_may_change_a_part_in_place(point, original):
    model = tiny_model("llama")
    bridge = inversion.load_model(model)
    bridge.add_hook(point, in_place)
    model.get_submodule(original).register_forward_hook(as_output(change(slice(10, 12), 0.5)))
    check(model, inversion.probe(bridge, PROMPT, RESPONSE))
    bridge.reset_hooks()
    assert inversion.probe(bridge, PROMPT, RESPONSE).attrs["attention"] == "piecewise"


def test_a_hook_that_gradients_cannot_go_through_is_refused():
    bridge = inversion.load_model(tiny_model("llama"))
    bridge.add_hook("blocks.1.attn.hook_pattern", in_place)
    with pytest.raises(InputError, match="return a changed copy"):
        inversion.probe(bridge, PROMPT, RESPONSE)


def test_a_hook_on_the_bridge_itself_is_refused():
    bridge = inversion.load_model(tiny_model("llama"))
    bridge.register_forward_hook(lambda *_: None)
    with pytest.raises(InputError, match="original_model"):
        inversion.probe(bridge, PROMPT, RESPONSE)


def test_hooks_that_a_model_comes_with_count_too():
    model = tiny_model("llama")
    model.model.norm.register_forward_hook(as_output(change(12, 0.5)))
    bridge = inversion.load_model(model)
    with pytest.warns(UserWarning, match="hooked into the final norm"):
        check(model, inversion.probe(bridge, PROMPT, RESPONSE))


def test_a_gradient_that_a_hook_changes_on_its_way_back_counts():
    model = tiny_model("llama")
    bridge = inversion.load_model(model)
    for block in (bridge.blocks[1], model.model.layers[1]):
        block.register_full_backward_hook(lambda module, to_input, to_output: (0.5 * to_input[0], *to_input[1:]))
    check(model, inversion.probe(bridge, PROMPT, RESPONSE))


@pytest.mark.parametrize("family", ["opt", "gpt_neox", "gpt2"])
def test_what_libraries_hook_into_a_model_is_no_intervention(family):
    bridge = inversion.load_model(tiny_model(family))
    for _ in range(2):
        assert not is_hooked(bridge)
        inversion.probe(bridge, PROMPT, RESPONSE)
    bridge.add_hook("blocks.1.hook_out", in_place)
    assert is_hooked(bridge)
    bridge.reset_hooks()
    assert not is_hooked(bridge)


def test_steering_counts():
    model = tiny_model("llama")
    bridge = inversion.load_model(model)
    vector = np.linspace(-1, 1, 32)
    model.model.layers[2].register_forward_hook(as_output(lambda x: x + torch.tensor(vector, dtype=x.dtype)))
    inversion.probe(bridge, PROMPT, RESPONSE)
    with steered(bridge, 2, vector):
        check(model, inversion.probe(bridge, PROMPT, RESPONSE))


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_a_model_in_training_mode_is_probed_in_evaluation_mode(family):
    dropout = {"gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop"), "gpt_neox": ("hidden_dropout",)}[family]
    bridge = inversion.load_model(tiny_model(family, **dict.fromkeys(dropout, 0.5)))
    expected = inversion.probe(bridge, PROMPT, RESPONSE)
    bridge.train()
    bridge.original_model.train()
    bridge.blocks[1].eval()
    modes = [module.training for module in bridge.original_model.modules()]
    plans._PLANS.clear()
    state = torch.random.get_rng_state()
    found = inversion.probe(bridge, PROMPT, RESPONSE)
    np.testing.assert_array_equal(found.nuclear, expected.nuclear)
    np.testing.assert_array_equal(found.layer_entropy_bits, expected.layer_entropy_bits)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert bridge.training
    assert [module.training for module in bridge.original_model.modules()] == modes
    assert False in modes


@pytest.mark.parametrize("quantity", ["logit", "log_prob", "entropy"])
@pytest.mark.parametrize("around", [lambda: torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode])
@pytest.mark.parametrize("warm", [False, True])
def test_what_the_caller_is_in_changes_nothing(around, quantity, warm):
    bridge = inversion.load_model(tiny_model("gpt2"))
    expected = inversion.probe(bridge, PROMPT, RESPONSE, quantity=quantity)
    if not warm:
        bridge = inversion.load_model(tiny_model("gpt2"))
    with around():
        found = inversion.probe(bridge, PROMPT, RESPONSE, quantity=quantity)
    for name in ("nuclear", "entropy_bits", "layer_entropy_bits"):
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_model_may_be_loaded_in_inference_mode(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    with torch.inference_mode():
        bridge = inversion.load_model(tmp_path)
    assert inversion.probe(bridge, PROMPT, RESPONSE).nuclear.notnull().all()


def test_a_plan_does_not_depend_on_what_was_probed_first():
    bridge = inversion.load_model(tiny_model("llama"))
    inversion.probe(bridge, [5], [5] * 12)
    assert plans._PLANS[bridge] == plans.Plan("rows")


@pytest.mark.filterwarnings("ignore:.*not finite")
def test_no_plan_is_remembered_of_broken_weights():
    bridge = inversion.load_model(tiny_model("llama"))
    with torch.no_grad():
        weight = bridge.blocks[1].attn.o.original_component.weight
        before = weight.clone()
        weight.fill_(torch.nan)
        inversion.probe(bridge, PROMPT, RESPONSE)
        assert bridge not in plans._PLANS
        weight.copy_(before)
    inversion.probe(bridge, PROMPT, RESPONSE)
    assert plans._PLANS[bridge] == plans.Plan("rows")


def test_running_out_of_memory_in_the_trial_is_no_reason_for_a_plainer_plan(monkeypatch):
    bridge = inversion.load_model(tiny_model("llama"))

    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("inversion.probes.gradients.streams.Streams.__init__", fail)
        with pytest.raises(inversion.probes.DoesNotFit):
            inversion.probe(bridge, PROMPT, RESPONSE)
    assert bridge not in plans._PLANS


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_gradient_that_cancels_does_not_speak_against_a_plan(dtype):
    """Where all tokens are alike, so are all values, and attention's gradient is nothing but rounding."""
    model = tiny_model("llama", dtype=dtype)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(model.model.embed_tokens.weight[:1].expand(53, -1).clone())
    bridge = inversion.load_model(model)
    assert plans.plan_for(bridge).batched
