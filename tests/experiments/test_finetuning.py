"""``inversion train``: specification, tasks, the whole road through the command line, and resuming."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from inversion.cli import main
from inversion.errors import InputError
from inversion.experiments.checkpoints import last_checkpoint, remove_torn
from inversion.experiments.finetuning import training_problems
from inversion.experiments.spec import TrainSpec, flat_fields, read_spec
from inversion.runs import load_responses, load_run

WORDS = [a + b + c for a in "bdp" for b in "aeou" for c in "gnt"]
ROWS = [{"prompt": f"Spell this word backward (example: sun -> nus): {w}", "answer": w[::-1]} for w in WORDS]


@pytest.fixture
def problems(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS[:8])), encoding="utf-8")
    return path


def test_specification_survives_writing(tmp_path):
    spec = TrainSpec(model="fast", learning_rate=1e-5, options={"beta": 0.1, "inversion_layers": [0, -1]})
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(flat_fields(spec)))
    assert read_spec(str(tmp_path / "spec.yaml")) == spec
    assert read_spec("demo") == TrainSpec()


def test_command_line_overrides_any_field(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text("max_steps: 5\nbeta: 0.1\n", encoding="utf-8")
    overrides = [
        "max_steps=7",
        "inversion_weight=1",
        "inversion_unit=token_type",
        "held_out=null",
        "learning_rate=1e-4",
    ]
    spec = read_spec(str(path), [*overrides, "task_options.min_terms=2"])
    options = {"beta": 0.1, "inversion_unit": "token_type"}
    assert spec == TrainSpec(
        max_steps=7, inversion_weight=1, learning_rate=1e-4, task_options={"min_terms": 2}, options=options
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pace=3"], "field 'pace' is not known; the nearest are"),
        (["max_stesp=3"], "the nearest are max_steps"),
        (["max_steps"], "write field=value"),
        (["max_steps=many"], "max_steps is 'many': input should be a valid integer"),
        (["max_steps=true"], "max_steps is True"),
        (["max_steps=1.5"], "max_steps is 1.5"),
        (["learning_rate=fast"], "learning_rate is 'fast': input should be a valid number"),
        (["learning_rate=.nan"], "finite"),
        (["beta=small"], "beta is 'small'"),
        (["max_steps=0"], "at least 1"),
        (["held_out_targets=0"], "held_out_targets is 0; give at least 1"),
        (["num_generations=1"], "at least 2"),
        (["temperature=0"], "more than 0"),
        (["scorer=jury"], "scorer is 'jury': input should be 'tags' or 'math'"),
        (["device=tpu"], "'auto' or 'cpu'"),
        (["max_steps=[1"], "not valid YAML"),
        (["max_steps.most=1"], "no entries"),
        (["steps=3"], "steps is now max_steps"),
        (["weight=10.0"], "weight is now inversion_weight"),
        (["prompts=6"], "per_device_train_batch_size, which counts responses"),
        (["options.inversion_form=additive"], "write beta=0.01 and not"),
    ],
)
def test_bad_overrides_are_one_sentence(overrides, message):
    with pytest.raises(InputError, match=message) as caught:
        read_spec("demo", [*(["max_steps=1"] if overrides == ["max_steps.most=1"] else []), *overrides])
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=ppo"], "method 'ppo' is not known"),
        (["problems=absent.jsonl"], "no file absent.jsonl"),
        (["held_out_limit=8"], "has no problem that is not held out"),
        (["loss_type=grpo", "method=kl_cov"], "loss_type to dapo"),
        (["inversion_form=best"], "reward form 'best' is not known"),
        (["num_generations=7"], "TRL refuses"),
        (["model=absent/folder/"], "no model folder"),
        (["max_completion_length=8190"], "exceeds the context of half, 8192"),
        (["inversion_layers=[9]", "inversion_signal=exact"], "layer"),
        (["save_steps=3", "num_iterations=2"], "multiple of a rollout's 2 updates"),
        (["save_steps=4", "logging_steps=3"], "save_steps is 4; give a multiple of logging_steps, which is 3"),
        (["save_steps=4", "logging_steps=4", "held_out_every=6"], "held_out_every is 6; give a multiple"),
    ],
)
def test_bad_settings_exit_with_2_and_leave_no_training(tmp_path, problems, capsys, overrides, message):
    given = [f"problems={problems}", "held_out_limit=2", f"out={tmp_path / 'out'}", *overrides]
    assert main(["train", "demo", *given]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out" / "train.yaml").exists()


def test_a_missing_or_wrong_file_is_said(tmp_path, capsys):
    assert main(["train", str(tmp_path / "absent.yaml")]) == 2
    assert "give a YAML file" in capsys.readouterr().err
    (tmp_path / "list.yaml").write_text("- a", encoding="utf-8")
    assert main(["train", str(tmp_path / "list.yaml")]) == 2
    assert "holds no fields" in capsys.readouterr().err


def test_problems_need_answers(tmp_path):
    path = tmp_path / "open.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b"}', encoding="utf-8")
    with pytest.raises(InputError, match="has no answer"):
        training_problems(TrainSpec(problems=str(path), held_out_limit=1))


def test_held_out_problems_are_not_trained_on(problems):
    trained, held_out = training_problems(TrainSpec(problems=str(problems), held_out_limit=3))
    assert (len(trained), len(held_out)) == (5, 3)
    pytest.importorskip("reasoning_gym")
    trained, held_out = training_problems(TrainSpec(limit=60))
    assert len(trained) == 60
    assert not {p.prompt for p in trained} & {p.prompt for p in held_out}
    some = TrainSpec(limit=30, held_out_limit=20, task_options={"tasks": ["chain_sum", "number_sorting"]})
    trained, held_out = training_problems(some)
    assert (len(trained), len(held_out)) == (30, 20)
    assert {p.task for p in trained} == {p.task for p in held_out} == {"chain_sum", "number_sorting"}
    assert not {p.prompt for p in trained} & {p.prompt for p in held_out}
    with pytest.raises(InputError, match="may name tasks among chain_sum"):
        training_problems(TrainSpec(task_options={"tasks": ["juggling"]}))


def test_a_problem_that_is_held_out_is_not_trained_on_where_it_stands_twice(tmp_path, capsys):
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(map(json.dumps, [*ROWS[:5], *ROWS[3:7]])), encoding="utf-8")
    trained, held_out = training_problems(TrainSpec(problems=str(path), held_out_limit=4))
    assert [p.prompt for p in trained] == [row["prompt"] for row in ROWS[:3]]
    assert len(held_out) == 4
    assert "2 of 5 training problems are left out: they are held out" in capsys.readouterr().out


def test_seeds_of_a_task_share_what_is_held_out_and_nothing_else():
    pytest.importorskip("reasoning_gym")
    spec = TrainSpec(problems="number_sorting", limit=40, held_out_limit=20)
    found = [training_problems(spec.changed({"seed": seed})) for seed in (0, 1, 2)]
    assert len({tuple(p.prompt for p in held_out) for _, held_out in found}) == 1
    prompts = [{p.prompt for p in problems} for problems, _ in found]
    assert len(set.union(*prompts)) == sum(map(len, prompts)) == 120
    assert not set.union(*prompts) & {p.prompt for p in found[0][1]}


def arguments(problems, out, checkpoint):
    settings = {
        "problems": problems,
        "out": out,
        "model": checkpoint("llama", max_position_embeddings=128),
        "held_out_limit": 2,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 12,
        "max_steps": 4,
        "save_steps": 2,
        "inversion_weight": 0.5,
        "device": "cpu",
        "inversion_form": "additive",
    }
    return [f"{name}={value}" for name, value in settings.items()]


def weights(out):
    return load_file(out / "model" / "model.safetensors")


def test_train_and_resume_from_the_command_line(tmp_path, problems, checkpoint, capsys):
    out = tmp_path / "out"
    given = arguments(problems, out, checkpoint)
    assert main(["train", "demo", *given]) == 0
    printed = capsys.readouterr().out
    assert "before" in printed
    assert "rho, token types" in printed
    assert list((out / "trainer" / "runs").rglob("events.out.tfevents*"))
    whole = weights(out)
    start = load_file(next(v for v in given if v.startswith("model=")).removeprefix("model=") + "/model.safetensors")
    assert any(not torch.equal(whole[name], start[name]) for name in start)

    assert main(["train", "demo", *given]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["train", "demo", *given, "max_steps=5", "--resume"]) == 2
    assert "it differs in max_steps" in capsys.readouterr().err
    assert main(["train", "demo", *given, f"out={tmp_path / 'new'}", "--resume"]) == 2
    assert "no training run to resume" in capsys.readouterr().err


KILLS = ("before", "state", "model", "after")


def test_killed_anywhere_and_resumed_equals_uninterrupted(tmp_path, checkpoint, capfd):
    problems = tmp_path / "problems.jsonl"
    problems.write_text("\n".join(map(json.dumps, ROWS[:28])), encoding="utf-8")
    # Two shards of held-out problems, so that a kill can come between them.
    given = ["train", "demo", *arguments(problems, tmp_path / "whole", checkpoint), "held_out_limit=20"]
    assert main(given) == 0
    cut = tmp_path / "cut"
    given.append(f"out={cut}")
    here = Path(__file__).parent
    roots = os.pathsep.join(map(str, (here, here.parent, here.parents[1])))
    # Sums depend on how many threads share them, so the processes have as many as this one.
    environment = {"PYTHONPATH": roots, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    for number, point in enumerate(KILLS):
        resume = ["--resume"] if number else []
        killed = subprocess.run(
            [sys.executable, str(here / "finetuning_killed.py"), point, *given, *resume],
            env={**os.environ, **environment},
            timeout=240,
        )
        assert killed.returncode == -signal.SIGKILL, point
        left = {path.name for path in cut.iterdir()}
        assert ("model" in left) == (point == "after")
    assert (cut / "trainer" / "checkpoint-4").is_dir()
    before = (cut / "model" / "model.safetensors").stat().st_mtime_ns
    assert main([*given, "--resume"]) == 0
    assert (cut / "model" / "model.safetensors").stat().st_mtime_ns == before
    whole, again = weights(tmp_path / "whole"), weights(cut)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    for name in ("before", "after"):
        pd.testing.assert_frame_equal(load_responses(cut / name), load_responses(tmp_path / "whole" / name))
    logs = [pd.read_csv(folder / "log.csv").dropna(subset="reward") for folder in (tmp_path / "whole", cut)]
    for name in ("step", "reward", "rho", "loss"):
        assert logs[0][name].tolist() == logs[1][name].tolist()
    assert not [path for path in cut.rglob(".*.part")]


def test_what_is_left_of_a_checkpoint_is_not_resumed_from(tmp_path):
    for step, state in ((9, "{}"), (10, '{"epoch": 1.0}'), (20, '{"epoch": 1.'), (30, None), (5, "{}")):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    (tmp_path / "checkpoint-best").mkdir()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    remove_torn(tmp_path)
    assert sorted(path.name.partition("-")[2] for path in tmp_path.iterdir()) == ["10", "5", "9", "best"]
    assert last_checkpoint(tmp_path / "absent") is None


def test_anothers_model_is_not_taken_for_ones_own(tmp_path, problems, checkpoint, capsys):
    (tmp_path / "out" / "model").mkdir(parents=True)
    (tmp_path / "out" / "model" / "config.json").write_text("{}")
    assert main(["train", "demo", *arguments(problems, tmp_path / "out", checkpoint)]) == 2
    assert "choose a new folder" in capsys.readouterr().err


def test_answering_held_out_problems_changes_nothing_that_is_trained(tmp_path, problems, checkpoint):
    # With dropout, which draws from the global random state and shows a policy that was left in evaluation mode.
    model = checkpoint("llama", max_position_embeddings=128, attention_dropout=0.1)
    rows = {}
    for every in (0, 2):
        given = [*arguments(problems, tmp_path / str(every), checkpoint), f"model={model}", f"held_out_every={every}"]
        assert main(["train", "demo", *given, "num_iterations=2", "max_steps=6"]) == 0
        rows[every] = pd.read_csv(tmp_path / str(every) / "log.csv")
    without, along = weights(tmp_path / "0"), weights(tmp_path / "2")
    assert all(torch.equal(without[name], along[name]) for name in without)
    assert rows[0]["reward"].equals(rows[2]["reward"])
    assert "held_out_accuracy" not in rows[0]
    measured = rows[2][rows[2]["held_out_accuracy"].notna()]
    assert measured["step"].tolist() == [1, 3, 5]
    # The first are of the model as it was, which the probe has measured in the same answers.
    before = load_run(tmp_path / "2" / "before")
    assert measured["held_out_entropy_bits"].iloc[0] == pytest.approx(float(before.entropy_bits.mean()), rel=1e-5)
    assert measured["held_out_accuracy"].iloc[0] == load_responses(tmp_path / "2" / "before").score.mean()
    assert measured["held_out_entropy_bits"].nunique() == 3
