"""Every layout that data comes in gives the same rows; what cannot be read is one sentence."""

import json
import shutil
from unittest.mock import patch

import pandas as pd
import pytest

import inversion
from inversion import InputError
from inversion.measure import measure_run
from inversion.preparation import _fit
from inversion.responses import Problem, Source, read_problems
from inversion.responses.sources import read_rows
from inversion.scoring import scorer_for

ROWS = [{"prompt": "1 + 2 =", "answer": "3"}, {"prompt": 'two\nlines, "quoted"', "answer": "007"}]


def save_jsonl(folder):
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return path


def save_array(folder):
    path = folder / "rows.json"
    path.write_text(json.dumps(ROWS, indent=1))
    return path


def save_table(separator, suffix):
    def save(folder):
        path = folder / f"rows{suffix}"
        pd.DataFrame(ROWS).to_csv(path, sep=separator, index=False)
        return path

    return save


def save_parquet(folder):
    pd.DataFrame(ROWS).to_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


def save_to_disk(folder):
    from datasets import Dataset

    Dataset.from_list(ROWS).save_to_disk(folder / "saved")
    return folder / "saved"


def save_as_on_the_hub(folder):
    (folder / "hub" / "data").mkdir(parents=True)
    pd.DataFrame(ROWS).to_parquet(folder / "hub" / "data" / "test-00000-of-00001.parquet")
    return folder / "hub"


SAVERS = [
    save_jsonl,
    save_array,
    save_table(",", ".csv"),
    save_table("\t", ".tsv"),
    save_parquet,
    save_to_disk,
    save_as_on_the_hub,
]


@pytest.mark.parametrize("save", SAVERS)
def test_every_layout_gives_the_same_rows(save, tmp_path):
    assert [dict(row) for row in read_rows(str(save(tmp_path)))] == ROWS


def hub_folder(folder):
    """Two subsets with two splits each, declared in the data set's card."""
    card = ["---", "configs:"]
    for subset in ("main", "socratic"):
        card += [f"- config_name: {subset}", "  data_files:"]
        (folder / subset).mkdir(parents=True)
        for split in ("train", "test"):
            card += [f"  - split: {split}", f"    path: {subset}/{split}-*"]
            frame = pd.DataFrame([{"question": f"{subset} {split}?", "answer": "so\n#### 1,234"}])
            frame.to_parquet(folder / subset / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text("\n".join([*card, "---", "# Problems"]))
    return str(folder)


def test_subset_and_split_of_a_folder_laid_out_as_on_the_hub(tmp_path):
    folder = hub_folder(tmp_path / "gsm8k")
    (problem,) = read_problems(folder, subset="socratic", split="test", benchmark="gsm8k")
    assert problem.prompt == "socratic test?"
    assert problem.answer == "1234"
    assert problem.scorer("so it is 1,234") == 1.0
    for more, match in [
        ({}, r"several subsets \(main, socratic\); choose one with --subset"),
        ({"subset": "main"}, r"several splits \(train, test\); choose one with --split"),
        ({"subset": "other"}, "no subset other"),
        ({"subset": "main", "split": "dev"}, "no split dev"),
    ]:
        with pytest.raises(InputError, match=match):
            read_problems(folder, **more)


def test_splits_of_a_saved_data_set(tmp_path):
    from datasets import Dataset, DatasetDict

    parts = {name: Dataset.from_list([{"prompt": name}]) for name in ("train", "test")}
    DatasetDict(parts).save_to_disk(tmp_path / "saved")
    assert read_problems(str(tmp_path / "saved"), split="test")[0].prompt == "test"
    with pytest.raises(InputError, match="several splits"):
        read_problems(str(tmp_path / "saved"))


def test_a_benchmark_by_name_is_looked_for_on_the_hub():
    # Tests have no network: that it is sought under its name there is all that can be seen here.
    with pytest.raises(InputError, match="openai/gsm8k"):
        read_problems("gsm8k")
    with pytest.raises(InputError, match="someone/something"):
        read_problems("someone/something")


def test_separators_inside_a_string_do_not_end_a_line(tmp_path):
    text = "a\u2028b\u0085c\u000bd"
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"prompt": text}, ensure_ascii=False).encode() + b"\r\n\r\n")
    assert read_problems(str(path))[0].prompt == text


