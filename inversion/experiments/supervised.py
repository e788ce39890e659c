"""``inversion train supervised``: does setting rho during fine-tuning change how fast chains of thought are learnt?

From the shipped model ``fast``, which answers directly, chains of thought are learnt as ``slow`` learnt them, with the
differentiable term of :mod:`inversion.corrpo.direct` beside the cross-entropy: none, steered down, steered up.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from inversion.corrpo.direct import allow_second_order, inversion_loss, log_correlation, token_strength, watching
from inversion.corrpo.reward import MIN_TOKENS
from inversion.corrpo.rho import RHO_UNITS
from inversion.demo.recipe import IGNORED, SLOW, Batch
from inversion.errors import InputError
from inversion.experiments.lineage.spec import schedule, step_folder
from inversion.experiments.lineage.training import STATE, supervise
from inversion.experiments.spec import DEMO, parse_overrides, read_fields, read_value, seeds_of, unknown
from inversion.files import claim, put, put_table
from inversion.measure import Measurement, measure_run
from inversion.models import load_checkpoint, load_model
from inversion.responses import Generation, shipped_problems
from inversion.runs import load_responses, load_run, mean_entropy
from inversion.scoring import accuracy
from inversion.statistics import correlate
from inversion.statistics.seeds import seed_interval
from inversion.tables import text_table

RECORD, TABLE, ROWS = "supervised.json", "supervised.csv", "rows.json"
NONE = "none"


@dataclass(frozen=True)
class SupervisedSpec:
    """An experiment in supervised fine-tuning; its defaults take a night on two cores.

    targets: Name of a condition -> value that rho is steered to; the condition ``none``, without the term, joins them.
    weight: Weight of the term, beside a cross-entropy in nats per token.
    seeds: How often everything is trained, with seeds 0, 1, ...
    steps: Steps of training; the model is kept and measured at steps that double.
    batch_size: Texts per step.
    problems: Held-out problems that every kept model answers.
    max_new_tokens: Length at which an answer is cut.
    model: Where training starts: a shipped model or a folder with the demo's tokenizer.
    out: Folder of the results.
    """

    targets: dict[str, float] = field(default_factory=lambda: {"down": -0.6, "up": 0.6})
    weight: float = 0.3
    seeds: int = 5
    steps: int = 800
    batch_size: int = 66
    problems: int = 64
    max_new_tokens: int = 128
    model: str = "fast"
    out: str = "runs/supervised"

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            object.__setattr__(self, entry.name, read_value(SupervisedSpec, entry.name, getattr(self, entry.name)))
        for name in ("seeds", "steps", "batch_size", "problems", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give at least 1.")
        for name, target in self.targets.items():
            if name == NONE or not -1 <= target <= 1:
                raise InputError(f"target {name} is {target}; give names other than none, and values from -1 to 1.")

    def conditions(self) -> dict[str, float | None]:
        """Return the conditions, ``none`` first: name -> target."""
        return {NONE: None, **self.targets}


def read_supervised_spec(config: str, overrides: Sequence[str] = ()) -> SupervisedSpec:
    """Read a YAML file with fields of :class:`SupervisedSpec`, or ``demo`` for the defaults, and ``field=value``.

    Raises:
        InputError: The file is missing or malformed, or a field is unknown or cannot be used.
    """
    values = parse_overrides({} if config == DEMO else read_fields(config), overrides)
    unknown(values, [entry.name for entry in dataclasses.fields(SupervisedSpec)])
    return SupervisedSpec(**values)


def run_supervised(spec: SupervisedSpec, part: tuple[int, int] | None = None) -> Path:
    """Train, measure and tabulate every condition seed by seed; return the folder.

    The folder holds ``supervised.json``, ``CONDITION/seed-S`` (``step-N`` with ``model`` and ``run``, and at the end
    ``rows.json``), and ``supervised.csv``, a row for each condition, seed and step of the finished trainings. Killed at
    any point, the same call goes on.

    Args:
        spec: The experiment.
        part: (i, n): take every n-th seed only, from the i-th on; all n parts may run at once, into the same folder.

    Raises:
        InputError: The folder holds something else; it is left as it is. Or the part has no seed.
    """
    out, seeds = Path(spec.out).expanduser(), seeds_of(spec.seeds, part)
    start, tokenizer = load_checkpoint(spec.model, "cpu")
    if tokenizer is None:
        raise InputError(f"{spec.model} came without a tokenizer; give a shipped model.")
    claim(out, RECORD, dataclasses.asdict(spec), what="supervised experiment")
    for seed in seeds:
        for name, target in spec.conditions().items():
            print(f"seed {seed} of {spec.seeds}, {name}", flush=True)
            _condition(spec, out / name / f"seed-{seed}", start, target, {"condition": name, "seed": seed})
            put_table(out / TABLE, _finished(spec, out), float_format="%.6g")
    print(supervised_table(_finished(spec, out)))
    return out


def _finished(spec: SupervisedSpec, out: Path) -> pd.DataFrame:
    """Return the rows of the trainings that are finished, whichever part they belong to."""
    files = [out / name / f"seed-{seed}" / ROWS for seed in range(spec.seeds) for name in spec.conditions()]
    return pd.DataFrame([row for file in files if file.is_file() for row in json.loads(file.read_text())])


def loss_parts(model: Any, batch: Batch, target: float | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the summed cross-entropy in nats, and with a target the term and rho of each response, (b,).

    Args:
        model: A causal language model.
        batch: Token ids and labels, (b, s).
        target: What rho is steered to; None leaves the term out.
    """
    kept = batch.labels[:, 1:] != IGNORED
    with watching(model) as seen:
        hidden = model.model(batch.input_ids, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[:, :-1][kept]).float()  # (response token, V)
    cross_entropy = functional.cross_entropy(logits, batch.labels[:, 1:][kept], reduction="sum")
    if target is None:
        return cross_entropy, None, None
    log_probs = logits.log_softmax(-1)
    bits = -(log_probs.exp() * log_probs).sum(-1) / torch.log(log_probs.new_tensor(2.0))
    rho = log_correlation(token_strength(seen, model, batch.input_ids, kept), bits, kept, MIN_TOKENS)
    return cross_entropy, inversion_loss(rho, target), rho


