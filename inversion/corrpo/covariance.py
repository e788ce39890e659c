"""The covariance of log-probability and advantage over tokens, by which policy entropy changes (arXiv 2505.22617)."""

import torch
from torch import Tensor


def token_covariance(log_probs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """Return each token's share of the covariance of log-probability and advantage, (b, t), minus infinity at padding.

    The product of both, each centred on its mean over the batch's response tokens (arXiv 2505.22617).
    """
    count = mask.sum().clamp(min=1)

    def centred(values: Tensor) -> Tensor:
        return values - (values * mask).sum() / count

    covariance = centred(log_probs.detach()) * centred(advantages.expand_as(log_probs))
    return covariance.masked_fill(mask == 0, -torch.inf)


def mean_covariance(log_probs: Tensor, advantages: Tensor, mask: Tensor) -> float:
    """Return the covariance of log-probability and advantage over the response tokens of a batch, in nats; NaN if none.

    To first order, a policy-gradient step of size eta changes the mean entropy by -eta times it (their theorem 1).

    Args:
        log_probs: Of the written tokens, (b, t).
        advantages: (b, 1) or (b, t).
        mask: Response tokens, (b, t).
    """
    shares = token_covariance(log_probs, advantages, mask)[mask.bool()]
    return shares.mean().item() if len(shares) else float("nan")
