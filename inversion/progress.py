"""Progress that survives a pipe: a bar for whoever looks on, now and then a plain line for a file."""

import sys
from collections.abc import Iterable
from typing import Any

PLAIN_SECONDS = 10.0
"""Plain lines come no more often than this, except for the first and the last."""


def is_watched() -> bool:
    """Whether somebody looks on: a terminal, or a notebook, where tqdm has a bar of its own."""
    from tqdm import std
    from tqdm.auto import tqdm

    return sys.stderr.isatty() or tqdm.__mro__[1] is not std.tqdm


def bar(iterable: Iterable | None = None, **options: Any) -> Any:
    """Return tqdm's bar; its options are tqdm's. Without a terminal it writes lines, without carriage returns."""
    from tqdm.auto import tqdm

    if not is_watched():
        options |= {"file": _Lines(), "mininterval": PLAIN_SECONDS, "ncols": 100}
    return tqdm(iterable, **options)


class _Lines:
    """Standard error as a file for tqdm, which overwrites a line by a carriage return and what it shows next."""

    def write(self, text: str) -> None:
        shown = text.strip()
        if shown:
            print(shown, file=sys.stderr, flush=True)

    def flush(self) -> None:
        sys.stderr.flush()
