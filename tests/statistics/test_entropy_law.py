"""The law of entropy on curves whose a and b are known, and on what has too little to fit."""

import numpy as np
import pandas as pd
import pytest

from inversion.errors import InputError
from inversion.statistics.entropy_law import change_correlations, entropy_changes, fit_entropy_law, long_enough


def curves(noise=0.0, steps=80, a=0.2, b=1.1):
    generator, rows = np.random.default_rng(0), []
    for seed in range(5):
        nats = np.linspace(1.2, 0.2, steps)
        accuracy = -a * np.exp(nats) + b + noise * generator.standard_normal(steps)
        rows.append(
            pd.DataFrame({"seed": seed, "step": range(steps), "accuracy": accuracy, "entropy_bits": nats / np.log(2)})
        )
    table = pd.concat(rows)
    table.insert(0, "method", "grpo")
    return table


def test_known_constants_are_found_and_the_rest_is_predicted():
    (law,) = fit_entropy_law(curves().sample(frac=1, random_state=0))
    assert law.a == pytest.approx([0.2] * 5)
    assert law.b == pytest.approx([1.1] * 5)
    assert law.ceiling == pytest.approx([0.9] * 5)
    assert law.error == pytest.approx([0] * 5, abs=1e-9)
    assert (law.last_value > 0.05).all()
    assert str(law).startswith("grpo: a 0.200 [0.200, 0.200], b 1.100")


def test_with_noise_the_interval_over_seeds_holds_the_truth():
    (law,) = fit_entropy_law(curves(noise=0.03))
    assert abs(law.a.mean() - 0.2) < 3 * law.a.std() / 5**0.5
    assert law.error == pytest.approx([0.03] * 5, rel=0.6)


def test_too_little_is_said():
    with pytest.raises(InputError, match="4 or more"):
        fit_entropy_law(curves(steps=7))
    assert not long_enough(curves(steps=7))
    assert long_enough(curves(steps=8))
    assert len(fit_entropy_law(curves(steps=8))[0].a) == 5
    with pytest.raises(InputError, match="no entropy_bits"):
        fit_entropy_law(curves().drop(columns="entropy_bits"))


def test_changes_of_entropy_by_hand():
    nats = {0: (1.0, 0.8, 0.8), 1: (2.0, 1.0, 1.5)}
    rows = [
        ("grpo", seed, step, 0.5, value / np.log(2), 50, 0.1 * step, -0.001 * step)
        for seed, values in nats.items()
        for step, value in zip((0, 2, 6), values, strict=True)
    ]
    names = ["method", "seed", "step", "accuracy", "entropy_bits", "tokens", "covariance", "predicted_entropy_change"]
    found = entropy_changes(pd.DataFrame(rows, columns=names).sample(frac=1, random_state=0))
    assert found[["seed", "step"]].to_numpy().tolist() == [[0, 0], [0, 2], [1, 0], [1, 2]]
    assert found.change.to_numpy() == pytest.approx([-0.1, 0, -0.5, 0.125])
    assert found.covariance.to_numpy() == pytest.approx([0, 0.2, 0, 0.2])
    assert change_correlations(found)["grpo"] == pytest.approx([1, 1])
