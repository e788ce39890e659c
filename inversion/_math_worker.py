"""A process that compares mathematics for :mod:`inversion.mathematics`; see :mod:`inversion.limited`."""

from functools import lru_cache
from typing import Any

from inversion.limited import serve


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


if __name__ == "__main__":
    main()
