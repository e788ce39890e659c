"""Surveys: read strictly, measured cell by cell, resumed without loading models, and summed up."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

import inversion
from inversion import InputError
from inversion.cli import main
from inversion.experiments import survey as surveys
from inversion.experiments.survey import read_survey, run_survey
from inversion.experiments.survey_estimate import estimate

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def spec(checkpoint, tmp_path_factory):
    """Two tiny models on two files."""
    folder = tmp_path_factory.mktemp("survey")
    for name, first in (("sums", 1), ("more", 5)):
        rows = [{"prompt": f"{a} + {b} =", "answer": str(a + b)} for a in range(first, first + 2) for b in range(2)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    model = {"family": "tiny", "think_tags": ["[", "]"]}
    return {
        "models": {
            "first": {"model": str(checkpoint()), "kind": "base", **model},
            "second": {"model": str(checkpoint("qwen2")), "kind": "reasoning", **model},
        },
        "benchmarks": {name: {"prompts": str(folder / f"{name}.jsonl"), "limit": 3} for name in ("sums", "more")},
        "measurements": {"few": {"targets": 6, "max_new_tokens": 10}},
        "seed": 3,
    }


def write(folder, spec):
    path = folder / "survey.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return str(path)


@pytest.fixture(scope="module")
def done(spec, tmp_path_factory):
    """The whole command, and what it printed."""
    folder = tmp_path_factory.mktemp("done")
    assert main(["survey", write(folder, spec), "--out", str(folder / "out"), "--resamples", "100"]) == 0
    return folder


def test_a_survey_ends_with_tables_figure_and_report(done):
    out = done / "out"
    assert sorted(path.name for path in (out / "runs").iterdir()) == [
        "first-more",
        "first-sums",
        "second-more",
        "second-sums",
    ]
    assert (out / "figures" / "fingerprint.pdf").is_file()
    assert "second-sums" in (out / "report.html").read_text(encoding="utf-8")
    table = pd.read_csv(out / "survey.csv").set_index("run")
    run = inversion.load_run(out / "runs" / "second-sums")
    alone = inversion.correlate(run, resamples=100, seed=3)
    row = table.loc["second-sums"]
    assert (row.rho_position, row.low_position) == pytest.approx((alone.estimate, alone.low))
    assert (row.kind, row.n_responses) == ("reasoning", 3)
    assert "| second-sums |" in (out / "survey.md").read_text(encoding="utf-8")
    pairs = pd.read_csv(out / "pairs.csv")
    assert set(zip(pairs["first"], pairs["second"], strict=True)) == {
        ("first-sums", "second-sums"),
        ("first-more", "second-more"),
    }
    runs = [inversion.load_run(out / "runs" / f"{name}-sums") for name in ("first", "second")]
    difference = inversion.compare(*runs, resamples=100, seed=3)
    assert pairs.estimate[0] == pytest.approx(difference.estimate)
    assert (pairs.q_value >= pairs.p_value - 1e-12).all()
    manifest = json.loads((out / "runs" / "first-sums" / "run.json").read_text())
    assert manifest["responses"]["think_tags"] == ["[", "]"]
    assert manifest["measurement"]["targets"] == 6


def test_a_finished_survey_is_read_without_loading_a_model_and_a_changed_cell_is_not(done, spec, monkeypatch):
    monkeypatch.setattr(surveys, "_load", lambda *_: pytest.fail("a model was loaded"))
    survey = read_survey(write(done, spec))
    assert run_survey(survey, done / "out", lambda line: None) == []
    assert "complete" in estimate(survey, done / "out")
    spec = {**spec, "seed": 4}
    assert not surveys.is_done(next(read_survey(write(done, spec)).cells()), done / "out")


def test_one_model_that_fails_stops_no_other(spec, tmp_path, capsys):
    models = {"gone": {"model": str(tmp_path / "gone")}, "second": spec["models"]["second"]}
    path = write(tmp_path, {**spec, "models": models, "benchmarks": {"sums": spec["benchmarks"]["sums"]}})
    assert main(["survey", path, "--out", str(tmp_path / "out"), "--resamples", "50"]) == 2
    printed = capsys.readouterr()
    assert "1 of 2 runs failed; the first, gone: there is no model folder" in printed.err
    assert pd.read_csv(tmp_path / "out" / "survey.csv")["run"].tolist() == ["second"]


def test_the_estimate_counts_operations_and_measures_nothing(spec, tmp_path, capsys):
    assert main(["survey", write(tmp_path, spec), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    assert not (tmp_path / "out").exists()
    model = inversion.load_model(spec["models"]["first"]["model"]).original_model
    embedded = sum(p.numel() for p in model.get_input_embeddings().parameters())
    parameters = sum(p.numel() for p in model.parameters()) - embedded
    expected = 3 * parameters * 10 * (4 + 6)  # responses, parameters, tokens, passes
    assert f"{expected:.1e}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"modells": {}}, "field 'modells' is not known; did you mean models"),
        ({"models": {"a": {"model": "fast", "dtipe": "x"}}}, "models.a: field 'dtipe' .* did you mean dtype"),
        ({"models": {"a": {"family": "x"}}}, "models.a lacks model"),
        ({"models": {"a": "fast"}}, "models.a is 'fast'; write its fields"),
        ({"models": {"a/b": {"model": "fast"}}}, "has a slash"),
        ({"models": {}}, "models holds nothing"),
        ({"benchmarks": {"a": {"prompts": "x.jsonl", "limit": "ten"}}}, "limit is 'ten', which is not a whole number"),
        ({"benchmarks": {"a": {"prompts": "x.jsonl", "samples": 0}}}, "samples is 0"),
        ({"measurements": {"a": {"norms": "nuclear"}}}, "norms is 'nuclear', which is not a list"),
        ({"measurements": {"a": {"temperature": -1}}}, "temperature is -1"),
        ({"pairs": [["first", "secund"]]}, "did you mean second"),
        ({"pairs": ["first"]}, "is not two names"),
        ({"seed": 1.5}, "seed is 1.5, which is not a whole number"),
    ],
)
def test_mistakes_in_the_file_are_one_sentence(spec, tmp_path, change, match):
    with pytest.raises(InputError, match=match):
        read_survey(write(tmp_path, {**spec, **change}))


def test_the_surveys_that_come_along_can_be_read():
    paper, demo = (read_survey(str(ROOT / "surveys" / f"{name}.yaml")) for name in ("paper", "demo"))
    families = {}
    for model in paper.models.values():
        families.setdefault(model.family, []).append(model.kind)
        assert model.model.count("/") == 1
        assert model.chat == (model.kind != "base")
    assert families["Llama-3.1-8B"] == families["Qwen2.5-Math-7B"] == ["base", "instruct", "reasoning"]
    assert all(kinds[0] == "base" for kinds in families.values())
    assert ("Llama-3.1-8B", "R1-Distill-Llama-8B") in paper.compared()
    assert {model.model for model in demo.models.values()} == {"fast", "half", "slow"}
    assert demo.compared() == [("fast", "half"), ("fast", "slow")]
