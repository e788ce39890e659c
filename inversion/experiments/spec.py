"""What ``inversion train`` reads: fields from YAML, TRL's under TRL's own names, any of them overridable.

Types are read by pydantic, from the annotations here and in ``CorrPOConfig``: ``1e-4`` is a number, ``many`` is not.
"""

import copy
import dataclasses
import math
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from inversion.corrpo.config import CorrPOConfig
from inversion.errors import InputError, first_line
from inversion.files import share_of
from inversion.names import nearest

DEMO = "demo"
RENAMED = {
    "steps": "max_steps",
    "prompts": "per_device_train_batch_size, which counts responses",
    "generations": "num_generations",
    "max_new_tokens": "max_completion_length",
    "weight": "inversion_weight",
    "save_every": "save_steps",
    "log_every": "logging_steps",
}
"""Name that a field once had -> its name now."""


@dataclass(frozen=True)
class TrainSpec:
    """A fine-tune. The defaults are the built-in run, ``inversion train demo``.

    The fields from ``max_steps`` on are those of ``CorrPOConfig``, hence TRL's, with defaults of our own. In a file and
    on the command line all its other fields may stand beside them, such as ``beta: 0.01``.

    method: A name in :data:`inversion.corrpo.baselines.METHODS`.
    model: Shipped model, folder or hub id.
    problems: ``demo`` (new problems of the shipped models' three tasks), a reasoning-gym task, or a JSONL or Parquet
        file with ``prompt`` and ``answer``.
    limit: Most training problems.
    task_options: Settings of a reasoning-gym task's generator; with ``demo``, ``tasks``: names of some of the three.
    held_out: Where to measure before and after: a file as above; none for the shipped held-out problems with
        ``demo``, for a seed of their own with a task, and otherwise for the last ``held_out_limit`` of the problems.
        What is held out is never trained on.
    held_out_limit: Most problems to measure on.
    held_out_every: Steps after which the held-out problems are answered again, for accuracy and entropy along training;
        0 for never.
    held_out_samples: Answers to each of them then.
    held_out_targets: Tokens of each answer whose gradients are measured before and after, drawn with the seed; none for
        all, which may take longer than the training.
    scorer: Of answers in a file: ``tags``, exact match between answer tags, or ``math``, math-verify.
    out: Folder of the results.
    device: ``auto`` or ``cpu``.
    max_steps: Optimizer steps.
    per_device_train_batch_size: Responses per step and process.
    num_generations: Responses per prompt.
    max_completion_length: Length at which a response is cut, in tokens.
    temperature: Sampling temperature.
    learning_rate: Learning rate at the start; it falls to 0 linearly.
    inversion_weight: Weight of rho in the reward; the method multiplies it, baselines by 0.
    seed: Seed of everything that is drawn.
    save_steps: Steps between checkpoints.
    logging_steps: Steps between log entries.
    options: Further fields of ``CorrPOConfig``.
    """

    method: str = "corrpo"
    model: str = "half"
    problems: str = DEMO
    limit: int = 512
    task_options: dict[str, Any] = field(default_factory=dict)
    held_out: str | None = None
    held_out_limit: int = 64
    held_out_every: int = 20
    held_out_samples: int = 1
    held_out_targets: int | None = None
    scorer: Literal["tags", "math"] = "tags"
    out: str = "runs/train"
    device: Literal["auto", "cpu"] = "auto"
    max_steps: int = 60
    per_device_train_batch_size: int = 48
    num_generations: int = 8
    max_completion_length: int = 96
    temperature: float = 1.0
    learning_rate: float = 2e-4
    inversion_weight: float = 0.1
    seed: int = 0
    save_steps: int = 20
    logging_steps: int = 1
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            object.__setattr__(self, entry.name, _read(entry.name, getattr(self, entry.name), _types(TrainSpec)))
        unknown(self.options, _types(CorrPOConfig))
        object.__setattr__(self, "options", {n: _read(n, v, _types(CorrPOConfig)) for n, v in self.options.items()})
        for name in _COUNTS:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give at least 1.")
        if self.held_out_every < 0:
            raise InputError(f"held_out_every is {self.held_out_every}; give a number of steps, or 0 for never.")
        if self.num_generations < 2:
            raise InputError(f"num_generations is {self.num_generations}; a group needs at least 2.")
        if self.temperature <= 0:
            raise InputError(f"temperature is {self.temperature}; give more than 0, or all responses are the same.")

    def changed(self, fields: dict[str, Any]) -> "TrainSpec":
        """Return a copy with fields changed, those of ``CorrPOConfig`` among them.

        Raises:
            InputError: A field is unknown or cannot be used.
        """
        own = set(_types(TrainSpec)) - {"options"}
        unknown(fields, known_fields())
        options = {**self.options, **{name: value for name, value in fields.items() if name not in own}}
        return dataclasses.replace(self, **{n: v for n, v in fields.items() if n in own}, options=options)

    def trainer_fields(self) -> dict[str, Any]:
        """Return the fields of ``CorrPOConfig`` that are set here."""
        shared = set(_types(CorrPOConfig)) & set(_types(TrainSpec))
        return {**{name: getattr(self, name) for name in sorted(shared)}, **self.options}


