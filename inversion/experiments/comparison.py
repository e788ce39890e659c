"""``inversion train compare``: several methods x seeds on the same problems with the same number of samples."""

import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from inversion.corrpo.rho import RHO_UNITS
from inversion.engine import Workers
from inversion.errors import InputError
from inversion.experiments.difficulty import check_solve_rate, within_reach
from inversion.experiments.finetuning import RECORD as TRAIN_RECORD
from inversion.experiments.finetuning import method_of, train, training_problems
from inversion.experiments.rows import cluster_of, labelled
from inversion.experiments.sampling import divergence, draw_samples, pass_at_k
from inversion.experiments.spec import (
    TrainSpec,
    flat_fields,
    known_fields,
    parse_overrides,
    read_fields,
    read_value,
    seeds_of,
    unknown,
)
from inversion.experiments.tables import comparison_table
from inversion.files import check_resumable, claim, put, put_table
from inversion.models import load_model
from inversion.responses import Generation, Problem
from inversion.runs import load_responses, load_run, mean_entropy
from inversion.scoring import accuracy
from inversion.statistics import correlate

FILES = (("demo", "compare.yaml"), *((name, f"{name}.yaml") for name in ("rho", "forms", "entropy")))
SHIPPED = {name: Path(__file__).with_name(file) for name, file in FILES}
"""Name of a shipped comparison -> its file."""
SHARED = frozenset(("out", "seed", "model", "device", "problems", "limit", "task_options", "scorer", "temperature"))
SHARED |= {"held_out", "held_out_limit", "held_out_targets", "max_completion_length"}
"""Fields that one run of a comparison cannot change: what is measured before training is measured once per seed."""
RECORD = "compare.yaml"
CURVES = {
    "accuracy": "first_reward",  # of everything drawn; TRL's own is that of the groups that dynamic sampling keeps
    "reward": "reward",
    "rho": "rho",
    "filler": "filler",
    "entropy_bits": "entropy_bits",
    "tokens": "completions/mean_length",
    "zero_variance_groups": "frac_reward_zero_std",
}
"""Column of ``curves.csv`` -> the trainer's metric."""
SAMPLED = ("distinct_tokens", "repeated_4grams", "filler_words", "finished", "unscored")
"""Columns of ``comparison.csv`` that are fields of :class:`~inversion.experiments.sampling.Samples`."""


Seeds = int | dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """One training run of a comparison: the name it goes by there, and its specification."""

    name: str
    spec: TrainSpec

    @property
    def folder(self) -> Path:
        """Where its results lie."""
        return Path(self.spec.out)

    @property
    def labels(self) -> dict[str, Any]:
        """What it is called in the tables."""
        return {"method": self.name, "seed": self.spec.seed}

    @property
    def samples(self) -> Path:
        """The file whose presence says that the run is finished and measured."""
        return self.folder / "samples.json"


