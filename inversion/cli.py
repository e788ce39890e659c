"""The command line: a parser made from the command classes in ``inversion/commands``, and what becomes of errors.

Nothing heavy is imported here. A command imports what it needs when it runs, so that ``inversion --help`` is instant.
"""

import argparse
import dataclasses
import io
import sys
from collections.abc import Sequence
from typing import Any

from inversion._version import __version__
from inversion.commands.bench import Bench
from inversion.commands.check import Check
from inversion.commands.compare import Compare
from inversion.commands.critique import Critique
from inversion.commands.demo import Demo
from inversion.commands.figures import Figures
from inversion.commands.options import names
from inversion.commands.probe import Probe
from inversion.commands.recover import Recover, RecoverSave
from inversion.commands.report import Report
from inversion.commands.reproduce import Reproduce
from inversion.commands.stats import Stats
from inversion.commands.survey import Survey
from inversion.commands.train import Train, TrainCompare, TrainSupervised
from inversion.guard import guarded

COMMANDS: dict[str, type] = {
    "demo": Demo,
    "probe": Probe,
    "check": Check,
    "stats": Stats,
    "compare": Compare,
    "train": Train,
    "train compare": TrainCompare,
    "train supervised": TrainSupervised,
    "survey": Survey,
    "reproduce": Reproduce,
    "critique": Critique,
    "recover": Recover,
    "recover save": RecoverSave,
    "figures": Figures,
    "report": Report,
    "bench": Bench,
}


def build_parser() -> argparse.ArgumentParser:
    """Turn the command classes into a parser."""
    parser = argparse.ArgumentParser(
        "inversion", description="Measure the entropy-gradient inversion of causal language models."
    )
    parser.add_argument("--version", action="version", version=f"inversion {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        summary = (command.__doc__ or "").splitlines()[0]
        sub = commands.add_parser(name, help=summary, description=summary)
        place: Any = sub
        for field in sorted(
            dataclasses.fields(command), key=lambda field: field.kw_only is True
        ):  # what commands share last
            if "heading" in field.metadata:
                place = sub.add_argument_group(field.metadata["heading"])
            _add_argument(place, field)
    return parser


def _add_argument(parser: Any, field: dataclasses.Field) -> None:
    options = {name: value for name, value in field.metadata.items() if name != "heading"}
    if field.default is dataclasses.MISSING:
        parser.add_argument(field.name, **options)
        return
    flag = "--" + field.name.replace("_", "-")
    if field.default is False:
        parser.add_argument(flag, action="store_true", **options)
        return
    if isinstance(field.default, tuple):
        options.setdefault("type", names)
    if field.default is not None:
        shown = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        options["help"] += f" (default: {shown})"
    options.setdefault("metavar", None if "choices" in options else field.name.rpartition("_")[2].upper())
    parser.add_argument(flag, default=field.default, **options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; see :func:`inversion.guard.guarded`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may not know every sign that a model writes
            stream.reconfigure(errors="backslashreplace")
    words = list(given)
    if " ".join(words[:2]) in COMMANDS:  # a command of two words
        words[:2] = [" ".join(words[:2])]
    parsed = vars(build_parser().parse_args(words))
    command = COMMANDS[parsed.pop("command")]
    return guarded(lambda: command(**parsed)(), given)


if __name__ == "__main__":
    sys.exit(main())
