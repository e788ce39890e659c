"""Rows of a file or a data set, as dictionaries."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from inversion.errors import InputError


def read_rows(path: Path) -> Iterable[Any]:
    """Read a file's rows as dictionaries."""
    if path.is_dir():
        return _dataset_rows(path)
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.read_table(path).to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{path} is not a readable Parquet file; write it again.") from error
    if path.suffix not in (".jsonl", ".json"):
        raise InputError(f"{path} is neither JSONL nor Parquet; convert it to one of them.")
    return _json_rows(path)


def _dataset_rows(path: Path) -> Iterable[Any]:
    from datasets import Dataset, load_from_disk

    try:
        data = load_from_disk(str(path))
    except (FileNotFoundError, ValueError) as error:
        raise InputError(
            f"{path} is not a folder saved by Hugging Face datasets; save one with save_to_disk, or give a file."
        ) from error
    if not isinstance(data, Dataset):
        raise InputError(
            f"{path} holds several splits; give the folder of one, such as {path / str(next(iter(data)))}."
        )
    return data


def _json_rows(path: Path) -> Iterable[Any]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise InputError(f"{path}, line {number} is not valid JSON ({error.msg}); correct it.") from error
    return rows
