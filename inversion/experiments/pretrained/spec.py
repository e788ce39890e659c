"""What is done with a pretrained model: texts, the three parts, and how they are read from a YAML file."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from inversion.errors import InputError
from inversion.experiments.comparison import CompareSpec, compare_spec
from inversion.experiments.spec import parse_overrides, read_fields
from inversion.experiments.survey import Survey, survey_of
from inversion.names import nearest

SHIPPED = Path(__file__).with_name("study.yaml")
PARTS = ("baseline", "finetuning", "reinforcement")
Kind = Literal["worked", "chains", "traces", "shuffled", "prompts"]
"""Texts that an arm is trained on; see :mod:`inversion.experiments.pretrained.texts`."""
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class TextSpec:
    """Which texts there are, and what stands around them.

    chat: Whether to apply the checkpoint's chat template; without it a question is asked as ``Question: ... Answer:``.
    system: System message of the chat; None leaves it to the template.
    longest: Tokens of a prompt and its worked solution together; longer ones are left out.
    train: Worked solutions to train on.
    held_out: Problems that are measured on.
    traces: Reasoning traces that are measured on.
    trace_tokens: Length at which a measured trace is cut.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    chat: bool = True
    system: str | None = None
    longest: int = 192
    train: int = 2400
    held_out: int = 100
    traces: int = 40
    trace_tokens: int = 1024


@dataclass(frozen=True)
class ArmSpec:
    """One condition of the fine-tuning curve.

    texts: What it is trained on: ``worked`` solutions, ``chains`` of thought with tags, reasoning ``traces``, and as
        controls ``shuffled`` solutions (their words in random order) and the ``prompts`` themselves.
    seeds: How often it is trained; 0 leaves it out.
    learning_rate: Constant, after ten steps of warm-up.
    lora: Rank of LoRA adapters on all linear maps; None trains the full weights.
    measured_on: Held-out problems that its checkpoints answer: ``worked`` or ``chains``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    texts: Kind = "worked"
    seeds: int = 1
    learning_rate: float = 1e-4
    lora: int | None = None
    measured_on: Literal["worked", "chains"] = "worked"


@dataclass(frozen=True)
class FinetuningSpec:
    """The fine-tuning curve.

    arms: Name -> condition.
    marks: Steps at which the model is measured, from 0.
    batch_size: Texts a step.
    save_every: Steps between checkpoints to resume from, beside those at the marks.
    precision: Of the products within a training step. Never chosen by the machine: the two give different trainings.
    problems: Held-out problems that every checkpoint is measured on.
    targets: Tokens drawn a response.
    max_new_tokens: Length at which a response is cut.
    samples: Further responses to each of these problems, for accuracy alone.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    arms: dict[str, ArmSpec]
    marks: tuple[int, ...] = (0, 10, 25, 50, 100, 200, 400)
    batch_size: int = 4
    save_every: int = 50
    precision: Literal["float32", "bfloat16"] = "float32"
    problems: int = 24
    targets: int = 8
    max_new_tokens: int = 128
    samples: int = 2

    def runs(self) -> list[tuple[str, int]]:
        """Return arm and seed of every training, seed by seed, so that what is cut off still has every arm."""
        most = max((arm.seeds for arm in self.arms.values()), default=0)
        return [(name, seed) for seed in range(most) for name, arm in self.arms.items() if seed < arm.seeds]


@dataclass(frozen=True)
class ScanSpec:
    """Which tasks a model is tried on, to find those that it solves some of the time.

    tasks: Name -> ``task``, a reasoning-gym task, and its settings.
    problems: Problems of each.
    samples: Responses to each problem.
    between: Shares right within which a task is taken.
    train, held_out: Problems of the tasks taken, which take turns, to train and to measure on.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    tasks: dict[str, dict[str, Any]]
    problems: int = 16
    samples: int = 4
    between: tuple[float, float] = (0.2, 0.7)
    train: int = 256
    held_out: int = 24


@dataclass(frozen=True)
class ReinforcementSpec:
    """Reinforcement learning on tasks that the model solves some of the time.

    scan: How they are found.
    compare: Fields of :class:`~inversion.experiments.comparison.CompareSpec`; model and problems are filled in.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    scan: ScanSpec
    compare: dict[str, Any]


