"""What of a run stands on disk: its manifest, the records of its shards, and what is wrong with a file of one.

Files are named and told from damaged ones here; what their tables hold is the matter of :mod:`inversion.runs`.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from inversion.errors import InputError, first_line

MANIFEST = "run.json"
FORMAT = "inversion-run/2"


def records(folder: str | os.PathLike[str]) -> dict[int, dict[str, Any]]:
    """Return the record of every shard that stands, by number: its files, their checksums, how much is in them.

    Raises:
        InputError: A record is damaged.
    """
    paths = sorted(Path(folder).expanduser().glob("shard-*.json"))
    numbers = [(path, path.stem.removeprefix("shard-")) for path in paths]
    return {int(number): read_record(path) for path, number in numbers if number.isdecimal()}


def read_record(path: Path) -> dict[str, Any]:
    """Return the record of one shard.

    Raises:
        InputError: It is damaged.
    """
    try:
        record = json.loads(path.read_bytes())
        counts = {name: int(record[name]) for name in ("responses", "unmeasured", "tokens", "not_finite")}
        return {**record, **counts, "files": dict(record["files"])}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{path} is damaged; {how_to_check(path.parent)}.") from error


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return a run's manifest."""
    path = Path(folder).expanduser() / MANIFEST
    if not path.is_file():
        raise InputError(f"there is no run in {folder}; give a folder that inversion probe has written.")
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is damaged ({first_line(error)}); measure the run again.") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; correct its permissions.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{path} is not a manifest of format {FORMAT}; use the version that wrote it.")
    if not _is_manifest(manifest):
        raise InputError(f"{path} is damaged (entries are missing or of another kind); measure the run again.")
    return manifest


def _is_manifest(manifest: dict[str, Any]) -> bool:
    """Whether all entries are there that reading needs."""
    kinds = {"model": dict, "measurement": dict, "responses": dict, "versions": dict}
    if not all(isinstance(manifest.get(name), kind) for name, kind in kinds.items()):
        return False
    measurement, responses = manifest["measurement"], manifest["responses"]
    lists = [measurement.get(name) for name in ("norms", "layers", "projections")]
    return (
        all(isinstance(entries, list) and len(set(map(str, entries))) == len(entries) for entries in lists)
        and all(isinstance(layer, int) for layer in lists[1])
        and all(isinstance(name, str) for name in (*lists[0], *lists[2], measurement.get("quantity")))
        and isinstance(responses.get("count"), int)
        and isinstance(responses.get("shard", 1), int)
        and responses.get("shard", 1) > 0
        and "seed" in responses
    )


def manifest_fault(folder: Path, standing: Iterable[Mapping[str, Any]]) -> str | None:
    """Say what is wrong with a run's manifest, or None where all shards were written with it."""
    sums = {record.get("manifest") for record in standing}
    if sums - {checksum(folder / MANIFEST)["sha256"]}:
        return "was changed: it is not the one that the shards were written with"
    return None


def file_fault(path: Path, record: dict[str, Any]) -> str | None:
    """Say what is wrong with a file of a shard, or None where it is what the shard's record says."""
    expected = record["files"].get(path.name)
    if not path.is_file():
        return "is missing"
    if expected is None:
        return "is not in its shard's record"
    if path.stat().st_size != expected["bytes"]:
        return f"is damaged: it has {path.stat().st_size} bytes instead of {expected['bytes']}"
    if checksum(path) != expected:
        return "is damaged: its checksum is not the one it was written with"
    return None


def checksum(path: Path) -> dict[str, Any]:
    """Return what a shard's record says of a file: its ``bytes`` and its ``sha256``."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def shard_files(shard: int) -> tuple[str, str]:
    """Return the names of a shard's tables: tokens, responses."""
    return f"tokens-{shard:05d}.parquet", f"responses-{shard:05d}.parquet"


def record_path(folder: Path, shard: int) -> Path:
    """Return where a shard's record stands."""
    return folder / f"shard-{shard:05d}.json"


def how_to_check(folder: str | os.PathLike[str]) -> str:
    """Return the remedy that sentences about a damaged run end with."""
    return f"see what is whole with: inversion check {folder}"
