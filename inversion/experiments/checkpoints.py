"""Going on from the last whole checkpoint."""

import json
import shutil
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from inversion.corrpo.seams import old_names


def train_on(trainer: Any) -> None:
    """Train from the last whole checkpoint in the trainer's folder, or from the start where there is none.

    What a kill left of a checkpoint is removed. A training that had ended already is loaded and not trained further:
    transformers would take another step.
    """
    folder = Path(trainer.args.output_dir)
    if trainer.accelerator.is_main_process:
        remove_torn(folder)
    trainer.accelerator.wait_for_everyone()
    checkpoint = last_checkpoint(folder)
    if checkpoint is None or not _ended(checkpoint):
        with old_names():
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    else:
        trainer.load_finished(checkpoint)
        trainer.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))


def last_checkpoint(folder: Path) -> Path | None:
    """Return the last whole checkpoint of a trainer, by its step."""
    return max(filter(_whole, _checkpoints(folder)), key=_step, default=None)


def remove_torn(folder: Path) -> None:
    """Remove the checkpoints that are not whole."""
    for path in _checkpoints(folder):
        if not _whole(path):
            shutil.rmtree(path)


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.rpartition("-")[2].isdigit()]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _whole(checkpoint: Path) -> bool:
    """Say whether nothing is missing: the trainer writes its state after everything else."""
    return _state(checkpoint) is not None


def _ended(checkpoint: Path) -> bool:
    """Say whether the training was over when the checkpoint was written."""
    control = (_state(checkpoint) or {}).get("stateful_callbacks", {}).get("TrainerControl", {})
    return bool(control.get("args", {}).get("should_training_stop"))


def _state(checkpoint: Path) -> dict[str, Any] | None:
    try:
        return json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
