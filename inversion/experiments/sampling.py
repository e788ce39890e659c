"""Many samples a problem: pass@k, and signs that a reward is gamed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from inversion.corrpo.gaming import filler_share, repeated_share
from inversion.models import decode, prompt_ids
from inversion.probes.entropy import token_uncertainty
from inversion.responses import Generation, Problem, write_responses

BATCH = 512
"""Responses generated together; on a small model a larger batch costs little more than a smaller one."""


@dataclass(frozen=True)
class Samples:
    """n samples of each of m problems.

    right: 1 where a sample is right, 0 where it is wrong, NaN where it could not be scored; (m, n).
    tokens: Length of each, end token included; (m, n).
    distinct_tokens: Share of a response's tokens that are its first of their kind, mean over responses, in 0..1.
    repeated_4grams: Share of a response's runs of four tokens that it has written before, mean over responses, in 0..1.
    filler_words: Share of words that are fillers, over all responses, in 0..1.
    finished: Share of responses that came to an end by themselves.
    unscored: Share of responses that could not be scored.
    kept: Token ids of each problem's prompt and first response.
    """

    right: np.ndarray
    tokens: np.ndarray
    distinct_tokens: float
    repeated_4grams: float
    filler_words: float
    finished: float
    unscored: float
    kept: list[tuple[list[int], list[int]]]


def draw_samples(model: Any, problems: Sequence[Problem], n: int, generation: Generation, seed: int) -> Samples:
    """Let a bridge write ``n`` responses to each problem, score them and look for signs of gaming.

    Args:
        model: A bridge with a tokenizer.
        problems: Each with a scorer; a score of 1 or more is right.
        n: Samples a problem.
        generation: How to sample.
        seed: Of sampling.
    """
    prompts = [prompt_ids(model.tokenizer, problem.prompt) for problem in problems for _ in range(n)]
    written = write_responses(model, prompts, generation, seed, batch_size=BATCH)
    ids = [response.ids for response in written]
    texts = [decode(model.tokenizer, w.ids[:-1] if w.ended == "end" else w.ids) for w in written]
    answers = enumerate(zip(texts, written, strict=True))
    scores = np.array([problems[i // n].score(text, response.finished) for i, (text, response) in answers], float)
    return Samples(
        right=np.where(np.isnan(scores), np.nan, scores >= 1).reshape(-1, n),
        tokens=np.array([len(i) for i in ids]).reshape(-1, n),
        distinct_tokens=float(np.mean([len(set(i)) / len(i) for i in ids])),
        repeated_4grams=float(np.mean([repeated_share(i, 4) for i in ids])),
        filler_words=filler_share(texts),
        finished=float(np.mean([response.finished for response in written])),
        unscored=float(np.isnan(scores).mean()),
        kept=list(zip(prompts[::n], ids[::n], strict=True)),
    )


def pass_at_k(right: np.ndarray, k: int) -> float:
    """Return the mean over problems of the unbiased estimate of pass@k (arXiv 2107.03374, eq. 1).

    1 - C(n - c, k) / C(n, k), the chance that k of the n samples, drawn without replacement, hold one of the c right
    ones; as the product over i = n - c + 1 .. n of (1 - k / i), which does not overflow.

    Args:
        right: (m, n), 0 or 1; NaN where a sample could not be scored, which is left out, and so is a problem of which
            fewer than k remain.
        k: 1 to n.

    Returns:
        NaN where no problem remains.
    """
    if not 1 <= k <= right.shape[1]:
        raise ValueError(f"pass@{k} cannot be estimated from {right.shape[1]} samples")
    scored, found = np.isfinite(right).sum(1), np.nansum(right, axis=1)
    wrong = [
        np.prod(1 - k / np.arange(n - c + 1, n + 1)) if n - c >= k else 0.0
        for n, c in zip(scored, found, strict=True)
        if n >= k
    ]
    return float(1 - np.mean(wrong)) if wrong else float("nan")


@torch.no_grad()
def divergence(model: Any, start: Any, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> float:
    """Return the KL divergence of ``model`` from ``start``, in nats, a mean over the tokens of responses.

    At each token it is summed over the whole vocabulary, sum_v p(v) log(p(v) / q(v)), hence 0 at the start.

    Args:
        model: A bridge, which wrote the responses.
        start: The bridge that it is compared with.
        texts: Token ids of prompts and responses.
    """
    total, count = 0.0, 0
    for prompt, response in texts:
        p, q = (_logits(m, prompt, response).double().cpu().log_softmax(-1) for m in (model, start))
        total += float((p.exp() * (p - q)).sum())
        count += len(response)
    return total / count


@torch.no_grad()
def mean_entropy_bits(model: Any, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> float:
    """Return the entropy of softmax(z), at temperature 1, in bits, a mean over the tokens of responses.

    Args:
        model: A bridge.
        texts: Token ids of prompts and responses.
    """
    total, count = 0.0, 0
    for prompt, response in texts:
        logits = _logits(model, prompt, response)
        total += float(token_uncertainty(logits, torch.tensor(response)).entropy_bits.sum())
        count += len(response)
    return total / count


def _logits(model: Any, prompt: Sequence[int], response: Sequence[int]) -> torch.Tensor:
    """Return the logits that each token of a response was written from, (t, V)."""
    tokens = torch.tensor([[*prompt, *response]], device=next(model.parameters()).device)
    return model.original_model(tokens).logits[0, len(prompt) - 1 : -1]
