"""Trainers of the baselines that need a loss of their own. Each is CorR-PO's trainer, so that all of them log rho.

Their rho weighs nothing unless asked to: :data:`inversion.corrpo.baselines.METHODS` sets ``inversion_weight`` to 0,
with which CorR-PO is GRPO.
"""

from typing import Any

import torch
from torch import Tensor

from inversion.corrpo.baselines.losses import (
    clip_cov_tokens,
    kl_cov_penalty,
    kl_cov_tokens,
    nucleus_entropy,
    peak_entropy,
    siren_penalty,
)
from inversion.corrpo.trainer import CorrPOTrainer
from inversion.errors import InputError


def _old(log_probs: Tensor, inputs: dict[str, Any]) -> Tensor:
    """Log-probabilities under the policy that wrote the responses: TRL leaves them out where they are the same."""
    old = inputs.get("old_per_token_logps")
    return log_probs.detach() if old is None else old


def _per_token(advantages: Tensor) -> Tensor:
    return advantages[:, None] if advantages.ndim == 1 else advantages


class _CovarianceTrainer(CorrPOTrainer):
    """Choose tokens by covariance: in each micro-batch, as published, or once in the whole rollout.

    In the whole rollout covariances are those under the policy that wrote it, and centred on all of its tokens that
    this process holds. A micro-batch is a small sample: what is a large covariance there depends on what else is in it.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        args_: Any = self.args
        self._over_rollout = args_.covariance_over == "rollout"
        if (
            self._over_rollout
            and args_.gradient_accumulation_steps % (args_.steps_per_generation * self.num_iterations) == 0
        ):
            raise InputError(
                "covariance_over rollout looks at the policy before its updates, which is kept where a rollout has "
                "several; set num_iterations or steps_per_generation above 1."
            )

    def roll_out(self, inputs: list[Any]) -> dict[str, Any]:
        """Write and score responses; choose tokens among all of them if asked to."""
        batch = super().roll_out(inputs)
        if self._over_rollout and self.mode == "train":
            old, advantages = batch["old_per_token_logps"], _per_token(batch["advantages"])
            batch["chosen_tokens"] = self._choose(old, old, advantages, self.token_mask(batch))
        return batch

    def _chosen(self, log_probs: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Return the tokens chosen of a micro-batch, (b, t), bool."""
        if "chosen_tokens" in inputs:
            return inputs["chosen_tokens"]
        advantages = _per_token(inputs["advantages"])
        return self._choose(log_probs, _old(log_probs, inputs), advantages, self.token_mask(inputs))

    def _choose(self, log_probs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
        raise NotImplementedError


class ClipCovTrainer(_CovarianceTrainer):
    """Clip-Cov: a few tokens of high covariance lose their gradient (arXiv 2505.22617)."""

    share, low, high = 2e-4, 1.0, 5.0

    def token_log_probs(self, *args: Any, **options: Any) -> Any:
        """Drop the gradient of the chosen tokens."""
        log_probs, *rest = super().token_log_probs(*args, **options)
        if self.batch is not None:
            log_probs = torch.where(self._chosen(log_probs, self.batch), log_probs.detach(), log_probs)
        return log_probs, *rest

    def _choose(self, log_probs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
        bounds = {"share": self.share, "low": self.low, "high": self.high}
        return clip_cov_tokens(log_probs, old, advantages, mask, **bounds, clip=(self.epsilon_low, self.epsilon_high))


class KLCovTrainer(_CovarianceTrainer):
    """KL-Cov: the tokens of highest covariance pay for leaving the old policy (arXiv 2505.22617).

    A no-op with one update a rollout; set ``num_iterations`` or ``steps_per_generation`` above 1.
    """

    share, coefficient = 2e-3, 1.0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.loss_type != "dapo":
            raise InputError("KL-Cov adds to a token-level loss; set loss_type to dapo.")

    def batch_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """Add the penalty."""
        loss = super().batch_loss(model, inputs)
        log_probs = self.batch_log_probs
        penalty = kl_cov_penalty(log_probs, _old(log_probs, inputs), self._chosen(log_probs, inputs))
        # TRL's own normalizer of this loss type: response tokens of the accumulation window.
        tokens = inputs["num_items_in_batch"].clamp(min=1.0) / self.accelerator.num_processes
        if self.mode == "train":
            tokens = tokens * self.accumulation / self.args.steps_per_generation  # pyright: ignore
        return loss + self.coefficient * penalty.sum() / tokens

    def _choose(self, log_probs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
        return kl_cov_tokens(log_probs, advantages, mask, share=self.share)


class SirenTrainer(CorrPOTrainer):
    """SIREN: the nucleus entropy of a response's most uncertain tokens is held to its start (arXiv 2509.25133).

    The first batch sets the anchor, which checkpoints keep. Full logits are formed, which costs memory.
    """

    nucleus, quantile, coefficient = 0.8, 0.8, 0.005
    anchor: float | None = None
    remembered = (("anchor", "siren_anchor.json"),)
    _nucleus_entropy: Tensor | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.aux_loss_enabled:
            raise InputError("SIREN does not carry the balancing loss of mixtures of experts; choose a dense model.")
        if self.args.inversion_loss_weight:  # pyright: ignore[reportAttributeAccessIssue]
            raise InputError("SIREN forms the logits itself and leaves inversion_loss out; choose another method.")

    def token_log_probs(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *args: Any, **options: Any
    ) -> Any:
        """Form the logits, and remember the nucleus entropy for the penalty."""
        if self.batch is None:
            return super().token_log_probs(model, input_ids, attention_mask, logits_to_keep, *args, **options)
        with self.accelerator.autocast():
            output = model(input_ids=input_ids, attention_mask=attention_mask, logits_to_keep=logits_to_keep + 1)
        logits = output.logits[:, :-1].float() / self.temperature  # (b, t, V)
        log_probs = logits.log_softmax(-1)
        own = log_probs.gather(-1, input_ids[:, -logits_to_keep:, None])[..., 0]
        self._nucleus_entropy = nucleus_entropy(logits, self.nucleus)
        return own, -(log_probs.exp() * log_probs).sum(-1), None

    def batch_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """Add the penalty."""
        loss = super().batch_loss(model, inputs)
        entropy, self._nucleus_entropy = self._nucleus_entropy, None
        assert entropy is not None
        peak = peak_entropy(entropy, self.token_mask(inputs), self.quantile)
        if self.anchor is None:
            self.anchor = float(self.accelerator.gather(peak.detach()).mean())  # pyright: ignore
        self.note("peak_entropy", peak.item())
        return loss + self.coefficient * siren_penalty(peak, self.anchor) / self.accumulation
