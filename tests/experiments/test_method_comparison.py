"""Comparisons: estimates against brute force, tables against scipy, and a comparison that is cut off and resumed."""

import itertools
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from scipy.stats import entropy, ttest_1samp, ttest_rel
from tiny import tiny_model, token_ids

import inversion
from inversion.cli import main
from inversion.corrpo.gaming import filler_share, repeated_share
from inversion.errors import InputError
from inversion.experiments import comparison
from inversion.experiments.comparison import SHIPPED, CompareSpec, read_compare_spec
from inversion.experiments.sampling import divergence, pass_at_k
from inversion.experiments.tables import comparison_table, paired_differences
from inversion.statistics.seeds import seed_interval

ROWS = [
    {"prompt": f"Spell this word backward (example: sun -> nus): {w}", "answer": w[::-1]}
    for w in ["cat", "dog", "pig", "hen", "ram", "fox", "owl", "eel"]
]


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(k):
    right = np.array([[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 0, 1, 0, 1], [1, 1, 1, 1, 1]])
    draws = [[any(row[list(chosen)]) for chosen in itertools.combinations(range(5), k)] for row in right]
    assert pass_at_k(right, k) == pytest.approx(np.mean(draws))


def test_pass_at_k_does_not_overflow_and_refuses_what_it_cannot_estimate():
    right = np.zeros((1, 10_000), int)
    right[0, 0] = 1
    assert pass_at_k(right, 5000) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="pass@3"):
        pass_at_k(np.zeros((1, 2)), 3)


def test_signs_of_gaming_by_hand():
    # 1234, 2341, 3412, 4123, 1234: five runs, one seen before.
    assert repeated_share([1, 2, 3, 4, 1, 2, 3, 4], 4) == pytest.approx(1 / 5)
    assert repeated_share([1, 2, 3], 4) == 0
    assert filler_share(["So, then 3 is", "take sofa"]) == pytest.approx(2 / 5)
    assert filler_share([""]) == 0


def table_rows():
    rows = []
    generator = np.random.default_rng(0)
    for method, seeds in (("grpo", 4), ("corrpo", 3), ("siren", 1)):
        for seed in range(seeds):
            for when in ("before", "after"):
                values = {name: generator.random() for name in ("pass_at_1", "pass_at_8", "rho_position")}
                values |= {name: generator.random() for name in ("rho_token_type", "tokens", "entropy_bits")}
                values |= {name: generator.random() for name in ("distinct_tokens", "repeated_4grams", "filler_words")}
                rows.append({"method": method, "seed": seed, "when": when, **values})
    return pd.DataFrame(rows)


def test_seed_intervals_are_those_of_a_t_test():
    values = np.array([0.1, 0.4, 0.35, 0.8])
    interval = ttest_1samp(values, 0).confidence_interval(0.95)
    assert seed_interval(values) == pytest.approx((values.mean(), interval.low, interval.high))
    assert np.isnan(seed_interval(values[:1])[1:]).all()


def test_differences_are_paired_by_seed():
    rows = table_rows()
    after = rows[(rows.when == "after") & (rows.seed < 3)]
    a, b = (after[after.method == m].sort_values("seed").pass_at_1.to_numpy() for m in ("corrpo", "grpo"))
    interval = ttest_rel(a, b).confidence_interval(0.95)
    found = seed_interval(paired_differences(rows.sample(frac=1, random_state=1), "pass_at_1", "corrpo"))
    assert found == pytest.approx(((a - b).mean(), interval.low, interval.high))
    text = comparison_table(rows, "pass_at_8")
    assert f"| corrpo | 3 | {100 * found[0]:+.1f}% [{100 * found[1]:+.1f}%, {100 * found[2]:+.1f}%]" in text
    # One seed has no interval.
    assert next(line for line in text.splitlines() if line.startswith("| siren")).count("[") == 0
    assert "minus grpo" not in comparison_table(rows[rows.method == "grpo"], "pass_at_8")


def test_the_shipped_comparison_reads_and_goes_seed_by_seed():
    spec = read_compare_spec("demo", ["methods={grpo: 2, corrpo: 1}", "max_steps=7"])
    assert spec.train.max_steps == 7
    assert [(arm.name, arm.spec.seed) for arm in spec.arms()] == [("grpo", 0), ("corrpo", 0), ("grpo", 1)]
    assert read_compare_spec(str(SHIPPED["demo"])).methods["corrpo"] == 5


