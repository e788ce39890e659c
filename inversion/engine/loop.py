"""The loop over shards: hand out work, gather pieces, write shards, keep what is between, survive what fails."""

import math
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from inversion.engine.pools import Outcome, Pool
from inversion.engine.watch import Watch
from inversion.errors import InputError, first_line
from inversion.files import share_of
from inversion.responses import Written
from inversion.runs import Piece, RunWriter

KEEP_SECONDS = 60.0
"""A kill costs this much work at most, or the response in hand where that takes longer."""
TASK_SECONDS = 20.0
"""A worker gets about this much work at a time, a response at least: little enough that none waits for the last."""


class Plan(Protocol):
    """What is to be measured: ``count`` responses, written in batches and stored in shards, both counted from 0.

    Neither the size of a shard nor who measures what changes any number: a response is measured by itself, and batches
    are the same whatever the shards.
    """

    @property
    def count(self) -> int:
        """Number of responses."""
        ...

    @property
    def batch(self) -> int:
        """Responses that are written together."""
        ...

    @property
    def shard(self) -> int:
        """Responses that are stored together."""
        ...

    def is_written(self, number: int) -> bool:
        """Whether a response is given, so that the model need not write it."""
        ...

    def write(self, model: Any, batch: int) -> dict[int, Written]:
        """Let the model write the missing responses of a batch; return them by number."""
        ...

    def measure(self, model: Any, numbers: Sequence[int], written: Mapping[int, Written]) -> list[Piece]:
        """Measure some responses."""
        ...


class ShardError(RuntimeError):
    """Shards failed for a reason that is not the input's; the others are written."""


@dataclass
class _Open:
    """A shard in the making: its responses that are missing, those that are there, what they took."""

    missing: set[int]
    pieces: dict[int, Piece] = field(default_factory=dict)
    unsaved: set[int] = field(default_factory=set)
    seconds: float = 0.0
    peak_bytes: int = 0


def shard_numbers(plan: Plan, shard: int) -> range:
    """Return the numbers of a shard's responses."""
    return range(shard * plan.shard, min((shard + 1) * plan.shard, plan.count))


def shards_of(plan: Plan, part: tuple[int, int] | None = None) -> list[int]:
    """Return the numbers of all shards, or of those of part (i, n): every n-th, from the i-th on."""
    return share_of(range(math.ceil(plan.count / plan.shard)), part)


def run_shards(plan: Plan, writer: RunWriter, pool: Pool, shards: Sequence[int], watch: Watch) -> None:
    """Measure the given shards and write them.

    A shard that fails does not stop the others. What is measured and belongs to no complete shard yet is kept on disk
    every minute, and when the loop is left for any reason.

    Raises:
        InputError: A shard failed for something that the input is to blame for, or the disk does not take the run.
        ShardError: A shard failed for another reason, which is the cause of the error.
    """
    _Loop(plan, writer, pool, shards, watch).run()


