"""Surveys: several models measured on several benchmarks, from a YAML file, and what is seen beside each other."""

import copy
import dataclasses
import json
import logging
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inversion.errors import InputError
from inversion.experiments.spec import read_fields
from inversion.files import put
from inversion.names import nearest
from inversion.responses import Frame, Generation, Source, few_shot_source, read_examples
from inversion.responses.server import Server
from inversion.responses.thinking import THINK_TAGS

if TYPE_CHECKING:
    from inversion.engine import Workers

logger = logging.getLogger(__name__)

BASE = "base"


@dataclass(frozen=True)
class SurveyModel:
    """A model of a survey.

    model: Shipped model, folder or hub id.
    family: Models of one family are compared with its base model.
    kind: ``base``, or what was made of it, such as ``instruct``, ``reasoning`` or ``safety-tuned``.
    revision, gguf_file, dtype, device, trust_remote_code, random_weights: As for :func:`inversion.load_model`.
    template, chat, system, options: What stands around each question, see :class:`inversion.responses.Frame`.
    think_tags: What opens and what closes its thinking.
    max_new_tokens: Length at which its responses are cut, where that differs from the survey's.
    stop: Texts that end its responses, beside the survey's: base models go on to the next question.
    server, server_model: Address of an OpenAI-compatible server that writes its responses, and its name there.
    """

    model: str
    family: str = ""
    kind: str = ""
    revision: str | None = None
    gguf_file: str | None = None
    dtype: str = "float32"
    device: str = "auto"
    trust_remote_code: bool = False
    random_weights: bool = False
    template: str | None = None
    chat: bool = False
    system: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    think_tags: tuple[str, ...] = THINK_TAGS
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()
    server: str | None = None
    server_model: str | None = None


@dataclass(frozen=True)
class SurveyBenchmark:
    """Problems of a survey; the fields are those of :class:`inversion.responses.Source`, with worked examples.

    prompts: A file, data set, benchmark or task, or ``demo``.
    limit, samples, task_options, columns, benchmark, subset, split, revision, scorer: As for a source.
    num_fewshot, fewshot_from: Worked examples before each question, and where they come from.
    """

    prompts: str
    limit: int | None = None
    samples: int | None = None
    task_options: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, Any] = field(default_factory=dict)
    benchmark: str | None = None
    subset: str | None = None
    split: str | None = None
    revision: str | None = None
    scorer: str | None = None
    num_fewshot: int = 0
    fewshot_from: str | None = None

    def source(self, seed: int) -> Source:
        """Return where the problems come from."""
        return Source(
            self.prompts,
            self.limit,
            seed,
            self.task_options,
            self.columns,
            self.benchmark,
            self.subset,
            self.split,
            self.revision,
            self.samples,
            self.scorer,
        )

    def examples(self) -> tuple[tuple[str, str], ...]:
        """Return the worked examples."""
        if not self.num_fewshot:
            return ()
        return read_examples(few_shot_source(self.fewshot_from, self.benchmark, self.prompts), self.num_fewshot)


@dataclass(frozen=True)
class SurveyMeasurement:
    """How responses are written and measured, see :class:`inversion.measure.Measurement`."""

    norms: tuple[str, ...] = ("nuclear",)
    layers: tuple[int, ...] | None = None
    projections: tuple[str, ...] = ("q", "k", "v", "o")
    quantity: str = "logit"
    targets: int | None = None
    temperature: float = 1.0
    max_new_tokens: int = 512
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    too_long: str = "skip"


@dataclass(frozen=True)
class Survey:
    """What is measured: every model on every benchmark in every way.

    models, benchmarks, measurements: By the name that tables and figures give them.
    pairs: Names of two models each that are compared, the second minus the first; None compares the models of each
        family with its base model.
    seed: Seed of sampling and of drawn tokens.
    """

    models: Mapping[str, SurveyModel]
    benchmarks: Mapping[str, SurveyBenchmark]
    measurements: Mapping[str, SurveyMeasurement] = field(default_factory=lambda: {"default": SurveyMeasurement()})
    pairs: tuple[tuple[str, str], ...] | None = None
    seed: int = 0

    def cells(self) -> "Iterator[Cell]":
        """Every model on every benchmark in every way, model by model."""
        for model in self.models:
            for benchmark in self.benchmarks:
                for measurement in self.measurements:
                    yield Cell(self, model, benchmark, measurement)

    def compared(self) -> list[tuple[str, str]]:
        """Return the pairs of models that are compared."""
        if self.pairs is not None:
            return list(self.pairs)
        bases = {m.family: name for name, m in self.models.items() if m.kind == BASE and m.family}
        return [
            (bases[m.family], name) for name, m in self.models.items() if m.family in bases and bases[m.family] != name
        ]


