"""What is private in TRL and transformers and yet overridden or called, under names of our own: the only such place.

Private names may change with any release, so both packages have an upper bound in ``pyproject.toml``, and
``tests/corrpo/test_seams.py`` holds each name to the signature that is written down here.
"""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.trainer_callback import TrainerCallback
from trl.trainer.grpo_trainer import GRPOTrainer

from inversion.errors import InputError
from inversion.models import prompt_ids

SIGNATURES = {
    "_calculate_rewards": "inputs prompts completions completion_ids_list",
    "_compute_loss": "model inputs",
    "_generate": "prompts",
    "_generate_and_score_completions": "inputs",
    "_generate_single_turn": "prompt_ids images multimodal_fields num_generations has_tool_images",
    "_get_output_dir": "trial",
    "_get_per_token_logps_and_entropies": (
        "model input_ids attention_mask logits_to_keep batch_size compute_entropy compute_aux_loss pixel_values "
        "image_grid_thw num_images pixel_attention_mask spatial_shapes num_tiles image_sizes token_type_ids "
        "mm_token_type_ids image_position_ids"
    ),
    "_get_train_sampler": "dataset",
    "_load_from_checkpoint": "resume_from_checkpoint model",
    "_load_optimizer_and_scheduler": "checkpoint",
    "_save_checkpoint": "model trial",
    "_save_rng_state": "output_dir",
    "_tokenize_prompts": "prompts",
}
"""Private method of ``GRPOTrainer`` -> its arguments."""


@contextmanager
def old_names() -> Iterator[None]:
    """Keep quiet that TRL calls transformers by names that are to go: whoever trains can do nothing about it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated", FutureWarning)
        yield


class Reloading:
    """What lets a trainer of transformers take the weights of a checkpoint without training on."""

    def load_finished(self, checkpoint: Path) -> None:
        """Load the weights of a checkpoint."""
        trainer: Any = self
        trainer._load_from_checkpoint(str(checkpoint))


class SeamTrainer(Reloading, GRPOTrainer):
    """``GRPOTrainer`` whose private steps are methods that subclasses may override, calling ``super()`` as usual.

    A rollout: :meth:`roll_out` (all of it), :meth:`write` (responses to prompts), :meth:`write_turn` (one call of
    ``generate``), :meth:`score` (rewards). An update: :meth:`batch_loss`, and in it :meth:`token_log_probs`.
    """

    # Numbers that checkpoints keep, for methods with state of their own: attribute, and its file in them.
    remembered: tuple[tuple[str, str], ...] = ()
    batch: dict[str, Any] | None = None
    """What :meth:`batch_loss` is at, for :meth:`token_log_probs`; None elsewhere."""
    batch_log_probs: Tensor
    """Log-probabilities of the tokens of the batch, (b, t), in the graph, once :meth:`token_log_probs` has run."""
    _sampler: Any = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.add_callback(_LaterEpochs(self))

    # What subclasses override.

    def roll_out(self, inputs: list[Any]) -> dict[str, Any]:
        """Write and score responses to rows of the data set; return the batch."""
        return super()._generate_and_score_completions(inputs)

    def write(self, prompts: list) -> Any:
        """Write responses; return ids of prompts and responses, tool masks, completions, log-probabilities, ..."""
        return super()._generate(prompts)

    def write_turn(self, prompt_ids: Any, *args: Any, **options: Any) -> Any:
        """Write one turn; return ids of the responses and log-probabilities."""
        return super()._generate_single_turn(prompt_ids, *args, **options)

    def score(self, inputs: Any, prompts: list, completions: list, completion_ids: list[list[int]]) -> Tensor:
        """Return the rewards of the responses of all processes, (n, functions)."""
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids)

    def batch_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """Return the loss of a micro-batch, divided by the number of those in a step."""
        return super()._compute_loss(model, inputs)

    def token_log_probs(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *args: Any, **options: Any
    ) -> Any:
        """Return log-probabilities (b, t) and entropies in nats (b, t), both at the sampling temperature, and more."""
        return super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *args, **options
        )

    # What they use.

    @property
    def mode(self) -> str:
        """``train`` or ``eval``."""
        return "train" if self.model.training else "eval"  # pyright: ignore[reportOptionalMemberAccess]

    def note(self, name: str, value: float, mode: str | None = None) -> None:
        """Log a number of the mode, by default the present one; TRL averages over a logging step, leaving NaN out."""
        self._metrics[mode or self.mode][name].append(value)

    @property
    def accumulation(self) -> float:
        """Micro-batches whose losses are summed into one step."""
        return self.current_gradient_accumulation_steps if self.mode == "train" else 1.0

    @property
    def learning_rate(self) -> float:
        """The learning rate of this step; NaN outside training."""
        scheduler: Any = self.lr_scheduler
        return float(scheduler.get_last_lr()[0]) if scheduler is not None else float("nan")

    @staticmethod
    def token_mask(inputs: dict[str, Any]) -> Tensor:
        """Return which tokens the policy wrote, (b, t)."""
        mask = inputs["completion_mask"]
        return mask * inputs["tool_mask"] if "tool_mask" in inputs else mask

    # The seams themselves.

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        return self.roll_out(inputs)

    def _generate(self, prompts: list) -> Any:
        return self.write(prompts)

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **options: Any) -> Any:
        return self.write_turn(prompt_ids, *args, **options)

    def _tokenize_prompts(self, prompts: list) -> Any:
        if all(isinstance(prompt, str) for prompt in prompts):
            # As the probe does it, so that training and measuring see the same tokens.
            known = {prompt: prompt_ids(self.processing_class, prompt) for prompt in set(prompts)}
            return [list(known[prompt]) for prompt in prompts], None, {}
        return super()._tokenize_prompts(prompts)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        return self.score(inputs, prompts, completions, completion_ids_list)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self.batch = inputs
        try:
            return self.batch_loss(model, inputs)
        finally:
            self.batch = None
            vars(self).pop("batch_log_probs", None)

    def _get_per_token_logps_and_entropies(self, *args: Any, **options: Any) -> Any:
        found = self.token_log_probs(*args, **options)
        if self.batch is not None:
            self.batch_log_probs = found[0]
        return found

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        self._sampler = super()._get_train_sampler(dataset)
        return self._sampler

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # Before the rest: the trainer's own state comes last and says that a checkpoint is whole.
        if self.remembered and self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            for name, file in self.remembered:
                (folder / file).write_text(json.dumps(getattr(self, name)), encoding="utf-8")
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            for name, file in self.remembered:
                setattr(self, name, json.loads((Path(checkpoint) / file).read_text(encoding="utf-8")))

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # The state written next says that a checkpoint is whole: by then every process has to have written its part.
        self.accelerator.wait_for_everyone()


def tokenized(trainer: Any, prompts: list) -> list[list[int]]:
    """Return the ids of prompts, texts or conversations, as the trainer's policy reads them."""
    ids, images, _ = trainer._tokenize_prompts(prompts)
    if images is not None:
        raise InputError("the inversion reward reads text only; leave images out of the prompts.")
    return ids


class _LaterEpochs(TrainerCallback):
    """Give a resumed training run the order of prompts of its own epoch: TRL's sampler would begin with the first's."""

    def __init__(self, trainer: SeamTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        generator = getattr(self.trainer._sampler, "generator", None)
        for _epoch in range(int(state.epoch or 0) if generator is not None else 0):
            torch.randperm(self.trainer._sampler.num_samples, generator=generator)
