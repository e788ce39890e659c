import pytest
import torch
from dumb import norms as dumb_norms

from inversion.probes.norms import factored_norms, l1_norm, rank_one_norms, singular_values, triangular_factor

NORMS = ("nuclear", "frobenius", "spectral")
D_IN, LONGEST = 200, 300


@pytest.mark.parametrize("length", [1, 2, 64, 65, 129, 200, 201, 300])
@pytest.mark.parametrize("d_out", [24, 150, 260])
def test_norms_from_factors_are_those_of_the_gradient_on_every_prefix(length, d_out):
    """Below, at and above the panels' sizes, and whichever of positions, inputs and outputs is the fewest."""
    torch.manual_seed(length)
    inputs = torch.randn(LONGEST, D_IN) * torch.logspace(0, -3, D_IN)
    deltas = torch.randn(2, length, d_out) * torch.logspace(0, -2, d_out)
    found = factored_norms(triangular_factor(inputs), deltas, NORMS, set())
    for i, delta in enumerate(deltas.double()):
        expected = dumb_norms(delta.T @ inputs[:length].double())
        for name in NORMS:
            assert found[name][i].item() == pytest.approx(expected[name], rel=2e-6), name
    absolute = l1_norm(inputs[:length], deltas, tile=64)
    assert absolute[1].item() == pytest.approx((deltas[1].double().T @ inputs[:length].double()).abs().sum().item())


def test_in_float64_small_singular_values_keep_their_digits():
    left, right = (torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64)).Q for _ in range(2))
    values = torch.logspace(0, -12, 40, dtype=torch.float64)
    found = singular_values((left * values @ right)[None])[0]
    torch.testing.assert_close(found.flip(0), values, rtol=1e-3, atol=1e-16)


def test_an_outer_product_has_one_singular_value():
    inputs, delta = torch.randn(3, 17, dtype=torch.float64), torch.randn(3, 11, dtype=torch.float64)
    found = rank_one_norms(inputs, delta, (*NORMS, "l1"))
    for i in range(3):
        for name, expected in dumb_norms(torch.outer(delta[i], inputs[i])).items():
            assert found[name][i].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_matrix_that_is_not_finite_has_no_singular_values_and_spoils_no_other(dtype, bad):
    matrices = torch.randn(3, 9, 5, dtype=dtype)
    expected = singular_values(matrices)
    matrices[1, 4, 2] = bad
    found = singular_values(matrices)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], expected[[0, 2]])