def _backward(model: Any, parts: Sequence[Batch], precision: str, *, target: float | None, weight: float) -> float:
    """Add the gradient of both; return the cross-entropy in nats per token."""
    tokens = sum(int((part.labels != IGNORED).sum()) for part in parts)
    total = 0.0
    for part in parts:
        cross_entropy, term, _ = loss_parts(model, part.to(model.device), target)
        loss = cross_entropy / tokens
        total += loss.item()
        (loss if term is None else loss + weight * term / len(parts)).backward()
    return total


def _condition(spec: SupervisedSpec, folder: Path, start: Any, target: float | None, labels: dict) -> None:
    """Train and measure one condition with one seed; its rows say that it is finished."""
    if (folder / ROWS).is_file():
        return
    steps = schedule(spec.steps, 25)
    if not (step_folder(folder, steps[-1]) / "model").is_dir():
        model, _ = load_checkpoint(spec.model, "cpu")
        allow_second_order(model)
        training = replace(SLOW, steps=spec.steps, batch_size=spec.batch_size, seed=labels["seed"])
        folder.mkdir(parents=True, exist_ok=True)
        supervise(
            model,  # pyright: ignore[reportArgumentType]
            training,
            folder,
            steps,
            partial(_backward, target=target, weight=spec.weight),
        )
    (folder / STATE).unlink(missing_ok=True)
    rows = [{**labels, "step": step, **_measured(spec, step_folder(folder, step), labels["seed"])} for step in steps]
    put(folder / ROWS, lambda path: path.write_text(json.dumps(rows, indent=1), encoding="utf-8"))


def _measured(spec: SupervisedSpec, checkpoint: Path, seed: int) -> dict[str, float]:
    """Return what a kept model's answers are like."""
    measure_run(
        load_model(str(checkpoint / "model"), "cpu"),
        shipped_problems(spec.problems),
        checkpoint / "run",
        source="demo",
        measurement=Measurement(norms=("nuclear",)),
        generation=Generation(1.0, spec.max_new_tokens),
        seed=seed,
    )
    run, responses = load_run(checkpoint / "run"), load_responses(checkpoint / "run")
    row = {"accuracy": accuracy(responses.score).share}
    row |= {f"rho_{unit}": correlate(run, unit=unit, resamples=10).estimate for unit in RHO_UNITS}
    return row | {"tokens": float(responses.n_tokens.mean()), "entropy_bits": mean_entropy(run)}


def supervised_table(rows: pd.DataFrame) -> str:
    """Return the table of accuracy and rho by condition and step: means over seeds with 95 % t-intervals.

    Args:
        rows: ``supervised.csv``.
    """
    lines = []
    for condition, step in rows[["condition", "step"]].drop_duplicates().itertuples(index=False):
        group = rows[(rows.condition == condition) & (rows.step == step)]
        accuracies, rhos = group.accuracy.to_numpy(float), group.rho_position.to_numpy(float)
        lines.append([condition, str(step), str(len(group)), _cell(accuracies, ".1%"), _cell(rhos, "+.2f")])
    return text_table(("condition", "step", "seeds", "accuracy", "rho, positions"), lines)


def _cell(values: np.ndarray, form: str) -> str:
    mean, low, high = seed_interval(values)
    return f"{mean:{form}}" + (f" [{low:{form}}, {high:{form}}]" if len(values) > 1 else "")
