"""What ``inversion train`` reads: one small dataclass from YAML, any field of it overridable on the command line."""

import copy
import dataclasses
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from inversion.errors import InputError

DEMO = "demo"
SCORERS = ("tags", "math")


@dataclass(frozen=True)
class TrainSpec:
    """A fine-tune. The defaults are the built-in run, ``inversion train demo``.

    method: A name in :data:`inversion.corrpo.baselines.METHODS`.
    model: Shipped model, folder or hub id.
    problems: ``demo`` (new problems of the shipped models' three tasks), a reasoning-gym task, or a JSONL or Parquet
        file with ``prompt`` and ``answer``.
    limit: Most training problems.
    task_options: Settings of a reasoning-gym task's generator.
    held_out: Where to measure before and after: a file as above; none for the shipped held-out problems with
        ``demo``, and otherwise the last ``held_out_limit`` of the problems, which are then not trained on.
    held_out_limit: Most problems to measure on.
    scorer: Of answers in a file: ``tags``, exact match between answer tags, or ``math``, math-verify.
    out: Folder of the results.
    steps: Optimizer steps.
    prompts: Prompts a step.
    generations: Responses a prompt.
    max_new_tokens: Length at which a response is cut.
    temperature: Of sampling.
    learning_rate: At the start; it falls to 0 linearly.
    weight: Of rho in the reward.
    seed: Of everything that is drawn.
    save_every: Steps between checkpoints.
    log_every: Steps between log entries.
    device: ``auto`` or ``cpu``.
    options: Any further fields of ``CorrPOConfig``, which has all of TRL's.
    """

    method: str = "corrpo"
    model: str = "half"
    problems: str = DEMO
    limit: int = 512
    task_options: dict[str, Any] = field(default_factory=dict)
    held_out: str | None = None
    held_out_limit: int = 64
    scorer: str = "tags"
    out: str = "runs/train"
    steps: int = 60
    prompts: int = 6
    generations: int = 8
    max_new_tokens: int = 96
    temperature: float = 1.0
    learning_rate: float = 2e-4
    weight: float = 0.1
    seed: int = 0
    save_every: int = 20
    log_every: int = 1
    device: str = "auto"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            _check_type(entry, getattr(self, entry.name))
        for name in ("limit", "held_out_limit", "steps", "prompts", "max_new_tokens", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give at least 1.")
        if self.generations < 2:
            raise InputError(f"generations is {self.generations}; a group needs at least 2.")
        if self.temperature <= 0:
            raise InputError(f"temperature is {self.temperature}; give more than 0, or all responses are the same.")
        if self.scorer not in SCORERS:
            raise InputError(f"scorer {self.scorer!r} is not known; choose among {', '.join(SCORERS)}.")
        if self.device not in ("auto", "cpu"):
            raise InputError(f"device {self.device!r} is not offered; choose auto or cpu.")


def read_spec(config: str, overrides: Sequence[str] = ()) -> TrainSpec:
    """Read a specification.

    Args:
        config: A YAML file with fields of :class:`TrainSpec`, or ``demo`` for the defaults.
        overrides: ``field=value``, the value in YAML; ``options.field=value`` sets one entry of ``options``.

    Raises:
        InputError: The file is missing or malformed, or a field is unknown or of the wrong type.
    """
    values = parse_overrides({} if config == DEMO else read_fields(config), overrides)
    known = [entry.name for entry in dataclasses.fields(TrainSpec)]
    unknown = [name for name in values if name not in known]
    if unknown:
        raise InputError(f"field {unknown[0]!r} is not known; choose among {', '.join(known)}.")
    return TrainSpec(**values)


def parse_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return the fields with overrides applied: ``field=value`` or ``field.entry=value``, the value in YAML."""
    values = copy.deepcopy(values)
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise InputError(f"{override!r} is not an override; write field=value.")
        target = values
        group, dot, entry = name.partition(".")
        if dot:
            target, name = values.setdefault(group, {}), entry
            if not isinstance(target, dict):
                raise InputError(f"{group} has no entries to set; write {group}=value.")
        target[name] = _parse(text, override)
    return values


def read_fields(config: str) -> dict[str, Any]:
    """Read the fields of a YAML file."""
    path = Path(config).expanduser()
    if not path.is_file():
        raise InputError(f"there is no file {path}; give a YAML file, or demo for the built-in run.")
    values = _parse(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no fields; write lines such as steps: 100.")
    return values


def write_spec(spec: TrainSpec, path: Path) -> None:
    """Write every field as YAML, to be read by :func:`read_spec`."""
    path.write_text(yaml.safe_dump(dataclasses.asdict(spec), sort_keys=False), encoding="utf-8")


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{where} is not valid YAML; correct it.") from error


def _check_type(entry: dataclasses.Field, value: Any) -> None:
    """Hold a value to its field's type; a whole number will do for a real one, and 1e-4 is text to YAML."""
    kind: Any = entry.type
    if isinstance(kind, types.UnionType):
        expected = typing.get_args(kind)
    else:
        expected = (float, int) if kind is float else (typing.get_origin(kind) or kind,)  # dict[str, Any] is a dict
    if not isinstance(value, expected) or isinstance(value, bool):
        hint = " (write 1.0e-4 rather than 1e-4)" if entry.type is float and isinstance(value, str) else ""
        raise InputError(f"{entry.name} is {value!r}; give {getattr(entry.type, '__name__', entry.type)}{hint}.")
