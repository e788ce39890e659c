"""A process that compares mathematics for :mod:`inversion.scoring`, one JSON line in, one JSON line out.

It stands alone, since it is started by its path. The parent kills it where a comparison takes too long: the time-outs
of math-verify work by signals in the main thread only, and no Python signal handler interrupts the arithmetic of one
huge integer.
"""

import json
import signal
import sys
from functools import lru_cache
from typing import Any

MEMORY = 4 << 30
"""Bytes of address space beyond which the work of one comparison ends."""


def main() -> None:
    """Answer ``{"answer", "response", "seconds"}`` with ``{"score"}``, or ``{"reason"}`` where there is none."""
    answers, sys.stdout = sys.stdout, sys.stderr
    _limit_memory()
    from math_verify import parse, verify

    @lru_cache
    def gold_of(answer: str) -> Any:
        # The process has a time limit of its own; None switches off that of the library.
        return parse(f"${answer}$", parsing_timeout=None)  # pyright: ignore[reportArgumentType]

    def compare(answer: str, response: str) -> dict[str, Any]:
        gold = gold_of(answer)
        if not gold:
            return {"reason": "answer"}
        found = parse(response, parsing_timeout=None)  # pyright: ignore[reportArgumentType]
        if not found:
            return {"reason": "response"}
        return {"score": float(verify(gold, found, timeout_seconds=None))}

    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if hasattr(signal, "alarm"):
            # Left to its default action, the alarm ends the process whatever it is doing, also without its parent.
            signal.alarm(int(asked["seconds"]) + 2)
        try:
            reply = compare(asked["answer"], asked["response"])
        except (MemoryError, RecursionError, OverflowError, ValueError) as error:
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
