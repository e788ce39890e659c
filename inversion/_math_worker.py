"""A process that compares mathematics for :mod:`inversion.scoring`, one JSON line in, one JSON line out.

The parent kills it where a comparison takes too long: the time-outs
of math-verify work by signals in the main thread only, and no Python signal handler interrupts the arithmetic of one
huge integer.
"""

import json
import signal
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

MEMORY = 4 << 30
"""Bytes of address space beyond which the work of one comparison ends."""


def main() -> None:
    """Answer ``{"answer", "response"}`` with ``{"score"}``, or ``{"reason"}`` where there is none."""
    from math_verify import parse, verify

    @lru_cache
    def gold_of(answer: str) -> Any:
        # The process has a time limit of its own; None switches off that of the library.
        return parse(f"${answer}$", parsing_timeout=None)  # pyright: ignore[reportArgumentType]

    def compare(asked: dict[str, Any]) -> dict[str, Any]:
        gold = gold_of(asked["answer"])
        if not gold:
            return {"reason": "answer"}
        found = parse(asked["response"], parsing_timeout=None)  # pyright: ignore[reportArgumentType]
        if not found:
            return {"reason": "response"}
        return {"score": float(verify(gold, found, timeout_seconds=None))}

    serve(compare)


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer one JSON line after another, each in the time that it gives as ``seconds``.

    Args:
        answer: Returns the reply to a question; one that fails has the reply ``{"reason": "failed", "error": ...}``.
    """
    answers, sys.stdout = sys.stdout, sys.stderr
    _limit_memory()
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if hasattr(signal, "alarm"):
            # Left to its default action, the alarm ends the process whatever it is doing, also without its parent.
            signal.alarm(int(asked["seconds"]) + 2)
        try:
            reply = answer(asked)
        except Exception as error:  # Libraries expect less than models write.
            reply = {"reason": "failed", "error": type(error).__name__}
        if hasattr(signal, "alarm"):
            signal.alarm(0)
        print(json.dumps(reply), file=answers, flush=True)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


if __name__ == "__main__":
    main()
