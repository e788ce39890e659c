"""Runs on disk: a manifest and Parquet shards that other programs can read too.

A run is a folder. ``run.json`` says what was measured, on which model, from which responses and with which versions:
enough to repeat it. ``tokens-00000.parquet`` and its successors hold one row a token, the norms as fixed-size lists in
row-major (layer, projection) order of the manifest; ``responses-00000.parquet`` one row a response. A shard counts once
both its files stand, and each is put in place whole, so a run that was killed resumes at the next shard.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr

from inversion.errors import InputError
from inversion.files import put

MANIFEST = "run.json"
FORMAT = "inversion-run/1"
# Readings of a token that are numbers or text of its own, in the order of the columns.
TOKEN_COLUMNS = {
    "token_id": pa.int32(),
    "token_text": pa.string(),
    "position": pa.int32(),
    "weight": pa.float64(),
    "score": pa.float64(),
    "entropy_bits": pa.float64(),
    "surprisal_bits": pa.float64(),
    "logit_space": pa.float64(),
}
RESPONSE_SCHEMA = pa.schema(
    {
        "response": pa.int32(),
        "prompt_id": pa.string(),
        "task": pa.string(),
        "prompt": pa.string(),
        "text": pa.string(),
        "answer": pa.string(),
        "score": pa.float64(),
        "finished": pa.bool_(),
        "n_tokens": pa.int32(),
        "prompt_token_ids": pa.list_(pa.int32()),
    }
)


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
        if overwrite and (self.folder / MANIFEST).is_file():
            shutil.rmtree(self.folder)
        self._check_folder()
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / MANIFEST).exists():
            put(self.folder / MANIFEST, lambda path: path.write_text(json.dumps(self.manifest, indent=1) + "\n"))

    def has(self, shard: int) -> bool:
        """Whether a shard stands whole."""
        return all(self._path(kind, shard).is_file() for kind in ("tokens", "responses"))

    def write(self, shard: int, captures: Sequence[xr.Dataset], responses: Sequence[dict[str, Any]]) -> None:
        """Write one shard: a capture and a row of ``RESPONSE_SCHEMA`` for each of its responses."""
        tables = [_token_table(capture, row, self.manifest) for capture, row in zip(captures, responses, strict=True)]
        tokens = pa.concat_tables(tables)
        rows = pa.Table.from_pylist(list(responses), schema=RESPONSE_SCHEMA)
        put(self._path("tokens", shard), lambda path: pq.write_table(tokens, path))
        put(self._path("responses", shard), lambda path: pq.write_table(rows, path))

    def _path(self, kind: str, shard: int) -> Path:
        return self.folder / f"{kind}-{shard:05d}.parquet"

    def _check_folder(self) -> None:
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise InputError(f"{self.folder} is a file; choose a new folder for the run.")
        if (self.folder / MANIFEST).is_file():
            there = read_manifest(self.folder)
            # Through JSON, since that is how the other one was stored.
            if there != json.loads(json.dumps(self.manifest)):
                raise InputError(
                    f"{self.folder} holds another run (it differs in {', '.join(_differences(there, self.manifest))}); "
                    "choose a new folder or pass --overwrite."
                )
        elif any(self.folder.iterdir()):
            raise InputError(f"{self.folder} is not empty and holds no run; choose a new folder.")


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return a run's manifest."""
    path = Path(folder).expanduser() / MANIFEST
    if not path.is_file():
        raise InputError(f"there is no run in {folder}; give a folder that inversion probe has written.")
    try:
        manifest = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is damaged ({error.msg}); measure the run again.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{path} is not a manifest of format {FORMAT}; use the version that wrote it.")
    return manifest


def load_run(folder: str | os.PathLike[str]) -> xr.Dataset:
    """Load a run as one dataset.

    Returns:
        The layout of :func:`inversion.probe`, the tokens of all responses in order, with coordinates
        ``response(token)``, the response's number, and ``prompt_id(token)``, a short hash of its prompt; and a
        variable ``score(token)``, the response's score (1 for right, NaN where there was nothing to score against).
        ``attrs["complete"]`` says whether all responses are there.

    Raises:
        InputError: The folder holds no run, or none of its shards is finished.
    """
    manifest = read_manifest(folder)
    tokens, responses = _read(folder, "tokens"), _read(folder, "responses")
    measurement = manifest["measurement"]
    layers, projections = measurement["layers"], measurement["projections"]
    number = tokens["response"].to_numpy()
    prompt_ids = pd.Series(responses["prompt_id"].to_pylist(), responses["response"].to_pylist())
    variables: dict[str, Any] = {}
    for name in TOKEN_COLUMNS:
        if name in tokens.column_names:
            values = tokens[name].to_pylist() if name == "token_text" else tokens[name].to_numpy()
            variables[name] = ("token", values)
    variables["layer_entropy_bits"] = (("token", "layer"), _matrix(tokens["layer_entropy_bits"], (len(layers),)))
    for norm in measurement["norms"]:
        shape = (len(layers), len(projections))
        variables[norm] = (("token", "layer", "projection"), _matrix(tokens[norm], shape))
    coords = {
        "layer": layers,
        "projection": projections,
        "response": ("token", number),
        "prompt_id": ("token", prompt_ids.loc[number].to_numpy(dtype=str)),
    }
    attributes = {
        **manifest["model"],
        "quantity": measurement["quantity"],
        "seed": manifest["responses"]["seed"],
        "versions": manifest["versions"],
        "responses": manifest["responses"],
        "complete": len(responses) == manifest["responses"]["count"],
    }
    return xr.Dataset(variables, coords, attributes)


def load_responses(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """Load what a run's responses are: prompt, text, answer, score and length, one row each."""
    read_manifest(folder)
    return _read(folder, "responses").to_pandas().set_index("response")


def _read(folder: str | os.PathLike[str], kind: str) -> pa.Table:
    """Read the shards of one kind, of those shards that stand whole."""
    root = Path(folder).expanduser()
    paths = [
        root / f"{kind}{path.name.removeprefix('responses')}"
        for path in sorted(root.glob("responses-*.parquet"))
        if (root / f"tokens{path.name.removeprefix('responses')}").is_file()
    ]
    if not paths:
        raise InputError(f"the run in {folder} has no finished part yet; let inversion probe go on.")
    try:
        return pa.concat_tables([pq.read_table(path) for path in paths])
    except pa.ArrowInvalid as error:
        raise InputError(f"a part of the run in {folder} is damaged; measure the run again.") from error


def _token_table(capture: xr.Dataset, row: dict[str, Any], manifest: dict[str, Any]) -> pa.Table:
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


def _matrix(column: pa.ChunkedArray, shape: tuple[int, ...]) -> np.ndarray:
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), *shape)


def _differences(there: Any, here: Any, name: str = "") -> list[str]:
    """Name the entries in which two manifests differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = list(dict.fromkeys([*there, *here]))
        return [
            found for key in keys for found in _differences(there.get(key), here.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if json.dumps(there) == json.dumps(here) else [name]
