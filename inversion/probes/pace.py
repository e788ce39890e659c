"""How much to work on at once: enough to keep the processor busy, few enough to fit.

Targets that share a prefix are a *block*; blocks that go down the model together are a *wave*; the targets of a block
that share a backward pass are a *chunk*. None of it changes a result beyond rounding. Where memory runs out all the
same, the step is made smaller.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from inversion.models.memory import is_out_of_memory
from inversion.probes.linear import prefers_onednn, rows_worth
from inversion.probes.memory import DoesNotFit, Widths, free_bytes, release

CACHE_ELEMENTS = 3 * 2**19
"""On a CPU a chunk's widest tensor should stay in cache, (about 6 MB of float32): beyond, memory traffic dominates."""
NORMS_ELEMENTS = 2**18
"""What norms are computed from should stay in the cache of one core (1 MB of float32), or be that of a few tokens."""
FEWEST_ROWS = 256
"""Yet a matrix product wants this many rows to be worth reading the weights for."""
WAVE_BYTES = 2**27
"""Most bytes of a wave's gradients at one boundary on a CPU (128 MiB); a block is run again once for every wave."""
SHARE_OF_FREE = 0.25
"""Most of the free memory a chunk, or a wave, may take by the estimate; it is rough and others use the machine too."""
ALONE_BYTES = 2**27
"""From this size of one block's graph on (128 MiB), two of them at the same time would cost more than they win."""
CALL_OPERATIONS = 3e8
"""What calling one block of the model, or its backward pass, costs whatever its size, in operations of products."""
PASS_SHARE = 0.5
"""What running a block again costs besides, in positions carried, as a share of those that it runs."""
GPU_CALLS = 16
"""How many times as much both cost on a GPU, where small passes leave most of the processor idle."""
HEAD_ELEMENTS = 2**24
"""Most logits held at a time (64 MiB of float32)."""