@dataclass(frozen=True)
class StudySpec:
    """Everything that is done with one model. Fields of the parts may change between calls, what is finished stays.

    model: Shipped model, folder or hub id.
    data: Folder with GSM8K and the reasoning traces as JSON Lines; None lets reasoning-gym make the problems.
    seed: Seed of sampling and of drawn tokens.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    model: str
    texts: TextSpec
    baseline: dict[str, dict[str, Any]]
    finetuning: FinetuningSpec
    reinforcement: ReinforcementSpec
    data: str | None = None
    seed: int = 0
    device: Literal["auto", "cpu"] = "auto"

    def __post_init__(self) -> None:
        marks = self.finetuning.marks
        if len(marks) < 2 or marks[0] != 0 or list(marks) != sorted(set(marks)):
            raise InputError(f"finetuning.marks is {list(marks)}; give 0 and then growing numbers of steps.")
        for path, value, least in self._counts():
            if value < least:
                raise InputError(f"{path} is {value}; give at least {least}.")
        if self.finetuning.problems > self.texts.held_out:
            raise InputError(
                f"finetuning.problems is {self.finetuning.problems} and texts.held_out {self.texts.held_out}; the "
                "former are the first of the latter, so lower it."
            )
        low, high = self.reinforcement.scan.between
        if not 0 <= low < high <= 1:
            raise InputError(f"reinforcement.scan.between is {[low, high]}; give two shares, the lower one first.")

    def _counts(self) -> list[tuple[str, float, int]]:
        found: list[tuple[str, float, int]] = []
        parts = {"texts": self.texts, "finetuning": self.finetuning, "reinforcement.scan": self.reinforcement.scan}
        for name, part in parts.items():
            for entry in dataclasses.fields(part):
                if entry.type is int:
                    found.append((f"{name}.{entry.name}", getattr(part, entry.name), 1))
        for name, arm in self.finetuning.arms.items():
            found.append((f"finetuning.arms.{name}.seeds", arm.seeds, 0))
            found.append((f"finetuning.arms.{name}.lora", 1 if arm.lora is None else arm.lora, 1))
        return found

    def surveys(self, folder: Path | None = None) -> dict[str, Survey]:
        """Return the surveys of the baseline, on those texts that a folder holds; without a folder, on all."""
        found = {name: self._survey(name, values, folder) for name, values in self.baseline.items()}
        return {name: survey for name, survey in found.items() if survey is not None}

    def _survey(self, name: str, values: dict[str, Any], folder: Path | None) -> Survey | None:
        models = {
            key: {"model": self.model, "device": self.device, **self._around(entry)}
            for key, entry in _entries(name, values, "models").items()
        }
        benchmarks = {}
        for key, entry in _entries(name, values, "benchmarks").items():
            if "prompts" not in entry:
                raise InputError(f"baseline.{name}.benchmarks.{key} has no prompts; name one of the study's texts.")
            path = (folder or Path()) / f"{entry['prompts']}.jsonl"
            # Where there are no reasoning traces, nothing is measured on them.
            if folder is None or path.is_file():
                benchmarks[key] = {**entry, "prompts": str(path)}
        if folder is not None and not benchmarks:
            return None
        whole = {"pairs": [], **values, "models": models, "benchmarks": benchmarks, "seed": self.seed}
        return survey_of(whole, f"baseline.{name}")

    def _around(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Let a checkpoint without a chat template be asked as base models are."""
        if not entry.get("chat"):
            return {"template": "qa", **entry}
        if not self.texts.chat:
            return {"template": "qa", **entry, "chat": False}
        return {"system": self.texts.system, **entry}

    def comparison(self, out: Path, problems: Path, held_out: Path) -> CompareSpec:
        """Return the comparison of methods on problems in two files."""
        given = {
            "model": self.model,
            "device": self.device,
            "problems": str(problems),
            "held_out": str(held_out),
            "scorer": "math",
            "limit": self.reinforcement.scan.train,
            "held_out_limit": self.reinforcement.scan.held_out,
            "out": str(out),
        }
        return compare_spec({**self.reinforcement.compare, **given})


def read_study(
    model: str, config: str | None = None, overrides: Sequence[str] = (), data: str | None = None
) -> StudySpec:
    """Read a study.

    Args:
        model: Shipped model, folder or hub id.
        config: A YAML file with fields of :class:`StudySpec`; None for the one that comes along.
        overrides: ``field=value``, the value in YAML; ``field.entry=value`` sets one entry of a field that has some.
        data: Folder of the data; see :class:`StudySpec`.

    Raises:
        InputError: The file is missing or malformed, or a field is unknown or cannot be used.
    """
    values = parse_overrides(read_fields(str(SHIPPED if config is None else config)), overrides)
    folder = None if data is None else Path(data).expanduser().resolve()
    if folder is not None and not folder.is_dir():
        raise InputError(f"there is no folder {folder}; leave --data out to have problems made by reasoning-gym.")
    path = Path(model).expanduser()
    values |= {
        "model": str(path.resolve()) if path.is_dir() else model,
        "data": None if folder is None else str(folder),
    }
    try:
        spec = TypeAdapter(StudySpec).validate_python(values)
    except ValidationError as error:
        raise InputError(_sentence(error)) from error
    # What can be refused is refused before anything is done.
    spec.surveys()
    spec.comparison(Path("out"), Path("train.jsonl"), Path("held-out.jsonl"))
    return spec


def _entries(survey: str, values: dict[str, Any], part: str) -> dict[str, dict[str, Any]]:
    """Return the models or benchmarks of a survey, each with its fields."""
    entries = values.get(part, {})
    if not isinstance(entries, dict) or not all(isinstance(entry or {}, dict) for entry in entries.values()):
        raise InputError(f"baseline.{survey}.{part} is {entries!r}; give names, each with its fields below it.")
    return {key: entry or {} for key, entry in entries.items()}


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    if first["type"] == "value_error":  # one of ours, from __post_init__
        return first["msg"].removeprefix("Value error, ")
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = [entry.name for entry in dataclasses.fields(StudySpec)]
        return f"field {place} is not known; the fields of a study are {nearest(place, known, len(known))} and theirs."
    what = first["msg"].rstrip(".")
    return f"{place} is {first['input']!r}: {what[:1].lower()}{what[1:]}; correct it."
