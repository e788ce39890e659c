"""The last guard around the command line: what becomes of an error that nothing else has turned into a sentence."""

import os
import platform
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from datetime import datetime

from inversion._version import __version__
from inversion.errors import InputError

BAD_INPUT, BUG, INTERRUPTED = 2, 70, 130
"""Exit codes; 70 is EX_SOFTWARE of sysexits.h."""


def guarded(command: Callable[[], None], arguments: Sequence[str]) -> int:
    """Run a command and return its exit code.

    0: it is done. 2: input that cannot be used, or the operating system refuses (a full disk, a folder without
    permission). 130: interrupted. 70: an error that nobody has foreseen; its traceback is in a file.

    Args:
        command: What to run.
        arguments: The command line, for the file of an unforeseen error.
    """
    try:
        command()
        # Here, since a full disk behind standard output would show only as the interpreter ends.
        sys.stdout.flush()
    except InputError as error:
        return _say(str(error), BAD_INPUT)
    except BrokenPipeError:
        # The reader, such as head, has seen enough.
        _close_quietly()
        return 0
    except KeyboardInterrupt:
        return _say("interrupted; the same command goes on where it stopped.", INTERRUPTED)
    except OSError as error:
        if error.errno is None:  # raised by a library in a sense of its own
            return _say(_report(arguments), BUG)
        _close_quietly()
        place = f"{error.filename}: " if error.filename else ""
        remedy = "make room or choose another place, and give the same command again"
        return _say(f"{place}{os.strerror(error.errno)}; {remedy}.", BAD_INPUT)
    except Exception:
        return _say(_report(arguments), BUG)
    return 0


def _say(sentence: str, code: int) -> int:
    print(f"inversion: {' '.join(sentence.splitlines())}", file=sys.stderr)
    return code


def _report(arguments: Sequence[str]) -> str:
    """Write the traceback of the current exception to a file and return the sentence that says where it is."""
    error = sys.exception()
    kind = type(error).__name__
    lines = [
        f"inversion {__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"inversion {shlex.join(arguments)}",
        "",
        "".join(traceback.format_exception(error)),
    ]
    text = "\n".join(lines)
    try:
        prefix = f"inversion-{datetime.now():%Y%m%d-%H%M%S}-"
        # Kept: it is what a report of the error needs. The encoding may not know what a model has written.
        with tempfile.NamedTemporaryFile(
            "w", prefix=prefix, suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(text)
        where = f"its traceback is in {file.name}"
    except OSError:
        print(text, file=sys.stderr)
        where = "its traceback stands above, since no file could be written"
    return f"this is an error of inversion itself ({kind}); {where}, please report it with that."


def _close_quietly() -> None:
    """Drop what standard output cannot write; without this Python complains once more as it closes the stream."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
