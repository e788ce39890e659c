"""Values that the first author's post of 7 February 2026 reports, to be drawn as reference marks.

They are Spearman correlations of token entropy with the nuclear norm of the logit gradient over token types, as read
from the post that preceded arXiv 2605.17770. They were not measured with this toolkit and are never its results: draw
them beside your own numbers, with their source in the legend.
"""

from dataclasses import dataclass

SOURCE = "first author's post, 7 February 2026"


@dataclass(frozen=True)
class Series:
    """One reported curve: correlations of the same length as the training steps they belong to."""

    steps: tuple[int, ...]
    correlations: tuple[float, ...]


FINGERPRINT: dict[str, float] = {
    "Llama-3.1-8B reasoning": -0.649,
    "Llama-3.1-8B base": 0.036,
    "Llama-3.1-8B safety-tuned": 0.005,
    "Qwen reasoning": -0.649,
    "Qwen base": -0.171,
    "Qwen safety-tuned": 0.148,
}
"""Correlation of each kind of model."""

_SFT_STEPS = (0, 200, 400, 600, 800, 1000, 1200, 1400, 1600, 1800, 2000, 4000, 6000, 8000)
_EARLY_STEPS = tuple(range(0, 1001, 100))
_RL_STEPS = tuple(range(0, 8001, 2000))
_BOTH_STEPS = tuple(range(0, 16001, 2000))

SFT: dict[str, Series] = {
    "Llama": Series(
        _SFT_STEPS,
        (0.036, -0.468, -0.497, -0.483, -0.500, -0.499, -0.533, -0.509, -0.502, -0.502, -0.511, -0.571, -0.584, -0.606),
    ),
    "Qwen": Series(
        _SFT_STEPS,
        (
            -0.171, -0.308, -0.334, -0.344, -0.370, -0.357, -0.365,
            -0.380, -0.377, -0.377, -0.379, -0.501, -0.517, -0.494,
        ),
    ),
}  # fmt: skip
"""Supervised fine-tuning on long chains of thought."""

RL_FROM_BASE: dict[str, Series] = {
    "Llama": Series(
        _EARLY_STEPS, (0.036, -0.362, -0.362, -0.318, -0.234, -0.320, -0.371, -0.332, -0.338, -0.280, -0.314)
    ),
    "Qwen": Series(
        _EARLY_STEPS, (-0.171, -0.053, -0.067, -0.085, -0.163, -0.207, -0.280, -0.281, -0.243, -0.318, -0.301)
    ),
}
"""Reinforcement learning from the base model, its first thousand steps."""

RL: dict[str, Series] = {
    "Llama": Series(_RL_STEPS, (0.036, -0.637, -0.637, -0.600, -0.649)),
    "Qwen": Series(_RL_STEPS, (-0.171, -0.475, -0.492, -0.523, -0.649)),
}
"""Reinforcement learning, in steps of two thousand."""

SFT_THEN_RL: dict[str, Series] = {
    "Llama": Series(_BOTH_STEPS, (0.036, -0.511, -0.571, -0.584, -0.606, -0.637, -0.637, -0.600, -0.649)),
    "Qwen": Series(_BOTH_STEPS, (-0.171, -0.379, -0.501, -0.517, -0.494, -0.475, -0.492, -0.523, -0.649)),
}
"""Fine-tuning up to step 8000, then reinforcement learning."""
