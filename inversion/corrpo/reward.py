"""The inversion as a reward function of TRL."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from inversion.corrpo.rho import MIN_POINTS, RHO_METHODS, RHO_UNITS, Method, Unit, response_rho
from inversion.corrpo.seams import tokenized
from inversion.corrpo.sharding import is_sharded
from inversion.corrpo.signals import Ids, LastLayer, Readings, Signal
from inversion.errors import InputError

MIN_TOKENS = 8
"""Tokens below which a response's rho is undefined: with fewer it says nothing."""


class InversionReward:
    """A reward function that returns the inversion rho within each response, measured on the policy itself.

    TRL gives reward functions the completions but not the model, so this object holds the trainer: call
    :meth:`attach` once the trainer exists. :class:`~inversion.corrpo.CorrPOTrainer` does all of that. With a plain
    ``GRPOTrainer``, ``reward_weights=[1.0, -weight]`` makes it the additive form ``r - weight * rho``::

        inversion_reward = InversionReward()
        trainer = GRPOTrainer(model, [accuracy, inversion_reward], GRPOConfig(reward_weights=[1.0, -0.1]), data)
        inversion_reward.attach(trainer)

    Args:
        signal: Where strength and entropy come from; :class:`~inversion.corrpo.LastLayer` by default.
        method: ``spearman`` or ``pearson``.
        unit: ``position`` or ``token_type``.
        min_tokens: Tokens below which rho is undefined, as it is for a response whose strength or entropy is constant.
    """

    __name__ = "inversion"  # what TRL logs it as

    def __init__(
        self,
        signal: Signal | None = None,
        method: Method = "spearman",
        unit: Unit = "position",
        min_tokens: int = MIN_TOKENS,
    ) -> None:
        if method not in RHO_METHODS or unit not in RHO_UNITS:
            raise InputError(f"{method!r} over {unit!r} is not offered; choose {RHO_METHODS} over {RHO_UNITS}.")
        if min_tokens < MIN_POINTS:
            raise InputError(f"min_tokens is {min_tokens}; give at least {MIN_POINTS}.")
        self.signal: Signal = LastLayer() if signal is None else signal
        self.method: Method = method
        self.unit: Unit = unit
        self.min_tokens = min_tokens
        self._trainer: Any = None

    def attach(self, trainer: Any) -> "InversionReward":
        """Measure on this trainer's policy from now on; return the reward itself."""
        self._trainer = trainer
        return self

    def measure(self, model: Any, prompts: Sequence[Ids], responses: Sequence[Ids]) -> list[float | None]:
        """Return rho of each response, None where it is undefined.

        Args:
            model: The policy, a Hugging Face causal language model.
            prompts: Token ids of each prompt.
            responses: Token ids of each response, its end token included.
        """
        return [self.rho(readings) for readings in self.signal(model, prompts, responses)]

    def rho(self, readings: Readings) -> float | None:
        """Return rho of what was read at one response, None where it is undefined."""
        return response_rho(*readings, method=self.method, unit=self.unit, min_tokens=self.min_tokens)

    def read(self, prompts: list, completion_ids: list[list[int]]) -> list[Readings]:
        """Read strength and entropy off the trainer's policy, given prompts as TRL has them."""
        if self._trainer is None:
            raise InputError("this InversionReward has no policy to measure; call its attach(trainer) first.")
        policy = getattr(self._trainer, "policy", None)
        if policy is None:
            if is_sharded(self._trainer.accelerator):
                raise InputError("rho of a policy in shards takes a CorrPOTrainer, which puts it together; use that.")
            policy = self._trainer.accelerator.unwrap_model(self._trainer.model)
        return self.signal(policy, tokenized(self._trainer, prompts), completion_ids)

    def __call__(self, prompts: list, completion_ids: list[list[int]], **context: Any) -> list[float]:
        """Return rho of each completion: the interface that TRL calls.

        A response whose rho is undefined gets the mean of those of the same prompt, hence no advantage; 0 where none of
        them has one.

        Args:
            prompts: Texts or conversations, one a completion.
            completion_ids: Token ids of each completion.
            context: What else TRL passes; ``log_metric`` is used to log the share of undefined values.
        """
        values = [self.rho(readings) for readings in self.read(prompts, completion_ids)]
        if "log_metric" in context:
            context["log_metric"]("rho_undefined", sum(value is None for value in values) / len(values))
        filled: list[float] = []
        for _, group in groupby(zip(prompts, values, strict=True), key=lambda pair: pair[0]):
            rhos = [rho for _, rho in group]
            defined = [rho for rho in rhos if rho is not None]
            neutral = sum(defined) / len(defined) if defined else 0.0
            filled += [neutral if rho is None else rho for rho in rhos]
        return filled
