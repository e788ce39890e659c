"""What docs/data.md says of options, benchmarks and surveys is so."""

import re
from pathlib import Path

import yaml

from inversion.cli import build_parser
from inversion.experiments.survey import read_survey
from inversion.responses import BENCHMARKS
from inversion.responses.chat import TEMPLATES
from inversion.scoring import KINDS

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def options_of(command):
    (commands,) = (action for action in build_parser()._actions if action.dest == "command")
    return {flag for action in commands.choices[command]._actions for flag in action.option_strings}


def test_its_options_exist():
    known = options_of("probe") | options_of("survey")
    others = {"--port"}  # of the servers
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]+", PAGE)) - others <= known


def test_its_tables_are_complete():
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)`", PAGE, re.MULTILINE))
    assert rows == {name: known.hub for name, known in BENCHMARKS.items()}
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == {*BENCHMARKS, *KINDS}
    assert all(f"`{name}`" in PAGE for name in TEMPLATES)


def test_its_survey_can_be_read(tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "survey.yaml"
    path.write_text(example)
    assert read_survey(str(path)).compared() == [("base", "r1")]
    assert yaml.safe_load(example)["measurements"]
