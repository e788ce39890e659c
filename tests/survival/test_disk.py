"""A disk that is full, a folder that may not be written to: one sentence, exit code 2, and nothing finished is lost."""

import json
import os
import subprocess

import pyarrow.parquet as pq
import pytest

import inversion
from inversion import runs
from inversion.checking import inspect_run
from inversion.cli import main


@pytest.fixture
def command(checkpoint, tmp_path):
    rows = [{"prompt": f"{a} + {b} =", "answer": str(a + b)} for a in range(4) for b in range(6)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ["--model", checkpoint(), "--prompts", tmp_path / "prompts.jsonl", "--max-new-tokens", 8, "--shard", 3]
    return ["probe", *map(str, options), "--out"]


@pytest.fixture
def disk(tmp_path):
    """A disk of its own, 112 KiB; where disks cannot be mounted the test is skipped."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=112k", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def tables(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".parquet", ".json")}


def refused(capsys, arguments, words):
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("inversion: ")]
    assert len(lines) == 1
    assert words in lines[0]


def test_a_full_disk(capsys, command, disk, tmp_path):
    assert main([*command, str(tmp_path / "whole")]) == 0
    refused(capsys, [*command, disk / "run"], "No space left on device; what was finished before is kept")
    found = inspect_run(disk / "run")
    assert found.whole
    assert not found.damaged
    assert [path.name for path in (disk / "run").iterdir() if path.name.endswith(".part")] == []
    subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
    assert main([*command, str(disk / "run")]) == 0
    whole, run = tables(tmp_path / "whole"), tables(disk / "run")
    del whole["command.json"], run["command.json"]  # the one knows where it is
    assert run == whole


def test_a_disk_that_cannot_be_written_to(capsys, command, disk, tmp_path):
    (disk / "full").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    refused(capsys, [*command, disk / "run"], "Read-only file system")
    refused(capsys, [*command, disk / "full"], "Read-only file system")
    refused(capsys, ["reproduce", "--out", disk / "new"], "Read-only file system")
    refused(capsys, ["train", "demo", f"out={disk / 'new'}"], "Read-only file system")


@pytest.mark.skipif(os.geteuid() == 0, reason="to root no folder is closed")
def test_a_folder_that_may_not_be_written_to(capsys, command, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    refused(capsys, [*command, tmp_path / "closed" / "run"], "Permission denied")


def test_a_finished_run_on_a_disk_that_cannot_be_written_to_is_left_as_it_is(command, disk):
    subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
    assert main([*command, str(disk / "run")]) == 0
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert main([*command, str(disk / "run")]) == 0
    assert inversion.load_run(disk / "run").attrs["complete"]


def test_any_write_that_fails_costs_its_shard_alone(capsys, command, tmp_path, monkeypatch):
    write, calls = pq.write_table, []

    def write_until_full(table, path, **options):
        calls.append(path)
        if len(calls) > 7:
            raise OSError(28, "No space left on device")
        write(table, path, **options)

    monkeypatch.setattr(runs.pq, "write_table", write_until_full)
    refused(capsys, [*command, tmp_path / "run"], "No space left on device")
    assert inspect_run(tmp_path / "run").whole == (0, 1, 2)
