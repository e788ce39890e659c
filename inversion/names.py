"""Names that were mistyped."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str], most: int = 3) -> str:
    """Return the known names nearest to ``name``, most alike first, as one text for an error message."""
    return ", ".join(get_close_matches(name, list(known), most, 0))
