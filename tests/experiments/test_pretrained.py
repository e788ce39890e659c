"""The study of a pretrained model, on a tiny one: the whole command, killed and gone on with, tables against scipy."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from scipy.stats import spearmanr

import inversion
from inversion import InputError
from inversion.cli import main
from inversion.demo.tokenizer import build_tokenizer
from inversion.experiments import pretrained
from inversion.experiments.pretrained import changes, finetuning, measuring, read_study, reinforcement, study
from inversion.experiments.pretrained.costs import Costs
from inversion.experiments.pretrained.finetuning import in_order
from inversion.experiments.pretrained.spec import ArmSpec, TextSpec
from inversion.experiments.pretrained.texts import IGNORED, Example, example, tokenizer_of, training_examples
from inversion.files import owned
from inversion.probes.estimate import Speed

SMALL = {
    "texts": {"chat": False, "longest": 90, "train": 12, "held_out": 4, "traces": 2, "trace_tokens": 40},
    "baseline": {
        "weights": {
            "models": {"plain": {}, "random": {"random_weights": True}},
            "benchmarks": {
                "sampled": {"prompts": "held-out", "scorer": "number"},
                "worked": {"prompts": "held-out-worked", "scorer": "none"},
            },
            "measurements": {"drawn": {"norms": ["nuclear", "frobenius"], "targets": 5, "max_new_tokens": 10}},
        },
        "traces": {
            "models": {"chat": {"chat": True}},
            # Named as other texts are, with which they are not to be compared.
            "benchmarks": {"worked": {"prompts": "traces", "scorer": "none"}},
            "measurements": {"drawn": {"norms": ["nuclear", "frobenius"], "targets": 5}},
        },
    },
    "finetuning": {
        "marks": [0, 2, 4],
        "batch_size": 2,
        "save_every": 3,
        "precision": "float32",
        "problems": 3,
        "targets": 5,
        "max_new_tokens": 10,
        "samples": 2,
        "arms": {
            "full": {"texts": "worked", "learning_rate": 0.01},
            "lora": {"texts": "worked", "learning_rate": 0.05, "lora": 2},
            "traces": {"texts": "traces", "seeds": 0},
        },
    },
    "reinforcement": {
        "scan": {
            "tasks": {"sums": {"task": "chain_sum", "min_terms": 2, "max_terms": 2}},
            "problems": 2,
            "samples": 2,
            "between": [0.0, 1.0],
            "train": 8,
            "held_out": 3,
        },
        "compare": {
            "max_steps": 2,
            "per_device_train_batch_size": 4,
            "num_generations": 2,
            "max_completion_length": 8,
            "save_steps": 1,
            "gradient_checkpointing": False,
            "held_out_targets": 5,
            "samples": 2,
            "pass_k": [1],
            "methods": {"grpo": 1},
        },
    },
}


class Killed(BaseException):
    """Stands for a kill: nothing in the code under test catches it."""


@pytest.fixture(scope="module")
def model(checkpoint):
    return checkpoint(max_position_embeddings=256, tie_word_embeddings=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with files as GSM8K and the traces have them."""
    folder = tmp_path_factory.mktemp("data")
    for name, start, count in (("train-16", 0, 16), ("test-8", 50, 8)):
        rows = [
            {"question": f"{a} + 3 ?", "answer": f"{a} + 3 = <<{a}+3={a + 3}>>{a + 3} so it is\n#### {a + 3}"}
            for a in range(start, start + count)
        ]
        (folder / f"gsm8k-{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = [
        {"prompt": f"What is {a}? \n<think>\n", "solution": "it is so it is, " * 9 + "</think> 4"} for a in range(3)
    ]
    (folder / "r1-distill-traces-3.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "study.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


@pytest.fixture(scope="module")
def command(model, data, config):
    """Return the arguments of the command that writes to a folder."""

    def arguments(out, *more, overrides=()):
        given = ["--model", str(model), "--data", str(data), "--config", str(config), "--device", "cpu"]
        return ["reproduce", *overrides, *given, "--out", str(out), *more]

    return arguments


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """A study that nothing interrupted."""
    out = tmp_path_factory.mktemp("study") / "whole"
    assert main(command(out)) == 0
    return out


def tables(out):
    return {path.name: path.read_bytes() for path in sorted((out / "tables").glob("*.csv"))}


def test_the_command_ends_with_tables_and_keeps_no_weights(whole):
    names = {"baseline", "finetuning", "scan", "reinforcement", "reinforcement-curves"}
    names |= {"baseline-layers", "finetuning-layers", "finetuning-changes", "baseline-changes", "reinforcement-changes"}
    assert set(tables(whole)) == {f"{name}.csv" for name in names}
    assert list(whole.rglob("*.safetensors")) == []
    table = pd.read_csv(whole / "tables" / "finetuning.csv")
    assert set(zip(table.arm, table.step, strict=True)) == {(a, s) for a in ("full", "lora") for s in (0, 2, 4)}
    assert set(table.texts) == {"sampled", "worked"}
    assert set(table.precision) == {"float32"}
    keys = ["arm", "seed", "step", "texts", "norm", "unit", "control"]
    assert not table.duplicated(keys).any()
    controls = {"none", "partial", "within", "between", "typical", "shuffled", "forking", "rest"}
    assert set(table.control) == controls
    start = table[table.step == 0].drop(columns="arm").drop_duplicates()
    assert len(start) * 2 == (table.step == 0).sum()  # both arms start from the same model
    baseline = pd.read_csv(whole / "tables" / "baseline.csv")
    assert {("plain", "sampled"), ("random", "worked"), ("chat", "worked")} <= set(
        zip(baseline.model, baseline.texts, strict=True)
    )


def test_reinforced_models_are_measured_on_drawn_tokens(whole):
    table = pd.read_csv(whole / "tables" / "reinforcement.csv").set_index("when")
    for when in ("before", "after"):
        run = inversion.load_run(whole / "reinforcement" / "comparison" / "grpo" / "seed-0" / when)
        assert run.sizes["token"] == 3 * 5
        assert (run.weight > 1).any()
        expected = float((run.entropy_bits * run.weight).sum() / run.weight.sum())
        assert table.entropy_bits[when] == pytest.approx(expected, abs=1e-3)


@pytest.mark.usefixtures("no_timing")
def test_shares_make_the_tables_of_the_whole(whole, command, tmp_path, capsys):
    out = tmp_path / "shared"
    for share, begun in (("1/2", {"lora"}), ("2/2", {"full", "lora"})):
        assert main(command(out, "--part", share)) == 0
        # An arm that has not begun is not in the table with the start that all arms have.
        assert set(pd.read_csv(out / "tables" / "finetuning.csv").arm) == begun
    assert tables(out) == tables(whole)
    assert capsys.readouterr().out.count("finetuning: full, seed 0") == 1
    assert main(command(out, "--part", "0/2")) == 2
    assert "give i/n with i from 1 to n." in capsys.readouterr().err
    with owned(out / "finetuning", part=(1, 2)):
        assert main(command(out, "--part", "1/2", "--only", "finetuning")) == 2
        assert "is in use by process" in capsys.readouterr().err
        assert main(command(out, "--part", "2/2", "--only", "finetuning")) == 0


def test_rows_agree_with_scipy_on_the_run(whole):
    table = pd.read_csv(whole / "tables" / "finetuning.csv")
    row = table.query(
        "arm == 'full' and step == 4 and texts == 'worked' and norm == 'nuclear' and unit == 'position' "
        "and control == 'none'"
    )
    run = inversion.load_run(whole / "finetuning" / "full" / "seed-0" / "step-000004" / "worked")
    # Tokens were drawn; each counts once.
    assert (run.weight > 1).any()
    expected = spearmanr(run.nuclear.mean(("layer", "projection")), run.entropy_bits).statistic
    assert row.estimate.item() == pytest.approx(expected, abs=1e-4)
    assert row.n_tokens.item() == run.sizes["token"] == 3 * 5
    assert row.estimate.item() == pytest.approx(inversion.correlate(run).estimate, abs=1e-4)


def test_changes_are_those_between_the_runs_and_are_taken_once(whole, command, monkeypatch):
    table = pd.read_csv(whole / "tables" / "finetuning-changes.csv")
    keys = ["arm", "seed", "step", "against", "texts", "unit"]
    compared = {("full", "start"), ("lora", "start"), ("lora", "full")}
    assert set(zip(table.arm, table.against, strict=True)) == compared
    assert len(table) == len(table.drop_duplicates(keys)) == len(compared) * 2 * 2 * 2
    assert table.paired.all()
    rho = pd.read_csv(whole / "tables" / "finetuning.csv").query("norm == 'nuclear' and control == 'none'")
    rho = rho.set_index(["arm", "step", "texts", "unit"]).estimate
    for row in table.itertuples():
        other = (row.arm, 0) if row.against == "start" else (row.against, row.step)
        before, after = (rho[(*place, row.texts, row.unit)] for place in (other, (row.arm, row.step)))
        assert row.estimate == pytest.approx(after - before, abs=1e-4)
    monkeypatch.setattr(changes, "compare", lambda *_, **__: pytest.fail("compared again"))
    assert main(command(whole, "--only", "finetuning")) == 0


def test_runs_of_the_baseline_are_compared_with_the_first_on_the_same_texts(whole):
    table = pd.read_csv(whole / "tables" / "baseline-changes.csv")
    assert table.groupby("texts").against.unique().map(list).to_dict() == {
        "sampled": ["weights: plain-sampled"],
        "worked": ["weights: plain-worked"],
    }
    assert set(table.model) == {"random"}
    assert table.paired.all()
    runs = [whole / "baseline" / "weights" / "runs" / f"{name}-worked" for name in ("random", "plain")]
    random, plain = (inversion.correlate(inversion.load_run(run)).estimate for run in runs)
    found = table.query("texts == 'worked' and unit == 'position'").estimate.item()
    assert found == pytest.approx(random - plain, abs=1e-4)


def test_a_trained_model_is_compared_with_the_one_before(whole):
    table = pd.read_csv(whole / "tables" / "reinforcement-changes.csv")
    assert set(table.against) == {"before"}
    assert (table.method.tolist(), table.unit.tolist()) == (["grpo"] * 2, ["position", "token_type"])
    folder = whole / "reinforcement" / "comparison" / "grpo" / "seed-0"
    before, after = (inversion.load_run(folder / when) for when in ("before", "after"))
    expected = inversion.compare(before, after, pairing="paired")
    assert table.estimate[0] == pytest.approx(expected.estimate, abs=1e-4, nan_ok=True)
    assert table.low[0] == pytest.approx(expected.low, abs=1e-4, nan_ok=True)


def test_training_changes_the_model_and_adapters_are_merged(whole):
    """What is measured at a mark is the trained model, on the same words at every step."""
    for arm in ("full", "lora"):
        place = whole / "finetuning" / arm / "seed-0"
        runs = [inversion.load_run(place / f"step-{step:06d}" / "worked") for step in (2, 4)]
        start = inversion.load_run(whole / "finetuning" / "start" / "worked" / "worked")
        responses = [inversion.runs.load_responses(place / f"step-{step:06d}" / "worked").text for step in (2, 4)]
        assert responses[0].equals(responses[1])
        surprisals = [float(run.surprisal_bits.mean()) for run in (start, *runs)]
        assert surprisals[2] < surprisals[0] - 0.1  # it has learnt something of these texts


@pytest.fixture
def no_timing(whole, monkeypatch):
    """Take what was timed once."""
    kept = json.loads((whole / "costs.json").read_text())
    times = [kept[name] for name in ("full", "lora", "batch_tokens", "prompt", "token")]
    monkeypatch.setattr(study, "costs_of", lambda *_: FlatCosts(*times, None, None, TextSpec()))


def test_long_texts_are_estimated_from_the_time_of_long_texts():
    class AsTimed(Speed):
        def seconds(self, pace, length, targets):
            return float(self.length)

    speeds = tuple(AsTimed(length, (0, 0), (0, 0), (0, 0), 1) for length in (192, 1120))
    costs = Costs(0, None, 1, 0, 0, speeds, None, TextSpec())
    assert [costs.probing(2, length, 10) for length in (96, 192, 300, 800, 1120, 4000)] == [384] * 3 + [2240] * 3


class FlatCosts(Costs):
    """Costs without a model."""

    def probing(self, responses, length, targets):
        return float(responses)


@pytest.mark.usefixtures("no_timing")
@pytest.mark.parametrize(
    ("part", "place", "owner", "name", "last", "arm"),
    [
        ("baseline", "between runs", pretrained.baseline, "write_cell", 2, None),
        ("finetuning", "between steps", finetuning._AtMarks, "on_step_end", 4, "full"),
        ("finetuning", "after saving", finetuning._AtMarks, "on_save", 1, "lora"),
        ("finetuning", "after the last step", finetuning._AtMarks, "on_save", 3, "lora"),
        ("finetuning", "within measuring", measuring, "draw_samples", 2, "full"),
        ("reinforcement", "after the scan", study.reinforcement, "reinforce", 1, None),
    ],
)
def test_a_killed_study_goes_on_and_ends_with_the_same_tables(
    whole, command, tmp_path, monkeypatch, part, place, owner, name, last, arm
):
    out, other = tmp_path / "killed", {"full": "lora", "lora": "full", None: None}[arm]
    overrides = [] if other is None else [f"finetuning.arms.{other}.seeds=0"]
    arguments = command(out, "--only", part, overrides=overrides)
    with monkeypatch.context() as patched:
        plain, calls = getattr(owner, name), []

        def counted(*args, **options):
            calls.append(place)
            if len(calls) == last:
                raise Killed
            return plain(*args, **options)

        patched.setattr(owner, name, counted)
        with pytest.raises(Killed):
            main(arguments)
    assert main(arguments) == 0
    names = [path.name for path in (out / "tables").glob("*.csv")]
    assert names
    for table in names:
        here, there = (pd.read_csv(folder / "tables" / table) for folder in (out, whole))
        if arm is not None:
            there = there[there.arm == arm]
            if table == "finetuning-changes.csv":  # the other arm is not there to compare with
                there = there[there.against == "start"]
            there = there.reset_index(drop=True)
        pd.testing.assert_frame_equal(here, there)


@pytest.mark.usefixtures("no_timing")
def test_a_finished_study_only_writes_its_tables_anew(whole, command, monkeypatch, capsys):
    before = tables(whole)
    for path in (whole / "tables").glob("*.csv"):
        path.unlink()
    monkeypatch.setattr(study, "train_arm", lambda *_: pytest.fail("trained again"))
    assert main(command(whole)) == 0
    assert "Everything is done" in capsys.readouterr().out
    assert tables(whole) == before


@pytest.mark.usefixtures("no_timing")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("finetuning.targets=4", "holds another fine-tuning (it differs in targets)"),
        ("finetuning.arms.more={texts: worked}", None),
        ("finetuning.arms.full.seeds=3", None),
        ("texts.longest=80", "holds another choice of texts (it differs in texts.longest)"),
    ],
)
def test_settings_that_decide_on_numbers_cannot_change_within_a_folder(whole, command, capsys, override, message):
    found = main(command(whole, "--only", "finetuning", "--dry-run", overrides=[override]))
    printed = capsys.readouterr()
    assert found == (0 if message is None else 2)
    if message is not None:
        assert message in printed.err


