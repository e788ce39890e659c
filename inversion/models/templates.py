"""Chat templates are programs that come with a checkpoint: they run in transformers' sandbox, and not for ever."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from inversion.errors import InputError, first_line

SECONDS = 10.0
"""Longest that a template may take for one conversation; real ones take milliseconds."""
TEMPLATE = "<template>"
"""What Jinja calls the file of a template that came as text."""


def render_chat(tokenizer: Any, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
    """Return a conversation as the checkpoint's chat template writes it.

    Args:
        tokenizer: The checkpoint's own.
        messages: Each with ``role`` and ``content``.
        options: Of ``apply_chat_template``, and variables of the template.

    Raises:
        InputError: The template refuses the messages, fails, wants what the sandbox forbids, or does not end.
    """
    try:
        with _deadline(SECONDS):
            return tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
    except TimeoutError as error:
        raise InputError(f"it still ran after {SECONDS:g} seconds, so it may never end") from error
    except Exception as error:  # A template may raise anything.
        raise InputError(first_line(error)) from error


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise ``TimeoutError`` from the next line of a template that is run after the time is up."""
    end = time.monotonic() + seconds

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if time.monotonic() > end:
            raise TimeoutError
        # Lines of templates are watched, calls of everything.
        return trace if frame.f_code.co_filename == TEMPLATE else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
