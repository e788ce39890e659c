"""The lineage laboratory on a tiny model: the whole road, resuming, tables against other ways, bad input."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

import inversion
from inversion.cli import main
from inversion.demo.recipe import build_model
from inversion.errors import InputError
from inversion.experiments.lineage import PROFILES, LineageSpec, laboratory, reproduce, schedule, training
from inversion.experiments.lineage.probing import best_start, references
from inversion.experiments.lineage.spec import STARTS, lineage_spec
from inversion.experiments.lineage.tables import masks, publish
from inversion.responses import Problem
from inversion.runs import load_responses
from inversion.scoring import scorer_for

TINY = LineageSpec(
    seeds=1,
    base_steps=12,
    finetune_steps=12,
    rl_steps=12,
    batch_size=6,
    prompts=1,
    generations=2,
    problems=3,
    max_new_tokens=16,
    temperatures=(0.5,),
    width=64,
    layers=1,
)


class Killed(BaseException):
    """Stands for a kill: nothing in the code under test catches it."""


@pytest.fixture(scope="module", autouse=True)
def drawn():
    """What figures were asked for; drawing them takes long and is tested elsewhere."""
    asked = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(laboratory, "make_figures", lambda sources, out: asked.append((sources, out)))
        yield asked


@pytest.fixture(scope="module")
def lineage(tmp_path_factory):
    return reproduce(TINY, tmp_path_factory.mktemp("lineage") / "whole")


def contents(folder):
    """Everything that must not depend on how often a lineage was killed."""
    names = ("model.safetensors", "*.parquet", "*.csv", "run.json")
    return {str(p.relative_to(folder)): p.read_bytes() for name in names for p in sorted(folder.rglob(name))}


def test_schedule_is_log_spaced_and_ends_with_the_last_step():
    assert schedule(1200, 50) == (0, 10, 25, 50, 100, 200, 400, 800, 1200)
    assert schedule(1600, 50) == (0, 10, 25, 50, 100, 200, 400, 800, 1600)
    assert schedule(80, 20) == (0, 10, 20, 40, 80)
    assert schedule(7, 50) == (0, 7)


def test_every_stage_is_trained_measured_and_tabulated(lineage):
    table = pd.read_csv(lineage / "lineage.csv")
    assert list(dict.fromkeys(table.stage)) == list(STARTS)
    for stage, group in table.groupby("stage"):
        assert sorted(set(group.step)) == list(TINY.steps(stage))
        assert set(group.texts) == {
            "base": {"own", "reference"},
            "finetune": {"own", "reference", "own_t0.5"},
        }.get(stage, {"own"})
        for step in set(group.step):
            run = inversion.load_run(lineage / "seed-0" / stage / f"step-{step:06d}" / "run")
            assert run.attrs["complete"]
            assert run.attrs["model"] == f"seed-0/{stage}/step-{step:06d}"
    keys = ["seed", "stage", "step", "texts", "norm", "unit", "control"]
    assert not table.duplicated(keys).any()
    layers = pd.read_csv(lineage / "layers.csv")
    assert len(layers) == sum(len(TINY.steps(stage)) for stage in STARTS) * TINY.layers * 4
    left = [p.name for p in lineage.rglob("*") if p.name in ("state.pt", "trainer") or p.name.endswith(".part")]
    assert left == []


def test_figures_are_asked_for_at_the_end(lineage, drawn):
    assert ([lineage], lineage / "figures") in drawn


def test_rows_agree_with_scipy_on_the_run(lineage):
    table = pd.read_csv(lineage / "lineage.csv")
    table = table[(table.stage == "finetune") & (table.step == 10) & (table.texts == "own")]
    rows = table.set_index(["norm", "unit", "control"])
    folder = lineage / "seed-0" / "finetune" / "step-000010" / "run"
    tokens = _tokens(folder)
    strength = tokens.nuclear.map(np.mean)
    position = rows.loc[("nuclear", "position", "none")]
    assert position.estimate == pytest.approx(spearmanr(strength, tokens.entropy_bits).statistic, abs=1e-6)
    assert position.n_tokens == len(tokens)
    means = pd.DataFrame({"s": strength, "h": tokens.entropy_bits}).groupby(tokens.token_id).mean()
    types = rows.loc[("nuclear", "token_type", "none")]
    assert types.estimate == pytest.approx(spearmanr(means.s, means.h).statistic, abs=1e-6)
    free = tokens.token_text.str.strip().isin(["So", "Then", "Now", "Next", "=", "is", "take", "pick"])
    free &= tokens.token_text.str.len() > 1  # a byte of its own is no free word
    kept = rows.loc[("nuclear", "position", "computed")]
    assert kept.n_tokens == (~free).sum()
    assert kept.estimate == pytest.approx(spearmanr(strength[~free], tokens.entropy_bits[~free]).statistic, abs=1e-6)
    first = tokens.groupby("response").cumcount() < 14
    assert rows.loc[("nuclear", "position", "first")].n_tokens == first.sum()
    responses = load_responses(folder)
    assert position.accuracy == (responses.score == 1).mean()
    assert position.tokens == pytest.approx(len(tokens) / len(responses))


def _tokens(folder):
    return pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("tokens-*.parquet"))], ignore_index=True)


def test_free_words_are_found_by_their_tokens(lineage):
    run = inversion.load_run(lineage / "seed-0" / "finetune" / "step-000000" / "reference")
    found = run.token_text.values[masks(run)["free"]]
    assert set(found) <= {"\nSo ", "\nThen ", "\nNow ", "\nNext ", " = ", " is ", "take ", "pick "}
    assert len(found) >= 2 * run.response.max()


def test_reference_texts_are_right_whole_and_the_same_each_time(lineage):
    problem = Problem("Spell this word backward (example: sun -> nus): cat", None, "tac", "spell_backward")
    (worked,) = references([problem], "chain")
    assert references([problem], "chain")[0].response == worked.response
    assert worked.response is not None
    assert worked.response.endswith("<answer>tac</answer><|end|>")
    assert scorer_for("tags", "tac")(worked.response) == 1
    ids = [
        inversion.load_run(lineage / "seed-0" / "finetune" / f"step-{step:06d}" / "reference").token_id.values
        for step in (0, 12)
    ]
    assert np.array_equal(*ids)
    assert ids[0][-1] == 1  # the end token is measured, as in the model's own responses


@pytest.mark.parametrize("place", ["base", "finetune", "between", "probe", "grpo"])
def test_a_killed_lineage_goes_on_and_ends_bit_equal(lineage, tmp_path, monkeypatch, place):
    with monkeypatch.context() as patched:
        _kill_at(patched, place)
        with pytest.raises(Killed):
            reproduce(TINY, tmp_path / "killed")
    reproduce(TINY, tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(lineage)


def _kill_at(patched, place):
    """Kill as the model is kept a second time in a stage, after the keep, as a stage begins, or within probing."""
    keep, probe_stage = training._keep, laboratory.probe_stage

    def dying_keep(model, folder, step):
        if folder.name == place and step == 10:
            if place == "finetune":
                keep(model, folder, step)  # the model is there, the state to resume from is not
            raise Killed
        keep(model, folder, step)

    def dying_probe(stage, *rest):
        for step in probe_stage(stage, *rest):
            if place == "probe" and stage == "finetune" and step == 10:
                raise Killed
            yield step

    def dying_train(stage, *rest):
        if place == "between" and stage == "corrpo":
            raise Killed
        training.train_stage(stage, *rest)

    patched.setattr(training, "_keep", dying_keep)
    patched.setattr(laboratory, "probe_stage", dying_probe)
    patched.setattr(laboratory, "train_stage", dying_train)


def test_another_seed_gives_another_table(lineage):
    # Equality of equal seeds is shown by the killed ones above, each a second run of the same seed.
    one = training.random_model(TINY, 0).state_dict()
    other = training.random_model(TINY, 1).state_dict()
    assert torch.equal(one["lm_head.weight"], training.random_model(TINY, 0).state_dict()["lm_head.weight"])
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


def test_finished_lineage_is_tabulated_anew_without_training(lineage, tmp_path, monkeypatch):
    copy = shutil.copytree(lineage, tmp_path / "copy")
    for path in copy.rglob("*.csv"):
        path.unlink()

    def no_training(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "supervise", no_training)
    monkeypatch.setattr(training, "_reinforce", no_training)
    reproduce(TINY, copy)
    assert (copy / "lineage.csv").read_bytes() == (lineage / "lineage.csv").read_bytes()


def test_published_tables_are_the_rounded_ones(lineage, tmp_path):
    publish(lineage, tmp_path / "data")
    keys = ["seed", "stage", "step", "texts", "norm", "unit", "control"]
    whole, short = (pd.read_csv(f / "lineage.csv").set_index(keys) for f in (lineage, tmp_path / "data"))
    assert list(short.columns) == list(whole.columns)
    assert np.allclose(short.estimate, whole.estimate[short.index], atol=5.1e-4, equal_nan=True)
    kept = short.index.to_frame()
    assert set(kept.control[kept.texts == "reference"]) == {"none"}
    assert {"none", "partial", "computed"} < set(kept.control[kept.texts == "own"])


def test_reinforcement_starts_where_half_is_right(tmp_path, monkeypatch):
    right = {10: 0.55, 100: 0.1, 200: 0.3, 400: 0.5, 800: 0.7, 1600: 0.9}
    monkeypatch.setattr("inversion.experiments.lineage.probing.accuracy", lambda folder: right[int(folder.name[5:])])
    assert best_start(LineageSpec(), 0, tmp_path) == 400


def test_demo_size_is_the_demo_and_scaling_widens():
    assert lineage_spec("full", device="cpu").width == 128
    ours, demo = training.random_model(LineageSpec(), 3), build_model(3)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), demo.parameters(), strict=True))
    wide = lineage_spec("small", scale=2, device="cpu")
    assert (wide.width, wide.base_steps, wide.rl_steps) == (256, 800, 40)
    model = training.random_model(wide, 0)
    assert model.model.layers[0].self_attn.q_proj.weight.shape == (256, 256)
    std = model.model.embed_tokens.weight[2:].std().item()
    assert std == pytest.approx(0.06 / 2**0.5, rel=0.02)


def test_other_settings_are_refused_and_leave_the_folder_alone(lineage):
    before = contents(lineage)
    with pytest.raises(InputError, match=r"differs in settings\.rl_steps\); choose a new folder\.$"):
        reproduce(replace(TINY, rl_steps=13), lineage)
    assert contents(lineage) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "seeds is 0"),
        (["--scale", "0"], "scale is 0"),
        (["--scale", "nan"], "scale is nan"),
    ],
)
def test_bad_arguments_exit_with_2_and_write_nothing(tmp_path, capsys, arguments, message):
    assert main(["reproduce", "--out", str(tmp_path / "out"), "--device", "cpu", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_foreign_and_damaged_folders_are_refused(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["reproduce", "--out", str(tmp_path)]) == 2
    assert "is not empty and holds no lineage" in capsys.readouterr().err
    (tmp_path / "lineage.json").write_text('{"settings": {"pace": 3}')
    assert main(["reproduce", "--out", str(tmp_path)]) == 2
    assert "damaged" in capsys.readouterr().err


def test_profiles_differ_in_size_only_where_they_should():
    assert PROFILES["small"].seeds == 1
    assert PROFILES["full"].seeds == 3
    assert PROFILES["small"].width == PROFILES["full"].width
