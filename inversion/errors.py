"""The one exception that stands for bad input, and what raises it for numbers."""

from numbers import Integral
from typing import Any


class InputError(ValueError):
    """Input that cannot be used as given.

    The message is one sentence that says what is wrong and what to do. From Python it is raised like any
    ``ValueError``; the command line prints it without a traceback and exits with code 2.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of another library's message, to be quoted inside a sentence."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def whole(name: str, value: Any, least: int | None = None) -> int:
    """Return a whole number, numpy's too, as a plain one.

    Raises:
        InputError: It is something else, or less than ``least``.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or (least is not None and value < least):
        bound = "" if least is None else f" of at least {least}"
        raise InputError(f"{name} must be a whole number{bound}, not {value!r}.")
    return int(value)