def test_runs_of_one_method_may_differ_in_settings():
    spec = read_compare_spec("rho", ["methods={grpo: 2, down: {seeds: 1, method: grpo}}", "methods.down.beta=0.5"])
    arms = [(arm.name, arm.spec.method, arm.spec.seed, arm.spec.options.get("beta")) for arm in spec.arms()]
    assert arms == [("grpo", "grpo", 0, 0.2), ("down", "grpo", 0, 0.5), ("grpo", "grpo", 1, 0.2)]
    assert len({arm.folder for arm in spec.arms()}) == 3


def test_what_could_not_be_scored_counts_for_nothing():
    right = np.array([[1, np.nan, 0, 0], [np.nan, np.nan, np.nan, 1], [np.nan] * 4])
    assert pass_at_k(right, 1) == pytest.approx((1 / 3 + 1) / 2)
    assert pass_at_k(right, 2) == pytest.approx(2 / 3)
    assert np.isnan(pass_at_k(right[2:], 1))


def test_divergence_is_that_of_the_distributions():
    a, b = (inversion.load_model(tiny_model("llama", seed=seed)) for seed in (0, 1))
    texts = [(token_ids(4, 1), token_ids(6, 2)), (token_ids(2, 3), token_ids(9, 4))]
    expected = []
    for prompt, response in texts:
        p, q = (m.original_model(torch.tensor([prompt + response])).logits[0].softmax(-1) for m in (a, b))
        for i in range(len(prompt) - 1, len(prompt) + len(response) - 1):
            expected.append(entropy(p[i].detach().numpy(), q[i].detach().numpy()))
    assert divergence(a, b, texts) == pytest.approx(np.mean(expected), rel=1e-4)
    assert divergence(a, a, texts) == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["methods={}"], "methods is empty"),
        (["methods={ppo: 1}"], "'ppo' is not known"),
        (["methods.grpo=0"], "at least 1"),
        (["pass_k=[1, 99]"], "from 1 to samples"),
        (["method=grpo"], "'method' is not known"),
        (["methods={down: {method: grpo}}"], "0 seeds; give a whole number"),
        (["methods={down: {seeds: 1, method: grpo, model: slow}}"], "all runs of a comparison share"),
        (
            ["methods={down: {seeds: 1, method: grpo, inversion_los_weight: 1}}"],
            "the nearest are inversion_loss_weight",
        ),
        (["methods={down: {seeds: 1, method: grpo, held_out_targets: 4}}"], "all runs of a comparison share"),
        (["samples=many"], "samples is 'many'"),
        (["pass_k=8"], "pass_k is 8"),
        (["steps=7"], "steps is now max_steps"),
    ],
)
def test_bad_comparisons_are_one_sentence(overrides, message):
    with pytest.raises(InputError, match=message) as caught:
        read_compare_spec("demo", overrides)
    assert str(caught.value).endswith(".")


def test_a_comparison_has_to_be_named(capsys):
    with pytest.raises(SystemExit) as left:
        main(["train", "compare"])
    assert left.value.code == 2
    assert "train compare: error: the following arguments are required: config" in capsys.readouterr().err


def write_config(folder, checkpoint):
    problems = folder / "problems.jsonl"
    problems.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    config = folder / "compare.yaml"
    values = {
        "problems": str(problems),
        "model": str(checkpoint("llama", max_position_embeddings=128)),
        "held_out_limit": 2,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 12,
        "max_steps": 2,
        "save_steps": 2,
        "device": "cpu",
        "num_iterations": 2,
        "methods": {"grpo": 2, "corrpo": 1},
        "samples": 3,
        "pass_k": [1, 2],
    }
    config.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return config


