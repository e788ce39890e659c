"""CorR-PO on TRL's GRPOTrainer: one more column of rewards, and the differentiable term beside it."""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from trl.import_utils import is_vllm_available

from inversion.corrpo.config import CorrPOConfig, build_reward
from inversion.corrpo.covariance import mean_covariance
from inversion.corrpo.direct import (
    allow_second_order,
    inversion_loss,
    log_correlation,
    mean_log_strength,
    token_entropy,
    token_strength,
    watching,
)
from inversion.corrpo.forms import Responses, bonus
from inversion.corrpo.gaming import one_filler_share, prizes, signs
from inversion.corrpo.seams import SeamTrainer
from inversion.corrpo.sharding import Whole, is_sharded, require_second
from inversion.errors import InputError


class TimedTrainer(SeamTrainer):
    """Log the seconds spent generating and scoring as well: ``time/generate``, ``time/reward``."""

    def write(self, prompts: list) -> Any:
        """Write responses, on the clock."""
        started = time.perf_counter()
        result = super().write(prompts)
        self.note("time/generate", time.perf_counter() - started)
        return result

    def score(self, inputs: Any, prompts: list, completions: list, completion_ids: list[list[int]]) -> Tensor:
        """Score responses, on the clock."""
        started = time.perf_counter()
        rewards = super().score(inputs, prompts, completions, completion_ids)
        self.note("time/reward", time.perf_counter() - started)
        return rewards


