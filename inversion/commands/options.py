"""How commands declare their options, and read the values that argparse hands over as text."""

import dataclasses
from typing import Any


def option(description: str, default: Any = dataclasses.MISSING, **argparse_options: Any) -> Any:
    """Declare a field: positional if it has no default, else an option; a False default makes it a switch."""
    metadata = {"help": description, **argparse_options}
    return dataclasses.field(default=default, metadata=metadata)


def required(description: str, **argparse_options: Any) -> Any:
    """Declare an option that must be given."""
    return option(description, None, required=True, **argparse_options)


def names(text: str) -> tuple[str, ...]:
    """Read ``a,b,c``."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def numbers(text: str) -> tuple[int, ...]:
    """Read ``0,3,-1``."""
    return tuple(int(part) for part in names(text))


def settings(text: str) -> dict[str, Any]:
    """Read ``min_terms=2,max_terms=4``; values that are numbers become numbers."""
    pairs = (part.partition("=") for part in names(text))
    return {name: int(value) if value.lstrip("-").isdigit() else value for name, _, value in pairs}
