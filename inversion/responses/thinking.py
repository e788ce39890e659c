"""Which tokens of a response are thinking and which are the answer."""

from collections.abc import Sequence

from inversion.errors import InputError
from inversion.scoring import THINK_TAGS

THINK, ANSWER, TAG = "think", "answer", "tag"


def check_tags(tags: Sequence[str]) -> tuple[str, str]:
    """Return the two tags.

    Raises:
        InputError: They are not two different texts.
    """
    if len(tags) != 2 or not all(isinstance(tag, str) and tag for tag in tags) or tags[0] == tags[1]:
        raise InputError("think tags must be two different texts, such as ('<think>', '</think>').")
    return tags[0], tags[1]


def opens_thinking(prompt: str, tags: tuple[str, str] = THINK_TAGS) -> bool:
    """Whether a prompt ends by opening the thinking, as the chat templates of reasoning models do.

    A tag elsewhere in it, such as in an instruction about tags, opens nothing.
    """
    return prompt.rstrip().endswith(tags[0])


def token_parts(pieces: Sequence[str], tags: tuple[str, str] = THINK_TAGS, opened: bool = False) -> list[str]:
    """Return ``"think"``, ``"answer"`` or ``"tag"`` for each token of a whole response.

    A token that touches a tag is ``"tag"``. Without an opening tag, everything before a closing one is thinking;
    without a closing tag, everything after an opening one; without both, all is answer, or thinking where the prompt
    has opened it.

    Args:
        pieces: Texts of all tokens, in order; together they are the response.
        tags: What opens and what closes the thinking.
        opened: Whether the prompt has opened it, see :func:`opens_thinking`.
    """
    text = "".join(pieces)
    marks = sorted([*_marks(text, tags[0], THINK), *_marks(text, tags[1], ANSWER)])
    state = THINK if opened or (marks and marks[0][2] == ANSWER) else ANSWER
    parts, start, done = [], 0, 0
    for piece in pieces:
        end = start + len(piece)
        while done < len(marks) and marks[done][1] <= start:
            state = marks[done][2]
            done += 1
        touches = done < len(marks) and marks[done][0] < max(end, start + 1) and marks[done][1] > start
        parts.append(TAG if touches and (piece or marks[done][0] < start) else state)
        start = end
    return parts


def _marks(text: str, tag: str, state: str) -> list[tuple[int, int, str]]:
    """Return where a tag begins and ends, and what follows it."""
    marks, at = [], text.find(tag)
    while at >= 0:
        marks.append((at, at + len(tag), state))
        at = text.find(tag, at + len(tag))
    return marks
