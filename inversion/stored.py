"""Columns of lists that stay in their Parquet files until they are looked at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing


@dataclass(frozen=True)
class RowGroup:
    """Rows of a column that are read together."""

    path: Path
    number: int  # of the group in its file
    first: int  # row of the column that it begins with
    rows: int


def row_groups(paths: Sequence[Path]) -> list[RowGroup]:
    """Return the row groups of files that follow one another."""
    groups, first = [], 0
    for path in paths:
        metadata = pq.read_metadata(path)
        for number in range(metadata.num_row_groups):
            rows = metadata.row_group(number).num_rows
            groups.append(RowGroup(path, number, first, rows))
            first += rows
    return groups


class StoredLists(BackendArray):
    """A column of fixed-size lists as an array of which only what is asked for is read.

    Args:
        groups: Where it is stored.
        column: Its name.
        shape: Of one list.
    """

    def __init__(self, groups: Sequence[RowGroup], column: str, shape: tuple[int, ...]) -> None:
        self.groups, self.column = [group for group in groups if group.rows], column
        self.shape = (sum(group.rows for group in groups), *shape)
        self.dtype = np.dtype(pq.read_schema(groups[0].path).field(column).type.value_type.to_pandas_dtype())
        self._last: tuple[RowGroup, np.ndarray] | None = None

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[int | slice | np.ndarray, ...]) -> np.ndarray:
        rows, *rest = key
        if isinstance(rows, np.ndarray):
            return self._rows(rows, rest)
        wanted = range(self.shape[0])[rows]
        if isinstance(wanted, int):
            return self._between(wanted, wanted + 1, rest)[0]
        if not len(wanted):
            return self._none(rest)
        low, high = min(wanted[0], wanted[-1]), max(wanted[0], wanted[-1])
        found = self._between(low, high + 1, rest)
        return found[:: wanted.step] if wanted.step > 0 else found[::-1][:: -wanted.step]

    def _none(self, rest: Sequence[Any]) -> np.ndarray:
        return _inner(np.empty((0, *self.shape[1:]), self.dtype), rest)

    def _rows(self, rows: np.ndarray, rest: Sequence[Any]) -> np.ndarray:
        """Single rows, of which only the groups they lie in are read."""
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        parts = [self._none(rest)]
        for group in self.groups:
            low, high = np.searchsorted(ordered, [group.first, group.first + group.rows])
            if low < high:
                parts.append(_inner(self._group(group)[ordered[low:high] - group.first], rest))
        found = np.concatenate(parts)
        return found[np.argsort(order)]

    def _between(self, start: int, stop: int, rest: Sequence[Any]) -> np.ndarray:
        parts = []
        for group in self.groups:
            low, high = max(start - group.first, 0), min(stop - group.first, group.rows)
            if low < high:
                parts.append(_inner(self._group(group)[low:high], rest))
        return np.concatenate(parts)

    def _group(self, group: RowGroup) -> np.ndarray:
        # The one that was read last is kept, since blocks of rows seldom end where a group does.
        last = self._last  # several threads may read
        if last is None or last[0] is not group:
            table = pq.ParquetFile(group.path).read_row_group(group.number, columns=[self.column])
            last = self._last = group, as_array(table[self.column], self.shape[1:])
        return last[1]

    def variable(self, *dims: str) -> xr.Variable:
        """The array as a variable that is read anew at every look, and never kept."""
        return xr.Variable(dims, indexing.LazilyIndexedArray(self))


def _inner(rows: np.ndarray, rest: Sequence[Any]) -> np.ndarray:
    """Take parts of all axes but the first, from the last on, so that an axis that goes does not move the others."""
    for axis in range(len(rest), 0, -1):
        rows = rows[(slice(None),) * axis + (rest[axis - 1],)]
    return rows


def as_array(column: pa.ChunkedArray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a column of n fixed-size lists as an array, (n, *shape)."""
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), *shape)


def as_texts(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of n texts as objects, (n,); equal ones are one object, and None is where there is none."""
    codes = column.combine_chunks().dictionary_encode()
    texts = np.array([*codes.dictionary.to_pylist(), None], dtype=object)
    return texts[codes.indices.fill_null(len(texts) - 1).to_numpy(zero_copy_only=False)]
