"""Runs too large for the memory: norms stay on disk, and the statistics come out the same."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr

import inversion
from inversion.stored import StoredLists, as_texts, row_groups

SPEC = importlib.util.spec_from_file_location(
    "statistics_size", Path(__file__).resolve().parents[1] / "benchmarks" / "statistics_size.py"
)
size = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = size
SPEC.loader.exec_module(size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("large") / "run"
    size.write(path, tokens=900, responses=40)
    return path


@pytest.fixture
def on_disk(folder, monkeypatch):
    monkeypatch.setattr("inversion.runs.MOST_HELD", 0)
    return inversion.load_run(folder)


def test_a_run_on_disk_is_the_run_in_memory(folder, on_disk):
    assert "StoredLists" in repr(on_disk.nuclear.variable._data)
    held = inversion.load_run(folder)
    xr.testing.assert_identical(on_disk.load(), held)
    assert held.nuclear.dtype == np.float32


@pytest.mark.parametrize("limit", [10**4, 10**9])
def test_statistics_of_a_run_on_disk_are_those_in_memory(folder, on_disk, monkeypatch, limit):
    held = inversion.load_run(folder).load()
    monkeypatch.setattr("inversion.statistics.strengths.BLOCK_BYTES", limit)
    monkeypatch.setattr("inversion.statistics.layout.CELL_BYTES", limit)
    options = {"layers": [0, 3, 5, 27], "resamples": 50}
    for ask in (inversion.correlate, inversion.within_between, inversion.controls):
        assert ask(on_disk, **options).to_dict() == ask(held, **options).to_dict()
    xr.testing.assert_identical(inversion.layer_map(on_disk, **options), inversion.layer_map(held, **options))
    assert "StoredLists" in repr(on_disk.nuclear.variable._data)


def test_norms_are_read_in_blocks_and_not_whole(on_disk, monkeypatch):
    asked = []
    between = StoredLists._between

    def watched(self, start, stop, rest):
        asked.append(stop - start)
        return between(self, start, stop, rest)

    monkeypatch.setattr(StoredLists, "_between", watched)
    monkeypatch.setattr("inversion.statistics.strengths.BLOCK_BYTES", 100 * 112 * 4)
    inversion.correlate(on_disk, resamples=50)
    assert asked == [100] * 9


KEYS = (
    (slice(None), slice(None)),
    (slice(3, 17), 1),
    (slice(18, 2, -3), slice(None, None, -1)),
    (5, slice(0, 2)),
    (-1, -1),
    (slice(4, 4), slice(None)),
    ([19, 0, 7, 7], slice(None)),
    ([2, 11], [2, 0]),
    ([], 1),
    ([13, 4], -1),
)


@pytest.mark.parametrize("key", KEYS)
def test_any_part_of_a_stored_column_can_be_taken(tmp_path, key):
    values = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet", tmp_path / "c.parquet"]
    for path, rows in zip(paths, (values[:9], values[9:9], values[9:]), strict=True):
        lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 3)
        pq.write_table(pa.table({"x": lists}), path, row_group_size=4)
    stored = StoredLists(row_groups(paths), "x", (3,)).variable("token", "layer")
    expected = xr.Variable(("token", "layer"), values)
    assert stored.shape == (20, 3)
    np.testing.assert_array_equal(stored[key].values, expected[key].values)


def test_equal_texts_are_one_object():
    texts = as_texts(pa.chunked_array([["a", None, "bc"], ["a", ""]]))
    assert texts.tolist() == ["a", None, "bc", "a", ""]
    assert texts[0] is texts[3]


def test_single_rows_leave_the_other_groups_alone(on_disk, monkeypatch):
    read, whole = [], StoredLists._group
    monkeypatch.setattr(
        StoredLists, "_group", lambda self, group: (read.append(group.path.name), whole(self, group))[1]
    )
    rows = np.flatnonzero(on_disk.response.values == 20)
    assert on_disk.nuclear.isel(token=rows).values.shape == (rows.size, 28, 4)
    assert read == ["tokens-00001.parquet"]
