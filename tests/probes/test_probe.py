import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import xarray as xr
from dumb import norms as dumb_norms
from dumb import weight_gradients
from tiny import FAMILIES, tiny_model, token_ids

import inversion
from inversion import InputError
from inversion.probes import DoesNotFit, collect
from inversion.probes.gradients import Plan, cut, plans

TOKENS = token_ids(20)
PROMPT, RESPONSE = TOKENS[:6], TOKENS[6:]
NORMS = ("nuclear", "frobenius", "spectral", "l1")


def hooks(bridge):
    return [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in bridge.original_model.modules()]


def largest_error(model, capture, quantity="logit", norms=NORMS):
    worst = 0.0
    for i, layer, projection, gradient in weight_gradients(model, PROMPT, RESPONSE, quantity):
        for name, expected in dumb_norms(gradient).items():
            if name in norms:
                found = capture[name].sel(layer=layer, projection=projection).values[i]
                worst = max(worst, abs(found - expected) / expected)
    return worst


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-7)])
@pytest.mark.parametrize("family", FAMILIES)
def test_norms_equal_the_dumb_way(family, dtype, bound):
    model = tiny_model(family, dtype=dtype)
    capture = inversion.probe(inversion.load_model(model), PROMPT, RESPONSE, norms=NORMS)
    assert capture.nuclear.shape == (14, 3, 4)
    assert largest_error(model, capture, norms=NORMS[:3]) < bound
    # The sum of absolute entries has no factored form; in float32 the dumb way itself is off by 1e-5.
    assert largest_error(model, capture, norms=["l1"]) < 5 * bound


def test_a_model_that_rotates_long_sequences_otherwise_than_short_ones():
    """The prefixes of the first tokens alone would be short ones."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 100.0,
        "short_factor": [1.0] * 4,
        "long_factor": [1.0, 2.0, 4.0, 8.0],
        "original_max_position_embeddings": 12,
    }
    model = tiny_model("llama", rope_parameters=rope)
    bridge = inversion.load_model(model)
    full = inversion.probe(bridge, PROMPT, RESPONSE, norms=NORMS, block=2)
    assert largest_error(model, full, norms=NORMS[:3]) < 1e-5
    first = inversion.probe(bridge, PROMPT, RESPONSE, targets=(0, 3))
    np.testing.assert_allclose(first.nuclear, full.nuclear[[0, 3]], rtol=1e-5)


@pytest.mark.parametrize("quantity", ["log_prob", "entropy"])
def test_other_quantities_equal_the_dumb_way(quantity):
    model = tiny_model("llama", dtype=torch.float64)
    capture = inversion.probe(inversion.load_model(model), PROMPT, RESPONSE, norms=NORMS, quantity=quantity)
    assert largest_error(model, capture, quantity) < 1e-7


@pytest.mark.parametrize("method", ["rows", "cut", "whole"])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(("prefix", "piecewise"), [(True, False), (False, True)])
def test_every_plan_gives_the_same(method, batched, prefix, piecewise):
    bridge = inversion.load_model(tiny_model("gemma2"))
    fast = inversion.probe(bridge, PROMPT, RESPONSE)
    assert plans._PLANS[bridge] == Plan("rows", batched=True, prefix=True, piecewise=True)
    plans._PLANS[bridge] = Plan(method, batched, prefix, piecewise)
    slow = inversion.probe(bridge, PROMPT, RESPONSE)
    for name in ("nuclear", "frobenius", "entropy_bits", "layer_entropy_bits"):
        np.testing.assert_allclose(fast[name], slow[name], rtol=1e-5)


def mixing_model():
    """Let every feed-forward layer also read the position before."""

    class Mixing(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x + torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1])

    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.mlp.down_proj = Mixing(layer.mlp.down_proj)
    return model


def test_a_model_that_mixes_positions_outside_attention_takes_no_shortcut_in_its_last_block():
    model = mixing_model()
    bridge = inversion.load_model(model)
    capture = inversion.probe(bridge, PROMPT, RESPONSE, norms=NORMS)
    assert plans._PLANS[bridge] == Plan("cut")
    assert largest_error(model, capture) < 1e-5
    # The shortcut would be wrong by half.
    plans._PLANS[bridge] = Plan("rows")
    assert largest_error(model, inversion.probe(bridge, PROMPT, RESPONSE, norms=NORMS)) > 0.1


@pytest.mark.parametrize(("block", "chunk"), [(1, 1), (3, 2), (5, 5), (64, 3), (64, 64)])
def test_results_do_not_depend_on_block_and_chunk(block, chunk):
    bridge = inversion.load_model(tiny_model("qwen2"))
    expected = inversion.probe(bridge, PROMPT, RESPONSE)
    found = inversion.probe(bridge, PROMPT, RESPONSE, block=block, chunk=chunk)
    np.testing.assert_allclose(found.nuclear, expected.nuclear, rtol=1e-6)


@pytest.mark.parametrize(("block", "chunk"), [(1000, 16), (7, 3), (16, 1)])
def test_nor_do_those_of_a_trained_model_on_a_long_response(block, chunk):
    bridge = inversion.load_model("slow")
    tokens = token_ids(180, vocabulary=30)
    expected = inversion.probe(bridge, tokens[:20], tokens[20:])
    found = inversion.probe(bridge, tokens[:20], tokens[20:], block=block, chunk=chunk)
    for name in ("nuclear", "frobenius"):
        off = (found[name] / expected[name] - 1).to_numpy()
        # Rounding: the largest of 2,560 depends on the processor's instructions, the mean square hardly does.
        assert np.sqrt(np.mean(off**2)) < 2e-7
        assert np.abs(off).max() < 3e-6


@pytest.fixture
def threads():
    """Return torch's setter of threads; the number is afterwards as it was."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_two_workers_give_what_one_gives_and_leave_the_threads_alone(family, threads):
    bridge = inversion.load_model(tiny_model(family))
    threads(1)
    expected = inversion.probe(bridge, PROMPT, RESPONSE, norms=("nuclear", "l1"), block=2)
    threads(2)
    before = hooks(bridge)
    found = inversion.probe(bridge, PROMPT, RESPONSE, norms=("nuclear", "l1"), block=2)
    for name in ("nuclear", "l1"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)
    assert hooks(bridge) == before
    with ThreadPoolExecutor(1) as pool:
        assert torch.get_num_threads() == pool.submit(torch.get_num_threads).result() == 2


