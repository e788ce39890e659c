"""DAPO's dynamic sampling: groups that are all right or all wrong make room for groups that say something."""

from typing import Any, NamedTuple, cast

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers.trainer_callback import TrainerCallback

from inversion.corrpo.trainer import CorrPOTrainer
from inversion.errors import InputError


class _Group(NamedTuple):
    """A prompt's g responses.

    rows: The row of the data set, and what ``_generate`` returned, of each.
    rewards: (g, functions).
    """

    rows: list[tuple[Any, ...]]
    rewards: Tensor


class DynamicSamplingTrainer(CorrPOTrainer):
    """Groups whose responses all earn the same task reward are dropped and refilled (arXiv 2503.14476, eq. 11).

    A rollout draws up to ``tries`` batches, of fresh prompts from the second on, until enough groups vary; what is
    still missing then is filled with groups that do not, whose advantage is 0. Every response that is drawn counts:
    training stops once as many were drawn as ``max_steps`` ordinary steps would draw, so it makes fewer steps than
    other methods from the same samples, and its learning rate has not fallen all the way then. Metrics of the
    reward are those of the groups that are kept, which are the mixed ones; ``first_reward``, ``accuracy`` and ``rho``
    are those of everything drawn.

    Several processes put the groups that they draw together, so they keep what one process would keep of the same.
    It works with text only.
    """

    tries = 3
    drawn = 0
    remembered = (("drawn", "dynamic_sampling.json"),)
    _kept: list[_Group] | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.add_callback(_StopAtBudget(self))

    @property
    def _size(self) -> int:
        return cast(int, self.num_generations)

    @property
    def budget(self) -> float:
        """Responses that ``max_steps`` ordinary steps draw; without bound where the length is given in epochs."""
        args = cast(Any, self.args)
        rollout = args.steps_per_generation * self.num_iterations
        steps = args.max_steps * args.gradient_accumulation_steps
        return -(-steps // rollout) * args.generation_batch_size if steps > 0 else np.inf

    def roll_out(self, inputs: list[Any]) -> dict[str, Any]:
        """Draw batches until enough groups vary, then let GRPO make of them what it makes of its own."""
        if self.mode != "train":
            return super().roll_out(inputs)
        wanted, varied, constant = len(inputs) * self.accelerator.num_processes // self._size, [], []
        with self.whole():
            for attempt in range(self.tries):
                for group in self._draw(inputs if attempt == 0 else self._fresh(wanted, attempt)):
                    task = group.rewards[:, 0]
                    task = task[~task.isnan()]
                    (varied if bool((task != task[:1]).any()) else constant).append(group)
                if len(varied) >= wanted or self.drawn >= self.budget:
                    break
            self._kept = [*varied, *constant][:wanted]
            try:
                return super().roll_out([row[0] for row in self._kept_here()])
            finally:
                self._kept = None

    def _draw(self, inputs: list[Any]) -> list[_Group]:
        """Write and score responses to rows of the data set; return the groups of all processes."""
        prompts = [row["prompt"] for row in inputs]
        prompt_ids, response_ids, masks, completions, log_probs, extra, *images = super().write(prompts)
        if masks is not None or extra or any(images):
            raise InputError("dynamic sampling takes plain text; leave out tools and images.")
        rewards = super().score(inputs, prompts, completions, response_ids)  # of all processes, in their order
        log_probs = [None] * len(inputs) if log_probs is None else log_probs
        rows = gather_object(list(zip(inputs, prompt_ids, response_ids, completions, log_probs, strict=True)))
        self.drawn += len(rows)
        parts = [slice(i, i + self._size) for i in range(0, len(rows), self._size)]
        return [_Group(rows[part], rewards[part]) for part in parts]

    def _fresh(self, count: int, attempt: int) -> list[Any]:
        """Draw prompts by seed, step and attempt alone, so that a resumed training draws the same ones."""
        data = cast(Any, self.train_dataset)
        generator = np.random.default_rng((self.args.seed, self.state.global_step, attempt))
        rows = generator.choice(len(data), count, replace=count > len(data))
        return self._here([data[int(row)] for row in rows for _ in range(self._size)])

    def _here(self, rows: list[Any]) -> list[Any]:
        """Return this process's part of what all processes have to do."""
        each = len(rows) // self.accelerator.num_processes
        return rows[self.accelerator.process_index * each :][:each]

    def _kept_here(self) -> list[tuple[Any, ...]]:
        return self._here([row for group in self._kept or () for row in group.rows])

    def write(self, prompts: list) -> Any:
        """Hand out the responses of the groups that were kept."""
        if self._kept is None:
            return super().write(prompts)
        _, prompt_ids, response_ids, completions, log_probs = map(list, zip(*self._kept_here(), strict=True))
        return prompt_ids, response_ids, None, completions, log_probs if any(log_probs) else None, {}, None, []

    def score(self, inputs: Any, prompts: list, completions: list, completion_ids: list[list[int]]) -> Tensor:
        """Hand out the rewards of the groups that were kept."""
        if self._kept is None:
            return super().score(inputs, prompts, completions, completion_ids)
        return torch.cat([group.rewards for group in self._kept])


class _StopAtBudget(TrainerCallback):
    def __init__(self, trainer: DynamicSamplingTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # Not before the last rollout has had all its updates.
        if self.trainer.drawn >= self.trainer.budget and state.global_step % self.trainer.num_iterations == 0:
            control.should_training_stop = control.should_save = True
