"""What a long run tells while it goes: a bar for people, plain lines for log files, JSON lines for programs."""

import json
import sys
import time
from types import TracebackType
from typing import Any, Self

from inversion.progress import PLAIN_SECONDS, is_watched

LOG_FORMATS = ("auto", "bar", "plain", "json")


class Watch:
    """Tell on standard error how a run goes.

    Args:
        name: The run's name.
        total: Responses of the run, or of the part of it that is measured here.
        done: Those that stand already.
        shards: Shards of the run.
        log: ``bar``; ``plain``, lines of text without control characters; ``json``, one object a line for every shard;
            ``auto`` is a bar on a terminal or in a notebook, else plain.
    """

    def __init__(self, name: str, total: int, done: int, shards: int, log: str = "auto") -> None:
        self.name, self.total, self.done, self.shards = name, total, done, shards
        self.log = ("bar" if is_watched() else "plain") if log == "auto" else log
        self._last = time.monotonic()
        self._bar = None
        if self.log == "bar":
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, initial=done, desc=f"probe {name}", unit="response")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def responses(self, count: int) -> None:
        """Count responses that are measured."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)

    def shard(self, shard: int, responses: int, tokens: int, unmeasured: int, seconds: float, peak_bytes: int) -> None:
        """Tell of a shard that stands; ``seconds`` is the time its workers spent on it."""
        event = {
            "event": "shard",
            "run": self.name,
            "shard": shard,
            "shards": self.shards,
            "responses": responses,
            "tokens": tokens,
            "skipped": unmeasured,
            "seconds": round(seconds, 3),
            "peak_memory_bytes": peak_bytes,
            "done": self.done,
            "total": self.total,
        }
        skipped = f", {unmeasured} responses could not be measured" if unmeasured else ""
        text = (
            f"{self.name}: {self.done} of {self.total} responses; shard {shard} has {tokens} tokens, took "
            f"{seconds:.1f} s and {peak_bytes / 1e9:.1f} GB{skipped}"
        )
        self._tell(event, text, urgent=bool(unmeasured) or self.done == self.total)

    def failed(self, shard: int, error: BaseException) -> None:
        """Tell of a shard that failed."""
        event = {"event": "failed", "run": self.name, "shard": shard, "error": f"{type(error).__name__}: {error}"}
        self._tell(event, f"{self.name}: shard {shard} failed ({event['error']})", urgent=True)

    def note(self, text: str) -> None:
        """Tell of something else that whoever reads the log should know."""
        self._tell({"event": "note", "run": self.name, "text": text}, f"{self.name}: {text}", urgent=True)

    def _tell(self, event: dict[str, Any], text: str, urgent: bool) -> None:
        if self._bar is not None:
            if urgent and self.done < self.total:
                self._bar.write(text, file=sys.stderr)
        elif self.log == "json":
            print(json.dumps(event), file=sys.stderr, flush=True)
        elif urgent or time.monotonic() - self._last > PLAIN_SECONDS:
            print(text, file=sys.stderr, flush=True)
            self._last = time.monotonic()