@dataclass(frozen=True)
class Cell:
    """One run of a survey."""

    survey: Survey
    model: str
    benchmark: str
    measurement: str

    @property
    def name(self) -> str:
        """Name of the run: model, benchmark and measurement, each where there are several."""
        parts = [self.model]
        parts += [self.benchmark] if len(self.survey.benchmarks) > 1 else []
        parts += [self.measurement] if len(self.survey.measurements) > 1 else []
        return "-".join(parts)

    def folder(self, out: Path) -> Path:
        """Return the folder of its run."""
        return out / "runs" / self.name

    @property
    def parts(self) -> tuple[SurveyModel, SurveyBenchmark, SurveyMeasurement]:
        """What the names stand for."""
        survey = self.survey
        return survey.models[self.model], survey.benchmarks[self.benchmark], survey.measurements[self.measurement]

    def frame(self) -> Frame:
        """Return what stands around each question."""
        model, benchmark, _ = self.parts
        return Frame(model.template, benchmark.examples(), model.chat, model.system, model.options)

    def generation(self) -> Generation:
        """Return how responses are sampled."""
        model, _, m = self.parts
        return Generation(
            m.temperature, model.max_new_tokens or m.max_new_tokens, m.top_p, m.top_k, model.stop + m.stop
        )

    def record(self) -> dict[str, Any]:
        """Return everything that decides on its run, in JSON types."""
        parts = zip(("model", "benchmark", "measurement"), map(dataclasses.asdict, self.parts), strict=True)
        return json.loads(json.dumps({**dict(parts), "seed": self.survey.seed}))


def read_survey(config: str) -> Survey:
    """Read a survey from a YAML file.

    Raises:
        InputError: The file is missing or malformed, a field is unknown or of the wrong type, or a pair names no model.
    """
    return survey_of(read_fields(config), config)


def survey_of(values: dict[str, Any], config: str) -> Survey:
    """Return a survey from its fields, as a YAML file has them.

    Args:
        values: The fields.
        config: Where they come from, for messages.

    Raises:
        InputError: A field is unknown or of the wrong type, or a pair names no model.
    """
    values = copy.deepcopy(values)
    _check_names(Survey, values, config)
    made: dict[str, Any] = {}
    for name, cls in (("models", SurveyModel), ("benchmarks", SurveyBenchmark), ("measurements", SurveyMeasurement)):
        if name in values:
            entries = values.pop(name)
            if not isinstance(entries, dict) or not entries:
                raise InputError(f"{config}: {name} holds nothing; name at least one, each with its fields below it.")
            if any("/" in str(key) for key in entries):
                raise InputError(f"{config}: a name in {name} has a slash, but becomes a folder; use another sign.")
            made[name] = {str(key): _build(cls, entry or {}, f"{name}.{key}") for key, entry in entries.items()}
    for name in ("models", "benchmarks"):
        if name not in made:
            raise InputError(f"{config} has no {name}; name at least one.")
    if values.get("pairs") is not None:
        if not isinstance(values["pairs"], list):
            raise InputError(
                f"{config}: pairs is {values['pairs']!r}; write a list of pairs such as [base, reasoning]."
            )
        values["pairs"] = tuple(_pair(pair, made["models"]) for pair in values["pairs"])
    survey = _build(Survey, {**values, **made}, config)
    for cell in survey.cells():  # what can be refused is refused before anything is measured
        model, benchmark, _ = cell.parts
        benchmark.source(survey.seed)
        cell.generation()
        Frame(model.template, (), model.chat, model.system, model.options)
        if model.server is not None:
            Server(model.server, model.server_model)
    return survey


def _pair(pair: Any, models: Mapping[str, Any]) -> tuple[str, str]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise InputError(f"the pair {pair!r} is not two names of models; write [base, reasoning].")
    for name in map(str, pair):
        if name not in models:
            raise InputError(
                f"the pair {pair!r} names no model of this survey; did you mean {nearest(name, models, 1)}?"
            )
    return str(pair[0]), str(pair[1])