@dataclass(frozen=True)
class CompareSpec:
    """A comparison.

    train: What all training runs share; their method, seed and out are set one by one.
    methods: Name of a method -> number of seeds, which are 0, 1, ...; or any name -> ``seeds`` and the fields in which
        these runs differ, such as ``{seeds: 5, method: grpo, inversion_loss_weight: 1.0}``.
    samples: Samples of each held-out problem, before and after, from which pass@k is estimated.
    pass_k: The k of pass@k, the largest of which the table shows.
    solve_rate: Least and largest share of right samples, such as ``[0.15, 0.85]``: only problems that the model at the
        start solves at such a rate are trained on and held out, ``limit`` and ``held_out_limit`` being the candidates;
        None for all.
    """

    train: TrainSpec = field(default_factory=TrainSpec)
    methods: dict[str, Seeds] = field(default_factory=dict)
    samples: int = 16
    pass_k: list[int] = field(default_factory=lambda: [1, 8])
    solve_rate: list[float] | None = None

    def __post_init__(self) -> None:
        for name in ("samples", "pass_k"):
            object.__setattr__(self, name, read_value(CompareSpec, name, getattr(self, name)))
        if not isinstance(self.methods, dict) or not self.methods:
            raise InputError("methods is empty; give method names and their numbers of seeds, such as {grpo: 3}.")
        for name in self.methods:
            seeds, fields = self._arm(name)
            if not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 1:
                raise InputError(f"{name} has {seeds!r} seeds; give a whole number, at least 1.")
            for shared in SHARED & set(fields):
                raise InputError(f"{name} changes {shared}, which all runs of a comparison share; set it for all.")
            method_of(self.train.changed(fields))
        if not self.pass_k or not all(isinstance(k, int) and 1 <= k <= self.samples for k in self.pass_k):
            raise InputError(f"pass_k is {self.pass_k}; give whole numbers from 1 to samples, which is {self.samples}.")
        if self.solve_rate is not None:
            check_solve_rate(self.solve_rate)

    def arms(self) -> Iterator[Arm]:
        """Yield the training runs, seed by seed, so that a comparison that is cut off still has every method."""
        folder, counts = Path(self.train.out).expanduser(), {name: self._arm(name)[0] for name in self.methods}
        for seed in range(max(counts.values())):
            for name, seeds in counts.items():
                if seed < seeds:
                    fields = {**self._arm(name)[1], "seed": seed, "out": str(folder / name / f"seed-{seed}")}
                    yield Arm(name, self.train.changed(fields))

    def _arm(self, name: str) -> tuple[int, dict[str, Any]]:
        given = self.methods[name]
        if not isinstance(given, dict):
            return given, {"method": name}
        fields = {"method": name, **given}
        return fields.pop("seeds", 0), fields


def read_compare_spec(config: str, overrides: Sequence[str] = ()) -> CompareSpec:
    """Read a comparison: fields of :class:`CompareSpec` and of its ``train`` side by side.

    Args:
        config: A YAML file, or the name of a shipped one: ``demo`` (the methods), ``rho`` (rho set by hand),
            ``forms`` (ways for rho to enter the reward), ``entropy`` (what becomes of entropy).
        overrides: As in :func:`~inversion.experiments.spec.read_spec`.

    Raises:
        InputError: The file is missing or malformed, or a field is unknown or cannot be used.
    """
    return compare_spec(parse_overrides(read_fields(str(SHIPPED.get(config, config))), overrides))


def compare_spec(values: dict[str, Any]) -> CompareSpec:
    """Return a comparison from the fields of :class:`CompareSpec` and of its ``train``, side by side.

    Raises:
        InputError: A field is unknown or cannot be used.
    """
    own = [entry.name for entry in dataclasses.fields(CompareSpec) if entry.name != "train"]
    unknown(values, [*own, *(name for name in known_fields() if name not in ("method", "seed"))])
    shared = {"out": "runs/compare", **{name: value for name, value in values.items() if name not in own}}
    return CompareSpec(TrainSpec().changed(shared), **{name: v for name, v in values.items() if name in own})