def test_the_failure_of_a_worker_ends_the_others(monkeypatch, threads):
    bridge = inversion.load_model(tiny_model("llama"))
    inversion.probe(bridge, PROMPT, RESPONSE)
    threads(2)
    pull, started = cut.CutGraph._pull_chunk, []

    def fail_first(self, layer, graph, prefix, part, collector):
        started.append(part)
        if part.stop == len(RESPONSE):
            raise RuntimeError("no")
        time.sleep(0.2)
        pull(self, layer, graph, prefix, part, collector)

    monkeypatch.setattr("inversion.probes.gradients.rows.CutGraphWithRows._pull_chunk", fail_first)
    with pytest.raises(RuntimeError, match="no"):
        inversion.probe(bridge, PROMPT, RESPONSE, block=1)
    assert len(started) < len(RESPONSE)


OUT_OF_MEMORY = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes. Error code 12"


@pytest.fixture
def limited(monkeypatch):
    """Let memory run out in norms of more than a few tokens, or always."""

    def limit(most, error=None):
        norms = collect.factored_norms

        def fail(factor, delta, names, ways):
            if len(delta) > most:
                raise error or RuntimeError(OUT_OF_MEMORY)
            return norms(factor, delta, names, ways)

        monkeypatch.setattr(collect, "factored_norms", fail)

    return limit


@pytest.mark.parametrize("error", [None, torch.OutOfMemoryError("CUDA out of memory")])
def test_when_memory_runs_out_the_chunk_is_halved(limited, error):
    bridge = inversion.load_model(tiny_model("llama"))
    expected = inversion.probe(bridge, PROMPT, RESPONSE)
    limited(3, error)
    with pytest.warns(UserWarning, match="going on with 3 tokens at a time"):
        found = inversion.probe(bridge, PROMPT, RESPONSE, block=14, chunk=6)
    np.testing.assert_allclose(found.nuclear, expected.nuclear, rtol=1e-6)


def test_when_memory_runs_out_with_single_tokens_fewer_go_down_together(monkeypatch):
    bridge = inversion.load_model(tiny_model("llama"))
    expected = inversion.probe(bridge, PROMPT, RESPONSE)
    calls = cut.CutGraph._carry
    waves = []

    def fail(self, wave, collector, pace):
        waves.append(wave[0].stop - wave[-1].start)
        if waves[-1] > 4:
            raise RuntimeError(OUT_OF_MEMORY)
        calls(self, wave, collector, pace)

    monkeypatch.setattr(cut.CutGraph, "_carry", fail)
    with pytest.warns(UserWarning, match="7 tokens on the way"):
        found = inversion.probe(bridge, PROMPT, RESPONSE, block=14)
    np.testing.assert_allclose(found.nuclear, expected.nuclear, rtol=1e-6)
    assert waves == [14, 7, 4, 3, 7, 4, 3]