class _Loop:
    def __init__(self, plan: Plan, writer: RunWriter, pool: Pool, shards: Sequence[int], watch: Watch) -> None:
        self.plan, self.writer, self.pool, self.watch = plan, writer, pool, watch
        self.shared = pool.share(plan)
        self.kept = writer.kept()
        self.todo = [shard for shard in shards if not writer.has(shard)]
        self.open: dict[int, _Open] = {}
        self.failures: dict[int, Exception] = {}
        numbers = [number for shard in self.todo for number in shard_numbers(plan, shard)]
        self.batches = deque(dict.fromkeys(number // plan.batch for number in numbers))
        self.ready: deque[int] = deque()
        self.written: dict[int, Written] = {}
        self.running: dict[Any, tuple[int, ...]] = {}
        self.pace = math.inf  # seconds a response, unknown at first
        self.saved = time.monotonic()

    def run(self) -> None:
        wanted = set(self.todo)
        for shard in self.todo:
            self._begin(shard)
        try:
            with _terminable():
                while self._hand_out():
                    deaths = self.pool.deaths
                    outcome = self.pool.next()
                    if self.pool.deaths > deaths:
                        self.watch.note("a worker died; what it was at is done again")
                    self._take(outcome)
        finally:
            self._keep()
        if not self.failures:
            return
        shard, first = min(self.failures.items())
        words = f"{len(self.failures)} of {len(wanted)} shards failed, shard {shard} first ({first_line(first)})"
        kind = InputError if isinstance(first, InputError) else ShardError
        raise kind(f"{words}; the same command tries them again.") from first

    def _begin(self, shard: int) -> None:
        numbers = shard_numbers(self.plan, shard)
        there = {number: self.kept[number] for number in numbers if number in self.kept}
        self.open[shard] = _Open(set(numbers) - set(there), there)
        self.watch.responses(len(there))
        self._finish_if_complete(shard)

    def _missing(self, batch: int) -> list[int]:
        """Return the responses of a batch that are still to be measured."""
        numbers = range(batch * self.plan.batch, min((batch + 1) * self.plan.batch, self.plan.count))
        return [number for number in numbers if number in self._state(number).missing]

    def _state(self, number: int) -> _Open:
        return self.open.get(number // self.plan.shard) or _Open(set())

    def _hand_out(self) -> bool:
        """Give every idle worker something to do; return whether anything is being done."""
        while len(self.running) < self.pool.size and (self.ready or self.batches):
            if self.ready:
                self._hand_out_responses()
            else:
                self._open_batch(self.batches.popleft())
        return bool(self.running)

    def _open_batch(self, batch: int) -> None:
        missing = self._missing(batch)
        if all(self.plan.is_written(number) for number in missing):
            self.ready.extend(missing)
        else:
            self.running["write", batch] = tuple(missing)
            self.pool.submit(("write", batch), self.shared, "write", batch)

    def _hand_out_responses(self) -> None:
        shard = self.ready[0] // self.plan.shard
        # Smaller pieces towards the end, so that no worker sits idle while another has a long one.
        fair = math.ceil(len(self.ready) / (2 * self.pool.size))
        most = 1 if self.pool.size == 1 else max(1, min(int(TASK_SECONDS / self.pace), fair, self.plan.shard))
        numbers = []
        while self.ready and len(numbers) < most and self.ready[0] // self.plan.shard == shard:
            numbers.append(self.ready.popleft())
        written = {number: self.written[number] for number in numbers if number in self.written}
        key = ("measure", tuple(numbers))
        self.running[key] = tuple(numbers)
        self.pool.submit(key, self.shared, "measure", numbers, written)

    def _take(self, outcome: Outcome) -> None:
        numbers = self.running.pop(outcome.key)
        shards = sorted({number // self.plan.shard for number in numbers})
        if outcome.error is not None:
            for shard in shards:
                self._fail(shard, outcome.error)
        elif outcome.key[0] == "write":
            self.written.update(outcome.value)
            self.ready.extend(number for number in numbers if number in self._state(number).missing)
            for shard in shards:
                if shard in self.open:
                    self.open[shard].seconds += outcome.seconds / len(shards)
        else:
            self._gather(outcome)
        if time.monotonic() - self.saved > KEEP_SECONDS:
            self._keep()

    def _gather(self, outcome: Outcome) -> None:
        self.pace = outcome.seconds / len(outcome.value)
        shard = outcome.value[0].row["response"] // self.plan.shard
        state = self.open.get(shard)
        if state is None:  # it failed meanwhile
            return
        for piece in outcome.value:
            number = piece.row["response"]
            state.pieces[number] = piece
            state.missing.discard(number)
            state.unsaved.add(number)
            self.written.pop(number, None)
        state.seconds += outcome.seconds
        state.peak_bytes = max(state.peak_bytes, outcome.peak_bytes)
        self.watch.responses(len(outcome.value))
        self._finish_if_complete(shard)

    def _finish_if_complete(self, shard: int) -> None:
        state = self.open[shard]
        if state.missing:
            return
        pieces = [state.pieces[number] for number in shard_numbers(self.plan, shard)]
        self.writer.write_pieces(shard, pieces, self.pool.threads)
        del self.open[shard]
        unmeasured = sum(piece.row["error"] is not None for piece in pieces)
        tokens = sum(len(piece.tokens) for piece in pieces if piece.tokens is not None)
        self.watch.shard(shard, len(pieces), tokens, unmeasured, state.seconds, state.peak_bytes)

    def _fail(self, shard: int, error: Exception) -> None:
        """Give a shard up, but not what of it is measured."""
        if shard in self.open:
            self._keep()
            del self.open[shard]
            self.ready = deque(number for number in self.ready if number // self.plan.shard != shard)
            self.failures[shard] = error
            self.watch.failed(shard, error)

    def _keep(self) -> None:
        for state in self.open.values():
            if state.unsaved:
                self.writer.keep([state.pieces[number] for number in sorted(state.unsaved)])
                state.unsaved.clear()
        self.saved = time.monotonic()


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM, by which clusters end a job, leave the loop as an exception that keeps what is measured."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