def compare_methods(
    spec: CompareSpec, *, resume: bool = False, workers: Workers | None = None, part: tuple[int, int] | None = None
) -> Path:
    """Train every method with every seed, measure, write the tables; return the folder.

    The folder holds ``compare.yaml``, with ``solve_rate`` the problems within reach, ``METHOD/seed-S`` (what
    ``inversion train`` writes, and ``samples.json``), ``comparison.csv`` (a row for each method, seed and when: before
    or after), ``rho-by-layer.csv``, ``curves.csv`` (a row for each logged step), ``entropy.csv`` (see
    :func:`entropy_rows`) and ``table.md``; the last five are brought up to date after every training run.

    Args:
        spec: What to compare.
        resume: Go on in ``spec.train.out``: finished training runs are kept, an unfinished one goes on from its last
            checkpoint.
        workers: Replicas of the model that measure before and after each training run; None for this process.
        part: (i, n): take every n-th seed only, from the i-th on. All n parts may run at once, into the same folder; a
            part always goes on with what is there.

    Raises:
        InputError: Something cannot be used; nothing has been trained then.
    """
    seeds = seeds_of(1 + max(arm.spec.seed for arm in spec.arms()), part)
    begun = (Path(spec.train.out).expanduser() / RECORD).is_file()
    out = _folder(spec, resume or (part is not None and begun))
    _, held_out = training_problems(spec.train)
    claim(out, RECORD, _record(spec), what="comparison")
    if spec.solve_rate is not None:
        spec = dataclasses.replace(spec, train=within_reach(spec.train, spec.solve_rate, out))
        _, held_out = training_problems(spec.train)
    arms = [arm for arm in spec.arms() if arm.spec.seed in seeds]
    for number, arm in enumerate(arms, 1):
        if arm.samples.is_file():
            continue
        print(f"[{number}/{len(arms)}] {arm.name}, seed {arm.spec.seed}", flush=True)
        _share_before(spec, arm)
        train(arm.spec, resume=(arm.folder / TRAIN_RECORD).is_file(), workers=workers)
        _sample(spec, arm, held_out)
        write_tables(spec)
    write_tables(spec)
    print((out / "table.md").read_text(encoding="utf-8"))
    return out


def write_tables(spec: CompareSpec) -> None:
    """Write the tables and ``table.md`` from the trainings that are finished."""
    out = Path(spec.train.out).expanduser()
    done = [arm for arm in spec.arms() if arm.samples.is_file()]
    rows = pd.DataFrame([row for arm in done for row in json.loads(arm.samples.read_text(encoding="utf-8"))])
    logs = [(arm, pd.read_csv(arm.folder / "log.csv")) for arm in done]
    curves = pd.concat([_curve(arm, log) for arm, log in logs], ignore_index=True)
    entropy = [labelled(entropy_rows(log), arm.labels) for arm, log in logs if "held_out_accuracy" in log]
    keys = ["method", "seed", "when"]
    labels = [dict(zip(keys, values, strict=True)) for values in rows[keys].itertuples(index=False)]
    layers = [label | row for label, part in zip(labels, rows.pop("layers"), strict=True) for row in part]
    tables = {"comparison": rows, "curves": curves, "rho-by-layer": pd.DataFrame(layers)}
    if entropy:
        tables["entropy"] = pd.concat(entropy, ignore_index=True)
    for name, table in tables.items():
        put_table(out / f"{name}.csv", table, float_format="%.6g")
    text = comparison_table(rows, f"pass_at_{max(spec.pass_k)}")
    put(out / "table.md", lambda path: path.write_text(text, encoding="utf-8"))


def _folder(spec: CompareSpec, resume: bool) -> Path:
    """Return the folder; what is there already must be this very comparison, to be resumed."""
    out = Path(spec.train.out).expanduser()
    remedy = f"go on with the settings of {out / RECORD}, or choose another out"
    check_resumable(out, RECORD, _record(spec), what="comparison", remedy=remedy, resume=resume)
    return out


def _record(spec: CompareSpec) -> dict[str, Any]:
    """Return the comparison as a file has it, for :func:`read_compare_spec`."""
    fields = {name: value for name, value in flat_fields(spec.train).items() if name not in ("method", "seed")}
    return fields | {name: getattr(spec, name) for name in ("methods", "samples", "pass_k", "solve_rate")}


def _share_before(spec: CompareSpec, arm: Arm) -> None:
    """Take over the run ``before`` from a finished training run with the same seed: it is the same measurement."""
    target = arm.folder / "before"
    for other in spec.arms():
        if other.spec.seed == arm.spec.seed and other.samples.is_file() and not target.exists():
            claim(arm.folder, TRAIN_RECORD, flat_fields(arm.spec), what="training run")
            put(target, lambda path, source=other.folder: shutil.copytree(source / "before", path))


