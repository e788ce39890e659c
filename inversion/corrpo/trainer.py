"""CorR-PO on TRL's GRPOTrainer: one more column of rewards, and nothing else."""

import json
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers.trainer_callback import TrainerCallback
from trl.trainer.grpo_trainer import GRPOTrainer

from inversion.corrpo.config import CorrPOConfig, build_reward
from inversion.corrpo.forms import Responses, bonus
from inversion.corrpo.recording import recording
from inversion.corrpo.signals import LastLayer, decoder_layers
from inversion.errors import InputError


class TimedGRPOTrainer(GRPOTrainer):
    """``GRPOTrainer`` that also logs the seconds spent generating and scoring: ``time/generate``, ``time/reward``."""

    def _generate(self, prompts: list) -> Any:
        started = time.perf_counter()
        result = super()._generate(prompts)
        self._log_seconds("generate", started)
        return result

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        started = time.perf_counter()
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._log_seconds("reward", started)
        return rewards

    def _log_seconds(self, phase: str, started: float) -> None:
        self._metrics[self._mode()][f"time/{phase}"].append(time.perf_counter() - started)

    def _mode(self) -> str:
        return "train" if self.model.training else "eval"  # pyright: ignore[reportOptionalMemberAccess]


class CorrPOTrainer(TimedGRPOTrainer):
    """GRPO in which a response's reward gains ``-weight * rho``, rho being the inversion within it.

    Group-relative advantage, clipping, KL, logging, checkpoints, PEFT and data parallelism are GRPOTrainer's own; so
    are all arguments. ``reward_funcs`` are the task's; :class:`~inversion.corrpo.InversionReward` is added to them, and
    its column is replaced by what the reward form makes of it.

    Logged besides TRL's metrics: ``rho`` (mean over responses), ``rho_undefined`` (share), ``accuracy`` (share of
    responses at or above ``inversion_right_at``), ``rewards/inversion/mean`` (mean bonus), ``time/...`` (seconds).

    Raises:
        InputError: There is no task reward, or the policy's last layer does not suit the signal.
    """

    # Numbers that checkpoints keep, for methods with state of their own: attribute, and its file in them.
    remembered: tuple[tuple[str, str], ...] = ()
    _sampler: Any = None

    def __init__(self, model: Any, reward_funcs: Any = None, args: CorrPOConfig | None = None, **options: Any) -> None:
        if not reward_funcs:
            raise InputError("CorR-PO needs a task reward beside rho; pass reward_funcs.")
        if args is None:
            args = CorrPOConfig("CorR-PO")
        super().__init__(model, reward_funcs, args, **options)
        self.inversion_reward = build_reward(args).attach(self)
        # Added after GRPOTrainer has checked and prepared the task's own reward functions and their weights.
        self.reward_funcs = [*self.reward_funcs, self.inversion_reward]
        self.reward_func_names = [*self.reward_func_names, self.inversion_reward.__name__]
        self.reward_processing_classes = [*self.reward_processing_classes, None]
        self.reward_weights = torch.cat([self.reward_weights, torch.ones(1)])
        self.add_callback(_LaterEpochs(self))

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

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **options: Any) -> Any:
        """Generate; the default signal keeps what enters the last layer, and the measurement starts from there."""
        self.inversion_reward.recorded = None
        if not isinstance(self.inversion_reward.signal, LastLayer):
            return super()._generate_single_turn(prompt_ids, *args, **options)
        policy = self.accelerator.unwrap_model(self.model)
        with recording(policy, decoder_layers(policy)) as recorder:
            response_ids, log_probs = super()._generate_single_turn(prompt_ids, *args, **options)
        self.inversion_reward.recorded = recorder.by_sequence(prompt_ids, response_ids)
        return response_ids, log_probs

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        """Return the rewards of all processes, (n, functions), the last column holding the bonus."""
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self.inversion_reward.recorded = None  # of no use once the policy is updated
        mode, config = self._mode(), cast(CorrPOConfig, self.args)
        lengths = torch.tensor([len(ids) for ids in completion_ids_list], device=rewards.device)
        task, rho = rewards[:, :-1], rewards[:, -1]
        weights = self.reward_weights[:-1].to(rewards.device)
        summed = (task * weights).nansum(1)
        responses = Responses(
            reward=summed.masked_fill(task.isnan().all(1), torch.nan),
            n_tokens=cast(Tensor, self.accelerator.gather(lengths)).to(rewards.dtype),
            group_size=cast(int, self.num_generations if mode == "train" else self.num_generations_eval),
            right_at=config.inversion_right_at,
            target=config.inversion_target,
            shrink_tokens=config.inversion_shrink_tokens,
        )
        self._metrics[mode]["rho"].append(rho.mean().item())
        self._metrics[mode]["accuracy"].append(responses.right.mean().item())
        if config.inversion_control == "shuffled":
            rho = _shuffle_within_groups(rho, responses.group_size, (config.seed, self.state.global_step))
        rewards[:, -1] = bonus(rho, responses, config.inversion_weight, config.inversion_form)
        return rewards


class _LaterEpochs(TrainerCallback):
    """Give a resumed training the order of prompts of its own epoch: TRL's sampler would begin with the first one's."""

    def __init__(self, trainer: CorrPOTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        generator = getattr(self.trainer._sampler, "generator", None)
        for _epoch in range(int(state.epoch or 0) if generator is not None else 0):
            torch.randperm(self.trainer._sampler.num_samples, generator=generator)


def _shuffle_within_groups(rho: Tensor, group_size: int, seed: tuple[int, int]) -> Tensor:
    """Permute (n,) values within each group, the same on every process and after resuming."""
    order = np.arange(len(rho)).reshape(-1, group_size)
    order = np.random.default_rng(seed).permuted(order, axis=1)
    return rho[torch.from_numpy(order.ravel()).to(rho.device)]
