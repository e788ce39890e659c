"""Replicas of the model on Ray: on this machine, or on a cluster that Ray runs already.

A replica that dies is replaced, and what it was at is done by whichever is idle first. Ray does the rest: it places
replicas, moves what they need and return, and notices deaths.
"""

import logging
import os
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from inversion.engine.pools import Outcome, Workers, perform
from inversion.errors import InputError, first_line

MOST_DEATHS = 3
"""A task that this many workers died of is given up; so is a run of which so many die, per worker, as they start."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray warns that this is going to be so
    "RAY_COLOR_PREFIX": "0",
}


class Replica:
    """One worker: a process that holds a model.

    Args:
        load: The function that loads it, pickled, so that one that a worker cannot import fails when it is asked to
            start, and with its own words.
        threads: Of torch.
    """

    def __init__(self, load: bytes, threads: int) -> None:
        self._load, self._threads, self._model = load, threads, None

    def start(self) -> None:
        """Load the model."""
        import torch
        from ray import cloudpickle
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        torch.set_num_threads(self._threads)
        self._model = cloudpickle.loads(self._load)()

    def call(self, function: Callable[..., Any]) -> Any:
        """Return ``function(model)``."""
        return function(self._model)

    def perform(self, shared: Any, key: Any, method: str, arguments: tuple[Any, ...]) -> Outcome:
        """Do a task."""
        outcome = perform(key, self._model, shared, method, arguments)
        return outcome if outcome.error is None else _portable(outcome)


@dataclass(frozen=True)
class _Task:
    key: Any
    shared: Any
    method: str
    arguments: tuple[Any, ...]


class RayPool:
    """Replicas on Ray, which must be connected."""

    def __init__(self, load: Callable[[], Any], workers: Workers, threads: int, gpus: float) -> None:
        import ray
        from ray import cloudpickle

        self._ray, self.size, self.threads = ray, workers.count, threads
        # No restarts by Ray: the work of a lost replica goes to an idle one, and does not wait for a new one to load.
        options = {"num_cpus": 1 if workers.address is None else threads, "num_gpus": gpus, "max_restarts": 0}
        self._replica = ray.remote(**options)(Replica)
        self._load = cloudpickle.dumps(load)  # pyright: ignore[reportPrivateImportUsage]
        self._starting: dict[Any, Any] = {}
        self._running: dict[Any, tuple[Any, _Task]] = {}
        self._idle: deque[Any] = deque()
        self._waiting: deque[_Task] = deque()
        self._deaths: Counter[Any] = Counter()
        self.deaths = 0
        for _ in range(workers.count):
            self._start()

    def share(self, value: Any) -> Any:
        """Put ``value`` where every replica can read it."""
        return self._ray.put(value)

    def call(self, function: Callable[..., Any]) -> Any:
        """Return ``function(model)`` of the first replica that is ready."""
        while not self._idle:
            self._await()
        try:
            return self._ray.get(self._idle[0].call.remote(function))
        except self._ray.exceptions.RayTaskError as error:
            raise _cause(error) from None

    def wait_for_all(self) -> None:
        """Wait until every replica has loaded its model."""
        while self._starting:
            self._await()

    def submit(self, key: Any, shared: Any, method: str, *arguments: Any) -> None:
        """Start a task as soon as a replica is idle."""
        self._waiting.append(_Task(key, shared, method, arguments))

    def next(self) -> Outcome:
        """Wait for any task to end."""
        while True:
            while self._waiting and self._idle:
                replica, task = self._idle.popleft(), self._waiting.popleft()
                future = replica.perform.remote(task.shared, task.key, task.method, task.arguments)
                self._running[future] = (replica, task)
            outcome = self._await()
            if outcome is not None:
                return outcome

    def _start(self) -> None:
        replica = self._replica.remote(self._load, self.threads)
        self._starting[replica.start.remote()] = replica

    def _await(self) -> Outcome | None:
        """Wait for a replica to be ready, which gives None, or for a task to end."""
        (future,), _ = self._ray.wait([*self._running, *self._starting], num_returns=1)
        replica, task = (self._starting.pop(future), None) if future in self._starting else self._running.pop(future)
        try:
            outcome = self._ray.get(future)
        except self._ray.exceptions.RayActorError as error:
            return self._lost(task, error)
        except self._ray.exceptions.RayTaskError as error:
            if task is None and not isinstance(error.cause, InputError):
                what = f"{type(error.cause).__name__}: {first_line(error.cause)}"
                raise InputError(
                    f"a worker cannot load the model ({what}); correct it, or leave workers out."
                ) from error
            raise _cause(error) from None
        self._idle.append(replica)
        return outcome

    def _lost(self, task: _Task | None, error: Exception) -> Outcome | None:
        """Replace a replica that died, and put what it was at first in the queue."""
        key = None if task is None else task.key
        self._deaths[key] += 1
        self.deaths += 1
        if task is None and self._deaths[key] >= MOST_DEATHS * self.size:
            raise InputError(
                f"workers die as they load the model ({first_line(error)}); give fewer workers, or more memory."
            )
        self._start()
        if task is None:
            return None
        if self._deaths[key] >= MOST_DEATHS:
            return Outcome(key, None, RuntimeError(f"{MOST_DEATHS} workers died of it: {first_line(error)}"), 0.0, 0)
        self._waiting.appendleft(task)
        return None


@contextmanager
def open_ray(load: Callable[[], Any], workers: Workers) -> Iterator[RayPool]:
    """Connect to Ray, or start it on this machine, and yield a pool of replicas.

    Raises:
        InputError: Ray is not installed or not reachable, or the model cannot be loaded.
    """
    with connected(workers):
        yield RayPool(load, workers, _threads(workers), _gpus(workers))


@contextmanager
def connected(workers: Workers | None) -> Iterator[None]:
    """Keep one connection to Ray inside, or none without workers, for every pool that is opened there.

    Raises:
        InputError: Ray is not installed or not reachable.
    """
    if workers is None:
        yield
        return
    before = {name: os.environ.get(name) for name in QUIET}
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        ray = _import_ray()
        if ray.is_initialized():
            yield
            return
        _connect(ray, workers)
        try:
            yield
        finally:
            ray.shutdown()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


def _import_ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise InputError("workers need Ray, which is not installed; install inversion[cluster].") from error
    return ray


def _connect(ray: Any, workers: Workers) -> None:
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if workers.address is None:
        try:
            ray.init(num_cpus=workers.count, include_dashboard=False, **quiet)
        except Exception as error:  # Ray has no class of its own for this
            if "timed out during startup" not in str(error):
                raise
            raise InputError(
                "Ray has not started within half a minute, as on a machine that is too busy; try again, or leave "
                "workers out."
            ) from error
        return
    try:
        ray.init(address=workers.address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"there is no Ray cluster at {workers.address}: {first_line(error)}; start one with ray start --head."
        ) from error


def _threads(workers: Workers) -> int:
    if workers.threads is not None:
        return workers.threads
    if workers.address is not None:
        return 1
    return max(1, len(os.sched_getaffinity(0)) // workers.count)


def _gpus(workers: Workers) -> float:
    if workers.gpus is not None:
        return workers.gpus
    import torch

    return float(torch.cuda.is_available())


def _cause(error: Any) -> BaseException:
    """Return what a replica raised, where that is for the user to read, else Ray's account of it."""
    return error.cause if isinstance(error.cause, InputError) else error


def _portable(outcome: Outcome) -> Outcome:
    """Make an error fit to travel: with its traceback as a note, since that stays behind, and in any case picklable."""
    from ray import cloudpickle

    error: Exception = outcome.error  # pyright: ignore[reportAssignmentType]
    where = "".join(traceback.format_exception(error))
    try:
        cloudpickle.loads(cloudpickle.dumps(error))  # pyright: ignore[reportPrivateImportUsage]
    except Exception:  # whatever an exception's own pickling does
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"In a worker:\n{where}")
    return Outcome(outcome.key, None, error, outcome.seconds, outcome.peak_bytes)
