"""How commands declare their options, and read the values that argparse hands over as text."""

import argparse
import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inversion.engine import Workers


def option(description: str, default: Any = dataclasses.MISSING, **argparse_options: Any) -> Any:
    """Declare a field: positional if it has no default, else an option; a False default makes it a switch.

    ``heading="..."`` begins a group of options in the help, which goes on until the next one.
    """
    metadata = {"help": description, **argparse_options}
    return dataclasses.field(default=default, metadata=metadata)


def required(description: str, **argparse_options: Any) -> Any:
    """Declare an option that must be given."""
    return option(description, None, required=True, **argparse_options)


@dataclass(frozen=True, kw_only=True)
class OnWorkers:
    """A command that can measure with several replicas of a model."""

    workers: int | None = option("replicas of the model that measure at the same time, on Ray", None, type=int)
    ray_address: str | None = option("measure on this Ray cluster; auto finds the one of this machine", None)
    gpus_per_worker: float | None = option(
        "GPUs of each replica; by default one where there are any", None, type=float, metavar="GPUS"
    )
    threads_per_worker: int | None = option("threads of each replica on a CPU", None, type=int, metavar="THREADS")

    def replicas(self) -> "Workers | None":
        """Return the replicas that were asked for; None for this process alone."""
        from inversion.engine import Workers

        if self.workers is None and self.ray_address is None:
            return None
        return Workers(self.workers or 1, self.ray_address, self.gpus_per_worker, self.threads_per_worker)


def names(text: str) -> tuple[str, ...]:
    """Read ``a,b,c``."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def texts(text: str) -> tuple[str, ...]:
    r"""Read ``Question:,\n\n``: white space counts, and a backslash with an n is a line break."""
    return tuple(part.replace("\\n", "\n") for part in text.split(",") if part)


def two_texts(text: str) -> tuple[str, ...]:
    """Read ``<think>,</think>``."""
    parts = names(text)
    if len(parts) != 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not two texts with a comma between")
    return parts


def numbers(text: str) -> tuple[int, ...]:
    """Read ``0,3,-1``."""
    return tuple(int(part) for part in names(text))


def pairs(text: str) -> dict[str, str]:
    """Read ``prompt=question,answer=gold``."""
    found = {}
    for part in names(text):
        name, sign, value = part.partition("=")
        if not (name and sign):
            raise argparse.ArgumentTypeError(f"{part!r} is not of the form NAME=VALUE")
        found[name.strip()] = value.strip()
    return found


def decimals(text: str) -> tuple[float, ...]:
    """Read ``-1,0.5,2``."""
    return tuple(float(part) for part in names(text))


def settings(text: str) -> dict[str, Any]:
    """Read ``min_terms=2,enable_thinking=true``; what is a JSON number or truth value becomes one."""
    return {name: _value(value) for name, value in pairs(text).items()}


def _value(text: str) -> Any:
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except json.JSONDecodeError:
        return text


def part(text: str) -> tuple[int, int]:
    """Read ``2/8``, the second of eight parts."""
    i, _, n = text.partition("/")
    return int(i), int(n)
