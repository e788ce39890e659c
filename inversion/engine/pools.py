"""Where work is done: in this process, or by replicas of the model on Ray."""

import resource
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from inversion.errors import InputError


@dataclass(frozen=True)
class Workers:
    """How many replicas of the model measure, and where.

    count: Number of replicas.
    address: Of a Ray cluster, ``auto`` for the one this machine belongs to; None starts Ray here for the run.
    gpus: GPUs of each replica; None takes one where this machine has any. A model too large for one GPU takes several,
        loaded with ``device_map="auto"``.
    threads: Threads of each replica on a CPU; None shares this machine's processors evenly among them, and takes
        one on a cluster.
    """

    count: int
    address: str | None = None
    gpus: float | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"workers is {self.count}; give at least 1.")
        if self.gpus is not None and self.gpus < 0:
            raise InputError(f"GPUs per worker is {self.gpus}; give 0 or more.")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads per worker is {self.threads}; give at least 1.")


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    key: The task's name, as it was submitted.
    value: What it returned, or None where it failed.
    error: Why it failed, or None.
    seconds: How long it took.
    peak_bytes: The most memory that its worker has had so far, on the GPU where it uses one.
    """

    key: Any
    value: Any
    error: Exception | None
    seconds: float
    peak_bytes: int


class Pool(Protocol):
    """Workers that hold a model each; a task is a function of the model.

    size: Number of workers.
    threads: Threads of each, on which the last digits of numbers depend.
    deaths: How many workers died so far.
    """

    size: int
    threads: int
    deaths: int

    def share(self, value: Any) -> Any:
        """Return a handle by which every worker gets ``value`` as the first argument of a task."""
        ...

    def call(self, function: Callable[..., Any]) -> Any:
        """Return ``function(model)`` of one worker."""
        ...

    def submit(self, key: Any, shared: Any, method: str, *arguments: Any) -> None:
        """Start ``shared.method(model, *arguments)``; at most ``size`` tasks at a time."""
        ...

    def next(self) -> Outcome:
        """Wait for any task to end."""
        ...


class InProcess:
    """The one worker that is this process; a task is done when its outcome is asked for."""

    size, deaths = 1, 0

    def __init__(self, model: Any) -> None:
        import torch

        self.model, self.threads = model, torch.get_num_threads()
        self._tasks: deque[tuple[Any, Any, str, tuple[Any, ...]]] = deque()

    def share(self, value: Any) -> Any:
        """Return ``value`` itself."""
        return value

    def call(self, function: Callable[..., Any]) -> Any:
        """Return ``function(model)``."""
        return function(self.model)

    def submit(self, key: Any, shared: Any, method: str, *arguments: Any) -> None:
        """Remember a task."""
        self._tasks.append((key, shared, method, arguments))

    def next(self) -> Outcome:
        """Do the first task."""
        key, shared, method, arguments = self._tasks.popleft()
        return perform(key, self.model, shared, method, arguments)


def perform(key: Any, model: Any, shared: Any, method: str, arguments: tuple[Any, ...]) -> Outcome:
    """Do a task; an exception becomes part of its outcome."""
    start = time.perf_counter()
    value, error = None, None
    try:
        value = getattr(shared, method)(model, *arguments)
    except Exception as caught:
        error = caught
    return Outcome(key, value, error, time.perf_counter() - start, peak_bytes())


def peak_bytes() -> int:
    """Return the most memory this process has had: of its GPU if it has one, else of the machine."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return sum(torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count()))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


@contextmanager
def open_pool(model: Any, workers: Workers | None) -> Iterator[Pool]:
    """Yield the pool that measures.

    Args:
        model: A bridge, or a function without arguments that loads one: what workers need, each for itself.
        workers: None for this process.
    """
    loads = callable(model) and not hasattr(model, "original_model")
    if workers is None:
        yield InProcess(model() if loads else model)
        return
    if not loads:
        raise InputError(
            "workers load the model for themselves; give a function that does, such as "
            'functools.partial(load_model, "slow"), instead of a loaded model.'
        )
    from inversion.engine.cluster import open_ray

    with open_ray(model, workers) as pool:
        yield pool
