"""Settings of CorR-PO: GRPO's, and what is measured and how it enters the reward."""

from dataclasses import dataclass, field
from typing import Any

from accelerate.utils import is_deepspeed_available
from trl.trainer.grpo_config import GRPOConfig

from inversion.corrpo.direct import TERMS
from inversion.corrpo.forms import parse_forms
from inversion.corrpo.reward import MIN_TOKENS, InversionReward
from inversion.corrpo.signals import PROJECTIONS, Exact, LastLayer, Signal
from inversion.errors import InputError

SIGNALS = ("last", "exact")
SCOPES = ("micro_batch", "rollout")
CONTROLS = ("none", "shuffled", "filler")


def _option(default: Any, description: str) -> Any:
    return field(default=default, metadata={"help": description})


@dataclass
class CorrPOConfig(GRPOConfig):
    """``GRPOConfig`` and the fields below; all of TRL's options mean what they mean there.

    Raises:
        InputError: A field cannot be used; the sentence says what to do.
    """

    inversion_weight: float = _option(0.1, "what rho costs; 0 is GRPO, a negative value rewards the opposite")
    inversion_form: str = _option(
        "mixed_groups", "additive, target, right_only, mixed_groups, shrunk, or several joined by +"
    )
    inversion_right_at: float = _option(1.0, "task reward from which a response counts as right")
    inversion_target: float = _option(-0.5, "rho that the form target steers to")
    inversion_shrink_tokens: float = _option(32.0, "length at which the form shrunk halves the penalty, in tokens")
    inversion_signal: str = _option("last", "last: q and o of the last layer; exact: any layers, by the probe")
    inversion_layers: list[int] | None = field(
        default=None, metadata={"help": "layers of the exact signal; none for all"}
    )
    inversion_projections: list[str] | None = field(
        default=None, metadata={"help": "projections; by default all that the signal offers"}
    )
    inversion_targets: int | None = _option(None, "tokens that the exact signal draws a response; none for all")
    inversion_norm: str = _option("nuclear", "norm of the exact signal")
    inversion_method: str = _option("spearman", "spearman or pearson")
    inversion_unit: str = _option("position", "position or token_type")
    inversion_min_tokens: int = _option(MIN_TOKENS, "tokens below which rho is undefined")
    inversion_loss_weight: float = _option(
        0.0, "of the differentiable term: with a target, how firmly rho is held there; else positive pushes rho down"
    )
    inversion_loss_target: float | None = _option(None, "value that the differentiable term steers to; none: no bound")
    inversion_loss_term: str = _option("rho", "rho; strength: a control, the mean of log2 strength instead")
    inversion_control: str = _option(
        "none", "shuffled: rho is permuted within the group; filler: minus the share of one filler takes its place"
    )

    covariance_over: str = _option(
        "micro_batch", "where clip_cov and kl_cov choose tokens: micro_batch, as published, or rollout, the whole of it"
    )

    def __post_init__(self) -> None:
        if self.deepspeed and not is_deepspeed_available():
            raise InputError("deepspeed is not installed; install it, or set fsdp to full_shard instead.")
        super().__post_init__()
        if self.covariance_over not in SCOPES:
            raise InputError(f"covariance_over {self.covariance_over!r} is not known; choose among {SCOPES}.")
        parse_forms(self.inversion_form)
        if self.inversion_control not in CONTROLS:
            raise InputError(f"inversion_control {self.inversion_control!r} is not known; choose among {CONTROLS}.")
        if self.inversion_loss_term not in TERMS:
            raise InputError(f"inversion_loss_term {self.inversion_loss_term!r} is not known; choose among {TERMS}.")
        target = self.inversion_loss_target
        if self.inversion_loss_term == "rho" and target is not None and not -1 <= target <= 1:
            raise InputError(f"inversion_loss_target is {target}; rho lies between -1 and 1.")
        if target is not None and self.inversion_loss_weight < 0:
            raise InputError("a negative inversion_loss_weight drives rho away from its target; give a positive one.")
        if self.inversion_shrink_tokens < 0:
            raise InputError(f"inversion_shrink_tokens is {self.inversion_shrink_tokens}; give 0 or more.")
        if self.multi_objective_aggregation != "sum_then_normalize":
            raise InputError(
                "normalize_then_sum scales rho to full size whatever its weight; keep multi_objective_aggregation at "
                "sum_then_normalize."
            )
        build_reward(self)


def build_reward(config: CorrPOConfig) -> InversionReward:
    """Return the reward that the settings describe, not attached to a trainer yet."""
    return InversionReward(
        _signal(config),
        config.inversion_method,  # pyright: ignore[reportArgumentType]
        config.inversion_unit,  # pyright: ignore[reportArgumentType]
        config.inversion_min_tokens,
    )


def _signal(config: CorrPOConfig) -> Signal:
    projections = config.inversion_projections
    if config.inversion_signal == "last":
        if config.inversion_layers is not None or config.inversion_targets is not None:
            raise InputError("layers and targets belong to the exact signal; set inversion_signal to exact.")
        return LastLayer() if projections is None else LastLayer(tuple(projections))
    if config.inversion_signal != "exact":
        raise InputError(f"inversion_signal {config.inversion_signal!r} is not known; choose among {SIGNALS}.")
    return Exact(
        None if config.inversion_layers is None else tuple(config.inversion_layers),
        PROJECTIONS if projections is None else tuple(projections),
        config.inversion_norm,
        config.inversion_targets,
        config.seed,
    )
