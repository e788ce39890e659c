"""Files and folders that are written whole or not at all, and folders that one process at a time may write to."""

import errno
import glob
import json
import os
import re
import shutil
import socket
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import psutil

from inversion.errors import InputError

T = TypeVar("T")
LOCK, OWNER = ".lock", ".owner"
PART = re.compile(r"\.(?P<name>.+)\.(?P<host>[^.]+)-(?P<pid>\d+)-[0-9a-f]{8}\.part")
"""What a file is called while it is written: the name it will have, and who writes it."""
BEGIN_SECONDS = 10.0
"""How long a part waits for others that begin at the same moment, which takes them milliseconds."""
ABANDONED_SECONDS = 24 * 3600
"""A file that another machine left in the middle counts as abandoned after this time without a change."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def put(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` make a file or folder beside its place, and move it there in one step.

    A file of that name is replaced; a folder that is there stays as it is. Several processes may put the same path at
    once: one of their files stands then, whole. What is put is on the disk when this returns, so that a power cut after
    it loses nothing. A writer that died leaves a hidden file behind, which the next put of that path removes.

    Raises:
        InputError: The disk is full, or the folder may not be written to; nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_abandoned(path)
        if path.is_dir():
            return
        part = path.with_name(f".{path.name}.{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
        try:
            write(part)
            _sync(part)
            _move(part, path)
        except BaseException:
            _remove(part)
            raise
        _sync_one(path.parent)
    except InputError:
        raise
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise InputError(f"cannot write {path}: {reason}; what was finished before is kept.") from error


def put_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON, one a line, whole or not at all; see :func:`put`."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    put(path, lambda part: part.write_text(text, encoding="utf-8"))


def put_table(path: Path, table: Any, **options: Any) -> None:
    """Write a table of pandas as CSV, whole or not at all; see :func:`put`."""
    put(path, lambda part: table.to_csv(part, index=False, **options))


def holds(
    folder: Path,
    name: str,
    record: Mapping[str, Any],
    *,
    what: str,
    overwrite: bool = False,
    remedy: str = "choose a new folder",
) -> bool:
    """Say whether a folder holds this very piece of work already, so that it can go on there; nothing is written.

    Args:
        folder: Where the work goes.
        name: Name of the file in it that says what it holds, which ends in ``.json`` or ``.yaml``.
        record: What that file says of this piece of work, JSON types.
        what: Name of the kind of work, such as ``run``.
        overwrite: Whether another piece of work of this kind may be replaced; never anything else.
        remedy: What to do if the folder holds another one.

    Raises:
        InputError: It holds something else; the sentence names what differs.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; choose a new folder for the {what}.")
    path = folder / name
    if path.is_file():
        if overwrite:
            return False
        there = _read_record(path, what)
        differing = differences(there, _parse(name, record_text(name, record)))
        if differing:
            named = ", ".join(differing[:6]) + (f" and {len(differing) - 6} more" if len(differing) > 6 else "")
            raise InputError(f"{folder} holds another {what} (it differs in {named}); {remedy}.")
        return True
    # Empty folders are nobody's work: a start that failed may have left them.
    if any(not (entry.is_dir() or is_housekeeping(entry)) for entry in folder.rglob("*")):
        raise InputError(f"{folder} is not empty and holds no {what}; choose a new folder.")
    return False


def claim(
    folder: Path,
    name: str,
    record: Mapping[str, Any],
    *,
    what: str,
    overwrite: bool = False,
    remedy: str = "choose a new folder",
) -> bool:
    """Make a folder this piece of work's own by writing its record there; return whether it was so already.

    Everything else that can be refused is to be checked before; arguments and errors are those of :func:`holds`.
    """
    if holds(folder, name, record, what=what, overwrite=overwrite, remedy=remedy):
        return True
    if overwrite and (folder / name).is_file():
        # The record goes last, so that a folder which could not be emptied still says what it holds.
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == name):
            if not is_housekeeping(entry):
                _remove(entry)
    put(folder / name, lambda part: part.write_text(record_text(name, record), encoding="utf-8"))
    return False


