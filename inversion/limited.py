"""Processes that score what models write, and are ended where that takes too long: both ends of the conversation.

What a model writes is hostile input here: a tower of powers keeps one integer operation busy for ever. Time-outs by
signals work in the main thread only and cannot interrupt such an operation. A question is one line of JSON, and so is
its reply.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEMORY = 4 << 30
"""Bytes of address space beyond which the work on one question ends."""
START_SECONDS = 120.0
"""Time that a process may take to start."""


class LimitedProcess:
    """A process that answers questions; one for all threads, started when first asked and again after a time-out.

    Args:
        script: File in this package that answers, by :func:`serve`.
    """

    def __init__(self, script: str) -> None:
        self._script = Path(__file__).with_name(script)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = os.getpid()
        atexit.register(self._stop)

    def ask(self, question: dict[str, Any], seconds: float, first: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the reply to a question; one that does not come in time ends the process.

        Args:
            question: JSON types.
            seconds: Time that the reply may take.
            first: What a process that has just started is asked before, with more time.

        Returns:
            The reply, or ``{"reason": "time"}``.
        """
        with self._lock:
            # A copy in a forked process must not talk to the parent's.
            if self._process is None or self._process.poll() is not None or self._owner != os.getpid():
                self._start(first)
            line = self._exchange({**question, "seconds": seconds}, seconds)
            if not line:
                self._stop()
        return json.loads(line) if line else {"reason": "time"}

    def _start(self, first: dict[str, Any] | None) -> None:
        path = os.pathsep.join(filter(None, sys.path))
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            # -P: beside the script there are modules with names of the standard library's, such as statistics.
            [sys.executable, "-P", str(self._script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": path},
        )
        greeted = self._exchange(None, START_SECONDS)
        if greeted and first is not None:
            greeted = self._exchange({**first, "seconds": START_SECONDS}, START_SECONDS)
        if not greeted:
            self._stop()
            raise RuntimeError(f"the process of {self._script.name} did not start")

    def _exchange(self, question: dict[str, Any] | None, seconds: float) -> str:
        """Send a line and return the one that comes back, empty if the process ended or had to be ended."""
        process: Any = self._process
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            if question is not None:
                process.stdin.write(json.dumps(question) + "\n")
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


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer one JSON line after another, each in the time that it gives as ``seconds``.

    Args:
        answer: Returns the reply to a question; one that fails has the reply ``{"reason": "failed", "error": ...}``.
    """
    answers, sys.stdout = sys.stdout, sys.stderr
    _limit_memory()
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if hasattr(signal, "alarm"):
            # Left to its default action, the alarm ends the process whatever it is doing, also without its parent.
            signal.alarm(int(asked["seconds"]) + 2)
        try:
            reply = answer(asked)
        except Exception as error:  # Libraries expect less than models write.
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
