import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest

import inversion
from inversion import InputError
from inversion.measure import SHARD, Measurement, measure_run
from inversion.responses import Generation, Problem

PROBLEMS = [
    Problem(f"{a} + {b} =", answer=str(a + b), scorer=lambda text, right=str(a + b): float(right in text))
    for a in range(1, 6)
    for b in range(1, 8)
]
SMALL = Generation(max_new_tokens=6)


@pytest.fixture(scope="module")
def bridge(checkpoint):
    return inversion.load_model(checkpoint())


@pytest.fixture(scope="module")
def finished(bridge, tmp_path_factory):
    return measure_run(bridge, PROBLEMS, tmp_path_factory.mktemp("run") / "a", generation=SMALL)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_run_holds_what_probing_each_response_gives(bridge, finished):
    run, responses = inversion.load_run(finished), inversion.load_responses(finished)
    assert len(responses) == len(PROBLEMS)
    assert run.attrs["complete"]
    assert set(run.dims) == {"token", "layer", "projection"}
    for number in (0, SHARD, len(PROBLEMS) - 1):
        part = run.isel(token=run.response.values == number)
        row = responses.loc[number]
        again = inversion.probe(bridge, row.prompt_token_ids, part.token_id.values)
        for name in again.data_vars:
            if name == "token_text":
                assert part[name].values.tolist() == again[name].values.tolist()
            else:
                np.testing.assert_allclose(part[name], again[name], rtol=1e-6, err_msg=name)
        assert (part.score == row.score).all()
        assert (part.prompt_id == row.prompt_id).all()
        text = "".join(part.token_text.values[: -1 if row.finished else None])
        assert text == row.text


def test_other_programs_read_the_shards(finished):
    run = inversion.load_run(finished)
    frame = pd.concat(pd.read_parquet(path) for path in sorted(finished.glob("tokens-*.parquet")))
    assert len(frame) == run.sizes["token"]
    manifest = json.loads((finished / "run.json").read_text())["measurement"]
    column = manifest["layers"].index(1) * len(manifest["projections"]) + manifest["projections"].index("v")
    np.testing.assert_array_equal(
        [row[column] for row in frame.nuclear], run.nuclear.sel(layer=1, projection="v").values
    )


def test_a_killed_run_resumes_and_ends_equal(bridge, finished, tmp_path, monkeypatch):
    from inversion.runs import RunWriter

    write, calls = RunWriter.write_pieces, []

    def killed(self, *arguments):
        if calls:
            # Killed between the files of a shard: the tokens are there, the responses and the record are not.
            write(self, *arguments)
            for name in ("responses-00001.parquet", "shard-00001.json"):
                (self.folder / name).unlink()
            raise KeyboardInterrupt
        calls.append(1)
        write(self, *arguments)

    monkeypatch.setattr(RunWriter, "write_pieces", killed)
    with pytest.raises(KeyboardInterrupt):
        measure_run(bridge, PROBLEMS, tmp_path / "b", generation=SMALL)
    partial = inversion.load_run(tmp_path / "b")
    assert not partial.attrs["complete"]
    assert partial.response.max() == SHARD - 1
    monkeypatch.undo()
    measure_run(bridge, PROBLEMS, tmp_path / "b", generation=SMALL)
    assert contents(tmp_path / "b") == contents(finished)


def test_a_finished_run_is_left_alone_and_another_is_not_overwritten(bridge, finished, monkeypatch):
    before = contents(finished)
    measure_run(bridge, PROBLEMS, finished, generation=SMALL)
    with pytest.raises(InputError, match="holds another run .*responses.seed.*--overwrite"):
        measure_run(bridge, PROBLEMS, finished, generation=SMALL, seed=1)
    with pytest.raises(InputError, match="measurement.norms"):
        measure_run(bridge, PROBLEMS, finished, generation=SMALL, measurement=Measurement(norms=("nuclear",)))
    assert contents(finished) == before


