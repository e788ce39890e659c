"""Whatever a file holds, reading it gives a value or one sentence; everything that reads is here."""

import dataclasses
import json
import shutil
from argparse import ArgumentTypeError
from contextlib import suppress
from functools import partial

import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import inversion
from inversion import InputError
from inversion.checking import inspect_run, read_command
from inversion.commands.options import numbers, pairs, part
from inversion.experiments.comparison import read_compare_spec
from inversion.experiments.pretrained.spec import StudySpec, read_study
from inversion.experiments.spec import read_spec
from inversion.experiments.supervised import SupervisedSpec, read_supervised_spec
from inversion.experiments.survey import SurveyBenchmark, SurveyMeasurement, SurveyModel, read_survey
from inversion.measure import measure_run
from inversion.report.page import embedded_json
from inversion.responses import Frame, Generation, Problem, Source
from inversion.responses.thinking import opens_thinking, token_parts

FEW = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXTS = st.text(max_size=30)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(("prompt", "response", "answer", "task", "question", "messages", "prompt_token_ids", "role"))
TURNS = st.dictionaries(st.sampled_from(("role", "content", "tool_calls")), VALUES, max_size=3)
ROWS = st.dictionaries(NAMES | TEXTS, VALUES | st.lists(TURNS, max_size=3), max_size=4)
SUFFIXES = ("jsonl", "json", "csv", "tsv", "parquet", "txt", "gz")


def one_sentence(read):
    """Call ``read``; what it refuses must be one sentence that fits on a line."""
    try:
        return read()
    except InputError as error:
        sentence = str(error)
    assert sentence.strip()
    assert "Traceback" not in sentence
    return None


@pytest.fixture(scope="module")
def run(checkpoint, tmp_path_factory):
    problems = [Problem(f"{a} + 2 =") for a in range(4)]
    folder = tmp_path_factory.mktemp("fuzz") / "run"
    return measure_run(
        inversion.load_model(checkpoint()), problems, folder, generation=Generation(max_new_tokens=4), shard=2
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
@FEW
@given(content=st.binary(max_size=200) | TEXTS.map(str.encode))
def test_prompts_of_any_bytes(tmp_path, suffix, content):
    path = tmp_path / f"prompts.{suffix}"
    path.write_bytes(content)
    problems = one_sentence(Source(str(path)).read)
    assert problems is None or all(isinstance(problem, Problem) for problem in problems)


@FEW
@given(rows=st.lists(ROWS, max_size=3), whole=st.booleans())
def test_prompts_of_any_json(tmp_path, rows, whole):
    path = tmp_path / ("prompts.json" if whole else "prompts.jsonl")
    path.write_text(json.dumps(rows) if whole else "\n".join(map(json.dumps, rows)))
    problems = one_sentence(Source(str(path)).read)
    if problems:
        one_sentence(lambda: Frame().apply(problems, None))


@FEW
@example(content="?")
@given(content=TEXTS | VALUES.map(lambda value: yaml.safe_dump(value, allow_unicode=True)) | st.binary(max_size=60))
def test_configurations_of_any_content(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    for read in (read_spec, read_compare_spec, read_supervised_spec, read_survey):
        one_sentence(lambda read=read: read(str(path)))
    one_sentence(lambda: read_study("fast", str(path)))


FIELDS = {"models": SurveyModel, "benchmarks": SurveyBenchmark, "measurements": SurveyMeasurement}
PLACES = [(part, field.name) for part, cls in FIELDS.items() for field in dataclasses.fields(cls)]
PLACES += [(name, None) for name in (*FIELDS, "pairs", "seed")]


@settings(FEW, max_examples=300)
@given(place=st.sampled_from(PLACES), value=VALUES)
def test_surveys_with_any_value_of_a_known_field(tmp_path, place, value):
    fields = {"models": {"a": {"model": "fast"}}, "benchmarks": {"b": {"prompts": "demo"}}, "measurements": {"c": {}}}
    part, field = place
    if field is None:
        fields[part] = value
    else:
        next(iter(fields[part].values()))[field] = value
    path = tmp_path / "survey.yaml"
    path.write_text(yaml.safe_dump(fields))
    survey = one_sentence(lambda: read_survey(str(path)))
    for cell in survey.cells() if survey else ():
        cell.record()
        one_sentence(cell.generation)
        one_sentence(cell.frame)


@FEW
@given(
    name=st.sampled_from(("method", "model", "limit", "task_options", "seed", "out", "options", "device", "scorer")),
    value=VALUES,
)
def test_configurations_with_any_value_of_a_known_field(tmp_path, name, value):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({name: value}))
    one_sentence(lambda: read_spec(str(path)))
    one_sentence(lambda: read_compare_spec(str(path), ["methods={grpo: 1}"]))


@settings(FEW, max_examples=200)
@given(data=st.data(), value=VALUES)
def test_studies_and_supervised_experiments_with_any_value_of_a_known_field(tmp_path, data, value):
    readers = ((StudySpec, partial(read_study, "fast")), (SupervisedSpec, read_supervised_spec))
    cls, read = data.draw(st.sampled_from(readers))
    name = data.draw(st.sampled_from([field.name for field in dataclasses.fields(cls)]))
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({name: value}))
    one_sentence(lambda: read(str(path)))


