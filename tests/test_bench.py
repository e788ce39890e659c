from functools import partial

import pytest
import torch

from inversion import bench
from inversion.bench import Shape, gradient_operations, norm_operations, rate, table, time_shape
from inversion.cli import main

# Weights: q and o 16, k and v 8, all of the feed-forward part 3 * 4 * 6 = 72; 120 a block.
ONE = Shape("one", 1, 4, 2, 1, 6, 2)
TWO = Shape("two", 2, 4, 2, 1, 6, 1)
THREE = Shape("three", 3, 4, 2, 1, 6, 2)


def test_the_fewest_operations_counted_by_hand():
    # A forward pass over two positions, and twice one position's way back through feed-forward and o.
    assert gradient_operations(ONE) == 2 * 2 * 120 + 2 * 2 * (72 + 16)
    # Last block: feed-forward, o and q at one position, k and v at one; first block: feed-forward, o, attention.
    assert gradient_operations(TWO) == 2 * 2 * 120 + 2 * (72 + 16 + 16) + 2 * 16 + 2 * (72 + 16) + 4 * 4
    seen = [2 * (72 + 16 + 16) + c * (2 * 16 + 2 * (72 + 16) + 2 * 120) + 2 * 4 * 4 * c * c for c in (1, 2)]
    assert gradient_operations(THREE) == 2 * 2 * 3 * 120 + sum(seen)
    # One dense k and v, 2 wide: R Delta, half of the Gram matrix, tridiagonal form. q and o are rank one.
    assert norm_operations(ONE) == pytest.approx(2 * ((2 + 2 + 4 / 3) + (8 + 8 + 4 / 3 * 8)))


def test_a_rate_is_operations_over_seconds(monkeypatch):
    times = iter([0.5, 0.25])
    monkeypatch.setattr(bench, "_seconds", lambda work, device: next(times))
    assert rate(torch.matmul, size=10, repeats=2) == 2 * 10**3 / 0.25


def test_a_timing_compares_like_with_like_and_its_figures_hang_together():
    timing = time_shape(Shape("tiny", 2, 16, 2, 1, 24, 6), sample=2, repeats=1)
    assert timing.gain == timing.plain_seconds / timing.probe_seconds
    assert timing.strict_share <= timing.share
    assert timing.share * timing.matmul_rate * timing.probe_seconds == pytest.approx(timing.operations)
    assert 0 <= timing.norms < 1
    assert "| tiny | 6 |" in table([timing], "cpu")


def test_the_plain_loop_leaves_what_requires_gradients_as_it_was():
    model = bench.random_model(Shape("tiny", 2, 16, 2, 1, 24, 6))
    model.lm_head.weight.requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.parameters()]
    assert bench.plain_loop(model, [2, 3, 4], 1, [0])[0][0, "q"] >= 0
    assert [parameter.requires_grad for parameter in model.parameters()] == before


def test_a_probe_that_differs_from_the_plain_loop_is_not_timed(monkeypatch):
    loop = bench.plain_loop

    def other(*arguments):
        return [{site: 1.01 * value for site, value in norms.items()} for norms in loop(*arguments)]

    monkeypatch.setattr(bench, "plain_loop", other)
    with pytest.raises(RuntimeError, match="the plain loop"):
        time_shape(Shape("tiny", 2, 16, 2, 1, 24, 6), sample=1, repeats=1)


def test_an_unknown_shape_is_one_sentence(capsys):
    assert main(["bench", "--shapes", "huge"]) == 2
    assert "choose among demo" in capsys.readouterr().err


def test_the_report_for_gpus_measures_what_it_says(monkeypatch):
    monkeypatch.setattr(bench, "NORM_WIDTHS", (40, 60))
    # A processor without instructions for bfloat16 takes minutes over a large product.
    monkeypatch.setattr(bench, "rate", partial(bench.rate, size=128))
    tiny = Shape("tiny", 2, 16, 2, 1, 24, 12)
    monkeypatch.setattr(bench, "GPU_SHAPES", ((tiny, None), (tiny, 4)))
    lines = bench.gpu_report("cpu").splitlines()
    assert [line.split(" | ")[1:4] for line in lines[2:6]] == [
        ["12", n, d] for n in ("all", "4") for d in ("float32", "bfloat16")
    ]
    errors = [float(line.split("|")[4]) for line in lines[9:13]]
    assert max(errors) < 1e-5


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert main(["bench", "--gpu"]) == 2
    assert "no GPU" in capsys.readouterr().err
