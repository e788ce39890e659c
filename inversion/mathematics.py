"""Compare mathematics with math-verify, in a process of its own (see :mod:`inversion.limited`)."""

from importlib.util import find_spec
from typing import Any

from inversion.errors import InputError
from inversion.limited import LimitedProcess


def require() -> None:
    """Raise InputError unless math-verify is installed."""
    if find_spec("math_verify") is None:
        raise InputError("the scorer math needs math-verify, which is not installed; install inversion[train].")


def compare(answer: str, response: str, seconds: float) -> dict[str, Any]:
    """Compare the final formula or number of a response with a known answer.

    Args:
        answer: Mathematics, in LaTeX or plain.
        response: Text that ends in mathematics.
        seconds: Time that it may take.

    Returns:
        ``{"score": 1.0}`` or 0.0; or ``{"reason": ...}``: ``answer`` or ``response`` could not be read, comparing
        them ``failed``, or it took too much ``time``.
    """
    # The first comparison of a process loads what later ones have.
    return _worker.ask({"answer": answer, "response": response}, seconds, first={"answer": "1", "response": "1"})


_worker = LimitedProcess("_math_worker.py")