@FEW
@given(data=st.data())
def test_a_run_with_any_file_damaged(run, tmp_path, data):
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run, folder)
    path = folder / data.draw(st.sampled_from(sorted(path.name for path in run.iterdir() if path.is_file())))
    content = bytearray(path.read_bytes())
    how = data.draw(st.sampled_from(("flip", "cut", "replace", "insert")))
    place = data.draw(st.integers(0, len(content) - 1))
    if how == "flip":
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "cut":
        del content[place:]
    else:
        content[place : place + (how == "replace") * 20] = data.draw(st.binary(min_size=1, max_size=20))
    if content == path.read_bytes():
        return
    path.write_bytes(content)
    loaded = one_sentence(lambda: inversion.load_run(folder))
    responses = one_sentence(lambda: inversion.load_responses(folder))
    one_sentence(lambda: inspect_run(folder))
    # Either it is noticed, or nothing that is read has changed: of a shard's record only its checksums are.
    if loaded is not None:
        assert loaded.identical(inversion.load_run(run))
    if responses is not None:
        pd.testing.assert_frame_equal(responses, inversion.load_responses(run))


@FEW
@given(entry=st.sampled_from(("model", "measurement", "responses", "versions", "format")), value=VALUES)
def test_a_manifest_of_any_content(run, tmp_path, entry, value):
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run, folder)
    manifest = json.loads((run / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**manifest, entry: value}))
    assert one_sentence(lambda: inversion.load_run(folder)) is None or value == manifest[entry]
    one_sentence(lambda: inspect_run(folder))
    (folder / "command.json").write_text(json.dumps(value))
    one_sentence(lambda: read_command(folder))


@FEW
@given(
    pieces=st.lists(TEXTS | st.sampled_from(("<think>", "</think>", "<th", "ink>", "</", "think>")), max_size=12),
    opened=st.booleans(),
)
def test_thinking_is_told_apart_in_any_text(pieces, opened):
    parts = token_parts(pieces, opened=opened)
    assert len(parts) == len(pieces)
    assert set(parts) <= {"think", "answer", "tag"}
    assert isinstance(opens_thinking("".join(pieces)), bool)


@FEW
@given(value=VALUES)
@example(value=float("inf"))
def test_report_data_comes_back_from_the_page_and_cannot_leave_its_element(value):
    try:
        plain = json.dumps(value, allow_nan=False)
    except ValueError:  # NaN and infinities, which JSON does not have
        with pytest.raises(ValueError, match="JSON"):
            embedded_json(value)
        return
    text = embedded_json(value)
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert repr(json.loads(text)) == repr(json.loads(plain))


@FEW
@given(text=TEXTS)
def test_options_of_the_command_line(text):
    for read in (numbers, pairs, part):
        with suppress(ValueError, ArgumentTypeError):  # what argparse turns into a sentence
            read(text)