class CorrPOTrainer(TimedTrainer):
    """GRPO in which a response's reward gains ``-weight * rho``, rho being the inversion within it.

    Group-relative advantage, clipping, KL, logging, checkpoints, PEFT and data parallelism are GRPOTrainer's own; so
    are all arguments. ``reward_funcs`` are the task's; :class:`~inversion.corrpo.InversionReward` is added to them, and
    its column is replaced by what the reward form makes of it.

    Logged besides TRL's metrics: ``rho`` (mean over responses that have one), ``rho_undefined`` (share of those that
    have none), ``entropy_bits`` (mean over tokens, at temperature 1; TRL's ``entropy`` is in nats and at the sampling
    temperature), ``covariance`` (of log-probability and advantage, nats) and ``predicted_entropy_change`` (minus the
    learning rate times it), ``accuracy`` (share of the scored responses at or above ``inversion_right_at``),
    ``first_reward`` (mean of the first reward function over everything drawn, whatever else is in the reward),
    ``unscored`` (share of the others), ``rewards/inversion/mean`` (mean bonus), ``prize/...`` (correlation of the bonus
    with length, repetition, filler and ending within groups: what it pays for besides rho), ``time/...`` (seconds).

    With ``inversion_loss_weight`` rho is also a differentiable term of the loss (see ``inversion.corrpo.direct``),
    logged as ``inversion_loss`` and, what it acts on, ``inversion_loss/rho``.

    With FSDP2 or DeepSpeed's ZeRO-3, every process holds the parameters whole for as long as a rollout lasts; with
    ``use_vllm`` vLLM writes the responses, and rho is read off the policy all the same.

    Raises:
        InputError: There is no task reward, the policy's last layer does not suit the signal, or something that was
            asked for is not there or does not go together.
    """

    _term: Tensor | None = None
    _whole: Whole | None = None  # where the parameters are in shards
    _gathered: Any = None  # the policy in one piece, during a rollout

    def __init__(self, model: Any, reward_funcs: Any = None, args: CorrPOConfig | None = None, **options: Any) -> None:
        if not reward_funcs:
            raise InputError("CorR-PO needs a task reward beside rho; pass reward_funcs.")
        if args is None:
            args = CorrPOConfig("CorR-PO")
        if args.use_vllm and not is_vllm_available():
            raise InputError("use_vllm needs vLLM, which is not installed; install trl[vllm], or leave use_vllm out.")
        if args.fsdp:
            require_second(args.fsdp_config.get("version", 2))  # pyright: ignore
        super().__init__(model, reward_funcs, args, **options)
        asked = bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
        if is_sharded(self.accelerator, asked):
            if args.inversion_loss_weight:
                raise InputError(
                    "inversion_loss goes through the parameters twice in one step, which shards of them do not allow; "
                    "train on copies of the whole model instead, without FSDP and ZeRO-3."
                )
            self._whole = Whole(self.policy)
        self.inversion_reward = build_reward(args).attach(self)
        with self.whole():
            self.inversion_reward.signal.check(self.policy)
        if args.inversion_loss_weight:
            allow_second_order(self.policy)
        # Added after GRPOTrainer has checked and prepared the task's own reward functions and their weights.
        self.reward_funcs = [*self.reward_funcs, self._rho_column]
        self.reward_func_names = [*self.reward_func_names, self.inversion_reward.__name__]
        self.reward_processing_classes = [*self.reward_processing_classes, None]
        self.reward_weights = torch.cat([self.reward_weights, torch.ones(1)])

    @property
    def policy(self) -> Any:
        """The model that is trained, outside any wrapper of accelerate, and in one piece during a rollout."""
        return self.accelerator.unwrap_model(self.model) if self._gathered is None else self._gathered

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Put parameters that are in shards together inside, for :attr:`policy`; all processes take part."""
        if self._whole is None or self._gathered is not None:
            yield
            return
        with self._whole.gathered(self.policy) as model:
            self._gathered = model
            try:
                yield
            finally:
                self._gathered = None

    def roll_out(self, inputs: list[Any]) -> dict[str, Any]:
        """Write and score responses with the policy in one piece."""
        with self.whole():
            return super().roll_out(inputs)

    def write_turn(self, prompt_ids: Any, *args: Any, **options: Any) -> Any:
        """Write one turn; the signal may keep what it sees of it for the measurement."""
        shards, policy = self.model_wrapped, self.policy
        try:
            if self._gathered is not None:
                self.model_wrapped = policy
            with self.inversion_reward.signal.writing(policy) as written:
                response_ids, log_probs = super().write_turn(prompt_ids, *args, **options)
                written(prompt_ids, response_ids)
        finally:
            self.model_wrapped = shards
        return response_ids, log_probs

    def token_log_probs(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *args: Any, **options: Any
    ) -> Any:
        """Return what TRL does; on the way, take the differentiable term from the graph that it makes."""
        given = (model, input_ids, attention_mask, logits_to_keep, *args)
        config = cast(CorrPOConfig, self.args)
        if self.batch is None or not config.inversion_loss_weight or not torch.is_grad_enabled():
            return super().token_log_probs(*given, **options)
        with watching(self.policy) as seen:
            log_probs, entropies, *rest = super().token_log_probs(*given, **options)
        mask = self.token_mask(self.batch).bool()
        strength = token_strength(seen, self.policy, input_ids, mask)
        if config.inversion_loss_term == "strength":
            values = mean_log_strength(strength, mask, config.inversion_min_tokens)
        else:
            own = self.temperature == 1
            bits = entropies[mask] / math.log(2) if own else token_entropy(seen, self.policy, mask)
            values = log_correlation(strength, bits, mask, config.inversion_min_tokens)
        self.note(f"inversion_loss/{config.inversion_loss_term}", values.detach().nanmean().item())
        self._term = inversion_loss(values, config.inversion_loss_target)
        return log_probs, entropies, *rest

    def batch_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """Return GRPO's loss and the differentiable term."""
        loss = super().batch_loss(model, inputs)
        term, self._term = self._term, None
        if self.mode == "train":
            advantages = inputs["advantages"].view(len(inputs["advantages"]), -1)
            covariance = mean_covariance(self.batch_log_probs, advantages, self.token_mask(inputs))
            self.note("covariance", covariance)
            self.note("predicted_entropy_change", -self.learning_rate * covariance)
        if term is None:
            return loss
        self.note("inversion_loss", term.item())
        return loss + cast(CorrPOConfig, self.args).inversion_loss_weight * term / self.accumulation

    def _rho_column(self, prompts: list, completion_ids: list[list[int]], **context: Any) -> list[float | None]:
        """Return rho of each completion, None where it is undefined, as a reward function does."""
        readings = self.inversion_reward.read(prompts, completion_ids)
        values = [self.inversion_reward.rho(reading) for reading in readings]
        context["log_metric"]("rho_undefined", sum(value is None for value in values) / len(values))
        entropies = np.concatenate([reading.entropy_bits for reading in readings])
        if len(entropies):
            context["log_metric"]("entropy_bits", float(entropies.mean()))
        return values

    def score(self, inputs: Any, prompts: list, completions: list, completion_ids: list[list[int]]) -> Tensor:
        """Return the rewards of all processes, (n, functions), the last column holding the bonus."""
        rewards = super().score(inputs, prompts, completions, completion_ids)
        config = cast(CorrPOConfig, self.args)
        texts = [text if isinstance(text, str) else str(text[-1]["content"]) for text in completions]
        local = torch.tensor(list(signs(completion_ids, texts, self.eos_token_ids).values()), device=rewards.device)
        shape = cast(Tensor, self.accelerator.gather(local.T.contiguous())).to(rewards.dtype)  # (n, signs)
        task, rho = rewards[:, :-1], rewards[:, -1]
        weights = self.reward_weights[:-1].to(rewards.device)
        responses = Responses(
            reward=(task * weights).nansum(1).masked_fill(task.isnan().all(1), torch.nan),
            n_tokens=shape[:, 0],
            group_size=cast(int, self.num_generations if self.mode == "train" else self.num_generations_eval),
            right_at=config.inversion_right_at,
            target=config.inversion_target,
            shrink_tokens=config.inversion_shrink_tokens,
        )
        scored = ~responses.reward.isnan()
        self.note("rho", rho.nanmean().item())
        self.note("first_reward", task[:, 0].nanmean().item())
        self.note("accuracy", responses.right[scored].mean().item())
        self.note("unscored", 1 - scored.to(rewards.dtype).mean().item())
        if config.inversion_control == "shuffled":
            rho = _shuffle_within_groups(rho, responses.group_size, (config.seed, self.state.global_step))
        elif config.inversion_control == "filler":
            share = torch.tensor([one_filler_share(text) for text in texts], device=rewards.device)
            rho = -cast(Tensor, self.accelerator.gather(share)).to(rewards.dtype)
            self.note("filler", -rho.mean().item())
        rewards[:, -1] = bonus(rho, responses, config.inversion_weight, config.inversion_form)
        for column, name in enumerate(signs([], [], [])):
            self.note(f"prize/{name}", prizes(rewards[:, -1], shape[:, column], responses.group_size))
        return rewards


def _shuffle_within_groups(rho: Tensor, group_size: int, seed: tuple[int, int]) -> Tensor:
    """Permute (n,) values within each group, the same on every process and after resuming."""
    order = np.arange(len(rho)).reshape(-1, group_size)
    order = np.random.default_rng(seed).permuted(order, axis=1)
    return rho[torch.from_numpy(order.ravel()).to(rho.device)]
