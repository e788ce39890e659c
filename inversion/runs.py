"""Runs on disk: a manifest and Parquet shards that other programs can read too.

A run is a folder. ``run.json`` says what was measured, on which model, from which responses and with which versions:
enough to repeat it. ``tokens-00000.parquet`` and its successors hold one row a token, the norms as fixed-size lists in
row-major (layer, projection) order of the manifest; ``responses-00000.parquet`` one row a response, with the reason in
``error`` where it could not be measured; ``shard-00000.json`` their sizes and checksums. It is put in place last, so a
shard counts once it stands, and a run that was killed resumes at what is missing. Between shards, responses that are
measured already are kept in the hidden folder ``.unfinished``, which a complete run no longer has.
"""

import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr

from inversion.errors import InputError, first_line
from inversion.files import claim, holds, is_housekeeping, owned, put
from inversion.shards import (
    FORMAT,
    MANIFEST,
    checksum,
    file_fault,
    how_to_check,
    manifest_fault,
    read_manifest,
    record_path,
    records,
    shard_files,
)
from inversion.stored import StoredLists, as_texts, row_groups

logger = logging.getLogger(__name__)

UNFINISHED = ".unfinished"
REMEDY = "choose a new folder or pass --overwrite"
MOST_HELD = 2**30
"""Bytes of norms up to which a run is held in memory; those of a larger one are read when they are looked at."""
READERS = 2
"""Files that are read, and checked against their records, at once."""
# Readings of a token that are numbers or text of its own, in the order of the columns.
TOKEN_COLUMNS = {
    "token_id": pa.int32(),
    "token_text": pa.string(),
    "position": pa.int32(),
    "part": pa.string(),
    "weight": pa.float64(),
    "score": pa.float64(),
    "entropy_bits": pa.float64(),
    "sampled_entropy_bits": pa.float64(),
    "surprisal_bits": pa.float64(),
    "logit_space": pa.float64(),
}
RESPONSE_SCHEMA = pa.schema(
    {
        "response": pa.int32(),
        "prompt_id": pa.string(),
        "task": pa.string(),
        "prompt": pa.string(),
        "question": pa.string(),
        "text": pa.string(),
        "answer": pa.string(),
        "score": pa.float64(),
        "score_reason": pa.string(),
        "finished": pa.bool_(),
        "ended": pa.string(),
        "n_tokens": pa.int32(),
        "prompt_token_ids": pa.list_(pa.int32()),
        "response_token_ids": pa.list_(pa.int32()),
        "not_finite": pa.int32(),
        "nuclear_by": pa.string(),
        "processor": pa.string(),
        "retokenizes": pa.bool_(),
        "error": pa.string(),
    }
)

LATER = {"nuclear_by", "processor"}
"""Columns of it that an earlier version did not write."""


@dataclass(frozen=True)
class Piece:
    """One response of a run as it will stand on disk.

    row: Its row of ``RESPONSE_SCHEMA``; ``error`` says why it could not be measured, None where it was.
    tokens: Its rows of the tokens table; None where it could not be measured.
    """

    row: Mapping[str, Any]
    tokens: pa.Table | None

    def __post_init__(self) -> None:
        # Arrow would leave out what has no column, without a word.
        if unknown := sorted(self.row.keys() - set(RESPONSE_SCHEMA.names)):
            raise KeyError(f"a response's row has no column for {', '.join(unknown)}")


