"""``inversion train compare``: several methods x seeds on the same problems with the same number of samples."""

import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from inversion.errors import InputError
from inversion.experiments.finetuning import RECORD as TRAIN_RECORD
from inversion.experiments.finetuning import method_of, train, training_problems
from inversion.experiments.sampling import draw_samples, pass_at_k
from inversion.experiments.spec import DEMO, TrainSpec, parse_overrides, read_fields
from inversion.experiments.tables import comparison_table
from inversion.files import claim, holds, put
from inversion.models import load_model
from inversion.responses import Generation, Problem
from inversion.runs import load_responses, load_run
from inversion.scoring import accuracy
from inversion.statistics import correlate

DEMO_FILE = Path(__file__).with_name("compare.yaml")
RECORD = "compare.yaml"
CURVES = {
    "accuracy": "rewards/correct/mean",
    "reward": "reward",
    "rho": "rho",
    "entropy_bits": "entropy",
    "tokens": "completions/mean_length",
    "zero_variance_groups": "frac_reward_zero_std",
}
"""Column of ``curves.csv`` -> the trainer's metric."""
BITS_A_NAT = 1.4426950408889634


@dataclass(frozen=True)
class CompareSpec:
    """A comparison.

    train: What all trainings share; its method, seed and out are set run by run.
    methods: Name of a method -> number of seeds, which are 0, 1, ...
    samples: Samples of each held-out problem, before and after, from which pass@k is estimated.
    pass_k: The k of pass@k, the largest of which the table shows.
    """

    train: TrainSpec = field(default_factory=TrainSpec)
    methods: dict[str, int] = field(default_factory=dict)
    samples: int = 16
    pass_k: list[int] = field(default_factory=lambda: [1, 8])

    def __post_init__(self) -> None:
        if not isinstance(self.methods, dict) or not self.methods:
            raise InputError("methods is empty; give method names and their numbers of seeds, such as {grpo: 3}.")
        for name, seeds in self.methods.items():
            method_of(dataclasses.replace(self.train, method=name))
            if not isinstance(seeds, int) or seeds < 1:
                raise InputError(f"{name} has {seeds!r} seeds; give a whole number, at least 1.")
        if not self.pass_k or not all(isinstance(k, int) and 1 <= k <= self.samples for k in self.pass_k):
            raise InputError(f"pass_k is {self.pass_k}; give whole numbers from 1 to samples, which is {self.samples}.")

    def runs(self) -> Iterator[TrainSpec]:
        """Yield the trainings, seed by seed, so that a comparison that is cut off still has every method."""
        folder = Path(self.train.out).expanduser()
        for seed in range(max(self.methods.values())):
            for method, seeds in self.methods.items():
                if seed < seeds:
                    out = str(folder / method / f"seed-{seed}")
                    yield dataclasses.replace(self.train, method=method, seed=seed, out=out)


def read_compare_spec(config: str, overrides: Sequence[str] = ()) -> CompareSpec:
    """Read a comparison: a YAML file, or ``demo``; fields of :class:`CompareSpec` and its ``train`` side by side.

    Raises:
        InputError: The file is missing or malformed, or a field is unknown or cannot be used.
    """
    values = parse_overrides(read_fields(str(DEMO_FILE) if config == DEMO else config), overrides)
    own = [entry.name for entry in dataclasses.fields(CompareSpec) if entry.name != "train"]
    shared = [entry.name for entry in dataclasses.fields(TrainSpec) if entry.name not in ("method", "seed")]
    unknown = [name for name in values if name not in (*own, *shared)]
    if unknown:
        raise InputError(f"field {unknown[0]!r} is not known; choose among {', '.join((*own, *shared))}.")
    train_spec = TrainSpec(**{"out": "runs/compare", **{k: v for k, v in values.items() if k in shared}})
    return CompareSpec(train_spec, **{k: v for k, v in values.items() if k in own})


def compare_methods(spec: CompareSpec, *, resume: bool = False) -> Path:
    """Train every method with every seed, measure, write the tables; return the folder.

    The folder holds ``compare.yaml``, ``METHOD/seed-S`` (what ``inversion train`` writes, and ``samples.json``),
    ``comparison.csv`` (a row for each method, seed and when: before or after), ``curves.csv`` (a row for each logged
    step) and ``table.md``; the last three are brought up to date after every training.

    Args:
        spec: What to compare.
        resume: Go on in ``spec.train.out``: finished trainings are kept, an unfinished one goes on from its last
            checkpoint.

    Raises:
        InputError: Something cannot be used; nothing has been trained then.
    """
    out = _folder(spec, resume)
    _, held_out = training_problems(spec.train)
    claim(out, RECORD, dataclasses.asdict(spec), what="comparison")
    runs = list(spec.runs())
    for number, run in enumerate(runs, 1):
        folder = Path(run.out)
        if (folder / "samples.json").is_file():
            continue
        print(f"[{number}/{len(runs)}] {run.method}, seed {run.seed}", flush=True)
        _share_before(spec, run)
        train(run, resume=(folder / TRAIN_RECORD).is_file())
        _sample(spec, run, held_out)
        write_tables(spec)
    write_tables(spec)
    print((out / "table.md").read_text(encoding="utf-8"))
    return out