def test_long_numbers_do_not_matter_in_a_column_that_is_not_used(tmp_path):
    path = tmp_path / "rows.jsonl"
    digits = "7" * 5000
    path.write_text(f'{{"prompt": "a", "id": {digits}}}')
    assert read_problems(str(path))[0].prompt == "a"
    path.write_text(f'{{"prompt": "a", "answer": {digits}}}')
    assert read_problems(str(path))[0].answer == digits


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.jsonl", '{"prompt": "é"}'.encode("utf-16"), "not UTF-8"),
        ("a.jsonl", '{"prompt": "é"}'.encode("latin-1"), "not UTF-8"),
        ("a.csv", "prompt\né".encode("latin-1"), "not UTF-8"),
        ("a.jsonl", b'{"prompt": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        ("a.jsonl", b'{"prompt": "a \\ud800"}', "row 1: prompt holds half a surrogate"),
        ("a.jsonl", b'{"prompt": "a", "answer": "\\udc00"}', "row 1: answer holds half a surrogate"),
        ("a.jsonl", b'{"prompt": "a", "task": "\\udc00"}', "row 1: task holds half a surrogate"),
        ("a.jsonl", b'{"prompt": "a", "answer": NaN}', "row 1: answer is nan"),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": ', "line 2 is not valid JSON"),
        ("a.json", b'[{"prompt": "a"}', "not valid JSON"),
        ("a.csv", b"prompt,answer\n1,2,3\n", "not a well-formed table"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"prompt\n", "is empty"),
        ("a.parquet", b"no", "not a readable Parquet file"),
        ("a.txt", b"no", "none of"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path, name, content, match):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=match) as caught:
        read_problems(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_data_set_is_one_sentence(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "state.json").write_text("{}")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "train.jsonl").write_text('{"prompt": "a"}\n{"prompt": ')
    cases = (("folder", "cannot read a data set"), ("broken", "damaged data set"), ("torn", "cannot read a data set"))
    for name, match in cases:
        with pytest.raises(InputError, match=match):
            read_problems(str(tmp_path / name))


def test_a_limit_reads_no_further(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n{')
    assert [p.prompt for p in read_problems(str(tmp_path / "rows.jsonl"), limit=2)] == ["a", "b"]


class TestARun:
    @pytest.fixture(scope="class")
    def bridge(self, checkpoint):
        return inversion.load_model(checkpoint())

    @pytest.fixture(scope="class")
    def run(self, bridge, tmp_path_factory):
        scorers = [lambda text: 0.25, scorer_for("number", "72"), scorer_for("tags", "72")]
        problems = [Problem("48 + 24 =", "it makes 72 ", answer="72", scorer=scorer, task="sum") for scorer in scorers]
        return measure_run(bridge, problems, tmp_path_factory.mktemp("runs") / "first", shard=1)

    def test_its_responses_keep_their_scores_and_reasons(self, bridge, run, tmp_path):
        source = Source(str(run))
        again = measure_run(bridge, source.read(), tmp_path / "again", source=source)
        first, second = inversion.load_responses(run), inversion.load_responses(again)
        assert second.score.tolist()[:2] == [0.25, 1]
        pd.testing.assert_frame_equal(
            first[["score", "score_reason", "task"]], second[["score", "score_reason", "task"]]
        )
        assert second.score_reason[2] == "it has no answer tags"
        reading = json.loads((again / "run.json").read_text())["responses"]["reading"]
        assert reading["scores"] == "kept"
        assert [problem.finished for problem in source.read()] == [True] * 3

    def test_they_are_scored_again_where_that_is_asked_for(self, run):
        source = Source(str(run), scorer="number")
        assert [problem.scorer(problem.response) for problem in source.read()] == [1, 1, 1]
        assert "scores" not in source.record()

    def test_others_that_the_model_is_to_write_have_none_of_theirs(self, run):
        source = Source(str(run), columns={"response": "", "response_token_ids": ""})
        assert [problem.scorer("<answer>72</answer>") for problem in source.read()] == [1, 1, 1]

    def test_one_that_is_cut_loses_its_score(self, bridge, run):
        (problem, *_) = read_problems(str(run))
        limit = len(bridge.tokenizer(problem.prompt)["input_ids"]) + 4
        prompt, response = list(problem.prompt_token_ids), list(problem.response_token_ids)
        with patch("inversion.preparation.context_length", lambda model: limit):
            _, cut, _ = _fit(bridge, problem, prompt, response, cut=True)
        assert "that of the whole response" in cut.scorer(cut.response).reason

    def test_what_it_lacks_is_said(self, bridge, run, tmp_path, caplog):
        folder = shutil.copytree(run, tmp_path / "run")
        (folder / "shard-00001.json").unlink()
        assert len(read_problems(str(folder))) == 2
        assert "is unfinished: it has 2 of 3 responses" in caplog.text
        flipped = folder / "responses-00000.parquet"
        flipped.write_bytes(flipped.read_bytes()[:-1])
        with pytest.raises(InputError, match="is damaged"):
            read_problems(str(folder))

    def test_responses_without_a_token_are_left_out_and_counted(self, bridge, run, tmp_path, caplog, monkeypatch):
        frame = inversion.load_responses(run)
        frame.at[1, "response_token_ids"] = frame.response_token_ids[1][:0]
        monkeypatch.setattr("inversion.runs.load_responses", lambda folder: frame)
        assert len(read_problems(str(run))) == 2
        assert "1 of 3 responses of" in caplog.text