@pytest.mark.filterwarnings("ignore:memory ran out")
@pytest.mark.parametrize("where", ["norms", "forward"])
def test_when_one_token_does_not_fit_it_says_so(monkeypatch, limited, where):
    bridge = inversion.load_model(tiny_model("llama"))
    inversion.probe(bridge, PROMPT, RESPONSE)
    if where == "norms":
        limited(0)
    else:

        def fail(*_):
            raise RuntimeError(OUT_OF_MEMORY)

        monkeypatch.setattr(type(bridge.blocks[1].mlp), "forward", fail)
    with pytest.raises(DoesNotFit, match="20 tokens do not fit"):
        inversion.probe(bridge, PROMPT, RESPONSE)
    assert issubclass(DoesNotFit, InputError)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_later_tokens_change_nothing_before_them(family):
    bridge = inversion.load_model(tiny_model(family))
    before = inversion.probe(bridge, PROMPT, RESPONSE)
    changed = RESPONSE[:8] + token_ids(6, seed=9)
    after = inversion.probe(bridge, PROMPT, changed)
    for name in ("entropy_bits", "surprisal_bits", "logit_space", "layer_entropy_bits", "nuclear", "frobenius"):
        np.testing.assert_allclose(after[name][:8], before[name][:8], rtol=2e-5, err_msg=name)
    assert not np.allclose(after.entropy_bits[9:], before.entropy_bits[9:], rtol=1e-3)


def test_the_last_layers_q_and_o_need_one_backward_pass(monkeypatch):
    bridge = inversion.load_model(tiny_model("llama"))
    full = inversion.probe(bridge, PROMPT, RESPONSE, norms=NORMS)

    def never(*_):
        raise AssertionError("a pass over a prefix")

    monkeypatch.setattr(cut.CutGraph, "run", never)
    fast = inversion.probe(bridge, PROMPT, RESPONSE, norms=NORMS, layers=(-1,), projections=("q", "o"))
    monkeypatch.undo()
    plans._PLANS[bridge] = Plan("whole")
    general = inversion.probe(bridge, PROMPT, RESPONSE, norms=NORMS)
    for name in NORMS:
        np.testing.assert_allclose(fast[name], full[name].sel(layer=[2], projection=["q", "o"]), rtol=1e-6)
        np.testing.assert_allclose(fast[name], general[name].sel(layer=[2], projection=["q", "o"]), rtol=1e-5)


def test_choices_of_layers_projections_and_targets_pick_from_the_full_capture():
    bridge = inversion.load_model(tiny_model("llama"))
    full = inversion.probe(bridge, PROMPT, RESPONSE)
    part = inversion.probe(bridge, PROMPT, RESPONSE, layers=(-3, 1), projections=("o", "k"), targets=(-1, 2, 5))
    assert part.layer.values.tolist() == [0, 1]
    assert part.projection.values.tolist() == ["k", "o"]
    assert part.position.values.tolist() == [2, 5, 13]
    expected = full.isel(token=[2, 5, 13]).sel(layer=[0, 1], projection=["k", "o"])
    for name in ("token_id", "entropy_bits", "layer_entropy_bits", "nuclear", "frobenius"):
        np.testing.assert_allclose(part[name], expected[name], rtol=1e-5, err_msg=name)


def test_drawn_targets_cover_the_range_of_entropy_and_say_what_they_stand_for():
    bridge = inversion.load_model(tiny_model("llama"))
    full = inversion.probe(bridge, PROMPT, RESPONSE)
    drawn = inversion.probe(bridge, PROMPT, RESPONSE, targets=4, seed=3)
    assert drawn.sizes["token"] == 4
    assert drawn.weight.sum() == len(RESPONSE)
    ranks = np.sort(full.entropy_bits.argsort().argsort()[drawn.position.values])
    assert (np.abs(ranks - np.array([1.5, 5.5, 9, 12])) <= 2).all()
    assert drawn.position.identical(inversion.probe(bridge, PROMPT, RESPONSE, targets=4, seed=3).position)


def test_the_model_is_left_as_it_was():
    model = tiny_model("llama")
    model.lm_head.weight.requires_grad_(False)
    bridge = inversion.load_model(model)
    bridge.original_model(torch.tensor([PROMPT]))  # A bridge adds hooks of its own in its first pass.
    before, state = hooks(bridge), torch.random.get_rng_state()
    with torch.no_grad():
        inversion.probe(bridge, PROMPT, RESPONSE)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not model.lm_head.weight.requires_grad
    assert all(p.requires_grad for n, p in model.named_parameters() if n != "lm_head.weight")
    assert all(p.grad is None for p in model.parameters())
    assert hooks(bridge) == before