@pytest.mark.usefixtures("no_timing")
def test_one_process_does_a_part_and_another_one_another(command, tmp_path, capsys):
    out = tmp_path / "out"
    with owned(out / "finetuning"):
        assert main(command(out, "--only", "baseline", "--dry-run")) == 0
        assert "baseline" in capsys.readouterr().out
        assert main(command(out, "--only", "baseline,finetuning", "--dry-run")) == 2
    assert "is in use by process" in capsys.readouterr().err


@pytest.mark.usefixtures("no_timing")
def test_a_part_alone_and_its_estimate(command, tmp_path, capsys):
    out = tmp_path / "out"
    few = ("finetuning.arms.lora.seeds=0",)
    assert main(command(out, "--only", "finetuning", "--dry-run", overrides=few)) == 0
    printed = capsys.readouterr().out
    assert "full, seed 0" in printed
    assert "lora" not in printed
    assert "baseline" not in printed
    assert "Altogether about" in printed
    assert not (out / "finetuning").exists()


def test_training_texts_carry_loss_where_they_should(whole, model):
    tokenizer, spec = build_tokenizer(), TextSpec(chat=False, longest=90)
    worked = example("1 + 3 ?", "1 + 3 = 4", tokenizer, spec)
    kept = [token for token in worked.labels if token != IGNORED]
    assert tokenizer.decode(kept) == "1 + 3 = 4" + tokenizer.eos_token
    assert worked.input_ids[-len(kept) :] == kept
    prompt = example("1 + 3 ?", None, tokenizer, spec)
    assert prompt.labels == prompt.input_ids
    rows = {kind: _rows(whole, kind) for kind in ("worked", "shuffled")}
    for a, b in zip(rows["worked"], rows["shuffled"], strict=True):
        assert a["response"].split() != b["response"].split()
        assert sorted(a["response"].split()) == sorted(b["response"].split())
    assert "<<" not in rows["worked"][0]["response"]
    windows = training_examples(whole / "texts", "traces", tokenizer, spec)
    assert max(len(window.input_ids) for window in windows) == 90
    assert len(windows) > 3


