"""Problems within reach of the model, with samples whose right ones are known."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from inversion.cli import main
from inversion.errors import InputError
from inversion.experiments import difficulty
from inversion.experiments.difficulty import within_reach
from inversion.experiments.finetuning import training_problems
from inversion.experiments.spec import TrainSpec


@pytest.fixture
def spec(monkeypatch):
    """Ten candidates of each kind; of the i-th, i of 8 samples are right, up to all."""

    def draw(model, problems, n, generation, seed):
        assert (n, seed) == (difficulty.SAMPLES, difficulty.SEED)
        return SimpleNamespace(right=np.array([[float(j < i) for j in range(n)] for i in range(len(problems))]))

    monkeypatch.setattr(difficulty, "draw_samples", draw)
    fields = {"task_options": {"tasks": ["chain_sum"]}, "limit": 10, "held_out_limit": 10}
    return TrainSpec().changed(fields)


def test_only_problems_within_reach_are_trained_on_and_held_out(spec, tmp_path):
    candidates = training_problems(spec)
    chosen = within_reach(spec, [0.25, 0.75], tmp_path)
    for given, kept in zip(candidates, training_problems(chosen), strict=True):
        assert {p.prompt for p in kept} == {p.prompt for p in given[2:7]}
        assert {p.scorer(f"<answer>{p.answer}</answer>") for p in kept} == {1.0}
    lines = [json.loads(line) for line in (tmp_path / "held-out.jsonl").read_text().splitlines()]
    assert [line["solve_rate"] for line in lines] == [0.25, 0.375, 0.5, 0.625, 0.75]


def test_what_was_chosen_once_stays(spec, tmp_path, monkeypatch):
    chosen = within_reach(spec, [0.25, 0.75], tmp_path)
    monkeypatch.setattr(difficulty, "draw_samples", None)
    assert within_reach(spec, [0.25, 0.75], tmp_path) == chosen


def test_what_cannot_be_chosen_is_one_sentence(spec, tmp_path, capsys):
    with pytest.raises(InputError, match="solves none at a rate"):
        within_reach(spec, [0.01, 0.1], tmp_path)
    with pytest.raises(InputError, match="rules of its own"):
        within_reach(spec.changed({"problems": "leg_counting", "task_options": {}}), [0.2, 0.8], tmp_path)
    assert main(["train", "compare", "rho", "solve_rate=0.5", f"out={tmp_path / 'x'}"]) == 2
    assert "give two shares" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
