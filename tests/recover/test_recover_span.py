"""The span: its rank and its distances against errors that were really made."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import lstsq

from inversion.recover import row_span
from inversion.recover.span import ROUNDING, SAFETY, rounding_error


def factors(rows, tokens, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(tokens, rows, generator=generator, dtype=torch.float64)
    inputs = torch.randn(tokens, width, generator=generator, dtype=torch.float64)
    return delta, inputs


def test_a_plane_in_space_by_hand():
    gradient = torch.tensor([[2.0, 0, 0], [0, 3.0, 0], [0, 0, 0]], dtype=torch.float64)
    span = row_span(gradient, torch.float32)
    assert (span.rank, span.width) == (2, 3)
    inside, outside, nothing = span.distances(torch.tensor([[5.0, -7.0, 0], [0, 0, 1e-3], [0, 0, 0]]))
    assert inside < 1e-6
    assert outside > 1e4
    assert math.isinf(nothing)


def test_nothing_is_spanned_by_a_gradient_of_zeros():
    span = row_span(torch.zeros(4, 3, dtype=torch.float64), torch.float32)
    assert span.rank == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [8, 40])
def test_rank_and_span_survive_the_rounding_of_a_real_product(dtype, tokens):
    delta, inputs = factors(96, tokens, 64)
    inputs = inputs.to(dtype).double()
    product = (delta.to(dtype).T @ inputs.to(dtype)).double()
    span = row_span(product, dtype)
    assert span.rank == tokens
    assert span.distances(inputs).amax() < 1
    strangers = torch.randn(500, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert span.distances(strangers).amin() > 1


def test_the_projection_is_that_of_least_squares():
    delta, inputs = factors(30, 5, 20)
    span = row_span(delta.T @ inputs, torch.float64)
    vector = torch.randn(1, 20, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    unit = (vector / vector.norm())[0].numpy()
    solution = lstsq(inputs.numpy().T, unit)[0]
    residual = np.linalg.norm(unit - inputs.numpy().T @ solution)
    explained = span.distances(vector)[0].item() * SAFETY * span.input_error
    # In float64 only the error of the vectors themselves is worth naming, so the distance comes back from it.
    assert explained == pytest.approx(residual, rel=1e-6)


@pytest.mark.parametrize("level", [1e-4, 1e-2])
def test_noise_moves_vectors_of_the_span_as_far_as_predicted(level):
    delta, inputs = factors(200, 20, 100)
    clean = delta.T @ inputs
    noise = level * clean.square().mean().sqrt().item()
    noisy = clean + noise * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    span = row_span(noisy, torch.float32, noise=noise)
    assert span.rank == 20
    ratios = span.distances(inputs) * SAFETY
    assert ratios.mean().item() == pytest.approx(1, abs=0.05)


def test_noise_that_is_not_declared_makes_the_span_everything():
    delta, inputs = factors(200, 20, 100)
    clean = delta.T @ inputs
    noisy = clean + 1e-2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert row_span(noisy, torch.float32).rank == 100


def test_the_rounding_constant_is_that_of_real_roundings():
    mantissas = torch.exp2(torch.rand(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    relative = (mantissas.float().double() - mantissas) / mantissas
    unit = torch.finfo(torch.float32).eps / 2
    assert relative.square().mean().sqrt().item() / unit == pytest.approx(ROUNDING, rel=0.01)


@pytest.mark.parametrize("terms", [16, 256])
def test_sums_round_as_predicted(terms):
    """One product after another, each partial sum rounded to float32, against float64."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(4000, terms, generator=generator)
    b = torch.randn(4000, terms, generator=generator)
    total = torch.zeros(4000)
    for k in range(terms):
        total = (total.double() + a[:, k].double() * b[:, k].double()).float()
    exact = (a.double() * b.double()).sum(1)
    error = (total.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert error.item() == pytest.approx(rounding_error(torch.float32, terms), rel=0.2)
