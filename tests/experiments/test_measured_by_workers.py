"""Surveys and the measurements before and after training on workers: the same bytes as in one process."""

import json

import pytest
import yaml

from inversion.cli import main
from inversion.engine import Workers
from inversion.experiments import finetuning
from inversion.experiments.finetuning import training_problems
from inversion.experiments.spec import read_spec

ON_WORKERS = ["--workers", "2", "--threads-per-worker", "1", "--gpus-per-worker", "0"]


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "sums.jsonl"
    sums = [{"prompt": f"{a} + {b} =", "answer": str(a + b)} for a in range(1, 6) for b in range(5)]
    path.write_text("\n".join(map(json.dumps, sums)))
    return path


def test_a_survey_on_workers_has_the_runs_of_one_process(checkpoint, rows, tmp_path):
    pytest.importorskip("ray")
    spec = {
        "models": {"tiny": {"model": str(checkpoint())}},
        "benchmarks": {"sums": {"prompts": str(rows)}},
        "measurements": {"few": {"targets": 6, "max_new_tokens": 10}},
    }
    (tmp_path / "survey.yaml").write_text(yaml.safe_dump(spec))
    command = ["survey", str(tmp_path / "survey.yaml"), "--resamples", "50", "--out"]
    assert main([*command, str(tmp_path / "alone")]) == 0
    assert main([*command, str(tmp_path / "together"), *ON_WORKERS]) == 0
    alone, together = (contents(tmp_path / name / "runs" / "tiny") for name in ("alone", "together"))
    assert "tokens-00001.parquet" in alone
    assert together == alone


@pytest.fixture
def training(checkpoint, rows, tmp_path):
    return [f"model={checkpoint()}", f"problems={rows}", "held_out_limit=9", "device=cpu", "max_completion_length=12"]


def test_what_training_measures_on_workers_is_what_one_process_measures(training, tmp_path):
    pytest.importorskip("ray")
    spec = read_spec("demo", training)
    _, held_out = training_problems(spec)
    for name, workers in (("alone", None), ("together", Workers(1, threads=1, gpus=0))):
        finetuning._measure(spec, spec.model, held_out, tmp_path / name, workers)
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")


def test_the_options_reach_both_measurements(training, tmp_path, monkeypatch):
    asked, measure_run = [], finetuning.measure_run
    monkeypatch.setattr(
        finetuning, "measure_run", lambda *a, workers, **k: asked.append(workers) or measure_run(*a, **k)
    )
    options = [
        *training,
        "num_generations=4",
        "per_device_train_batch_size=8",
        "max_steps=1",
        f"out={tmp_path / 'out'}",
    ]
    assert main(["train", "demo", *options, *ON_WORKERS]) == 0
    assert asked == [Workers(2, None, 0.0, 1)] * 2