def _sample(spec: CompareSpec, arm: Arm, held_out: list[Problem]) -> None:
    """Write ``samples.json``, the two rows of a training run; its presence says that the run is finished."""
    known = next((other.samples for other in _same_seed(spec, arm) if other.samples.is_file()), None)
    if known is None:
        before = _measurements(spec, arm, "before", held_out)
    else:
        before = {k: v for k, v in json.loads(known.read_text())[0].items() if k not in ("method", "seed", "when")}
    after = _measurements(spec, arm, "after", held_out)
    rows = [{**arm.labels, "when": when, **values} for when, values in (("before", before), ("after", after))]
    put(arm.samples, lambda path: path.write_text(json.dumps(rows, indent=1), encoding="utf-8"))


def _same_seed(spec: CompareSpec, arm: Arm) -> list[Arm]:
    return [other for other in spec.arms() if other.spec.seed == arm.spec.seed]


def _measurements(spec: CompareSpec, arm: Arm, when: str, held_out: list[Problem]) -> dict[str, Any]:
    """Return the columns of ``comparison.csv`` for one model: of the measured run, and of many samples a problem."""
    run, responses = load_run(arm.folder / when), load_responses(arm.folder / when)
    generation = Generation(arm.spec.temperature, arm.spec.max_completion_length)
    start = load_model(arm.spec.model, arm.spec.device)
    model = start if when == "before" else load_model(str(arm.folder / "model"), arm.spec.device)
    samples = draw_samples(model, held_out, spec.samples, generation, arm.spec.seed)
    row: dict[str, Any] = {"accuracy": accuracy(responses.score).share}
    row |= {f"pass_at_{k}": pass_at_k(samples.right, k) for k in sorted(spec.pass_k)}
    cluster = cluster_of(run)
    for unit in RHO_UNITS:
        rho = correlate(run, unit=unit, cluster=cluster)
        row |= {f"rho_{unit}": rho.estimate, f"rho_{unit}_low": rho.low, f"rho_{unit}_high": rho.high}
    row |= {"tokens": float(samples.tokens.mean()), "entropy_bits": mean_entropy(run)}
    row |= {name: getattr(samples, name) for name in SAMPLED}
    return row | {"kl_nats": divergence(model, start, samples.kept), "layers": _by_layer(run)}


def _by_layer(run: Any) -> list[dict[str, Any]]:
    """Return rho at each unit and layer, without intervals: those of a comparison are over seeds."""
    return [
        {"unit": unit, "layer": layer, "rho": correlate(run, unit=unit, layers=[layer], resamples=10).estimate}
        for unit in RHO_UNITS
        for layer in run.layer.values.tolist()
    ]


def _curve(arm: Arm, log: Any) -> pd.DataFrame:
    log = log[log["reward"].notna()]
    curve = pd.DataFrame({name: log[metric] for name, metric in CURVES.items() if metric in log})
    curve.insert(0, "step", log["step"])
    return labelled(curve, arm.labels)


def entropy_rows(log: Any) -> pd.DataFrame:
    """Return a row for each time that the held-out problems were answered, from what a training run logged.

    Columns: ``step``, updates made by then; ``accuracy`` and ``entropy_bits`` of the answers to the held-out problems;
    ``tokens``, mean length of the responses written next; ``covariance`` and ``predicted_entropy_change`` (nats), means
    over the updates until the next row.
    """
    log = log[log["covariance"].notna()]  # the updates, without what is logged at the end
    log = log.assign(done=log["step"].shift(fill_value=0))
    parts = log.groupby(log["held_out_accuracy"].notna().cumsum())
    first, mean = parts.first(), parts[["covariance", "predicted_entropy_change"]].mean()
    found = first[["done", "held_out_accuracy", "held_out_entropy_bits", "completions/mean_length"]]
    return found.set_axis(["step", "accuracy", "entropy_bits", "tokens"], axis=1).join(mean).reset_index(drop=True)
