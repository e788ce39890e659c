"""Run a lineage from its specification: train, measure and tabulate stage by stage and seed by seed."""

import os
from pathlib import Path

import torch

from inversion.experiments.lineage.probing import best_start, probe_stage, texts_of
from inversion.experiments.lineage.spec import STARTS, LineageSpec, claim, stage_folder, step_folder
from inversion.experiments.lineage.tables import join_parts, write_parts
from inversion.experiments.lineage.training import DEMO_WIDTH, train_stage
from inversion.figures import make_figures


def reproduce(spec: LineageSpec, out: str | os.PathLike[str]) -> Path:
    """Train and measure a lineage; return its folder.

    The folder holds ``lineage.json`` (the specification), ``seed-S/STAGE/step-N`` (``model`` in Hugging Face format,
    ``run`` on the model's own responses, and further runs beside it), the tables ``lineage.csv`` and ``layers.csv``,
    renewed after every stage, and at the end ``figures``. Killed at any point, the same call goes on and ends with
    the same numbers.

    Args:
        spec: What to do; see :func:`inversion.experiments.lineage.spec.lineage_spec`.
        out: A new folder, or one that holds a lineage with this specification.

    Raises:
        InputError: The folder holds something else; it is left as it is.
    """
    out = Path(out).expanduser()
    claim(spec, out)
    threads = torch.get_num_threads()
    if spec.device == "cpu" and spec.width <= DEMO_WIDTH:
        torch.set_num_threads(1)  # models this small only lose by waiting for a second thread
    measured: list[Path] = []
    try:
        for seed in range(spec.seeds):
            for stage in STARTS:
                print(f"seed {seed} of {spec.seeds}, {stage}", flush=True)
                measured += _run_stage(stage, spec, seed, out)
                join_parts(measured, out)
    finally:
        torch.set_num_threads(threads)
    make_figures([out], out / "figures")
    return out


def _run_stage(stage: str, spec: LineageSpec, seed: int, out: Path) -> list[Path]:
    """Train and measure one stage; return the folders of its checkpoints."""
    folder, start = stage_folder(out, seed, stage), start_of(stage, spec, seed, out)
    model = None if start is None else step_folder(stage_folder(out, seed, start[0]), start[1]) / "model"
    train_stage(stage, spec, seed, folder, model)
    labels = {"seed": seed, "stage": stage, "start": "" if start is None else f"{start[0]}/{start[1]}"}
    checkpoints = []
    for step in probe_stage(stage, spec, seed, out):
        checkpoints.append(step_folder(folder, step))
        write_parts(checkpoints[-1], texts_of(stage, spec), {**labels, "step": step})
    return checkpoints


def start_of(stage: str, spec: LineageSpec, seed: int, out: Path) -> tuple[str, int] | None:
    """Return the stage and step that a stage starts from, None for random weights.

    Fine-tuning starts from the end of the base model's training, reinforcement learning where the fine-tuned model is
    right about half of the time: a model that is always right shows it nothing.
    """
    parent = STARTS[stage]
    if parent is None:
        return None
    return parent, spec.steps("base")[-1] if parent == "base" else best_start(spec, seed, out)