def _rows(out, kind):
    return [json.loads(line) for line in (out / "texts" / f"train-{kind}.jsonl").read_text().splitlines()]


def test_no_held_out_problem_is_trained_on(whole):
    texts = whole / "texts"
    held_out = {json.loads(line)["prompt"] for line in (texts / "held-out.jsonl").read_text().splitlines()}
    assert held_out.isdisjoint(row["prompt"] for row in _rows(whole, "worked"))
    chains = {json.loads(line)["prompt"] for line in (texts / "chains-held-out.jsonl").read_text().splitlines()}
    assert len(chains) == 4
    assert chains.isdisjoint(row["prompt"] for row in _rows(whole, "chains"))


def test_batches_repeat_for_a_seed_and_hold_texts_of_like_length():
    texts = [Example([n] * (n + 1), [n] * (n + 1)) for n in range(40)]
    first, again, other = (in_order(texts, 4, 25, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len(first) == 100
    firsts = [tuple(text["input_ids"]) for text in first[:40]]
    assert len(set(firsts)) == 40  # an epoch holds each text once
    spans = [np.ptp([len(text["input_ids"]) for text in first[i : i + 4]]) for i in range(0, 40, 4)]
    assert max(spans) == 3


@pytest.mark.usefixtures("no_timing")
def test_without_a_folder_problems_are_made_and_traces_left_out(model, config, tmp_path, capsys):
    out = tmp_path / "made"
    given = ["--model", str(model), "--config", str(config), "--device", "cpu", "--out", str(out), "--dry-run"]
    overrides = ["finetuning.arms.traces.seeds=1", "texts.longest=1500"]
    assert main(["reproduce", *overrides, *given]) == 0
    printed = capsys.readouterr().out
    assert "traces is left out: there are no traces" in printed
    assert "traces (" not in printed
    held_out = [json.loads(line) for line in (out / "texts" / "held-out-worked.jsonl").read_text().splitlines()]
    assert {row["task"] for row in held_out} == {"gsm_symbolic"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["finetuning.marks=[10, 20]"], "give 0 and then growing"),
        (["finetuning.arms.full.texts=poems"], "finetuning.arms.full.texts is 'poems'"),
        (["finetuning.steps=3"], "field finetuning.steps is not known"),
        (["finetuning.problems=9"], "lower it"),
        (["reinforcement.compare.beta=many"], "beta is 'many'"),
        (["baseline.weights.models.plain.dtipe=x"], "did you mean dtype"),
        (["baseline.weights.models=[plain]"], "baseline.weights.models is .'plain'.; give names"),
        (["baseline.weights.benchmarks.worked=null"], "benchmarks.worked has no prompts"),
        (["reinforcement.scan.between=[0.7, 0.2]"], "the lower one first"),
    ],
)
def test_mistakes_are_one_sentence(model, config, overrides, message):
    with pytest.raises(InputError, match=message) as caught:
        read_study(str(model), str(config), overrides)
    assert str(caught.value).endswith((".", "?"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "baseline"], "--only goes with --model"),
        (["seed=3"], "field=value goes with --model"),
        (["--model", "slow", "--seeds", "3"], "--seeds does not go with --model"),
        (["--model", "slow", "--only", "basline", "texts.chat=false"], "there is no part 'basline'"),
        (["--model", "slow", "--data", "nowhere"], "there is no folder"),
    ],
)
def test_bad_arguments_exit_with_2_and_write_nothing(tmp_path, capsys, arguments, message):
    assert main(["reproduce", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_study_that_comes_along_can_be_read():
    spec = read_study("smollm2")
    assert spec.finetuning.runs()[:3] == [("full", 0), ("lora", 0), ("shuffled", 0)]
    assert Path(pretrained.spec.SHIPPED).is_file()


def test_a_model_in_half_precision_training_is_measured_in_full(model, tmp_path):
    spec = read_study(str(model), None, ["finetuning.precision=bfloat16", "finetuning.batch_size=1", "device=cpu"])
    for arm in (ArmSpec(), ArmSpec(lora=2)):
        text = Example([5, 6, 7, 8], [5, 6, 7, 8])
        trainer = finetuning.build_trainer(spec, arm, 0, [text], build_tokenizer(), tmp_path / "trainer")
        wrapped = trainer.accelerator.prepare(trainer.model)
        ids = torch.tensor([[5, 6, 7, 8]])
        with torch.no_grad():
            plain = inversion.models.load_checkpoint(str(model), "cpu")[0](ids).logits
            assert not torch.equal(wrapped(ids).logits, plain)
            assert torch.equal(measuring.plain_copy(trainer.model)(ids).logits, plain)
            assert not torch.equal(wrapped(ids).logits, plain)  # the training goes on as it was


def test_what_reinforcement_holds_out_is_different_and_not_trained_on(model, config):
    pytest.importorskip("reasoning_gym")
    spec = read_study(str(model), str(config), ["reinforcement.scan.train=60", "reinforcement.scan.held_out=8"])
    small = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    scan = replace(spec.reinforcement.scan, tasks={name: {"task": "chain_sum", **small} for name in ("one", "two")})
    spec = replace(spec, reinforcement=replace(spec.reinforcement, scan=scan))
    tokenizer = tokenizer_of(spec)
    train, held_out = reinforcement.split(spec, tokenizer, ["one", "two"])
    assert (len(train), len(held_out), len({p.prompt for p in held_out})) == (60, 8, 8)
    assert not {p.prompt for p in train} & {p.prompt for p in held_out}
    few = replace(scan, held_out=800)
    with pytest.raises(InputError, match="too few different problems to hold out 400 each"):
        reinforcement.split(
            replace(spec, reinforcement=replace(spec.reinforcement, scan=few)), tokenizer, ["one", "two"]
        )


def test_a_scan_answers_to_its_bounds_and_refuses_other_settings(model, config, tmp_path):
    row = {"task": "sums", "settings": json.dumps(SMALL["reinforcement"]["scan"]["tasks"]["sums"])}
    row |= {"accuracy": 0.15, "problems": 2, "samples": 2, "tokens": 8.0, "finished": 1.0}
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "sums.json").write_text(json.dumps(row))
    for between, taken in (([0.2, 0.7], False), ([0.1, 0.7], True)):
        spec = read_study(str(model), str(config), [f"reinforcement.scan.between={between}"])
        assert reinforcement.untried(spec, tmp_path) == []
        assert reinforcement.scanned(spec, tmp_path).taken.tolist() == [taken]
        assert pd.read_csv(tmp_path / "scan.csv").taken.tolist() == [taken]
    for override in ("tasks.sums.max_terms=3", "problems=3"):
        spec = read_study(str(model), str(config), [f"reinforcement.scan.{override}"])
        with pytest.raises(InputError, match="holds a try of sums with other settings"):
            reinforcement.untried(spec, tmp_path)
