import json
import math
import re
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import xarray as xr

import inversion
from inversion import InputError
from inversion.measure import SHARD, Measurement, measure_run
from inversion.preparation import Preparation
from inversion.responses import Generation, Problem, read_problems
from inversion.runs import Piece, mean_entropy, summary
from inversion.scoring import scorer_for
from inversion.shards import checksum

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
        assert (row.nuclear_by, row.processor) == (", ".join(again.attrs["nuclear_by"]), again.attrs["processor"])


def test_a_row_without_a_column_for_what_it_says_is_not_written_short():
    with pytest.raises(KeyError, match="no column for mood"):
        Piece({"response": 0, "mood": "good"}, None)


def without(run, folder, *columns):
    """A copy of a run whose second shard lacks columns of its responses."""
    shutil.copytree(run, folder)
    path = folder / "responses-00001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(list(columns)), path)
    record = json.loads((folder / "shard-00001.json").read_text())
    record["files"][path.name] = checksum(path)
    (folder / "shard-00001.json").write_text(json.dumps(record))
    return folder


def test_shards_of_an_earlier_version_with_fewer_columns_are_read_beside_others(finished, tmp_path):
    with pytest.raises(InputError, match="do not fit its manifest"):
        inversion.load_run(without(finished, tmp_path / "damaged", "score"))
    folder = without(finished, tmp_path / "older", "nuclear_by", "processor")
    there = inversion.load_responses(folder).processor.notna()
    assert there.tolist() == [number // SHARD != 1 for number in range(len(PROBLEMS))]


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
        (Problem("1 + 2 =", "3"), "problem 2: it has a response of one token"),
        (Problem("1 2 3 4 5 6 7 8 9 " * 3, "3 4 " * 20), "problem 2: .*context is 64"),
        (Problem("1 2 3 4 5 6 7 8 9 " * 9), "problem 2: .*context is 64"),
    ],
)
def test_what_cannot_be_measured_is_left_out_counted_and_named(bridge, tmp_path, caplog, problem, match):
    folder = measure_run(bridge, [PROBLEMS[0], problem, PROBLEMS[1]], tmp_path / "e", generation=SMALL)
    assert inversion.load_responses(folder).prompt.tolist() == [PROBLEMS[0].prompt, PROBLEMS[1].prompt]
    (skipped,) = json.loads((folder / "run.json").read_text())["responses"]["skipped"]
    assert skipped["problem"] == 2
    assert re.search(match, caplog.text)
    assert "1 of 3 problems are left out" in caplog.text
    assert f"1 problems were left out beforehand, the first: {skipped['reason']}" in summary(folder)
    notes = inversion.correlate(inversion.load_run(folder), resamples=10).notes
    assert f"1 problems were left out beforehand ({skipped['reason']})" in notes
    refuse = Preparation(too_long="refuse")
    with pytest.raises(InputError, match=match):
        measure_run(bridge, [PROBLEMS[0], problem], tmp_path / "f", generation=SMALL, preparation=refuse)
    with pytest.raises(InputError, match="nothing is left to measure: problem 1"):
        measure_run(bridge, [problem], tmp_path / "f", generation=SMALL)
    assert not (tmp_path / "f").exists()


def test_a_response_beyond_the_context_can_be_cut(bridge, tmp_path):
    prompt, response = "1 2 3 ", "<think>" + "3 4 " * 60 + "</think>"
    cut = Preparation(too_long="cut")
    folder = measure_run(bridge, [Problem(prompt, response)], tmp_path / "g", preparation=cut)
    row = inversion.load_responses(folder).loc[0]
    assert len(row.prompt_token_ids) + row.n_tokens == 64
    assert response.startswith(row.text)
    assert not row.finished


