"""A small study from end to end, on the shipped model that thinks."""

import random

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from tiny import tiny_model

import inversion
from inversion import InputError
from inversion.cli import main
from inversion.critique import Settings, study
from inversion.critique.mistakes import demo_cases, inject_error
from inversion.demo.tasks import distinct_problems
from inversion.figures.of_critique import critique_figure, read_tables, write_page

pytest.importorskip("reasoning_gym")
SETTINGS = Settings(alphas=(-1.0, 0.0, 1.0), random=1, steered=4, measured=4, max_new_tokens=80, resamples=100)


@pytest.fixture(scope="module")
def model():
    return inversion.load_model("slow")


@pytest.fixture(scope="module")
def cases():
    rng = random.Random(0)
    return [inject_error(problem, rng) for problem in distinct_problems("spell_backward", "held_out", 24, 0)]


@pytest.fixture(scope="module")
def folder(model, cases, tmp_path_factory):
    return study(model, cases, tmp_path_factory.mktemp("critique") / "slow", SETTINGS)


def test_the_tables_hold_together(folder):
    outcomes = pd.read_csv(folder / "outcomes.csv")
    rates = pd.read_csv(folder / "rates.csv").set_index(["condition", "task", "outcome"])
    assert len(outcomes) == 24
    assert outcomes.split.value_counts().to_dict() == {"train": 12, "validation": 4, "test": 8}
    hidden = int((outcomes.injected == "hidden critique").sum())
    assert hidden == rates.loc[("injected", "all", "hidden critique"), "count"] > 5
    for row in outcomes.itertuples():
        assert row.injected_text.startswith(row.opening)
        right = f"<answer>{row.answer}</answer>"
        assert (right in row.injected_text) == (row.injected in ("both right", "hidden critique"))
    probe = pd.read_csv(folder / "probe.csv")
    assert probe.layer.tolist() == [0, 1, 2, 3]
    assert ((probe.low <= probe.auroc) & (probe.auroc <= probe.high)).all()


def test_no_steering_gives_the_answers_that_were_given(folder):
    outcomes = pd.read_csv(folder / "outcomes.csv")
    steering = pd.read_csv(folder / "steering.csv")
    test = outcomes[outcomes.split == "test"].head(4)
    for condition in ("original", "injected"):
        right = test[condition].isin(["both right", "hidden critique"]).mean()
        row = steering[(steering.alpha == 0) & (steering.condition == condition)].iloc[0]
        assert row.accuracy == pytest.approx(right)
        assert row.gained == row.lost == 0
    assert len(steering) == 2 * (1 + 3 * 2)
    one = steering[(steering.direction == "critique vector") & (steering.condition == "injected")]
    base = steering[(steering.alpha == 0) & (steering.condition == "injected")].iloc[0]
    assert ((one.gained - one.lost) / 4).tolist() == pytest.approx((one.accuracy - base.accuracy).tolist())


def test_the_runs_are_ordinary_ones(folder):
    runs = [inversion.load_run(folder / "runs" / name) for name in ("original", "injected")]
    rho = pd.read_csv(folder / "rho.csv").set_index(["condition", "group"])
    assert inversion.correlate(runs[0]).estimate == pytest.approx(rho.loc[("original", "all"), "rho"], rel=1e-4)
    assert runs[1]["prompt_id"].values[0] == runs[0]["prompt_id"].values[0]  # so that the two are compared by problem


def test_rho_before_the_error_is_that_of_its_tokens(folder, cases):
    run = inversion.load_run(folder / "runs" / "injected")
    strength = run.nuclear.mean(("layer", "projection")).values
    before = []
    for number in range(SETTINGS.measured):
        own = np.flatnonzero(run["response"].values == number)
        ends = np.cumsum([len(text) for text in run["token_text"].values[own]])
        before += own[ends <= cases[number].error[0]].tolist()
    rho = pd.read_csv(folder / "rho.csv").set_index(["condition", "group"])
    row = rho.loc[("injected", "before the error")]
    assert row.tokens == len(before) > 20
    assert row.rho == pytest.approx(spearmanr(strength[before], run.entropy_bits.values[before])[0], rel=1e-4)
    assert rho.loc[("injected", "the error"), "tokens"] >= SETTINGS.measured
    assert rho.loc[("injected", "correction"), "responses"] == rho.loc[("injected", "correction"), "tokens"]


def test_a_finished_study_is_read_and_not_repeated(folder, model, cases, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("generated again")

    monkeypatch.setattr("inversion.critique.experiment.generate", refuse)
    before = (folder / "steering.csv").read_bytes()
    (folder / "steering.csv").unlink()
    assert study(model, cases, folder, SETTINGS) == folder
    assert (folder / "steering.csv").read_bytes() == before


def test_other_work_is_not_overwritten(folder, model, cases):
    with pytest.raises(InputError, match="another critique study"):
        study(model, cases, folder, Settings(seed=5))


def test_page_and_figure(folder):
    page = write_page(folder)
    assert "hidden critique" in page
    assert (folder / "critique.md").read_text() == page + "\n"
    assert (folder / "critique.pdf").stat().st_size > 5000
    drawn = critique_figure(read_tables(folder))
    steering = read_tables(folder)["steering"]
    lines = drawn.figure.axes[2].get_lines()
    assert len(lines) == 2 * 3
    shown = steering[(steering.condition == "injected") & (steering.direction.isin(["critique vector", "no steering"]))]
    assert lines[0].get_ydata().tolist() == pytest.approx(shown.sort_values("alpha").accuracy.tolist())


def test_without_recoveries_rates_remain_and_the_reason_is_said(cases, tmp_path):
    from inversion.demo.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    weak = inversion.load_model(
        tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=512), tokenizer=tokenizer
    )
    told = []
    settings = Settings(measured=0, max_new_tokens=5)
    folder = study(weak, cases[:6], tmp_path / "weak", settings, tell=told.append)
    assert "No vector" in told[0]
    assert not (folder / "probe.csv").exists()
    assert "both wrong" in write_page(folder)


def test_the_command_refuses_what_it_cannot_use(capsys, tmp_path):
    command = ["critique", "--model", "slow", "--out", str(tmp_path / "out")]
    assert main([*command, "--limit", "0"]) == 2
    assert main([*command, "--limit", "3"]) == 2
    assert main([*command, "--layer", "9"]) == 2
    assert main([*command, "--random", "-1"]) == 2
    assert main([*command, "--cases", "none.jsonl"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="holds no finished"):
        read_tables(tmp_path)


def test_demo_cases_take_turns_between_tasks():
    found = demo_cases(9)
    assert [case.task for case in found[:3]] == ["chain_sum", "number_sorting", "spell_backward"]
    assert len({case.prompt for case in found}) == 9
    assert [case.opening for case in demo_cases(9)] == [case.opening for case in found]


def test_torch_is_left_alone(model):
    assert torch.is_grad_enabled()
    assert not any(block._forward_hooks for block in model.blocks)
