"""Names that were mistyped."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str], most: int = 3) -> str:
    """Return the known names nearest to ``name``, most alike first, as one text for an error message."""
    return ", ".join(get_close_matches(name, list(known), most, 0))


def meant(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'x'?`` where a known name is much like this one, else an empty text."""
    close = get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else ""
