import numpy as np
import pytest
import torch
from tiny import FAMILIES, tiny_model, token_ids
from torch import nn
from transformers.pytorch_utils import Conv1D

import inversion
from inversion.probes import linear
from inversion.probes.linear import LinearMaps, product, rows_worth

TOKENS = token_ids(20)

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")


@pytest.fixture(params=[pytest.param(True, marks=needs_onednn), False], ids=["onednn", "blas"])
def onednn(request, monkeypatch):
    """Take every product by the one library and by the other, whatever this processor prefers."""
    monkeypatch.setattr(linear, "prefers_onednn", lambda: request.param)


@pytest.mark.parametrize("shape", [(7,), (64,), (40,), (1, 333), (3, 1, 200)])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_product_is_the_exact_one_to_rounding(onednn, shape, transposed, bias):
    rows, weight, offset = torch.randn(*shape, 33), torch.randn(21, 33), torch.randn(21) if bias else None
    if transposed:
        weight = weight.T.contiguous().T
    exact = rows.double() @ weight.double().T + (0 if offset is None else offset.double())
    torch.testing.assert_close(product(rows, weight, offset).double(), exact, rtol=1e-5, atol=1e-5)


@needs_onednn
def test_onednn_meets_two_numbers_of_rows_only(monkeypatch):
    """It keeps code and memory for each that it meets."""
    met, multiply = set(), torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(linear, "prefers_onednn", lambda: True)
    monkeypatch.setattr(
        torch.ops.mkldnn, "_linear_pointwise", lambda rows, *rest: met.add(len(rows)) or multiply(rows, *rest)
    )
    for length in range(1, 700, 13):
        product(torch.randn(length, 8), torch.randn(4, 8))
    assert met == set(linear.PANELS)


def test_what_is_no_full_panel_counts_for_more():
    assert rows_worth(np.array([0, 64, 320, 10, 74, 96, 127])).tolist() == [0, 64, 320, 20, 84, 128, 128]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_keep_torchs_own_product(onednn, dtype):
    rows, weight = torch.randn(5, 33).to(dtype), torch.randn(21, 33).to(dtype)
    assert torch.equal(product(rows, weight), nn.functional.linear(rows, weight))


@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 5), lambda: Conv1D(5, 6), lambda: nn.Linear(6, 5, bias=False)])
def test_a_prefix_takes_its_rows_and_has_the_same_gradient(onednn, make):
    module, inputs = make(), torch.randn(1, 9, 6)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    maps = LinearMaps(module)
    with maps.kept():
        torch.testing.assert_close(module(inputs), maps_free(make, module)(inputs))
    prefix = inputs[:, :4].clone().requires_grad_()
    cotangents = torch.randn(3, 1, 4, 5)
    with maps.reused():
        written = module(prefix)
    torch.testing.assert_close(written, module(prefix), rtol=1e-5, atol=1e-6)
    expected = [torch.autograd.grad(module(prefix), prefix, c)[0] for c in cotangents]
    one_by_one = [torch.autograd.grad(written, prefix, c, retain_graph=True)[0] for c in cotangents]
    together = torch.func.vmap(lambda c: torch.autograd.grad(written, prefix, c, retain_graph=True)[0])(cotangents)
    torch.testing.assert_close(torch.stack(one_by_one), torch.stack(expected), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together, torch.stack(expected), rtol=1e-5, atol=1e-6)


def maps_free(make, module):
    """Return a copy that no replacement reaches."""
    copy = make()
    copy.load_state_dict(module.state_dict())
    return copy


def test_what_is_reused_is_not_computed_again():
    module, inputs = nn.Linear(6, 5), torch.randn(1, 9, 6)
    maps = LinearMaps(module)
    with maps.kept():
        written = module(inputs)
    with maps.reused():
        # Other rows go in, and the first four of what was kept come out.
        assert torch.equal(module(torch.randn(1, 4, 6)), written[:, :4])


def test_maps_that_run_twice_or_on_single_rows_are_computed_every_time():
    twice, expert = nn.Linear(6, 5), nn.Linear(6, 5)
    maps = LinearMaps(nn.ModuleList([twice, expert]))
    with maps.kept():
        twice(torch.randn(1, 9, 6)), twice(torch.randn(1, 9, 6)), expert(torch.randn(3, 6))
    inputs, rows = torch.randn(1, 4, 6), torch.randn(2, 6)
    expected = twice(inputs), expert(rows)
    with maps.reused():
        assert torch.equal(twice(inputs), expected[0])
        assert torch.equal(expert(rows), expected[1])


def test_a_forward_that_somebody_replaced_and_other_kinds_of_maps_stay():
    class Special(nn.Linear):
        pass

    replaced, special = nn.Linear(6, 5), Special(6, 5)
    replaced.forward = lambda inputs: inputs
    maps = LinearMaps(nn.ModuleList([replaced, special]))
    with maps.kept():
        assert replaced(1) == 1
        assert "forward" not in vars(special)
    assert replaced(1) == 1


@pytest.mark.parametrize("phase", ["kept", "reused"])
def test_the_modules_own_forward_is_back_after_a_failure(phase):
    module = nn.Linear(6, 5)
    maps = LinearMaps(module)
    with maps.kept():
        module(torch.randn(1, 9, 6))
    with pytest.raises(RuntimeError, match="batch2"), getattr(maps, phase)():
        torch.ones(2, 3) @ module(torch.randn(1, 4, 6))
    assert "forward" not in vars(module)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_map_of_a_prefix_is_reused(family, monkeypatch):
    bridge = inversion.load_model(tiny_model(family))
    inversion.probe(bridge, TOKENS[:6], TOKENS[6:])
    computed = []
    monkeypatch.setattr(linear, "product", lambda *a: computed.append(a) or nn.functional.linear(*a))
    with LinearMaps(bridge.original_model).kept():
        bridge.original_model(input_ids=torch.tensor([TOKENS]), use_cache=False)
    forwards = len(computed)
    assert forwards >= 3 * 6
    computed.clear()
    inversion.probe(bridge, TOKENS[:6], TOKENS[6:], block=2, quantity="logit")
    # The head runs once for the uncertainty and once for the gradient.
    assert sum(len(a) == 3 for a in computed) == forwards + 1


@needs_onednn
def test_both_libraries_give_the_same_norms(monkeypatch):
    bridge = inversion.load_model(tiny_model("llama"))
    found = []
    for choice in (True, False):
        monkeypatch.setattr(linear, "prefers_onednn", lambda choice=choice: choice)
        found.append(inversion.probe(bridge, TOKENS[:6], TOKENS[6:]).nuclear)
    torch.testing.assert_close(*(torch.from_numpy(f.values) for f in found), rtol=1e-5, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_operation_is_batched_by_a_loop(family, recwarn):
    bridge = inversion.load_model(tiny_model(family))
    inversion.probe(bridge, TOKENS[:6], TOKENS[6:])
    assert not [w for w in recwarn if "batching rule" in str(w.message)]
