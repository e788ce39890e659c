"""The nuclear norm by matrix products, against singular values in float64."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import tiny_model

import inversion
from inversion.probes import norms, polar
from inversion.probes.polar import EIGENVALUES, POLAR, FasterWay, coefficients, polar_nuclear_norms

PROMPT, RESPONSE = list(range(3, 9)), list(range(9, 30))


def with_values(values, rows, columns):
    """Two random matrices with these singular values."""
    left = torch.linalg.qr(torch.randn(2, rows, len(values))).Q
    return (left * values) @ torch.linalg.qr(torch.randn(2, columns, len(values))).Q.mT


@pytest.mark.parametrize("shape", [(1, 1), (8, 30), (30, 8), (64, 64)])
@pytest.mark.parametrize("decades", [0, 2, 6, 12])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e15])
def test_it_is_the_sum_of_the_singular_values_however_they_fall_off(shape, decades, scale):
    torch.manual_seed(decades)
    matrices = with_values(torch.logspace(0, -decades, min(shape)), *shape) * scale
    expected = torch.linalg.svdvals(matrices.double()).sum(-1)
    torch.testing.assert_close(polar_nuclear_norms(matrices), expected, rtol=1e-6, atol=0)


def test_low_rank_zero_and_broken_matrices():
    torch.manual_seed(0)
    matrices = torch.stack([torch.randn(20, 3) @ torch.randn(3, 20), torch.zeros(20, 20), torch.zeros(20, 20)])
    matrices[2, 4, 5] = torch.inf
    found = polar_nuclear_norms(matrices)
    expected = torch.linalg.svdvals(matrices[0].double()).sum()
    torch.testing.assert_close(found[:2], torch.stack([expected, expected * 0]), rtol=1e-6, atol=0)
    assert found[2].isnan()


def test_the_chain_takes_every_singular_value_to_one():
    x = np.geomspace(polar.SMALLEST, 1, 5000)
    for a, b, c in coefficients(polar.SMALLEST):
        assert x.max() < 2
        x = a * x + b * x**3 + c * x**5
        assert x.min() > 0  # a change of sign would never be undone
    assert np.abs(x - 1).max() < 2 * polar.CLOSE


def test_a_probe_that_goes_this_way_gives_the_same_norms_and_says_so(monkeypatch):
    bridge = inversion.load_model(tiny_model("llama"))
    expected = inversion.probe(bridge, PROMPT, RESPONSE)
    monkeypatch.setattr(norms, "_faster", lambda matrices, ways: POLAR)
    found = inversion.probe(bridge, PROMPT, RESPONSE)
    np.testing.assert_allclose(found.nuclear, expected.nuclear, rtol=1e-5)
    assert (expected.attrs["nuclear_by"], found.attrs["nuclear_by"]) == ([EIGENVALUES], [POLAR])
    # The last layer's q and o are of rank one; they need neither.
    assert not np.array_equal(found.nuclear, expected.nuclear)


def test_the_faster_way_is_found_by_trying_once_for_a_size(monkeypatch):
    seconds, tried = {EIGENVALUES: 2.0, POLAR: 1.0}, []
    monkeypatch.setattr(polar, "_seconds", lambda way, matrices: tried.append(way) or seconds[way])
    faster = FasterWay()

    def choose(device, rows, dtype=torch.float32):
        given = SimpleNamespace(device=torch.device(device), dtype=dtype, shape=(8, rows, 900))
        return faster(given, {name: name for name in seconds})  # pyright: ignore[reportArgumentType]

    assert choose("cuda", 300) == POLAR
    seconds[EIGENVALUES] = 0.5
    assert [choose("cuda", 310), choose("cuda", 700)] == [POLAR, EIGENVALUES]
    assert len(tried) == 4
    assert [choose("cpu", 300), choose("cuda", 300, torch.float64)] == [EIGENVALUES] * 2
    assert len(tried) == 4
