import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import inversion
from inversion import InputError, measure
from inversion.engine import ShardError
from inversion.files import owned
from inversion.measure import measure_run
from inversion.responses import Generation, Problem
from inversion.runs import RunWriter, summary

PROBLEMS = [Problem(f"{a} + {b} =", scorer=lambda text: float(len(text))) for a in range(1, 5) for b in range(1, 6)]
OPTIONS = {"generation": Generation(max_new_tokens=5), "batch": 4, "shard": 3}


@pytest.fixture(scope="module")
def bridge(checkpoint):
    return inversion.load_model(checkpoint())


@pytest.fixture(scope="module")
def finished(bridge, tmp_path_factory):
    return measure_run(bridge, PROBLEMS, tmp_path_factory.mktemp("engine") / "finished", **OPTIONS)


@pytest.fixture
def probing(monkeypatch):
    """Let a test decide what happens at the probe's n-th call; return the list of calls."""
    calls, actions = [], {}
    original = measure.probe

    def probe(*arguments, **options):
        calls.append(arguments)
        if len(calls) in actions:
            actions[len(calls)]()
        return original(*arguments, **options)

    monkeypatch.setattr(measure, "probe", probe)
    return calls, actions


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def tables(folder):
    return [
        pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob(f"{kind}-*.parquet"))]).combine_chunks()
        for kind in ("tokens", "responses")
    ]


