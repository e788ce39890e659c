"""Many samples a problem: pass@k, and signs that a reward is gamed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inversion.corrpo.gaming import filler_share, repeated_share
from inversion.models import decode, prompt_ids
from inversion.responses import Generation, Problem, write_responses

BATCH = 512
"""Responses generated together; on a small model a larger batch costs little more than a smaller one."""


@dataclass(frozen=True)
class Samples:
    """n samples of each of m problems.

    right: 1 where a sample is right, else 0; (m, n).
    tokens: Length of each, end token included; (m, n).
    distinct_tokens: Share of a response's tokens that are its first of their kind, mean over responses, in 0..1.
    repeated_4grams: Share of a response's runs of four tokens that it has written before, mean over responses, in 0..1.
    filler_words: Share of words that are fillers, over all responses, in 0..1.
    finished: Share of responses that came to an end by themselves.
    """

    right: np.ndarray
    tokens: np.ndarray
    distinct_tokens: float
    repeated_4grams: float
    filler_words: float
    finished: float


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
    scores = [problems[i // n].scorer(text) for i, text in enumerate(texts)]  # pyright: ignore[reportOptionalCall]
    return Samples(
        right=(np.array(scores) >= 1).astype(int).reshape(-1, n),
        tokens=np.array([len(i) for i in ids]).reshape(-1, n),
        distinct_tokens=float(np.mean([len(set(i)) / len(i) for i in ids])),
        repeated_4grams=float(np.mean([repeated_share(i, 4) for i in ids])),
        filler_words=filler_share(texts),
        finished=float(np.mean([response.finished for response in written])),
    )


def pass_at_k(right: np.ndarray, k: int) -> float:
    """Return the mean over problems of the unbiased estimate of pass@k (arXiv 2107.03374, eq. 1).

    1 - C(n - c, k) / C(n, k), the chance that k of the n samples, drawn without replacement, hold one of the c right
    ones; as the product over i = n - c + 1 .. n of (1 - k / i), which does not overflow.

    Args:
        right: (m, n), 0 or 1.
        k: 1 to n.
    """
    n = right.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} cannot be estimated from {n} samples")
    wrong = [np.prod(1 - k / np.arange(n - c + 1, n + 1)) if n - c >= k else 0.0 for c in right.sum(1)]
    return float(1 - np.mean(wrong))