class RunWriter:
    """Write a run shard by shard.

    Args:
        folder: Where the run goes. It may hold an unfinished run with the same manifest, which is then continued.
        manifest: What is measured, JSON types only, with lists ``layers``, ``projections`` and ``norms`` under
            ``measurement``, and no times: equal work gives equal bytes.
        overwrite: Replace a run that is there.

    Raises:
        InputError: The folder holds something else.
    """

    def __init__(self, folder: str | os.PathLike[str], manifest: dict[str, Any], *, overwrite: bool = False) -> None:
        self.folder = Path(folder).expanduser()
        self.manifest = {"format": FORMAT, **manifest}
        claim(self.folder, MANIFEST, self.manifest, what="run", overwrite=overwrite, remedy=REMEDY)
        self._manifest_sum = checksum(self.folder / MANIFEST)["sha256"]

    def has(self, shard: int) -> bool:
        """Whether a shard stands whole."""
        return record_path(self.folder, shard).is_file()

    def write(self, shard: int, captures: Sequence[xr.Dataset], responses: Sequence[dict[str, Any]]) -> None:
        """Write one shard: a capture and a row of ``RESPONSE_SCHEMA`` for each of its responses."""
        pairs = zip(captures, responses, strict=True)
        self.write_pieces(shard, [Piece(row, token_table(capture, row, self.manifest)) for capture, row in pairs])

    def write_pieces(self, shard: int, pieces: Sequence[Piece], threads: int | None = None) -> None:
        """Write one shard: the tables, and then its record, with which it counts.

        Args:
            shard: Its number.
            pieces: Its responses, in order.
            threads: Of the workers that measured it, for the record: with their number the order of sums changes, and
                with it the last digits.
        """
        files, tables = {}, _as_tables(pieces, self.manifest)
        for name, table in zip(shard_files(shard), tables, strict=True):
            put(self.folder / name, lambda path, table=table: pq.write_table(table, path, write_page_checksum=True))
            files[name] = checksum(self.folder / name)
        record = {
            "responses": len(pieces),
            "unmeasured": sum(piece.row.get("error") is not None for piece in pieces),
            "tokens": len(tables[0]),
            "not_finite": sum(piece.row.get("not_finite") or 0 for piece in pieces),
            "threads": threads,
            "manifest": self._manifest_sum,
            "files": files,
        }
        put(record_path(self.folder, shard), lambda path: path.write_text(json.dumps(record, indent=1) + "\n"))

    def keep(self, pieces: Sequence[Piece]) -> None:
        """Keep responses of a shard that is not complete, so that a kill does not cost them."""

        def write(folder: Path) -> None:
            folder.mkdir()
            for name, table in zip(("tokens.arrow", "responses.arrow"), _as_tables(pieces, self.manifest), strict=True):
                with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                    writer.write_table(table)
            sums = {path.name: checksum(path) for path in sorted(folder.iterdir())}
            (folder / "sums.json").write_text(json.dumps(sums))

        numbers = [piece.row["response"] for piece in pieces]
        put(self.folder / UNFINISHED / f"{min(numbers):07d}-{max(numbers):07d}-{len(numbers)}", write)

    def kept(self) -> dict[int, Piece]:
        """Return the responses that are kept, by number; what is damaged is left out, to be measured again."""
        found = {}
        for folder in sorted((self.folder / UNFINISHED).glob("*-*-*")):
            if is_housekeeping(folder):
                continue
            pieces = _read_kept(folder)
            if not pieces:
                shutil.rmtree(folder)
            found.update({piece.row["response"]: piece for piece in pieces})
        return found

    def forget(self) -> None:
        """Remove what is kept, once all shards stand."""
        shutil.rmtree(self.folder / UNFINISHED, ignore_errors=True)


def check_folder(folder: Path, manifest: dict[str, Any], *, overwrite: bool = False) -> None:
    """Make sure that a run with this manifest can be written to ``folder``; nothing is changed.

    Raises:
        InputError: The folder holds something else.
    """
    record = {"format": FORMAT, **manifest}
    holds(folder, MANIFEST, record, what="run", overwrite=overwrite, remedy=REMEDY)


def is_complete(folder: str | os.PathLike[str]) -> bool:
    """Whether all responses of a run stand on disk."""
    root = Path(folder).expanduser()
    if not (root / MANIFEST).is_file():
        return False
    return sum(record["responses"] for record in records(root).values()) == read_manifest(root)["responses"]["count"]


def tidy(folder: Path) -> None:
    """Remove what a process left that was killed between a run's last shard and its own end."""
    if any(is_housekeeping(path) or path.name == UNFINISHED for path in folder.iterdir()):
        with suppress(InputError), owned(folder):  # whoever owns it does so too; a disk that is closed stays as it is
            shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def summary(folder: str | os.PathLike[str]) -> str:
    """Say in a sentence what stands of a run, what could not be measured and why, and what to do next."""
    standing = records(folder).values()
    there, count = sum(record["responses"] for record in standing), read_manifest(folder)["responses"]["count"]
    unmeasured = sum(record["unmeasured"] for record in standing)
    skipped = read_manifest(folder)["responses"].get("skipped", [])
    text = f"{folder} is complete" if there == count else f"{folder} has {there} of {count} responses so far"
    responses = load_responses(folder) if there else pd.DataFrame()
    if unmeasured:
        reasons = responses.error.dropna().value_counts()
        text += f"; {unmeasured} of {there} responses could not be measured, {reasons.iloc[0]} of them: "
        text += str(reasons.index[0]).rstrip(".")
    if skipped:
        text += f"; {len(skipped)} problems were left out beforehand, the first: {skipped[0]['reason']}"
    if broken := sum(record["not_finite"] for record in standing):
        text += f"; {broken} tokens have readings that are not finite numbers"
    again = responses.get("retokenizes")
    respelt = 0 if again is None else int(again.eq(False).sum())
    if respelt:
        text += f"; {respelt} of {there} responses are other tokens when read again from their text, so reuse their "
        text += "response_token_ids"
    return f"{text}; see it with: inversion stats {folder}" if there else text


