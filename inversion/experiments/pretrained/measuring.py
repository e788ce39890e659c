"""One checkpoint of a pretrained model measured on held-out problems: its own responses, and worked ones."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from inversion.experiments.pretrained.spec import FinetuningSpec, StudySpec
from inversion.experiments.pretrained.texts import frame_of, held_out
from inversion.experiments.rows import CONTROL, Row, control_rows, forking_rows, layer_rows, main_rows
from inversion.experiments.sampling import draw_samples
from inversion.files import put, put_table
from inversion.measure import Measurement, measure_run
from inversion.models import load_model
from inversion.preparation import Preparation
from inversion.responses import Generation
from inversion.runs import load_responses, load_run, mean_entropy
from inversion.scoring import accuracy

TEXTS = ("sampled", "worked")
"""What a checkpoint is measured on: what it writes itself, and the same worked solutions at every step."""
NORMS = ("nuclear", "frobenius")
ROWS, LAYERS = "rows.csv", "layers.csv"
"""A checkpoint's part of the tables. The second is written last and says that the checkpoint is measured."""


def is_measured(folder: Path) -> bool:
    """Whether a checkpoint is measured."""
    return (folder / LAYERS).is_file()


def measure_checkpoint(
    model: Any, tokenizer: Any, spec: StudySpec, texts: Path, problems: str, folder: Path, name: str
) -> None:
    """Measure a model and write its part of the tables; what is there already is kept.

    Args:
        model: A Hugging Face model or one with adapters; it is left as it is.
        tokenizer: Its tokenizer.
        spec: The study.
        texts: Folder of the texts.
        problems: Which held-out problems: ``worked`` or ``chains``.
        folder: Where the runs and the rows go.
        name: What the runs call the model.
    """
    if is_measured(folder):
        return
    how = spec.finetuning
    plain = plain_copy(model)
    plain.config.name_or_path = name
    bridge = load_model(plain.eval(), tokenizer=tokenizer)
    frame = frame_of(spec.texts)
    for kind in TEXTS:
        measure_run(
            bridge,
            held_out(texts, problems, how.problems, kind == "worked"),
            folder / kind,
            source=f"held-out problems ({problems}), {kind}",
            measurement=Measurement(NORMS, targets=how.targets),
            generation=Generation(1.0, how.max_new_tokens),
            preparation=Preparation(frame),
            seed=spec.seed,
        )
    if not (folder / "samples.json").is_file():
        facts = json.dumps(_sampled(bridge, tokenizer, how, texts, problems, spec), indent=1)
        put(folder / "samples.json", lambda path: path.write_text(facts + "\n"))
    write_rows(folder)


def plain_copy(model: Any) -> Any:
    """Return a copy of a model in training as it is outside of it: adapters merged, and no half precision.

    The trainer's library puts a forward of its own on the model, which would read it in bfloat16.
    """
    copied = copy.deepcopy(model)
    if hasattr(copied, "merge_and_unload"):
        copied = copied.merge_and_unload()
    copied.__dict__.pop("forward", None)
    copied.config.use_cache = True
    return copied


def _sampled(
    bridge: Any, tokenizer: Any, how: FinetuningSpec, texts: Path, problems: str, spec: StudySpec
) -> dict[str, float]:
    """Return the accuracy over more samples than are measured, and what they look like."""
    asked = frame_of(spec.texts).apply(held_out(texts, problems, how.problems, False), tokenizer, spec.model)
    # Other random numbers than those of the measured responses, which have seeds below.
    samples = draw_samples(bridge, asked, how.samples, Generation(1.0, how.max_new_tokens), spec.seed + 1)
    return {
        "accuracy": float(np.nanmean(samples.right)),
        "n_samples": float(samples.right.size),
        "finished": samples.finished,
        "repeated_4grams": samples.repeated_4grams,
    }


def write_rows(folder: Path) -> None:
    """Write a checkpoint's part of the tables from its runs."""
    samples = json.loads((folder / "samples.json").read_text())
    rows, layers = [], []
    for kind in TEXTS:
        run, responses = load_run(folder / kind), load_responses(folder / kind)
        facts = facts_of(run, responses) | (samples if kind == "sampled" else dict.fromkeys(samples, np.nan))
        rows += [{"texts": kind, **row} for row in rows_of(run, facts)]
        layers.append(layer_rows(run, {"texts": kind}))
    put_table(folder / ROWS, pd.DataFrame(rows))
    put_table(folder / LAYERS, pd.concat(layers))


def facts_of(run: xr.Dataset, responses: pd.DataFrame) -> Row:
    """Return what a run's responses are like: mean entropy of a token, mean length, share right of its own."""
    written = (responses.ended != "given").any()
    return {
        "accuracy": accuracy(responses.score).share if written else np.nan,
        "entropy_bits": mean_entropy(run),
        "tokens": float(responses.n_tokens.mean()),
        "token_types": int(np.unique(run.token_id.values).size),
    }


def rows_of(run: xr.Dataset, facts: Row) -> list[Row]:
    """Return the rows of one run: both norms and the control at both units, and the controls of the nuclear norm."""
    return [
        *main_rows(run, facts, (*NORMS, CONTROL)),
        *control_rows(run, facts),
        *forking_rows(run, facts),
    ]
