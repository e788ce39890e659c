"""Processes that score what models write, and are ended where that takes too long.

What a model writes is hostile input here: a tower of powers keeps one integer operation busy for ever. Time-outs by
signals work in the main thread only and cannot interrupt such an operation.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

START_SECONDS = 120.0
"""Time that a process may take to start."""


class LimitedProcess:
    """A process that answers questions; one for all threads, started when first asked and again after a time-out.

    Args:
        script: File in this package that answers, see :func:`inversion._math_worker.serve`.
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