def write_tables(spec: CompareSpec) -> None:
    """Write ``comparison.csv``, ``curves.csv`` and ``table.md`` from the trainings that are finished."""
    out = Path(spec.train.out).expanduser()
    done = [run for run in spec.runs() if (Path(run.out) / "samples.json").is_file()]
    rows = pd.DataFrame([row for run in done for row in json.loads((Path(run.out) / "samples.json").read_text())])
    curves = pd.concat([_curve(run) for run in done], ignore_index=True)
    rows.to_csv(out / "comparison.csv", index=False, float_format="%.6g")
    curves.to_csv(out / "curves.csv", index=False, float_format="%.6g")
    (out / "table.md").write_text(comparison_table(rows, f"pass_at_{max(spec.pass_k)}"), encoding="utf-8")


def _folder(spec: CompareSpec, resume: bool) -> Path:
    """Return the folder; what is there already must be this very comparison, to be resumed."""
    out = Path(spec.train.out).expanduser()
    remedy = f"go on with the settings of {out / RECORD}, or choose another out"
    there = holds(out, RECORD, dataclasses.asdict(spec), what="comparison", remedy=remedy)
    if there and not resume:
        raise InputError(f"{out} holds this comparison already; go on with --resume or choose another out.")
    if resume and not there:
        raise InputError(f"{out} holds no comparison to resume; leave --resume out.")
    return out


def _share_before(spec: CompareSpec, run: TrainSpec) -> None:
    """Take over the run ``before`` from a finished training with the same seed: it is the same measurement."""
    target = Path(run.out) / "before"
    for other in spec.runs():
        source = Path(other.out)
        if other.seed == run.seed and (source / "samples.json").is_file() and not target.exists():
            claim(Path(run.out), TRAIN_RECORD, dataclasses.asdict(run), what="training run")
            put(target, lambda path, source=source: shutil.copytree(source / "before", path))


def _sample(spec: CompareSpec, run: TrainSpec, held_out: list[Problem]) -> None:
    """Write ``samples.json``, the two rows of a training; its presence says that the training is finished."""
    folder = Path(run.out)
    shared = [Path(r.out) / "samples.json" for r in spec.runs() if r.seed == run.seed]
    known = next((path for path in shared if path.is_file()), None)
    if known is None:
        before = _measurements(spec, run, folder / "before", run.model, held_out)
    else:
        before = {k: v for k, v in json.loads(known.read_text())[0].items() if k not in ("method", "seed", "when")}
    after = _measurements(spec, run, folder / "after", str(folder / "model"), held_out)
    rows = [
        {"method": run.method, "seed": run.seed, "when": when, **values}
        for when, values in (("before", before), ("after", after))
    ]
    put(folder / "samples.json", lambda path: path.write_text(json.dumps(rows, indent=1), encoding="utf-8"))


def _measurements(
    spec: CompareSpec, run: TrainSpec, measured: Path, model: str, held_out: list[Problem]
) -> dict[str, Any]:
    """Return the columns of ``comparison.csv`` for one model: of the measured run, and of many samples a problem."""
    data, responses = load_run(measured), load_responses(measured)
    generation = Generation(run.temperature, run.max_new_tokens)
    samples = draw_samples(load_model(model, run.device), held_out, spec.samples, generation, run.seed)
    row: dict[str, Any] = {"accuracy": accuracy(responses.score).share}
    row |= {f"pass_at_{k}": pass_at_k(samples.right, k) for k in sorted(spec.pass_k)}
    for unit in ("position", "token_type"):
        rho = correlate(data, unit=unit)
        row |= {f"rho_{unit}": rho.estimate, f"rho_{unit}_low": rho.low, f"rho_{unit}_high": rho.high}
    row |= {"tokens": float(samples.tokens.mean()), "entropy_bits": float(data.entropy_bits.mean())}
    names = ("distinct_tokens", "repeated_4grams", "filler_words", "finished")
    return row | {name: getattr(samples, name) for name in names}


def _curve(run: TrainSpec) -> pd.DataFrame:
    log = pd.read_csv(Path(run.out) / "log.csv")
    log = log[log["reward"].notna()]
    curve = pd.DataFrame({name: log[metric] for name, metric in CURVES.items()})
    curve["entropy_bits"] *= BITS_A_NAT
    curve.insert(0, "step", log["step"])
    curve.insert(0, "seed", run.seed)
    curve.insert(0, "method", run.method)
    return curve