_COUNTS = (
    "limit",
    "held_out_limit",
    "held_out_samples",
    "held_out_targets",
    "max_steps",
    "per_device_train_batch_size",
    "max_completion_length",
    "save_steps",
    "logging_steps",
)


def read_spec(config: str, overrides: Sequence[str] = ()) -> TrainSpec:
    """Read a specification.

    Args:
        config: A YAML file with fields of :class:`TrainSpec` and ``CorrPOConfig``, or ``demo`` for the defaults.
        overrides: ``field=value``, the value in YAML; ``field.entry=value`` sets one entry of a field that has some.

    Raises:
        InputError: The file is missing or malformed, or a field is unknown or cannot be used.
    """
    return TrainSpec().changed(parse_overrides({} if config == DEMO else read_fields(config), overrides))


def known_fields() -> list[str]:
    """Return the names of all fields that a file may hold: of a training run and of its trainer."""
    return [*(name for name in _types(TrainSpec) if name != "options"), *_types(CorrPOConfig)]


def seeds_of(count: int, part: tuple[int, int] | None) -> list[int]:
    """Return the seeds, of 0 to ``count`` - 1, that part (i, n) trains with; all for None.

    Raises:
        InputError: There are none, or there is no such part.
    """
    seeds = share_of(range(count), part)
    if part is not None and not seeds:
        raise InputError(f"part {part[0]}/{part[1]} has no seed to train with; ask for fewer parts.")
    return seeds


def unknown(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a field that is not known, naming the nearest that is."""
    known = list(dict.fromkeys(known))
    for name in given:
        if name not in known and name in RENAMED:
            raise InputError(f"{name} is now {RENAMED[name]}; it has TRL's name.")
        if name == "options":
            raise InputError("options are fields like the others now; write beta=0.01 and not options.beta=0.01.")
        if name not in known:
            raise InputError(f"field {name!r} is not known; the nearest are {nearest(name, known)}.")


def parse_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return the fields with overrides applied: ``field=value`` or ``field.entry=value``, the value in YAML."""
    values = copy.deepcopy(values)
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise InputError(f"{override!r} is not an override; write field=value.")
        *groups, last = name.split(".")
        place = values
        for group in groups:
            place = place.setdefault(group, {})
            if not isinstance(place, dict):
                raise InputError(f"{group} has no entries to set; write {group}=value.")
        place[last] = _parse(text, override)
    return values


def read_fields(config: str) -> dict[str, Any]:
    """Read the fields of a YAML file."""
    path = Path(config).expanduser()
    if not path.is_file():
        raise InputError(f"there is no file {path}; give a YAML file, or demo for the built-in run.")
    try:
        text = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"cannot read {path}: {first_line(error)}; write it as UTF-8 text.") from error
    values = _parse(text, str(path))
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InputError(f"{path} holds no fields; write lines such as max_steps: 100.")
    return values


def flat_fields(spec: TrainSpec) -> dict[str, Any]:
    """Return every field as a file has them, for :func:`read_spec`."""
    fields = dataclasses.asdict(spec)
    options = fields.pop("options")
    return fields | options


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{where} is not valid YAML; correct it.") from error


@cache
def _types(owner: type) -> dict[str, Any]:
    hints = typing.get_type_hints(owner)
    return {entry.name: hints[entry.name] for entry in dataclasses.fields(owner)}


def read_value(owner: type, name: str, value: Any) -> Any:
    """Return a value as the type of its field in a dataclass.

    Raises:
        InputError: It has another type.
    """
    return _read(name, value, _types(owner))


def _read(name: str, value: Any, types: dict[str, Any]) -> Any:
    """Return a value as its field's type."""
    kind = types[name]
    try:
        # To pydantic true is 1, and to YAML it is what a mistyped number is not.
        if isinstance(value, bool) and kind in (int, float, int | None, float | None):
            raise InputError(f"{name} is {value}; give a number.")
        read = TypeAdapter(kind, config={"arbitrary_types_allowed": True}).validate_python(value)
    except ValidationError as error:
        what = error.errors()[0]["msg"]
        raise InputError(f"{name} is {value!r}: {what[:1].lower()}{what[1:].rstrip('.')}; correct it.") from error
    if isinstance(read, float) and not math.isfinite(read):
        raise InputError(f"{name} is {read}; give a finite number.")
    return read