class Pace:
    """How many targets to take at once, for one model and sequence.

    Args:
        model: The bridge.
        block: Most targets that share a prefix; None lets the costs decide.
        chunk: Most targets in one backward pass; None lets cache and memory decide.
        pattern: Whether attention forms the pattern.
    """

    def __init__(
        self, model: TransformerBridge, block: int | None = None, chunk: int | None = None, *, pattern: bool = False
    ) -> None:
        self.widths = Widths.of(model)
        self.device = next(model.original_model.parameters()).device
        self.block, self.chunk, self.pattern = block, chunk, pattern
        self._sequential = False
        self._in_panels = self.device.type == "cpu" and self.widths.itemsize == 4 and prefers_onednn()

    def blocks(self, lengths: Sequence[int]) -> list[slice]:
        """Group targets, whose prefixes have these ascending lengths, into blocks, the longest first.

        A block runs on its longest prefix. One more block costs a forward pass, one more target in a block the
        positions that it does not need. Of all groupings the cheapest is taken: the best one of the first targets
        follows from the best ones of fewer.
        """
        if self.block:
            return [slice(max(0, stop - self.block), stop) for stop in range(len(lengths), 0, -self.block)]
        costs, starts = np.zeros(len(lengths) + 1), [0] * (len(lengths) + 1)
        free = free_bytes(self.device)  # asked for once: it reads a file
        room = self._wave_bytes(free)
        for stop, longest in enumerate(lengths, 1):
            sizes = np.arange(1, 1 + min(stop, max(1, room // self.widths.stream(longest))))
            found = costs[stop - sizes] + self._cost(sizes, longest, free)
            best = int(found.argmin())
            costs[stop], starts[stop] = found[best], stop - int(sizes[best])
        blocks, stop = [], len(lengths)
        while stop > 0:
            blocks.append(slice(starts[stop], stop))
            stop = starts[stop]
        return blocks

    def _cost(self, sizes: np.ndarray, length: int, free: int) -> np.ndarray:
        """Return what blocks of some sizes cost that run on ``length`` positions, in positions carried."""
        dearer = 1 if self.device.type == "cpu" else GPU_CALLS
        call = dearer * CALL_OPERATIONS / (2 * self.widths.weights)
        chunk = self.chunk_size(length, int(sizes[-1]), free)
        chunks, rest = np.divmod(sizes, chunk)
        worth = rows_worth if self._in_panels else lambda rows: rows
        rows = chunks * worth(chunk * length) + worth(rest * length)
        return call * (1 + chunks + (rest > 0)) + dearer * PASS_SHARE * length + rows

    def waves(self, lengths: Sequence[int]) -> list[list[slice]]:
        """Group the blocks of targets with these prefixes into waves, the longest first."""
        waves: list[list[slice]] = []
        room = 0
        for block in self.blocks(lengths):
            size = (block.stop - block.start) * self.widths.stream(lengths[block.stop - 1])
            if size > room:
                waves.append([])
                room = self._wave_bytes(free_bytes(self.device))
            waves[-1].append(block)
            room -= size
        return waves

    def each_wave(self, lengths: Sequence[int], work: Callable[[list[slice]], None]) -> None:
        """Work on wave after wave; one that does not fit into memory is taken in smaller ones.

        Raises:
            DoesNotFit: Not even a single target fits.
        """
        waves = self.waves(lengths)
        while waves:
            wave = waves.pop(0)
            if _fits(lambda wave=wave: work(wave), last=len(wave) == 1 and wave[0].stop - wave[0].start == 1):
                continue
            release()
            self._sequential = True
            waves = _halves(wave) + waves
            first = waves[0]
            warnings.warn(
                f"memory ran out; going on with {first[0].stop - first[-1].start} tokens on the way at a time",
                stacklevel=2,
            )

    def each_chunk(self, part: slice, length: int, work: Callable[[slice], None]) -> None:
        """Work on a block of targets chunk by chunk; where memory runs out, halve the chunk and say so.

        Raises:
            DoesNotFit: Not even a single target fits.
        """
        start = part.start
        while start < part.stop:
            chunk = self.chunk_size(length, part.stop - start)
            piece = slice(start, start + chunk)
            if _fits(lambda piece=piece: work(piece), last=chunk == 1):
                start = piece.stop
                continue
            release()
            self.chunk = max(1, chunk // 2)
            warnings.warn(f"memory ran out; going on with {self.chunk} tokens at a time", stacklevel=2)

    def chunk_size(self, length: int, most: int, free: int | None = None) -> int:
        """Return how many of at most ``most`` targets to carry in one backward pass over ``length`` positions.

        ``free`` is the free memory, in bytes, where it is known already.
        """
        free = free_bytes(self.device) if free is None else free
        fitting = int(SHARE_OF_FREE * free / 2 / self.widths.backward(length, self.pattern))
        if self.device.type == "cpu":
            widest = max(self.widths.model, self.widths.feed_forward, self.widths.heads * length * self.pattern)
            fitting = min(fitting, max(CACHE_ELEMENTS // widest, FEWEST_ROWS) // length)
        return max(1, min(most, fitting, self.chunk or most))

    @contextmanager
    def workers(self, blocks: int, length: int) -> Iterator["Workers"]:
        """Yield what works on several blocks at the same time, where that pays.

        Two halves of the cores, each with its own block, wait less than all of them on one small operation after
        another. Large operations keep all cores busy, and each worker holds a graph of its own.
        """
        at_once = self.workers_for(blocks, length)
        if at_once == 1:
            yield Workers(None)
            return
        threads = torch.get_num_threads()
        try:
            # The setting holds for the calling thread, here each worker.
            with ThreadPoolExecutor(at_once, initializer=torch.set_num_threads, initargs=(threads // at_once,)) as pool:
                yield Workers(pool)
        finally:
            # It is also what threads start with that are made later.
            torch.set_num_threads(threads)

    def workers_for(self, blocks: int, length: int) -> int:
        """Return how many blocks of targets, with prefixes of at most this length, to work on at the same time."""
        small = self.widths.graph(length, self.pattern) < ALONE_BYTES
        if self.device.type != "cpu" or not small or self._sequential:
            return 1
        return min(2, torch.get_num_threads(), blocks)

    def _wave_bytes(self, free: int) -> int:
        room = int(SHARE_OF_FREE * free)
        return min(room, WAVE_BYTES) if self.device.type == "cpu" else room


class Workers:
    """Do work on several things, at the same time if there is a pool of threads."""

    def __init__(self, pool: ThreadPoolExecutor | None) -> None:
        self._pool = pool

    def map(self, work: Callable[[int], None], numbers: Sequence[int]) -> None:
        """Call ``work`` with every number; the first failure ends it all."""
        if self._pool is None or len(numbers) == 1:
            for number in numbers:
                work(number)
            return
        futures = [self._pool.submit(work, number) for number in numbers]
        try:
            for future in futures:
                future.result()
        except BaseException:
            self._pool.shutdown(cancel_futures=True)
            raise


def head_rows(count: int, vocabulary: int) -> list[slice]:
    """Cut ``count`` rows into parts whose logits, over a vocabulary, are few enough to hold."""
    size = max(1, HEAD_ELEMENTS // vocabulary)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def norms_at_once(deltas: Tensor) -> int:
    """Return for how many of c targets, (c, b, d_out), to compute norms together.

    A CPU decomposes one matrix after another anyway; a GPU wants them all.
    """
    return max(4, NORMS_ELEMENTS // deltas[0].numel()) if deltas.device.type == "cpu" else len(deltas)


def _fits(work: Callable[[], None], *, last: bool) -> bool:
    """Do the work and return whether it fitted into memory.

    It returns first, so that the failed attempt's tensors are freed before the next one.

    Raises:
        DoesNotFit: It did not, and it was the smallest step there is.
    """
    try:
        work()
    except (RuntimeError, DoesNotFit) as error:
        if not (isinstance(error, DoesNotFit) or is_out_of_memory(error)):
            raise
        if last:
            raise DoesNotFit() from error
        return False
    return True


def _halves(wave: list[slice]) -> list[list[slice]]:
    """Cut a wave of more than one target into two, the longer prefixes first."""
    if len(wave) > 1:
        return [wave[: len(wave) // 2], wave[len(wave) // 2 :]]
    middle = (wave[0].start + wave[0].stop) // 2
    return [[slice(middle, wave[0].stop)], [slice(wave[0].start, middle)]]
