"""Signs that a reward is gamed rather than earned: length, repetition, filler, responses that do not end.

:func:`prizes` says which of them a bonus pays for; :mod:`inversion.experiments.sampling` counts them in samples.
"""

import re
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

FILLERS = frozenset(
    ("so", "then", "now", "next", "well", "okay", "hmm", "wait", "let", "actually", "just", "basically")
)
"""Words that carry no step of the work; the shipped models' chains open their lines with the first four."""


def repeated_share(ids: Sequence[int], length: int) -> float:
    """Return the share of runs of ``length`` tokens that occurred before in ``ids``; 0 where there is none."""
    runs = Counter(tuple(ids[i : i + length]) for i in range(len(ids) - length + 1))
    total = sum(runs.values())
    return 1 - len(runs) / total if total else 0.0


def filler_share(texts: Sequence[str]) -> float:
    """Return the share of the words of all texts that are ``FILLERS``; 0 where there are no words."""
    words = [word for text in texts for word in re.findall(r"[a-z]+", text.lower())]
    return sum(word in FILLERS for word in words) / max(len(words), 1)


def one_filler_share(text: str, word: str = "so") -> float:
    """Return the share of one word among the fillers of a text; 0 where there are none: a reward that can be learnt."""
    fillers = [found for found in re.findall(r"[a-z]+", text.lower()) if found in FILLERS]
    return fillers.count(word) / max(len(fillers), 1)


def signs(ids: Sequence[Sequence[int]], texts: Sequence[str], end_ids: Sequence[int]) -> dict[str, list[float]]:
    """Return what each of n responses looks like.

    Args:
        ids: Token ids of each response, its end token included.
        texts: The same as text.
        end_ids: Tokens that end a response.

    Returns:
        Name -> one number a response: ``length`` in tokens; ``repetition``, the share of runs of four tokens that
        occurred before; ``filler``, the share of words that are fillers; ``end``, 1 where the end token was written.
    """
    return {
        "length": [float(len(response)) for response in ids],
        "repetition": [repeated_share(response, 4) for response in ids],
        "filler": [filler_share([text]) for text in texts],
        "end": [float(len(response) > 0 and response[-1] in end_ids) for response in ids],
    }


def prizes(bonus: Tensor, sign: Tensor, group_size: int) -> float:
    """Return the Pearson correlation of bonus and sign, each less its group's mean: what the bonus pays for.

    Args:
        bonus: What each response's reward gained, (n,); NaN where it could not be scored.
        sign: One of :func:`signs`, (n,).
        group_size: Responses a prompt, next to each other.

    Returns:
        A number in -1..1; NaN where either does not vary within any group.
    """
    both = torch.stack([bonus, sign.masked_fill(bonus.isnan(), torch.nan)]).double().view(2, -1, group_size)
    x, y = (both - both.nanmean(2, keepdim=True)).nan_to_num(0.0).flatten(1)
    scale = (x.norm() * y.norm()).item()
    # A constant column leaves rounding errors behind, which are no variation.
    small = 1e-6 * max(bonus.nan_to_num().abs().max().item(), 1e-30) * max(sign.abs().max().item(), 1e-30)
    return float(x @ y) / scale if scale > small else float("nan")