def load_run(folder: str | os.PathLike[str]) -> xr.Dataset:
    """Load a run as one dataset.

    Returns:
        The layout of :func:`inversion.probe`, the tokens of all responses in order, with coordinates
        ``response(token)``, the response's number, and ``prompt_id(token)``, a short hash of its prompt; and a
        variable ``score(token)``, the response's score (1 for right, NaN where there was nothing to score against).
        ``attrs["complete"]`` says whether all responses are there, ``attrs["unmeasured"]`` how many of them have no
        tokens because they could not be measured; :func:`load_responses` says why.

    Raises:
        InputError: The folder holds no run, or none of its shards is finished, or one is damaged.
    """
    manifest = read_manifest(folder)
    try:
        return _dataset(folder, manifest)
    except (KeyError, TypeError, IndexError, pa.ArrowException) as error:
        raise InputError(
            f"the tables of the run in {folder} do not fit its manifest; {how_to_check(folder)}."
        ) from error


def mean_entropy(run: xr.Dataset) -> float:
    """Return the mean entropy of a run's tokens, in bits; drawn ones count for all those that they stand for."""
    weights = run.weight.values if "weight" in run else None
    return float(np.average(run.entropy_bits.values, weights=weights))


def _dataset(folder: str | os.PathLike[str], manifest: dict[str, Any]) -> xr.Dataset:
    measurement = manifest["measurement"]
    layers, projections = measurement["layers"], measurement["projections"]
    shapes = {"layer_entropy_bits": (len(layers),)}
    shapes |= dict.fromkeys(measurement["norms"], (len(layers), len(projections)))
    tokens, responses = _read(folder, "tokens", without=shapes), _read(folder, "responses")
    number = tokens["response"].to_numpy()
    prompt_ids = as_texts(responses["prompt_id"])
    variables: dict[str, Any] = {}
    for name in TOKEN_COLUMNS:
        if name in tokens.column_names:
            texts = name in ("token_text", "part")
            variables[name] = _texts(as_texts(tokens[name])) if texts else ("token", tokens[name].to_numpy())
            tokens = tokens.drop_columns([name])  # a large run would else be held twice
    pa.default_memory_pool().release_unused()
    variables |= _lists(folder, shapes)
    coords = {
        "layer": layers,
        "projection": projections,
        "response": ("token", number),
        "prompt_id": _texts(prompt_ids[np.searchsorted(responses["response"].to_numpy(), number)]),
    }
    reasons = Counter(filter(None, responses["error"].to_pylist()))
    attributes = {
        **manifest["model"],
        "quantity": measurement["quantity"],
        "seed": manifest["responses"]["seed"],
        "versions": manifest["versions"],
        "responses": manifest["responses"],
        "complete": len(responses) == manifest["responses"]["count"],
        "not_finite": sum(responses["not_finite"].drop_null().to_pylist()),
        "unmeasured": sum(reasons.values()),
        "unmeasured_because": [reason for reason, _ in reasons.most_common()],
    }
    _tell(folder, attributes, len(responses))
    return xr.Dataset(variables, coords, attributes)


def _texts(values: np.ndarray) -> xr.Variable:
    """Return one text a token as it is: xarray would send it through pandas, which makes an object of every text."""
    return xr.Variable("token", values, fastpath=True)


def _tell(folder: str | os.PathLike[str], attributes: dict[str, Any], there: int) -> None:
    """Warn of what a run does not hold: nothing is left out of statistics in silence."""
    if not attributes["complete"]:
        count = attributes["responses"]["count"]
        logger.warning("%s is unfinished: it has %d of %d responses so far", folder, there, count)
    if attributes["unmeasured"]:
        words = (attributes["unmeasured"], there, folder, attributes["unmeasured_because"][0])
        logger.warning("%d of %d responses of %s could not be measured and are left out, most often: %s", *words)
    if attributes["not_finite"]:
        logger.warning("%d tokens of %s have readings that are not finite numbers", attributes["not_finite"], folder)