def test_hooks_are_removed_and_gradients_restored_after_a_failure(monkeypatch):
    bridge = inversion.load_model(tiny_model("llama"))

    bridge.original_model(torch.tensor([PROMPT]))
    before = hooks(bridge)

    def fail(*_):
        raise RuntimeError("no")

    monkeypatch.setattr(type(bridge.blocks[1].mlp), "forward", fail)
    with pytest.raises(RuntimeError, match="no"):
        inversion.probe(bridge, PROMPT, RESPONSE)
    assert hooks(bridge) == before
    assert all(p.requires_grad for p in bridge.original_model.parameters())


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.1), (torch.float16, 0.01)])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_is_close(family, dtype, bound):
    exact = inversion.probe(inversion.load_model(tiny_model(family)), PROMPT, RESPONSE)
    half = inversion.probe(inversion.load_model(tiny_model(family, dtype=dtype)), PROMPT, RESPONSE)
    np.testing.assert_allclose(half.frobenius, exact.frobenius, rtol=bound)
    assert half.attrs["dtype"] == str(dtype).removeprefix("torch.")


def test_broken_weights_give_nan_and_are_counted():
    bridge = inversion.load_model(tiny_model("llama"))
    assert inversion.probe(bridge, PROMPT, RESPONSE).attrs["not_finite"] == 0
    with torch.no_grad():
        bridge.blocks[1].mlp.original_component.up_proj.weight[3, 4] = torch.nan
    with pytest.warns(UserWarning, match="14 of 14 tokens"):
        broken = inversion.probe(bridge, PROMPT, RESPONSE, norms=NORMS)
    assert broken.attrs["not_finite"] == 14
    for name in ("entropy_bits", *NORMS):
        assert broken[name].isnull().all()


def test_numbers_too_large_for_the_dtype_give_nan_and_are_counted():
    model = tiny_model("llama", dtype=torch.float16)
    with torch.no_grad():
        model.model.layers[0].self_attn.v_proj.weight *= 1e6
    with pytest.warns(UserWarning, match="not finite"):
        broken = inversion.probe(inversion.load_model(model), PROMPT, RESPONSE)
    assert broken.attrs["not_finite"] > 0
    assert not np.isinf(broken.nuclear).any()
    assert not np.isinf(broken.frobenius).any()


def test_attributes_name_the_measurement():
    capture = inversion.probe(inversion.load_model(tiny_model("llama")), PROMPT, RESPONSE, quantity="entropy")
    assert capture.attrs["quantity"] == "entropy"
    assert capture.attrs["dtype"] == "float32"
    assert capture.attrs["attention"] == "piecewise"
    assert torch.__version__.startswith(capture.attrs["versions"]["torch"])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"response": []}, "response is empty"),
        ({"prompt": []}, "prompt is empty"),
        ({"prompt": token_ids(60)}, "context"),
        ({"response": [VALUE := 9999, 1]}, "token ids outside"),
        ({"prompt": "text"}, "without a tokenizer"),
        ({"norms": ("nuclear", "trace")}, "trace"),
        ({"layers": (7,)}, "cannot be probed"),
        ({"projections": ("q", "x")}, "choose among q, k, v and o"),
        ({"quantity": "loss"}, "choose among logit"),
        ({"targets": 0}, "at least 1"),
        ({"targets": True}, "targets must be a whole number"),
        ({"targets": (20,)}, "not all among"),
        ({"targets": (0.7, 2.9)}, "a target must be a whole number, not 0.7"),
        ({"layers": (-9, 1)}, r"layers \[-9\] cannot be probed"),
        ({"layers": (0.5,)}, "a layer must be a whole number"),
        ({"block": -2}, "block must be a whole number of at least 1"),
        ({"chunk": 0}, "chunk must be a whole number of at least 1"),
        ({"seed": "one"}, "seed must be a whole number"),
    ],
)
def test_bad_input_is_one_sentence(arguments, match):
    bridge = inversion.load_model(tiny_model("llama"))
    with pytest.raises(InputError, match=match):
        inversion.probe(bridge, **{"prompt": PROMPT, "response": RESPONSE, **arguments})


def test_numpys_whole_numbers_are_whole_numbers():
    bridge = inversion.load_model(tiny_model("llama"))
    choice = {"targets": 3, "layers": [-1], "block": 2, "chunk": 2, "seed": 5}
    expected = inversion.probe(bridge, PROMPT, RESPONSE, **choice)
    mine = {name: np.int64(value) if name != "layers" else np.int64(-1) for name, value in choice.items()}
    xr.testing.assert_equal(inversion.probe(bridge, PROMPT, RESPONSE, **mine), expected)
    some = inversion.probe(bridge, PROMPT, RESPONSE, targets=np.array([2, -1]))
    assert some.position.values.tolist() == [2, 13]
    assert inversion.probe(bridge, PROMPT, RESPONSE, targets=3, seed=-1).sizes["token"] == 3