def raises(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize("shard", [1, 7, 50])
def test_any_size_of_shards_gives_the_same_tables(bridge, finished, tmp_path, shard):
    folder = measure_run(bridge, PROBLEMS, tmp_path / "run", **{**OPTIONS, "shard": shard})
    assert len(list(folder.glob("shard-*.json"))) == math.ceil(len(PROBLEMS) / shard)
    for there, here in zip(tables(finished), tables(folder), strict=True):
        assert there.equals(here)


def test_parts_make_up_the_whole(bridge, finished, tmp_path):
    for i in (3, 1, 2):
        folder = measure_run(bridge, PROBLEMS, tmp_path / "run", part=(i, 3), **OPTIONS)
        assert inversion.load_run(folder).attrs["complete"] == (i == 2)
    assert contents(folder) == contents(finished)


def test_what_was_measured_within_a_shard_is_not_measured_again(bridge, finished, tmp_path, probing):
    calls, actions = probing
    actions[6] = raises(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        measure_run(bridge, PROBLEMS, tmp_path / "run", **OPTIONS)
    assert len(list(tmp_path.glob("run/shard-*.json"))) == 1  # of 3 responses; 2 more are kept
    calls.clear()
    actions.clear()
    folder = measure_run(bridge, PROBLEMS, tmp_path / "run", **OPTIONS)
    assert len(calls) == len(PROBLEMS) - 5
    assert contents(folder) == contents(finished)


def test_a_run_of_which_all_is_kept_and_no_shard_stands(bridge, finished, tmp_path, probing, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(RunWriter, "write_pieces", lambda *_: raises(KeyboardInterrupt())())
        with pytest.raises(KeyboardInterrupt):
            measure_run(bridge, PROBLEMS, tmp_path / "run", **{**OPTIONS, "shard": 20})
    assert len(list(tmp_path.glob("run/.unfinished/*/tokens.arrow"))) == 1
    probing[0].clear()
    folder = measure_run(bridge, PROBLEMS, tmp_path / "run", **{**OPTIONS, "shard": 20})
    assert probing[0] == []
    assert tables(folder)[0].equals(tables(finished)[0])


def test_what_a_kill_after_the_last_shard_leaves_is_cleared(bridge, finished, tmp_path):
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    (folder / ".lock").touch()
    (folder / ".owner.json").write_text("{}")
    (folder / ".unfinished" / "0000000-0000001-2").mkdir(parents=True)
    assert measure_run(bridge, PROBLEMS, folder, **OPTIONS) == folder
    assert contents(folder) == contents(finished)


def test_kept_responses_that_were_damaged_are_measured_again(bridge, finished, tmp_path, probing):
    calls, actions = probing
    actions[3] = raises(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        measure_run(bridge, PROBLEMS, tmp_path / "run", **OPTIONS)
    (kept,) = tmp_path.glob("run/.unfinished/*/tokens.arrow")
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 1
    kept.write_bytes(data)
    calls.clear()
    actions.clear()
    folder = measure_run(bridge, PROBLEMS, tmp_path / "run", **OPTIONS)
    assert len(calls) == len(PROBLEMS)
    assert contents(folder) == contents(finished)


def test_a_shard_that_fails_does_not_stop_the_others(bridge, finished, tmp_path, probing, capsys):
    _, actions = probing
    actions[5] = raises(ZeroDivisionError("a bug"))
    with pytest.raises(ShardError, match=r"1 of 7 shards failed, shard 1 first \(a bug\); the same") as caught:
        measure_run(bridge, PROBLEMS, tmp_path / "run", **OPTIONS)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert "shard 1 failed (ZeroDivisionError: a bug)" in capsys.readouterr().err
    assert sorted(path.stem for path in tmp_path.glob("run/shard-*")) == [f"shard-0000{k}" for k in (0, 2, 3, 4, 5, 6)]
    actions.clear()
    assert contents(measure_run(bridge, PROBLEMS, tmp_path / "run", **OPTIONS)) == contents(finished)


def test_a_response_that_cannot_be_measured_is_recorded_and_counted(
    bridge, finished, tmp_path, probing, capsys, caplog
):
    _, actions = probing
    actions[2] = raises(InputError("too long"))
    actions[4] = raises(torch.OutOfMemoryError("CUDA out of memory. Tried\nto allocate"))
    folder = measure_run(bridge, PROBLEMS, tmp_path / "run", log="json", **OPTIONS)
    run, responses = inversion.load_run(folder), inversion.load_responses(folder)
    assert run.attrs["complete"]
    assert run.attrs["unmeasured"] == 2
    assert "2 of 20 responses" in caplog.text
    assert "could not be measured and are left out, most often: too long" in caplog.text
    assert responses.error.dropna().to_dict() == {1: "too long", 3: "CUDA out of memory. Tried"}
    assert set(range(len(PROBLEMS))) - set(run.response.values.tolist()) == {1, 3}
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [event["skipped"] for event in events if event["event"] == "shard"] == [1, 1, 0, 0, 0, 0, 0]
    whole = inversion.load_run(finished)
    np.testing.assert_array_equal(run.nuclear, whole.nuclear[~np.isin(whole.response, [1, 3])])


def test_a_model_that_gives_no_numbers_measures_nothing_and_says_so(checkpoint, tmp_path):
    model = inversion.load_model(checkpoint())
    with torch.no_grad():
        model.original_model.model.layers[1].mlp.down_proj.original_component.weight[0] = math.nan
    problems = [Problem("1 + 2 =", "3 + 4"), Problem("2 + 2 =", "4 + 5")]
    folder = measure_run(model, problems, tmp_path / "run")
    responses = inversion.load_responses(folder)
    assert responses.error.str.contains("none of its tokens has finite readings").all()
    assert inversion.load_run(folder).sizes["token"] == 0


def test_tokens_without_finite_readings_are_kept_and_counted(bridge, finished, tmp_path, monkeypatch, caplog):
    original = measure.probe

    def breaks_at_the_second_token(*arguments, **options):
        capture = original(*arguments, **options)
        capture.entropy_bits[1] = math.nan
        return capture.assign_attrs(not_finite=1)

    monkeypatch.setattr(measure, "probe", breaks_at_the_second_token)
    problems = [Problem(f"{a} + 2 =", "3 + 4") for a in range(3)]
    folder = measure_run(bridge, problems, tmp_path / "run", **OPTIONS)
    run, responses = inversion.load_run(folder), inversion.load_responses(folder)
    assert responses.error.isna().all()
    assert responses.not_finite.tolist() == [1, 1, 1]
    assert np.isnan(run.entropy_bits).sum() == run.attrs["not_finite"] == 3
    assert "3 tokens of" in caplog.text
    assert "3 tokens have readings that are not finite numbers" in summary(folder)


def test_json_lines_tell_of_every_shard_and_plain_lines_have_no_control_characters(bridge, tmp_path, capsys):
    measure_run(bridge, PROBLEMS, tmp_path / "json", log="json", **OPTIONS)
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [event["shard"] for event in events] == list(range(7))
    assert [event["done"] for event in events] == [3, 6, 9, 12, 15, 18, 20]
    assert sum(event["tokens"] for event in events) == inversion.load_run(tmp_path / "json").sizes["token"]
    assert all(event["seconds"] > 0 and event["peak_memory_bytes"] > 1e6 for event in events)
    measure_run(bridge, PROBLEMS, tmp_path / "plain", **OPTIONS)
    text = capsys.readouterr().err
    assert "20 of 20 responses" in text
    assert all(character.isprintable() or character == "\n" for character in text)


def test_a_run_that_another_process_writes_is_left_to_it(bridge, finished, tmp_path):
    with owned(tmp_path / "run"):
        with pytest.raises(InputError, match="is in use by process"):
            measure_run(bridge, PROBLEMS, tmp_path / "run", **OPTIONS)
        assert [path.name for path in (tmp_path / "run").iterdir() if path.suffix == ".parquet"] == []
    with owned(finished):  # nothing is left to write there
        assert measure_run(bridge, PROBLEMS, finished, **OPTIONS) == finished


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"shard": 0}, "shard is 0"),
        ({"part": (3, 2)}, "part is 3/2"),
        ({"part": (1, 2), "overwrite": True}, "a part cannot replace"),
        ({"log": "xml"}, "log format 'xml'"),
    ],
)
def test_settings_of_the_engine_that_cannot_be_used(bridge, tmp_path, options, match):
    with pytest.raises(InputError, match=match):
        measure_run(bridge, PROBLEMS, tmp_path / "run", **{**OPTIONS, **options})
    assert not (tmp_path / "run").exists()