def load_responses(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """Load what a run's responses are: prompt, text, answer, score and length, one row each.

    ``error`` is None, or says why a response could not be measured; such a response has no tokens in the run.
    ``not_finite`` counts tokens of which a reading is no finite number.
    """
    read_manifest(folder)
    return _read(folder, "responses").to_pandas().set_index("response")


def _read(folder: str | os.PathLike[str], kind: str, without: Container[str] = ()) -> pa.Table:
    """Read the tables of one kind of the shards that stand, and check them against their records."""
    with ThreadPoolExecutor(READERS) as threads:
        tables = list(threads.map(lambda place: _read_table(*place, without=without), _standing(folder, kind)))
    tables = [table for table in tables if len(table)] or tables[:1]
    names = [set(table.column_names) for table in tables]
    lacking = set.union(*names) - set.intersection(*names)
    return pa.concat_tables(tables, promote_options="default" if lacking and lacking <= LATER else "none")


def _standing(folder: str | os.PathLike[str], kind: str) -> list[tuple[Path, dict[str, Any]]]:
    """Return the files of one kind that stand, and the records of their shards."""
    root, standing = Path(folder).expanduser(), records(folder)
    if fault := manifest_fault(root, standing.values()):
        raise InputError(f"{root / MANIFEST} {fault}; {how_to_check(root)}.")
    if not standing:
        raise InputError(f"the run in {folder} has no finished part yet; let inversion probe go on.")
    return [(root / f"{kind}-{shard:05d}.parquet", record) for shard, record in standing.items()]


def _read_table(path: Path, record: dict[str, Any], without: Container[str]) -> pa.Table:
    fault = file_fault(path, record)
    if fault is None:
        try:
            names = [name for name in pq.read_schema(path).names if name not in without]
            return pq.read_table(path, columns=names)
        except (pa.ArrowException, OSError) as error:
            fault = f"cannot be read ({first_line(error)})"
    raise InputError(f"{path} {fault}; {how_to_check(path.parent)}.")


def _lists(folder: str | os.PathLike[str], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, xr.Variable]:
    """Return the columns of lists of a run whose files have been checked: in memory where they are not too large."""
    groups = row_groups([path for path, _ in _standing(folder, "tokens")])
    found = {name: StoredLists(groups, name, shape) for name, shape in shapes.items()}
    dims = ("token", "layer", "projection")
    variables = {name: lists.variable(*dims[: len(lists.shape)]) for name, lists in found.items()}
    if sum(variable.nbytes for variable in variables.values()) <= MOST_HELD:
        return {name: variable.load() for name, variable in variables.items()}
    return variables


def token_table(capture: xr.Dataset, row: Mapping[str, Any], manifest: dict[str, Any]) -> pa.Table:
    """Return the rows of the tokens table that a capture makes."""
    count = capture.sizes["token"]
    columns = {"response": pa.array(np.full(count, row["response"]), pa.int32())}
    for name, kind in TOKEN_COLUMNS.items():
        if name == "score":
            columns[name] = pa.array(np.full(count, row["score"], float), kind)
        elif name in capture:
            columns[name] = pa.array(capture[name].values, kind)
    for name in ("layer_entropy_bits", *manifest["measurement"]["norms"]):
        flat = capture[name].values.reshape(count, -1)
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])
    return pa.table(columns)


def _as_tables(pieces: Sequence[Piece], manifest: dict[str, Any]) -> tuple[pa.Table, pa.Table]:
    measured = [piece.tokens for piece in pieces if piece.tokens is not None] or [_no_tokens(manifest)]
    # In one chunk: how tables were put together must not show in the bytes of a file.
    tokens = pa.concat_tables(measured).combine_chunks()
    return tokens, pa.Table.from_pylist([dict(piece.row) for piece in pieces], schema=RESPONSE_SCHEMA)


def _no_tokens(manifest: dict[str, Any]) -> pa.Table:
    """Return a tokens table without rows, for a shard of which no response could be measured."""
    layers, projections, norms = (manifest["measurement"][name] for name in ("layers", "projections", "norms"))
    wide = pa.float64() if manifest["model"].get("dtype") == "float64" else pa.float32()
    schema = {"response": pa.int32(), **TOKEN_COLUMNS, "layer_entropy_bits": pa.list_(pa.float64(), len(layers))}
    schema |= {norm: pa.list_(wide, len(layers) * len(projections)) for norm in norms}
    return pa.schema(schema).empty_table()


def _read_kept(folder: Path) -> list[Piece]:
    """Read what was kept together, nothing where it is damaged."""
    names = ("tokens.arrow", "responses.arrow")
    try:
        sums = json.loads((folder / "sums.json").read_text())
        if any(checksum(folder / name) != sums[name] for name in names):
            return []
        tokens, rows = (pa.ipc.open_file(pa.BufferReader((folder / name).read_bytes())).read_all() for name in names)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return []  # to be measured again, which costs time and nothing else
    numbers = tokens["response"].to_numpy()
    return [
        Piece(row, tokens.filter(pa.array(numbers == row["response"])) if row["error"] is None else None)
        for row in rows.to_pylist()
    ]