def test_a_comparison_cut_off_and_resumed_equals_one_that_was_not(tmp_path, checkpoint, capsys, monkeypatch):
    config = write_config(tmp_path, checkpoint)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(["train", "compare", str(config), f"out={whole}"]) == 0
    assert "pass@2" in capsys.readouterr().out
    rows = pd.read_csv(whole / "comparison.csv")
    assert list(zip(rows.method, rows.seed, rows.when, strict=True)) == [
        (method, seed, when)
        for method, seed in (("grpo", 0), ("corrpo", 0), ("grpo", 1))
        for when in ("before", "after")
    ]
    start = rows[(rows.when == "before") & (rows.seed == 0)].drop(columns="method").drop_duplicates()
    assert len(start) == 1
    curves = pd.read_csv(whole / "curves.csv")
    assert set(curves.method) == {"grpo", "corrpo"}
    assert {"accuracy", "reward", "rho", "entropy_bits", "tokens", "zero_variance_groups"} < set(curves)
    along = pd.read_csv(whole / "entropy.csv")
    assert list(zip(along.method, along.seed, along.step, strict=True)) == [
        (method, seed, 0) for method, seed in (("grpo", 0), ("corrpo", 0), ("grpo", 1))
    ]
    assert along.accuracy[0] == rows.accuracy[0]
    assert (rows.kl_nats[rows.when == "before"] == 0).all()
    assert (rows.kl_nats >= 0).all()
    layers = pd.read_csv(whole / "rho-by-layer.csv")
    assert len(layers) == len(rows) * 2 * 3
    assert read_compare_spec(str(whole / "compare.yaml")).methods == {"grpo": 2, "corrpo": 1}

    trained = []
    train = comparison.train

    def train_twice(spec, **options):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(spec)
        return train(spec, **options)

    with monkeypatch.context() as patch:
        patch.setattr(comparison, "train", train_twice)
        with pytest.raises(SystemExit):
            main(["train", "compare", str(config), f"out={cut}"])
    assert len(pd.read_csv(cut / "comparison.csv")) == 4
    # A kill after training, before the samples were drawn, is resumed as well.
    (cut / "corrpo" / "seed-0" / "samples.json").unlink()
    shutil.rmtree(cut / "corrpo" / "seed-0" / "after")
    assert main(["train", "compare", str(config), f"out={cut}"]) == 2
    assert main(["train", "compare", str(config), f"out={cut}", "max_steps=4", "--resume"]) == 2
    assert "it differs in max_steps" in capsys.readouterr().err
    assert main(["train", "compare", str(config), f"out={cut}", "--resume"]) == 0
    assert (cut / "comparison.csv").read_text() == (whole / "comparison.csv").read_text()
    assert (cut / "curves.csv").read_text() == (whole / "curves.csv").read_text()
    assert (cut / "entropy.csv").read_text() == (whole / "entropy.csv").read_text()
    assert (cut / "table.md").read_text() == (whole / "table.md").read_text()

    parts = tmp_path / "parts"
    assert main(["train", "compare", str(config), f"out={parts}", "--part", "3/3"]) == 2
    assert "ask for fewer parts" in capsys.readouterr().err
    for part in ("2/2", "1/2"):
        assert main(["train", "compare", str(config), f"out={parts}", "--part", part]) == 0
    for name in ("comparison.csv", "curves.csv", "entropy.csv", "table.md"):
        assert (parts / name).read_text() == (whole / name).read_text()


def test_the_spec_of_a_comparison_stands_alone():
    assert CompareSpec(methods={"grpo": 1}).train.method == "corrpo"


def test_rows_of_entropy_by_hand():
    nan = float("nan")
    log = pd.DataFrame(
        {
            "step": [1, 2, 3, 4, 5, 5],
            "held_out_accuracy": [0.5, nan, nan, nan, 0.75, nan],
            "held_out_entropy_bits": [0.4, nan, nan, nan, 0.3, nan],
            "completions/mean_length": [50.0, nan, 54, nan, 60, nan],  # two updates a rollout
            "covariance": [0.1, 0.2, 0.3, 0.4, 0.8, nan],
            "predicted_entropy_change": [-1.0, -2, -3, -4, -8, nan],
            "train_loss": [nan, nan, nan, nan, nan, 0.1],  # the last row is no update
        }
    )
    found = comparison.entropy_rows(log)
    assert found.to_dict("list") == {
        "step": [0, 4],
        "accuracy": [0.5, 0.75],
        "entropy_bits": [0.4, 0.3],
        "tokens": [50, 60],
        "covariance": pytest.approx([0.25, 0.8]),
        "predicted_entropy_change": pytest.approx([-2.5, -8]),
    }
