"""What the distribution over the next token says: entropy, surprisal, the logit-space control, the logit lens.

All in float64, since the terms of an entropy differ by many orders of magnitude.
"""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis import logit_readout

from inversion.models.bridge import hooks_by_package
from inversion.responses import Generation
from inversion.responses.sampling import sampled_logits

AT_ONCE = 2**21
"""Most numbers of a distribution over the vocabulary that are held at a time in float64 (16 MiB)."""


class TokenUncertainty(NamedTuple):
    """Per-token readings of the next-token distribution p and the token y that was written, each (t,).

    entropy_bits: -sum_v p(v) log2 p(v), between 0 and log2 V.
    surprisal_bits: -log2 p(y), at least 0.
    logit_space: the 2-norm of e_y - p, the gradient of log p(y) at the logits, between 0 and sqrt 2.
    """

    entropy_bits: Tensor
    surprisal_bits: Tensor
    logit_space: Tensor


def token_uncertainty(logits: Tensor, token_ids: Tensor) -> TokenUncertainty:
    """Read entropy, surprisal and logit-space strength off the logits.

    Args:
        logits: (t, V).
        token_ids: The tokens written, (t,).
    """
    rows = _rows(logits.shape[1])
    parts = [
        _uncertainty(few.double(), ids)
        for few, ids in zip(logits.split(rows), token_ids.to(logits.device).split(rows), strict=True)
    ]
    return TokenUncertainty(*(torch.cat(column) for column in zip(*parts, strict=True)))


def sampled_entropy_bits(logits: Tensor, generation: Generation) -> Tensor:
    """Return the entropy of the distribution that tokens were drawn from, in bits, (t,).

    Args:
        logits: The model's own, (t, V).
        generation: Temperature, top-k and top-p.
    """
    entropies = []
    for rows in logits.split(_rows(logits.shape[1])):
        log_probs = _log_softmax(sampled_logits(rows, generation))
        entropies.append(_entropy(log_probs.exp(), log_probs) / math.log(2))
    return torch.cat(entropies)


def _entropy(probs: Tensor, log_probs: Tensor) -> Tensor:
    """Return the entropy of each row, in nats. 0 log 0 = 0, also where a masked logit is minus infinity."""
    # NaN stays NaN; of a certain token it is 0 and not minus zero.
    return 0 - torch.where(probs == 0, 0, probs * log_probs).sum(1)


def _rows(vocabulary: int) -> int:
    """How many tokens to treat at a time."""
    return max(1, AT_ONCE // vocabulary)


def _uncertainty(logits: Tensor, token_ids: Tensor) -> TokenUncertainty:
    log_probs = _log_softmax(logits)
    probs = log_probs.exp()
    entropy = _entropy(probs, log_probs)
    own = log_probs.gather(1, token_ids[:, None])
    # |e_y - p|^2 = (1 - p_y)^2 + sum over the others of p^2: no cancellation as p_y approaches 1.
    others = probs.scatter(1, token_ids[:, None], 0).square().sum(1)
    logit_space = (torch.expm1(own[:, 0]).square() + others).sqrt()
    # max: minus zero is no surprisal.
    return TokenUncertainty(entropy / math.log(2), (-own[:, 0] / math.log(2)).clamp_min(0), logit_space)


def _log_softmax(logits: Tensor) -> Tensor:
    """Log-softmax that keeps its digits for a nearly certain token, where log p is close to 0."""
    largest = logits.amax(1, keepdim=True)
    gap = logits - largest.masked_fill(largest == math.inf, math.nan)  # Infinity over infinity is no probability.
    others = gap.exp().scatter(1, gap.argmax(1, keepdim=True), 0).sum(1, keepdim=True)
    return gap - torch.log1p(others)


def layer_entropy_bits(model: TransformerBridge, residuals: Sequence[Tensor | None], count: int) -> Tensor:
    """Return the entropy of the logit-lens read-out after each layer, in bits, (count, layers).

    The read-out is TransformerLens's: the model's own final norm, unembedding and output transform, chunk by chunk.
    Where it does not apply, the column is NaN and a warning says why.

    Args:
        model: The bridge.
        residuals: The stream after each layer, (count, d_model) each, or None where a block has no single stream.
        count: Number of tokens.
    """
    rows = _rows(int(model.cfg.d_vocab))
    together = max(1, rows // count)  # Layers in one chunk: with few rows, reading the unembedding is what takes time.
    single = [(layer, residual) for layer, residual in enumerate(residuals) if residual is not None]
    entropies = torch.full((len(residuals), count), math.nan, dtype=torch.float64)
    reason = "a block does not return one residual stream" if len(single) < len(residuals) else ""
    head = (model._modules.get(name) for name in ("ln_final", "unembed"))
    if any(part is not None and hooks_by_package(part) for part in head):
        # They would get rows of tokens in place of the sequence.
        single, reason = [], "somebody has hooked into the final norm or the unembedding"
    for some in (single[i : i + together] for i in range(0, len(single), together)):
        try:
            entropies[[layer for layer, _ in some]] = _lens_entropy(model, [residual for _, residual in some], rows)
        except (ValueError, NotImplementedError) as error:
            reason = str(error)
    if reason:
        warnings.warn(f"layer_entropy_bits is NaN: {reason}", stacklevel=3)
    return entropies.T


def _lens_entropy(model: TransformerBridge, residuals: Sequence[Tensor], rows: int) -> Tensor:
    """Read some layers out, (layer, count) from (count, d_model) each."""
    stacked = torch.stack([residual.to(residuals[0].device) for residual in residuals])
    readout = logit_readout(model, stacked, vocab=[0], chunk_size=rows)
    return readout.entropy.double().cpu() / math.log(2)
