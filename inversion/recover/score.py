"""How much of the texts a recovery holds."""

from collections.abc import Sequence
from dataclasses import dataclass

from inversion.recover.search import Recovery


@dataclass(frozen=True)
class Share:
    """Shares of a batch, each 0 to 1, of the tokens that its gradient can show: all but the last of every text.

    tokens: of the tokens, found in layer 0.
    in_place: of the tokens, in the right place of the recovered sequence that agrees most.
    sequences: of the texts, recovered whole.
    false_tokens: Number of tokens found in layer 0 that no text has (there).
    """

    tokens: float
    in_place: float
    sequences: float
    false_tokens: int


def share_recovered(recovery: Recovery, texts: Sequence[Sequence[int]]) -> Share:
    """Compare a recovery with the token ids of the texts, last tokens included.

    Args:
        recovery: What :func:`recover` returned.
        texts: Token ids of each text.
    """
    read = [list(text[:-1]) for text in texts]
    by_place = len(recovery.tokens) > 1
    truth = {(i if by_place else 0, token) for text in read for i, token in enumerate(text)}
    found = {(i, token) for i, tokens in enumerate(recovery.tokens) for token in tokens}
    count = sum(map(len, read))
    seen = sum((i if by_place else 0, token) in found for text in read for i, token in enumerate(text))
    placed = sum(max((_agreeing(text, other) for other in recovery.sequences), default=0) for text in read)
    whole = sum(text in recovery.sequences for text in read)
    return Share(seen / count, placed / count, whole / len(read), len(found - truth))


def _agreeing(text: Sequence[int], other: Sequence[int]) -> int:
    return sum(a == b for a, b in zip(text, other, strict=False))
