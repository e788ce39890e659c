"""Rows of a file, of a saved data set or of one on the hub, as dictionaries.

Folders and hub data sets are read by Hugging Face ``datasets``. Single files are not: its JSON and CSV readers give
every column one type, which fails on an answer that is now a number and now text, and turns 007 into 7.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from inversion.errors import InputError, first_line
from inversion.scoring import kept_score

logger = logging.getLogger(__name__)

FILES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
LONGEST_NUMBER = 4000  # digits; Python refuses to read a few more

SCORER = "scorer"
"""Key under which a row of a run holds what scores it; no column of a file is read so."""

Row = Mapping[str, Any]


def is_source(name: str) -> bool:
    """Whether a name is a file, a folder or has the form of a hub data set, rather than that of a task."""
    return Path(name).expanduser().exists() or "/" in name or Path(name).suffix in FILES


def read_rows(
    source: str,
    subset: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
) -> Sequence[Row]:
    """Read the rows of a source.

    Args:
        source: A JSON Lines, JSON, CSV, TSV or Parquet file; a folder saved by ``datasets`` or laid out as on the hub;
            a run; or the name of a hub data set such as ``openai/gsm8k``.
        subset: Configuration of a data set that has several.
        split: Split of a data set that has several.
        revision: Branch, tag or commit of a hub data set.
        limit: Rows that are needed, from the first; more may be returned.

    Raises:
        InputError: It is missing, damaged or of a kind that is not read.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if subset or split or revision:
            raise InputError(f"{source} is a single file, without subset, split or revision; leave those out.")
        return _file_rows(path, limit)
    if path.is_dir():
        return _folder_rows(path, subset, split, limit)
    if path.suffix in FILES or source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise InputError(
            f"there is no file {source}; give a JSONL, JSON, CSV, TSV or Parquet file, a hub data set such as "
            "openai/gsm8k, or a reasoning-gym task name."
        )
    return _load(source, subset, split, revision, None)


def _file_rows(path: Path, limit: int | None) -> Sequence[Row]:
    if path.suffix in (".jsonl", ".json"):
        return _json_rows(path, limit)
    if path.suffix in (".csv", ".tsv"):
        return _table_rows(path)
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    raise InputError(f"{path} is none of {', '.join(FILES)}; convert it to one of them.")


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a readable Parquet file; write it again.") from error


def is_run(name: str) -> bool:
    """Whether a name is the folder of a run."""
    return (Path(name).expanduser() / "run.json").is_file()


def _run_rows(folder: Path) -> list[dict[str, Any]]:
    """Read the responses of a run, to measure them again: their tokens as they were, whatever their text.

    The scorer of each gives it the score that it has.
    """
    from inversion.runs import load_responses
    from inversion.shards import read_manifest

    responses, count = load_responses(folder), read_manifest(folder)["responses"]["count"]
    if len(responses) < count:
        logger.warning("%s is unfinished: it has %d of %d responses so far", folder, len(responses), count)
    kept = ("prompt", "question", "answer", "task", "finished")
    rows = [
        {
            "response": row["text"],
            # What a table of pandas lacks is NaN.
            **{name: row[name] if isinstance(row[name], str | bool) else None for name in kept},
            **{name: row[name].tolist() for name in ("prompt_token_ids", "response_token_ids")},
            SCORER: kept_score(row["score"], row["score_reason"]),
        }
        for row in responses.to_dict("records")
    ]
    whole = [row for row in rows if row["response_token_ids"]]
    if len(whole) < len(rows):
        logger.warning("%d of %d responses of %s have no token: left out", len(rows) - len(whole), len(rows), folder)
    return whole


def _table_rows(path: Path) -> Sequence[Row]:
    """Read CSV or TSV; every cell stays text, and an empty one counts as missing."""
    import pandas as pd

    separator = "\t" if path.suffix == ".tsv" else ","
    try:
        # Its own header handling would take the first cell of a row that is too long for an index.
        frame = pd.read_csv(path, sep=separator, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except pd.errors.EmptyDataError:
        return []
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason}); save it as UTF-8.") from error
    except pd.errors.ParserError as error:
        raise InputError(f"{path} is not a well-formed table ({str(error).strip()}); correct it.") from error
    header, *rows = frame.values.tolist()
    return [{name: cell or None for name, cell in zip(header, row, strict=True)} for row in rows]


def _json_rows(path: Path, limit: int | None) -> Sequence[Row]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}: {error.reason}); save it as UTF-8.") from error
    if text.lstrip().startswith("["):
        rows = _json(text, path, fails=None)
        if isinstance(rows, list):
            return rows
    # Not splitlines(): U+2028, U+0085 and others may stand inside a JSON string.
    lines = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
    return [_json(line, f"{path}, line {number}") for number, line in islice(lines, limit)]


def _json(text: str, where: Any, fails: str | None = "is not valid JSON") -> Any:
    """Read a JSON text; None if it is not valid and ``fails`` is None."""
    try:
        return json.loads(text, parse_int=_integer)
    except json.JSONDecodeError as error:
        if fails is None:
            return None
        raise InputError(f"{where} {fails} ({error.msg}); correct it.") from error
    except RecursionError as error:
        raise InputError(f"{where} is nested too deeply to be read; flatten it or leave that column out.") from error


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) < LONGEST_NUMBER else digits


def _folder_rows(path: Path, subset: str | None, split: str | None, limit: int | None) -> Sequence[Row]:
    """Read a folder saved by ``save_to_disk``, which is recognised by its files, or one laid out as on the hub."""
    from datasets import DatasetDict, load_from_disk

    if is_run(str(path)):
        return _run_rows(path)
    if not any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return _load(str(path), subset, split, None, limit)
    try:
        data = load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is a damaged data set ({first_line(error)}); save it again.") from error
    if isinstance(data, DatasetDict):
        data = data[_choose("split", split, [str(name) for name in data], str(path))]
    elif split:
        raise InputError(f"{path} holds a single split; leave --split out.")
    return data  # pyright: ignore[reportReturnType]


def _load(name: str, subset: str | None, split: str | None, revision: str | None, limit: int | None) -> Any:
    """Read a data set by ``datasets``, once it is clear which part of it is meant."""
    import datasets
    from datasets.exceptions import DatasetsError

    def read(subset: str | None, split: str) -> Any:
        if Path(name).is_dir():  # streamed, so that nothing is copied into a cache
            return list(islice(datasets.load_dataset(name, subset, split=split, streaming=True), limit))
        return datasets.load_dataset(name, subset, split=split, revision=revision)

    try:
        if split is not None:
            try:  # without asking what there is, which takes a network even where the data set is in the cache
                return read(subset, split)
            except ValueError:
                pass  # perhaps a subset or split that is not there: the lines below say which there are
        subset = _choose("subset", subset, datasets.get_dataset_config_names(name, revision=revision), name)
        split = _choose("split", split, datasets.get_dataset_split_names(name, subset, revision=revision), name)
        return read(subset, split)
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise InputError(
            f"cannot read a data set from {name}: {first_line(error)}; give a file, a folder or a hub data set that "
            "you can reach."
        ) from error


def _choose(what: str, wanted: str | None, there: Sequence[str], name: str) -> str:
    if wanted is None and len(there) == 1:
        return there[0]
    if wanted is None:
        raise InputError(f"{name} has several {what}s ({', '.join(there)}); choose one with --{what}.")
    if wanted not in there:
        raise InputError(f"{name} has no {what} {wanted}; choose among {', '.join(there)}.")
    return wanted
