"""Measure the checkpoints of a lineage: on their own responses, and on texts that stay the same."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from inversion.demo import tasks as demo
from inversion.demo.tokenizer import EOS, build_tokenizer
from inversion.experiments.lineage.spec import RL_STAGES, STYLES, LineageSpec, stage_folder, step_folder
from inversion.experiments.lineage.training import load
from inversion.measure import measure_run
from inversion.models import load_model
from inversion.responses import Generation, Problem, shipped_problems
from inversion.runs import load_responses
from inversion.scoring import accuracy as share_right

RUNS = {"own": "run"}
"""Texts -> name of their run's folder where it is not that of the texts."""
AIM = 0.55
"""Accuracy at which reinforcement learning has most to tell apart: half of the responses right, half wrong."""


def texts_of(stage: str, spec: LineageSpec) -> tuple[str, ...]:
    """Name what the checkpoints of a stage are measured on.

    ``own``: responses sampled at temperature 1. ``own_t0.5``: at temperature 0.5. ``reference``: worked responses to
    the same problems in the style that the stage is trained on, the same words at every step.
    """
    if stage in RL_STAGES:
        return ("own",)
    colder = [f"own_t{temperature:g}" for temperature in spec.temperatures] if stage == "finetune" else []
    return ("own", "reference", *colder)


def run_folder(checkpoint: Path, texts: str) -> Path:
    """Return the folder of a checkpoint's run on some texts."""
    return checkpoint / RUNS.get(texts, texts)


def probe_stage(stage: str, spec: LineageSpec, seed: int, out: Path) -> Iterator[int]:
    """Measure the checkpoints of a stage that is trained; yield each step once its runs are complete."""
    folder = stage_folder(out, seed, stage)
    for step in spec.steps(stage):
        _probe(step_folder(folder, step), stage, spec, seed)
        yield step


def _probe(checkpoint: Path, stage: str, spec: LineageSpec, seed: int) -> None:
    hf_model = load(checkpoint / "model", spec)
    # A name that does not depend on where the lineage lies: equal specifications then give equal runs.
    hf_model.config.name_or_path = "/".join(checkpoint.parts[-3:])
    model = load_model(hf_model, tokenizer=build_tokenizer())
    for texts in texts_of(stage, spec):
        problems = shipped_problems(spec.problems)
        temperature = 1.0
        if texts == "reference":
            problems = references(problems, STYLES[stage])  # pyright: ignore[reportArgumentType]
        elif texts != "own":
            temperature = float(texts.removeprefix("own_t"))
        measure_run(
            model,
            problems,
            run_folder(checkpoint, texts),
            source=f"demo problems, {texts}",
            generation=Generation(temperature, spec.max_new_tokens),
            seed=seed,
        )


def references(problems: list[Problem], style: demo.Style) -> list[Problem]:
    """Give every demo problem a worked response, its end token included, which depends on prompt and style alone."""
    worked = []
    for problem in problems:
        known = demo.DemoProblem(problem.task, problem.prompt, problem.answer or "")
        text = demo.response_for(known, style, random.Random(f"reference/{problem.prompt}"))
        worked.append(replace(problem, response=text + EOS))
    return worked


def best_start(spec: LineageSpec, seed: int, out: Path) -> int:
    """Return the step of fine-tuning from which reinforcement learning starts.

    That is the checkpoint whose accuracy on its own responses is nearest :data:`AIM`; the first eighth of fine-tuning
    is left out, since it still answers as the base model does.
    """
    folder = stage_folder(out, seed, "finetune")
    steps = [step for step in spec.steps("finetune") if step >= spec.finetune_steps / 8]
    return min(steps, key=lambda step: (abs(accuracy(step_folder(folder, step)) - AIM), step))


def accuracy(checkpoint: Path) -> float:
    """Return the share of a checkpoint's own responses that are right."""
    return share_right(load_responses(run_folder(checkpoint, "own")).score).share
