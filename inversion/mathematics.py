"""Compare mathematics with math-verify in a process of its own, which is ended where that takes too long.

What a model writes is hostile input here: a tower of powers keeps one integer operation busy for ever. The time-outs
of math-verify are signals, which work in the main thread only and cannot interrupt such an operation.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from inversion.errors import InputError

_START_SECONDS = 120.0


def require() -> None:
    """Raise InputError unless math-verify is installed."""
    if find_spec("math_verify") is None:
        raise InputError("the scorer math needs math-verify, which is not installed; install inversion[train].")


def compare(answer: str, response: str, seconds: float) -> dict[str, Any]:
    """Compare the final formula or number of a response with a known answer.

    Args:
        answer: Mathematics, in LaTeX or plain.
        response: Text that ends in mathematics.
        seconds: Time that it may take.

    Returns:
        ``{"score": 1.0}`` or 0.0; or ``{"reason": ...}``: ``answer`` or ``response`` could not be read, comparing
        them ``failed``, or it took too much ``time``.
    """
    return _worker.ask(answer, response, seconds)


class _Worker:
    """The process that runs math-verify; one for all threads, started when first asked and again after a time-out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = os.getpid()
        atexit.register(self._stop)

    def ask(self, answer: str, response: str, seconds: float) -> dict[str, Any]:
        """Compare a response with an answer; a reply that does not come in time ends the process."""
        question = json.dumps({"answer": answer, "response": response, "seconds": seconds})
        with self._lock:
            # A copy in a forked process must not talk to the parent's.
            if self._process is None or self._process.poll() is not None or self._owner != os.getpid():
                self._start()
            line = self._exchange(question, seconds)
            if not line:
                self._stop()
        return json.loads(line) if line else {"reason": "time"}

    def _start(self) -> None:
        path = os.pathsep.join(filter(None, sys.path))
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("_math_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": path},
        )
        if not self._exchange(None, _START_SECONDS):
            self._stop()
            raise RuntimeError("the process that compares mathematics did not start")

    def _exchange(self, question: str | None, seconds: float) -> str:
        """Send a line and return the one that comes back, empty if the process ended or had to be ended."""
        process: Any = self._process
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            if question is not None:
                process.stdin.write(question + "\n")
                process.stdin.flush()
            return process.stdout.readline()
        except BrokenPipeError:
            return ""
        finally:
            timer.cancel()

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.wait()


_worker = _Worker()
