"""The inversion as a reward function of TRL."""

from collections.abc import Sequence
from typing import Any

from inversion.corrpo.recording import Recorded
from inversion.corrpo.rho import MIN_POINTS, RHO_METHODS, RHO_UNITS, Method, Unit, response_rho
from inversion.corrpo.signals import Ids, LastLayer, Readings, Signal
from inversion.errors import InputError

MIN_TOKENS = 8
"""Tokens below which a response's rho counts as 0: with fewer it says nothing."""


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
        min_tokens: Tokens below which rho is 0, as it is for a response whose strength or entropy is constant.
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
        self.recorded: Recorded | None = None
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
        return [
            response_rho(*readings, method=self.method, unit=self.unit, min_tokens=self.min_tokens)
            for readings in self._read(model, prompts, responses)
        ]

    def _read(self, model: Any, prompts: Sequence[Ids], responses: Sequence[Ids]) -> list[Readings]:
        if isinstance(self.signal, LastLayer):
            return self.signal(model, prompts, responses, self.recorded)
        return self.signal(model, prompts, responses)

    def __call__(self, prompts: list, completion_ids: list[list[int]], **context: Any) -> list[float]:
        """Return rho of each completion, 0 where it is undefined: the interface that TRL calls.

        Args:
            prompts: Texts or conversations, one a completion.
            completion_ids: Token ids of each completion.
            context: What else TRL passes; ``log_metric`` is used to log the share of undefined values.
        """
        if self._trainer is None:
            raise InputError("this InversionReward has no policy to measure; call its attach(trainer) first.")
        trainer = self._trainer
        prompt_ids, images, _ = trainer._tokenize_prompts(prompts)
        if images is not None:
            raise InputError("the inversion reward reads text only; leave images out of the prompts.")
        policy = trainer.accelerator.unwrap_model(trainer.model)
        values = self.measure(policy, prompt_ids, completion_ids)
        if "log_metric" in context:
            context["log_metric"]("rho_undefined", sum(value is None for value in values) / len(values))
        return [0.0 if value is None else value for value in values]