def test_token_ids_are_measured_as_they_are(bridge, tmp_path):
    prompt, response = (9, 8, 7), (6, 5, 4, 3)
    problem = Problem("", prompt_token_ids=prompt, response_token_ids=response, finished=False)
    folder = measure_run(bridge, [problem], tmp_path / "h")
    row = inversion.load_responses(folder).loc[0]
    assert tuple(row.prompt_token_ids) == prompt
    assert tuple(row.response_token_ids) == response
    assert row.prompt == bridge.tokenizer.decode(prompt)
    assert row.text == bridge.tokenizer.decode(response)
    assert not row.finished
    assert inversion.load_run(folder).token_id.values.tolist() == list(response)
    # The responses of a run can be measured again: ids do not pass through text.
    again = measure_run(bridge, read_problems(str(folder)), tmp_path / "i")
    xr.testing.assert_equal(inversion.load_run(again), inversion.load_run(folder))


def test_thinking_is_told_by_the_whole_response_also_where_few_tokens_are_drawn(bridge, tmp_path):
    problems = [
        Problem("1 + 2 =", "<think>" + "3 4 " * 5 + "</think>" + "7 8 " * 3),
        Problem("1 + 2 =<think>\n", "3 4 " * 5),  # opened by the prompt, cut before it is closed
        Problem("1 + 2 =", "3 4 " * 5),
    ]
    whole = inversion.load_run(measure_run(bridge, problems, tmp_path / "whole"))
    few = inversion.load_run(measure_run(bridge, problems, tmp_path / "few", measurement=Measurement(targets=4)))
    for number, places in few.position.groupby(few.response):
        part = whole.part.values[whole.response.values == number]
        assert few.part.values[few.response.values == number].tolist() == part[places.values].tolist()
    text = "".join(whole.token_text.values[(whole.response == 0) & (whole.part == "think")])
    assert text == "3 4 " * 5
    assert set(whole.part.values[whole.response == 1]) == {"think"}
    assert set(whole.part.values[whole.response == 2]) == {"answer"}


def test_the_mean_entropy_of_drawn_tokens_is_that_of_all_tokens(bridge, finished, tmp_path):
    whole = inversion.load_run(finished)
    assert mean_entropy(whole) == pytest.approx(float(whole.entropy_bits.mean()), rel=1e-12)
    few = inversion.load_run(measure_run(bridge, PROBLEMS, tmp_path / "few", measurement=Measurement(targets=3)))
    total, tokens = 0.0, 0
    for response, length in enumerate(inversion.load_responses(tmp_path / "few").n_tokens):
        drawn = few.isel(token=few.response.values == response)
        assert drawn.weight.sum() == length
        total, tokens = total + float((drawn.entropy_bits * drawn.weight).sum()), tokens + length
    assert mean_entropy(few) == pytest.approx(total / tokens, rel=1e-12)
    assert abs(mean_entropy(few) - float(few.entropy_bits.mean())) > 1e-3


def test_a_response_without_a_score_says_why(bridge, tmp_path):
    problems = [Problem("1 + 2 =", text, "3", scorer=scorer_for("number", "3")) for text in ("so 3", "so x")]
    responses = inversion.load_responses(measure_run(bridge, problems, tmp_path / "j"))
    assert responses.score[0] == 1.0
    assert math.isnan(responses.score[1])
    assert responses.score_reason.tolist() == ["", "it has no number"]


@pytest.mark.parametrize("bad", [{"targets": 0}, {"quantity": "loss"}])
def test_settings_of_a_measurement_are_checked_before_anything_is_written(bad):
    with pytest.raises(InputError, match=r"targets is 0|quantity 'loss'"):
        Measurement(**bad)


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


def test_a_run_may_be_renamed_linked_to_and_have_a_gap(finished, tmp_path, caplog):
    shutil.copytree(finished, tmp_path / "other name")
    (tmp_path / "link").symlink_to(tmp_path / "other name")
    assert inversion.load_run(tmp_path / "link").identical(inversion.load_run(finished))
    for path in (tmp_path / "link").glob("*-00001.*"):
        path.unlink()
    run = inversion.load_run(tmp_path / "link")
    assert not run.attrs["complete"]
    assert f"link is unfinished: it has {len(PROBLEMS) - SHARD} of {len(PROBLEMS)} responses so far" in caplog.text
    assert set(run.response.values) == {*range(SHARD), *range(2 * SHARD, len(PROBLEMS))}
