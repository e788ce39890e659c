"""What of a run on disk is whole, and making room for the rest to be measured again."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from inversion.errors import InputError, first_line
from inversion.files import differences, owned, put, record_text
from inversion.runs import check_folder
from inversion.shards import FORMAT, MANIFEST, file_fault, manifest_fault, read_manifest, read_record, shard_files

COMMAND = "command.json"
"""The options of the ``inversion probe`` that measured a run, beside its manifest: what repairing it runs again."""


@dataclass(frozen=True)
class Inspection:
    """What was found in a run's folder.

    folder: The run.
    count: Responses that it is to have.
    whole: Shards that are whole.
    missing: Shards that do not stand: the run is unfinished, or they were removed.
    damaged: Shard -> what is wrong with it.
    responses: Responses in whole shards.
    unmeasured: Those of them that could not be measured.
    manifest: What is wrong with ``run.json``, None where whole shards were written with it.
    written_with: Checksums of the manifests that whole shards were written with.
    """

    folder: Path
    count: int
    whole: tuple[int, ...]
    missing: tuple[int, ...]
    damaged: dict[int, str]
    responses: int
    unmeasured: int
    manifest: str | None
    written_with: frozenset[str]

    @property
    def is_whole(self) -> bool:
        """Whether everything is there and sound."""
        return not self.missing and not self.damaged and self.manifest is None

    def __str__(self) -> str:
        shards = len(self.whole) + len(self.missing) + len(self.damaged)
        lines = [
            f"{self.folder}: {len(self.whole)} of {shards} shards are whole, with {self.responses} of {self.count} "
            "responses"
        ]
        if self.unmeasured:
            lines.append(f"{self.unmeasured} of these responses could not be measured")
        if self.manifest:
            lines.append(f"{MANIFEST} {self.manifest}")
        lines += [f"shard {shard}: {fault}" for shard, fault in self.damaged.items()]
        if self.missing:
            lines.append(f"missing: {_ranges(self.missing)}")
        return "\n".join(lines)


def inspect_run(folder: str | os.PathLike[str]) -> Inspection:
    """Read every byte of a run and say what is whole.

    Raises:
        InputError: There is no run in the folder, or its manifest is damaged or of another version.
    """
    root = Path(folder).expanduser()
    responses = read_manifest(root)["responses"]
    whole, missing, damaged, records = [], [], {}, []
    for shard in range(math.ceil(responses["count"] / (responses.get("shard") or responses["count"]))):
        path = root / f"shard-{shard:05d}.json"
        if not path.is_file():
            missing.append(shard)
            continue
        try:
            record = read_record(path)
            faults = [fault for name in shard_files(shard) if (fault := _fault(root / name, record))]
        except InputError as error:
            faults = [first_line(error).partition(";")[0]]
        if faults:
            damaged[shard] = "; ".join(faults)
        else:
            whole.append(shard)
            records.append(record)
    totals = {name: sum(record[name] for record in records) for name in ("responses", "unmeasured")}
    sums = frozenset(str(record.get("manifest")) for record in records)
    fault = manifest_fault(root, records)
    return Inspection(
        root, responses["count"], tuple(whole), tuple(missing), damaged, **totals, manifest=fault, written_with=sums
    )


def make_room(inspection: Inspection, manifest: Mapping[str, Any]) -> None:
    """Put a run's manifest right and remove its damaged shards, so that measuring it again measures them.

    Nothing is changed unless the whole shards belong to what will be measured, and they stay in any case.

    Args:
        inspection: What was found.
        manifest: What the run's own command makes of it.

    Raises:
        InputError: It makes something else.
    """
    folder, record = inspection.folder, {"format": FORMAT, **manifest}
    with owned(folder):
        if inspection.manifest is None:
            check_folder(folder, dict(manifest))
        else:
            text = record_text(MANIFEST, record)
            if inspection.written_with != {hashlib.sha256(text.encode()).hexdigest()}:
                differing = ", ".join(differences(read_manifest(folder), json.loads(text))[:6])
                raise InputError(
                    f"{folder / MANIFEST} is not what its shards were written with, nor is what its command makes now "
                    f"(which differs in {differing or 'nothing'}); nothing was removed: measure it into a new folder."
                )
            put(folder / MANIFEST, lambda path: path.write_text(text, encoding="utf-8"))
        for shard in inspection.damaged:
            for name in (f"shard-{shard:05d}.json", *shard_files(shard)):
                (inspection.folder / name).unlink(missing_ok=True)


def write_command(folder: Path, command: Any) -> None:
    """Keep the options of the command that measured a run first; nothing that is read depends on them."""
    if not is_dataclass(command) or isinstance(command, type):
        raise TypeError(f"{command!r} is no command")
    if (folder / COMMAND).is_file():
        return
    text = json.dumps(asdict(command), indent=1) + "\n"
    put(folder / COMMAND, lambda path: path.write_text(text, encoding="utf-8"))


def read_command(folder: Path) -> dict[str, Any]:
    """Return the options of the command that measured a run.

    Leave to run code that comes with a model is not among them: whoever made the folder cannot give it.

    Raises:
        InputError: They are not there or damaged.
    """
    path, hint = folder / COMMAND, "give the command or the call that made the run once more, which goes on there"
    if not path.is_file():
        raise InputError(f"{folder} does not say which command measured it; {hint}.")
    try:
        options = json.loads(path.read_bytes())
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is damaged ({first_line(error)}); {hint}.") from error
    if not isinstance(options, dict):
        raise InputError(f"{path} is damaged; {hint}.")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    return {**values, "out": str(folder), "overwrite": False, "trust_remote_code": False, "part": None}


def _fault(path: Path, record: dict[str, Any]) -> str | None:
    fault = file_fault(path, record)
    if fault is None:
        try:
            pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            fault = f"cannot be read ({first_line(error)})"
    return None if fault is None else f"{path.name} {fault}"


def _ranges(numbers: tuple[int, ...]) -> str:
    """Write ascending numbers shortly: 1-3, 7."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
