"""What a lineage is made of, and where its parts lie on disk."""

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from inversion import files
from inversion.demo.recipe import Precision, has_fast_bfloat16
from inversion.errors import InputError

FORMAT = "inversion-lineage/1"
RECORD = "lineage.json"
HEAD_WIDTH = 32
STARTS = {"base": None, "finetune": "base", "grpo": "finetune", "corrpo": "finetune", "base_grpo": "base"}
"""Stage -> the stage that it starts from, in the order in which they are trained."""
RL_STAGES = {"grpo": "grpo", "corrpo": "corrpo", "base_grpo": "grpo"}
"""Stage of reinforcement learning -> its method in :data:`inversion.corrpo.baselines.METHODS`."""
STYLES = {"base": "direct", "finetune": "chain"}
"""Supervised stage -> the style of the responses that it is trained on."""
_FIRST_STEPS = (0, 10, 25, 50)


@dataclass(frozen=True)
class LineageSpec:
    """One lineage. Two folders with equal settings hold equal numbers, on one kind of machine.

    seeds: How often everything is trained, with seeds 0, 1, ...
    base_steps: Training on direct answers, from random weights.
    finetune_steps: Training on chains of thought, from the base model.
    rl_steps: Reinforcement learning, in each of its stages.
    batch_size: Texts a supervised step.
    prompts: Prompts a step of reinforcement learning.
    generations: Responses a prompt.
    problems: Held-out problems that every checkpoint answers.
    max_new_tokens: Length at which a response is cut, in training and in probing.
    temperatures: Further temperatures at which the checkpoints of fine-tuning answer.
    width: Of the residual stream; the attention heads are 32 wide.
    layers: Transformer blocks.
    precision: Of supervised training.
    device: Where everything runs, ``cpu`` or ``cuda``.
    """

    seeds: int = 3
    base_steps: int = 1200
    finetune_steps: int = 1600
    rl_steps: int = 80
    batch_size: int = 66
    prompts: int = 6
    generations: int = 8
    problems: int = 48
    max_new_tokens: int = 128
    temperatures: tuple[float, ...] = (0.5,)
    width: int = 128
    layers: int = 4
    precision: Precision = "float32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.type is int and value < 1:
                raise InputError(f"{entry.name} is {value}; give at least 1.")
        if self.width % (2 * HEAD_WIDTH):
            raise InputError(f"width is {self.width}; give a multiple of {2 * HEAD_WIDTH}.")

    def steps(self, stage: str) -> tuple[int, ...]:
        """Steps of a stage at which the model is kept."""
        last = self.rl_steps if stage in RL_STAGES else getattr(self, f"{stage}_steps")
        return schedule(last, 20 if stage in RL_STAGES else 50)


PROFILES = {
    "small": LineageSpec(seeds=1, base_steps=400, finetune_steps=800, rl_steps=20, problems=24, temperatures=()),
    "full": LineageSpec(),
}


def schedule(last: int, doubling_from: int) -> tuple[int, ...]:
    """Return log-spaced steps: 0, 10, 25, 50, 100, 200, ... and the last one.

    The steps double from ``doubling_from`` on; of 10, 25 and 50 those below it come before.
    """
    steps = [step for step in _FIRST_STEPS if step < doubling_from]
    step = doubling_from
    while step < last:
        steps.append(step)
        step *= 2
    return (*(step for step in steps if step < last), last)


def lineage_spec(profile: str, seeds: int | None = None, scale: float = 1.0, device: str = "auto") -> LineageSpec:
    """Return the specification of a profile on this machine.

    Args:
        profile: A name in ``PROFILES``.
        seeds: How many seeds instead of the profile's own number.
        scale: What width and training steps are multiplied by, for machines with a GPU. Learning rates fall and initial
            weights shrink to match (see ``inversion.experiments.lineage.training``).
        device: ``auto`` takes a GPU where there is one; ``cpu`` never does.

    Raises:
        InputError: A value cannot be used.
    """
    import torch

    if profile not in PROFILES:
        raise InputError(f"there is no profile {profile!r}; choose among {', '.join(PROFILES)}.")
    if device not in ("auto", "cpu"):
        raise InputError(f"device {device!r} is not offered; choose auto or cpu.")
    if not 0.5 <= scale <= 64:
        raise InputError(f"scale is {scale}; give a number from 0.5 to 64.")
    chosen = PROFILES[profile]
    device = "cuda" if device == "auto" and torch.cuda.is_available() else "cpu"
    longer = {f"{name}_steps": round(getattr(chosen, f"{name}_steps") * scale) for name in ("base", "finetune", "rl")}
    return replace(
        chosen,
        **longer,
        seeds=chosen.seeds if seeds is None else seeds,
        width=2 * HEAD_WIDTH * round(chosen.width * scale / (2 * HEAD_WIDTH)),
        precision="bfloat16" if has_fast_bfloat16(device) else "float32",
        device=device,
    )


def claim(spec: LineageSpec, out: Path) -> None:
    """Write the specification to ``out``, or make sure that it holds a lineage with the same one.

    Raises:
        InputError: The folder holds something else.
    """
    files.claim(out, RECORD, {"format": FORMAT, "settings": asdict(spec)}, what="lineage")


def read_lineage_spec(out: Path) -> LineageSpec:
    """Return the specification of the lineage in a folder.

    Raises:
        InputError: There is none, or its record is damaged.
    """
    record = out / RECORD
    if not record.is_file():
        raise InputError(f"there is no lineage in {out}; give a folder that inversion reproduce has written.")
    try:
        content: Any = json.loads(record.read_text())
        values = content["settings"]
        return LineageSpec(**{**values, "temperatures": tuple(values["temperatures"])})
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{record} is damaged; choose a new folder.") from error


def stage_folder(out: Path, seed: int, stage: str) -> Path:
    """Return the folder of one stage of one seed."""
    return out / f"seed-{seed}" / stage


def step_folder(stage: Path, step: int) -> Path:
    """Return the folder of one checkpoint of a stage; it holds ``model`` and the runs measured on it."""
    return stage / f"step-{step:06d}"