def test_overwriting_replaces_the_whole_run(bridge, tmp_path):
    measure_run(bridge, PROBLEMS, tmp_path / "c", generation=SMALL)
    measure_run(bridge, PROBLEMS[:3], tmp_path / "c", generation=SMALL, overwrite=True)
    assert len(inversion.load_responses(tmp_path / "c")) == 3


def test_given_responses_are_measured_as_they_stand(bridge, tmp_path):
    problems = [Problem("1 + 2 =", "<answer>3</answer>"), PROBLEMS[0]]
    folder = measure_run(bridge, problems, tmp_path / "d", generation=SMALL)
    responses = inversion.load_responses(folder)
    assert responses.text[0] == "<answer>3</answer>"
    assert math.isnan(responses.score[0])
    assert responses.answer[1] == "2"


@pytest.mark.parametrize(
    ("problem", "match"),
    [
        (Problem("1 + 2 =", "3"), "problem 2 has a response of one token"),
        (Problem("1 2 3 4 5 6 7 8 9 " * 9, "3 4"), "problem 2: .*context"),
        (Problem("1 2 3 4 5 6 7 8 9 " * 9), "problem 2: .*context"),
    ],
)
def test_nothing_is_written_for_bad_input(bridge, tmp_path, problem, match):
    with pytest.raises(InputError, match=match):
        measure_run(bridge, [PROBLEMS[0], problem], tmp_path / "e", generation=SMALL)
    assert not (tmp_path / "e").exists()


def test_a_folder_with_something_else_is_refused(bridge, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty and holds no run"):
        measure_run(bridge, PROBLEMS, tmp_path, generation=SMALL, overwrite=True)
    with pytest.raises(InputError, match="is a file"):
        measure_run(bridge, PROBLEMS, tmp_path / "notes.txt", generation=SMALL)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_what_is_no_run_is_one_sentence(tmp_path, finished):
    with pytest.raises(InputError, match="no run in"):
        inversion.load_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        inversion.load_run(tmp_path)
    (tmp_path / "run.json").write_text('{"format": "other"}')
    with pytest.raises(InputError, match="format"):
        inversion.load_run(tmp_path)
    (tmp_path / "run.json").write_bytes((finished / "run.json").read_bytes())
    with pytest.raises(InputError, match="no finished part"):
        inversion.load_run(tmp_path)


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def remove(path):
    path.unlink()


@pytest.mark.parametrize("damage", [cut, flip, remove])
@pytest.mark.parametrize("name", ["tokens-00001.parquet", "responses-00001.parquet"])
def test_a_damaged_shard_is_named(finished, tmp_path, damage, name):
    shutil.copytree(finished, tmp_path / "run")
    damage(tmp_path / "run" / name)
    with pytest.raises(InputError, match=f"{name} is (damaged|missing).*inversion check"):
        inversion.load_run(tmp_path / "run")


@pytest.mark.parametrize("damage", [cut, lambda path: path.write_text("[]"), lambda path: path.write_text("{}")])
def test_a_damaged_record_of_a_shard_is_named(finished, tmp_path, damage):
    shutil.copytree(finished, tmp_path / "run")
    damage(tmp_path / "run" / "shard-00001.json")
    with pytest.raises(InputError, match="shard-00001.json is damaged"):
        inversion.load_run(tmp_path / "run")


def test_a_run_may_be_renamed_linked_to_and_have_a_gap(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "other name")
    (tmp_path / "link").symlink_to(tmp_path / "other name")
    assert inversion.load_run(tmp_path / "link").identical(inversion.load_run(finished))
    for path in (tmp_path / "link").glob("*-00001.*"):
        path.unlink()
    run = inversion.load_run(tmp_path / "link")
    assert not run.attrs["complete"]
    assert set(run.response.values) == {*range(SHARD), *range(2 * SHARD, len(PROBLEMS))}
