"""What CorR-PO has to beat: each method is a trainer and the settings that make it what it is.

All are built on :class:`~inversion.corrpo.CorrPOTrainer`, so that data, budget, logging and checkpoints are the same
and every method logs rho; in the baselines rho weighs nothing. Settings that TRL has stay TRL options.
"""

from dataclasses import dataclass, field
from typing import Any

from inversion.corrpo.baselines.dynamic import DynamicSamplingTrainer
from inversion.corrpo.baselines.trainers import ClipCovTrainer, KLCovTrainer, SirenTrainer
from inversion.corrpo.trainer import CorrPOTrainer


@dataclass(frozen=True)
class Method:
    """A way to train.

    trainer: The trainer class.
    settings: Fields of ``CorrPOConfig`` that define the method.
    weight_factor: What the weight of rho is multiplied by: 0 in the baselines.
    overlong: Whether DAPO's soft penalty on overlong responses joins the reward.
    source: Where the settings come from.
    """

    trainer: type[CorrPOTrainer]
    settings: dict[str, Any] = field(default_factory=dict)
    weight_factor: float = 0.0
    overlong: bool = False
    source: str = ""

    def options(self, weight: float = 0.1) -> dict[str, Any]:
        """Return the fields of ``CorrPOConfig`` for a weight of rho."""
        return {**self.settings, "inversion_weight": self.weight_factor * weight}


_GRPO = {"loss_type": "grpo"}
"""The loss of ``grpo``, which what differs from it in rho alone has to share."""

METHODS: dict[str, Method] = {
    "corrpo": Method(CorrPOTrainer, _GRPO, weight_factor=1.0, source="our reading of arXiv 2605.17770"),
    "corrpo_flipped": Method(
        CorrPOTrainer, _GRPO, weight_factor=-1.0, source="control: the sign of the weight flipped"
    ),
    "corrpo_shuffled": Method(
        CorrPOTrainer,
        {**_GRPO, "inversion_control": "shuffled"},
        weight_factor=1.0,
        source="control: rho permuted within the group",
    ),
    "direct": Method(
        CorrPOTrainer,
        # Without an anchor to the start, rho is moved by breaking the model (LAB_NOTES.md).
        {**_GRPO, "inversion_loss_weight": 0.3, "beta": 0.2},
        source="our intervention: grpo with rho as a differentiable term, anchored to the start",
    ),
    "grpo": Method(CorrPOTrainer, _GRPO, source="arXiv 2402.03300"),
    "dr_grpo": Method(CorrPOTrainer, {"loss_type": "dr_grpo", "scale_rewards": "none"}, source="arXiv 2503.20783"),
    "dapo": Method(
        DynamicSamplingTrainer,
        {"loss_type": "dapo", "epsilon_high": 0.28},
        overlong=True,
        source="arXiv 2503.14476",
    ),
    "clip_cov": Method(ClipCovTrainer, {"loss_type": "dapo"}, source="arXiv 2505.22617"),
    # The published loss has no ratio clipping: bounds this wide never bind.
    "kl_cov": Method(
        KLCovTrainer, {"loss_type": "dapo", "epsilon": 1e9, "epsilon_high": 1e9}, source="arXiv 2505.22617"
    ),
    "siren": Method(SirenTrainer, {"loss_type": "dr_grpo", "scale_rewards": "none"}, source="arXiv 2509.25133"),
    "high_entropy": Method(
        CorrPOTrainer, {"loss_type": "dapo", "top_entropy_quantile": 0.2}, source="arXiv 2506.01939, in TRL"
    ),
    "entropy_bonus": Method(CorrPOTrainer, {"loss_type": "dapo", "entropy_coef": 1e-3}, source="in TRL"),
}
"""Method name -> how it trains."""