def _check_names(cls: type, values: Mapping[str, Any], where: str) -> None:
    known = [entry.name for entry in dataclasses.fields(cls)]
    for name in values:
        if name not in known:
            raise InputError(f"{where}: field {name!r} is not known; did you mean {nearest(str(name), known, 1)}?")


def _build(cls: Callable[..., Any], values: Any, where: str) -> Any:
    """Make a dataclass of a YAML mapping, whose fields have to be known and of their types; lists become tuples."""
    kind: Any = cls
    if not isinstance(values, dict):
        raise InputError(f"{where} is {values!r}; write its fields, one per line.")
    _check_names(kind, values, where)
    hints = typing.get_type_hints(kind)
    for entry in dataclasses.fields(kind):
        if entry.name not in values:
            if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING:
                raise InputError(f"{where} lacks {entry.name}; add it.")
            continue
        value = values[entry.name]
        value = tuple(value) if isinstance(value, list) else value
        if not _is_of(value, hints[entry.name]):
            raise InputError(f"{where}: {entry.name} is {value!r}, which is not {_in_words(hints[entry.name])}.")
        values[entry.name] = value
    return cls(**values)


def _is_of(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_is_of(value, one) for one in typing.get_args(hint))
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_of(one, typing.get_args(hint)[0]) for one in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or hint)


def _in_words(hint: Any) -> str:
    words = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "empty"}
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join(map(_in_words, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return "a list, each entry " + _in_words(typing.get_args(hint)[0])
    return words.get(hint, "a mapping")


def run_survey(
    survey: Survey, out: Path, tell: Callable[[str], None] = print, workers: "Workers | None" = None
) -> list[str]:
    """Measure every cell that is not complete yet, and return why those failed that did.

    A cell that fails, such as a model that cannot be downloaded, does not stop the others. A complete one is taken as
    it is, without loading its model, as long as the survey asks for the same. With ``workers`` replicas of the model
    measure, each of which loads it for every cell.
    """
    from inversion.engine import ShardError
    from inversion.engine.cluster import connected

    failures = []
    loaded: tuple[str, Any] = ("", None)
    cells = list(survey.cells())
    with connected(workers):
        for number, cell in enumerate(cells, 1):
            if is_done(cell, out):
                tell(f"[{number}/{len(cells)}] {cell.name}: complete")
                continue
            tell(f"[{number}/{len(cells)}] {cell.name}")
            try:
                load = partial(_load, cell.parts[0], survey.seed)
                if workers is None and loaded[0] != cell.model:
                    loaded = ("", None)  # the last model makes room before the next one comes
                    loaded = (cell.model, load())
                _measure(cell, loaded[1] if workers is None else load, out, workers)
            except (InputError, ShardError) as error:
                failures.append(f"{cell.name}: {error}")
                tell(f"failed: {error}")
                if isinstance(error, ShardError):  # what is not the input's fault is to be looked into
                    logger.exception("%s", cell.name)
    return failures


def is_done(cell: Cell, out: Path) -> bool:
    """Whether the run of a cell is complete and was made as the survey asks."""
    from inversion.runs import is_complete

    record = _record_of(cell, out)
    return record.is_file() and json.loads(record.read_text()) == cell.record() and is_complete(cell.folder(out))


def _record_of(cell: Cell, out: Path) -> Path:
    return out / "cells" / f"{cell.name}.json"


def _load(model: SurveyModel, seed: int) -> Any:
    from inversion.models import load_model

    return load_model(
        model.model,
        model.device,
        model.dtype,
        revision=model.revision,
        gguf_file=model.gguf_file,
        trust_remote_code=model.trust_remote_code,
        random_weights=model.random_weights,
        seed=seed,
    )


def _measure(cell: Cell, model: Any, out: Path, workers: "Workers | None") -> None:
    from inversion.measure import Measurement, measure_run
    from inversion.preparation import Preparation

    settings, benchmark, m = cell.parts
    source = benchmark.source(cell.survey.seed)
    server = Server(settings.server, settings.server_model) if settings.server else None
    tags: Any = settings.think_tags
    how: Any = m
    measure_run(
        model,
        source.read(),
        cell.folder(out),
        source=source,
        measurement=Measurement(how.norms, how.layers, how.projections, how.quantity, how.targets),
        generation=cell.generation(),
        preparation=Preparation(cell.frame(), how.too_long, tags, server),
        seed=cell.survey.seed,
        workers=workers,
    )
    text = json.dumps(cell.record(), indent=1) + "\n"
    put(_record_of(cell, out), lambda path: path.write_text(text))
