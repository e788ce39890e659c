"""Losses of the baselines that TRL does not have, as pure tensor functions.

Tensors are (b, t), responses by tokens; ``mask`` is 1 at response tokens and 0 at padding. Logarithms are natural.
"""

import torch
from torch import Tensor

from inversion.corrpo.covariance import token_covariance


def clip_cov_tokens(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    share: float = 2e-4,
    low: float = 1.0,
    high: float = 5.0,
    clip: tuple[float, float] = (0.2, 0.2),
) -> Tensor:
    """Choose the tokens whose gradient Clip-Cov drops, (b, t), bool (arXiv 2505.22617 and its code).

    ``share`` of the response tokens, at least one, drawn at random among those whose covariance lies strictly between
    ``low`` and ``high`` and that PPO's own clipping does not hold already.

    Args:
        log_probs: Of the written tokens under the policy.
        old_log_probs: The same under the policy that wrote them.
        advantages: (b, 1) or (b, t).
        mask: Response tokens.
        share: Of the tokens.
        low: Bound of the covariance.
        high: Bound of the covariance.
        clip: How far the ratio may go below and above 1.
    """
    ratio = (log_probs.detach() - old_log_probs).exp()
    held = ratio.clamp(1 - clip[0], 1 + clip[1]) * advantages < ratio * advantages
    covariance = token_covariance(log_probs, advantages, mask)
    candidates = ((covariance > low) & (covariance < high) & ~held).flatten().nonzero()[:, 0]
    count = max(int(share * mask.sum().item()), 1)
    drawn = candidates[torch.randperm(len(candidates), device=candidates.device)[:count]]
    chosen = torch.zeros(log_probs.numel(), dtype=torch.bool, device=log_probs.device)
    chosen[drawn] = True
    return chosen.view_as(log_probs)


def kl_cov_tokens(log_probs: Tensor, advantages: Tensor, mask: Tensor, *, share: float = 2e-3) -> Tensor:
    """Choose the tokens that KL-Cov holds, (b, t), bool: the top ``share`` by covariance, at least one."""
    covariance = token_covariance(log_probs, advantages, mask).flatten()
    count = max(int(share * mask.sum().item()), 1)
    chosen = torch.zeros_like(covariance, dtype=torch.bool)
    chosen[covariance.topk(count).indices] = True
    return chosen.view_as(log_probs) & mask.bool()


def kl_cov_penalty(log_probs: Tensor, old_log_probs: Tensor, chosen: Tensor) -> Tensor:
    """Return KL-Cov's penalty a token, (b, t): the size of the log ratio at the chosen ones (arXiv 2505.22617).

    With one update a rollout both policies are the same, and value and gradient are 0.
    """
    return (log_probs - old_log_probs).abs() * chosen


def nucleus_entropy(logits: Tensor, nucleus: float = 0.8) -> Tensor:
    """Return the entropy in nats of softmax(logits) within its nucleus, renormalised; (..., V) -> (...).

    The nucleus holds the most probable tokens up to a total of ``nucleus``. As in SIREN's published code, and unlike in
    nucleus sampling, the token that crosses the bound is left out; the most probable one always stays.
    """
    log_probs = logits.log_softmax(-1).sort(-1, descending=True).values
    inside = log_probs.exp().cumsum(-1) <= nucleus
    inside[..., 0] = True
    within = log_probs.masked_fill(~inside, -torch.inf).log_softmax(-1)
    return -(within.exp() * within.masked_fill(~inside, 0)).sum(-1)


def peak_entropy(entropy: Tensor, mask: Tensor, quantile: float = 0.8) -> Tensor:
    """Return the mean entropy of the tokens at or above their own response's quantile; a scalar, in nats.

    Args:
        entropy: (b, t).
        mask: Response tokens.
        quantile: Between 0 and 1, taken response by response.
    """
    kept = entropy.detach().float().masked_fill(mask == 0, torch.nan)
    bounds = kept.nanquantile(quantile, dim=1, keepdim=True)  # NaN for an empty response: nothing lies above it
    peaks = (kept >= bounds) & mask.bool()
    return (entropy * peaks).sum() / peaks.sum().clamp(min=1)


def siren_penalty(entropy: Tensor, anchor: float) -> Tensor:
    """Return SIREN's penalty: the squared distance of the peak entropy from its starting value (arXiv 2509.25133)."""
    return (entropy - anchor).square()
