"""What of a run on disk is whole, and making room for the rest to be measured again."""

import json
import math
import os
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from inversion.errors import InputError, first_line
from inversion.files import owned, put
from inversion.shards import file_fault, manifest_fault, read_manifest, read_record, shard_files

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
    """

    folder: Path
    count: int
    whole: tuple[int, ...]
    missing: tuple[int, ...]
    damaged: dict[int, str]
    responses: int
    unmeasured: int

    @property
    def is_whole(self) -> bool:
        """Whether everything is there and sound."""
        return not self.missing and not self.damaged

    def __str__(self) -> str:
        shards = len(self.whole) + len(self.missing) + len(self.damaged)
        lines = [
            f"{self.folder}: {len(self.whole)} of {shards} shards are whole, with {self.responses} of {self.count} "
            "responses"
        ]
        if self.unmeasured:
            lines.append(f"{self.unmeasured} of these responses could not be measured")
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
            faults += [f"run.json {fault}" for fault in [manifest_fault(root, [record])] if fault]
        except InputError as error:
            faults = [first_line(error).partition(";")[0]]
        if faults:
            damaged[shard] = "; ".join(faults)
        else:
            whole.append(shard)
            records.append(record)
    totals = {name: sum(record[name] for record in records) for name in ("responses", "unmeasured")}
    return Inspection(root, responses["count"], tuple(whole), tuple(missing), damaged, **totals)


def remove_damaged(inspection: Inspection) -> None:
    """Remove the damaged shards of a run, so that measuring it again measures them."""
    with owned(inspection.folder):
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