def check_resumable(
    folder: Path, name: str, record: Mapping[str, Any], *, what: str, remedy: str, resume: bool
) -> None:
    """Make sure that work which goes on only when asked to can start, or go on, in a folder; nothing is written.

    Args:
        folder: Where the work goes.
        name: Name of the file in it that says what it holds.
        record: What that file says of this piece of work, JSON types.
        what: Name of the kind of work, such as ``training run``.
        remedy: What to do if the folder holds another one.
        resume: Whether to go on with what is there, rather than to start.

    Raises:
        InputError: It holds something else, or this piece of work although it is to start, or not although it is to
            go on.
    """
    there = holds(folder, name, record, what=what, remedy=remedy)
    if there and not resume:
        raise InputError(f"{folder} holds this {what} already; go on with --resume or choose another out.")
    if resume and not there:
        raise InputError(f"{folder} holds no {what} to resume; leave --resume out.")


def differences(there: Any, here: Any, name: str = "") -> list[str]:
    """Name the entries in which two records differ, those of inner records after a dot."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        keys = list(dict.fromkeys([*there, *here]))
        return [
            found
            for key in keys
            for found in (
                differences(there.get(key), here.get(key), f"{name}.{key}".lstrip("."))
                if key in there and key in here
                else [f"{name}.{key}".lstrip(".")]
            )
        ]
    return [] if json.dumps(there) == json.dumps(here) else [name or "everything"]


def record_text(name: str, record: Mapping[str, Any]) -> str:
    """Return what a file of that name, which ends in ``.json`` or ``.yaml``, says to hold a record."""
    if name.endswith(".yaml"):
        import yaml

        return yaml.safe_dump(dict(record), sort_keys=False)
    return json.dumps(record, indent=1) + "\n"


def _parse(name: str, text: str) -> Any:
    if name.endswith(".yaml"):
        import yaml

        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError("it is not YAML") from error
    return json.loads(text)


def _read_record(path: Path, what: str) -> Any:
    try:
        return _parse(path.name, path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise InputError(f"{path} is damaged, so the {what} cannot go on; choose a new folder.") from error


@contextmanager
def owned(folder: Path, *, wait: bool = False, part: tuple[int, int] | None = None) -> Iterator[None]:
    """Keep other processes from writing to ``folder`` while the block runs.

    The lock is the kernel's (``flock``, by way of filelock): it ends with the process that holds it, however that
    process ends, so nothing stale can be left. On NFS 4 and on Lustre mounted with ``flock`` it holds between machines
    too. A file system without ``flock`` gets filelock's lock file with the owner's process number instead, which only
    tells a dead owner on the same machine.

    Args:
        folder: Made if it is not there, and taken away again if nothing was put into it.
        wait: Wait until the folder is free, instead of refusing.
        part: (i, n): own the i-th of n parts only. The parts exclude each other no longer than it takes to begin, but
            nobody can own the whole folder, or a part of another n, while one is owned.

    Raises:
        InputError: Another process owns it; the sentence says which.
    """
    made = _make_folder(folder)
    try:
        with ExitStack() as held:
            if part is None:
                held.enter_context(_locked(folder / LOCK, wait))
                _require_no_parts(folder, wait)
            else:
                i, n = part
                with _locked(folder / LOCK, wait, patience=BEGIN_SECONDS):
                    _require_no_parts(folder, wait, but=n)
                    held.enter_context(_locked(folder / f"{LOCK}-{i}-of-{n}", wait))
            yield
    finally:
        if made and not any(folder.iterdir()):
            folder.rmdir()


def check_part(part: tuple[int, int] | None) -> None:
    """Make sure that a part, (i, n), is one of n.

    Raises:
        InputError: It is not.
    """
    if part is not None and not 1 <= part[0] <= part[1]:
        raise InputError(f"part is {part[0]}/{part[1]}; give i/n with i from 1 to n.")


def share_of(everything: Sequence[T], part: tuple[int, int] | None) -> list[T]:
    """Return what part (i, n) does of some things: every n-th, from the i-th on; everything for None.

    Raises:
        InputError: There is no such part.
    """
    check_part(part)
    i, n = part or (1, 1)
    return list(everything[i - 1 :: n])


def is_housekeeping(path: Path) -> bool:
    """Whether a file is a lock, or one that was never finished: nothing that a reader should look at."""
    return path.name.startswith((LOCK, OWNER)) or PART.fullmatch(path.name) is not None


@contextmanager
def _locked(path: Path, wait: bool, patience: float = 0.0) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(path, is_singleton=False)
    note = path.with_name(f"{OWNER}{path.name.removeprefix(LOCK)}.json")
    try:
        try:
            lock.acquire(timeout=patience)
        except Timeout:
            if not wait:
                raise InputError(f"{_owner(note, path.parent)}; wait for it to end, or pass --wait.") from None
            print(f"inversion: {_owner(note, path.parent)}; waiting.", file=sys.stderr, flush=True)
            lock.acquire(poll_interval=0.2)
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise InputError(f"the file system of {path.parent} has no locks; write the run to another one.") from error
        raise InputError(f"cannot write {path}: {error.strerror}; choose another folder.") from error
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    try:
        with suppress(OSError):  # a note for people; the lock does not depend on it, nor on a disk with room for it
            note.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
        yield
    finally:
        note.unlink(missing_ok=True)
        # While it is still held: whoever opened this very file sees that it is gone, and tries again.
        path.unlink(missing_ok=True)
        lock.release()


def _require_no_parts(folder: Path, wait: bool, but: int | None = None) -> None:
    """Make sure that no part of the folder is owned, parts of ``but`` aside."""
    for path in sorted(folder.glob(f"{LOCK}-*-of-*")):
        if but is None or not path.name.endswith(f"-of-{but}"):
            with _locked(path, wait):
                pass


def _owner(note: Path, folder: Path) -> str:
    try:
        who = json.loads(note.read_text())
        return f"{folder} is in use by process {who['pid']} on {who['host']} since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{folder} is in use by another process"


def _make_folder(folder: Path) -> bool:
    if folder.is_dir():
        return False
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        if not folder.is_dir():
            raise InputError(f"{folder} is a file; choose another folder.") from None
        return False
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}; choose another one.") from error
    return True


def _clear_abandoned(path: Path) -> None:
    """Remove what writers of ``path`` left behind that are no more."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        match = PART.fullmatch(left.name)
        if match is not None and match["name"] == path.name and _is_abandoned(left, match["host"], int(match["pid"])):
            _remove(left)


def _is_abandoned(left: Path, host: str, pid: int) -> bool:
    if host == _host():
        return not psutil.pid_exists(pid)
    try:
        return datetime.now(UTC).timestamp() - left.stat().st_mtime > ABANDONED_SECONDS
    except FileNotFoundError:
        return False


def _move(part: Path, path: Path) -> None:
    try:
        os.replace(part, path)
    except OSError:
        # A folder that another writer has put there meanwhile is as good as this one.
        if not (part.is_dir() and path.is_dir()):
            raise
        _remove(part)


def _sync(path: Path) -> None:
    """Wait until a file, or a folder with all that is in it, is on the disk."""
    for entry in [*path.rglob("*"), path] if path.is_dir() else [path]:
        if not entry.is_symlink():
            _sync_one(entry)


def _sync_one(entry: Path) -> None:
    descriptor = os.open(entry, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):  # a file system that cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _reason(error: BaseException) -> str | None:
    """Say why a file could not be written, or None where the error is of another kind."""
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    # Writers in other languages, such as safetensors', carry the operating system's words in errors of their own.
    return next((os.strerror(code) for code in FULL if os.strerror(code) in str(error)), None)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname())
