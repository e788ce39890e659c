import json
import os
import signal
import subprocess
import sys
import time

import pytest

from inversion import InputError
from inversion.files import LOCK, claim, differences, holds, owned, put


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def hidden(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


WRITES_OFTEN = """
import sys
from pathlib import Path
from inversion.files import put
path, letter = Path(sys.argv[1]), sys.argv[2]
for _ in range(150):
    put(path, lambda part: part.write_text(letter * 5000))
    put(path.with_name("folder"), lambda part: (part.mkdir(), (part / "a").write_text(letter)))
"""


def test_two_writers_of_one_path_leave_one_whole_file(tmp_path):
    path = tmp_path / "file"
    writers = [start(WRITES_OFTEN, path, letter) for letter in "ab"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            seen.add(path.read_text())
    for writer in writers:
        assert writer.wait() == 0, writer.stderr.read()
    assert seen <= {"a" * 5000, "b" * 5000}
    assert (tmp_path / "folder" / "a").read_text() in "ab"
    assert hidden(tmp_path) == []


DIES_WRITING = """
import os, signal, sys
from pathlib import Path
from inversion.files import put
def write(part):
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
put(Path(sys.argv[1]), write)
"""


def test_what_a_killed_writer_left_is_cleared_and_what_a_living_one_writes_is_not(tmp_path):
    path = tmp_path / "file"
    assert start(DIES_WRITING, path).wait() == -signal.SIGKILL
    (left,) = hidden(tmp_path)
    assert not path.exists()
    living = tmp_path / left.replace(left.split("-")[-2], str(os.getppid()))
    living.write_text("in the making")
    put(path, lambda part: part.write_text("whole"))
    assert path.read_text() == "whole"
    assert hidden(tmp_path) == [living.name]


def test_another_machines_leftover_is_cleared_after_a_day(tmp_path):
    fresh, old = tmp_path / ".file.other-1-00000000.part", tmp_path / ".file.other-2-00000000.part"
    for left in (fresh, old):
        left.write_text("half")
    os.utime(old, (time.time() - 90_000,) * 2)
    put(tmp_path / "file", lambda part: part.write_text("whole"))
    assert hidden(tmp_path) == [fresh.name]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    put(path, lambda part: part.write_text("old"))

    def fails(part):
        part.write_text("new")
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    with pytest.raises(InputError, match="cannot write .*file: No space left on device"):
        put(path, fails)
    with pytest.raises(ZeroDivisionError):
        put(path, lambda part: 1 / 0)
    assert path.read_text() == "old"
    assert hidden(tmp_path) == []


FILE_LIMIT = """
import resource, sys
from pathlib import Path
from inversion.files import put
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
put(Path(sys.argv[1]), lambda part: part.write_bytes(b"x" * 2000))
"""


def test_a_disk_without_room_is_one_sentence(tmp_path):
    writer = start(FILE_LIMIT, tmp_path / "file")
    assert writer.wait() == 1
    assert "InputError: cannot write" in writer.stderr.read()
    assert hidden(tmp_path) == []


HOLDS = """
import sys, time
from pathlib import Path
from inversion.files import owned
part = tuple(map(int, sys.argv[2:])) or None
with owned(Path(sys.argv[1]), part=part):
    (Path(sys.argv[1]) / "work").write_text("x")
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that owns ``tmp_path / "run"``, or a part of it."""
    started = []

    def hold(*part):
        process = start(HOLDS, tmp_path / "run", *part)
        started.append(process)
        assert process.stdout.readline() == "held\n", process.stderr.read()
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()


def test_the_second_owner_is_refused_and_told_who_the_first_is(tmp_path, holder):
    process = holder()
    with (
        pytest.raises(InputError, match=f"in use by process {process.pid} on .* since .*--wait"),
        owned(tmp_path / "run"),
    ):
        pass


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_dead_owners_lock_is_taken_over(tmp_path, holder, how):
    process = holder()
    process.send_signal(how)
    process.wait()
    with owned(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / ".owner.json").read_text())["pid"] == os.getpid()
    assert hidden(tmp_path / "run") == []


def test_waiting_ends_when_the_owner_does(tmp_path, holder, capsys):
    process = holder()
    waiter = start(HOLDS, tmp_path / "run")  # without wait: refused
    assert waiter.wait() == 1
    killer = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {process.pid}"])
    with owned(tmp_path / "run", wait=True):
        pass
    killer.wait()
    assert f"in use by process {process.pid}" in capsys.readouterr().err


def test_parts_of_one_kind_share_a_folder(tmp_path, holder):
    run = tmp_path / "run"
    holder(1, 2)
    with owned(run, part=(2, 2)):
        pass
    for whole_or_other in (None, (1, 3), (1, 2)):
        with pytest.raises(InputError, match="in use"), owned(run, part=whole_or_other):
            pass


def test_no_part_begins_while_the_whole_is_owned(tmp_path, holder, monkeypatch):
    monkeypatch.setattr("inversion.files.BEGIN_SECONDS", 0.1)
    holder()
    with pytest.raises(InputError, match="in use"), owned(tmp_path / "run", part=(1, 2)):
        pass


def test_a_folder_that_stayed_empty_is_taken_away(tmp_path):
    with pytest.raises(KeyError), owned(tmp_path / "a" / "b"):
        raise KeyError
    assert not (tmp_path / "a" / "b").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"), owned(tmp_path / "file"):
        pass


RECORD = {"format": "x/1", "model": {"name": "a", "layers": [0, 1]}, "seed": 0, "scale": 1e-4}


@pytest.mark.parametrize("name", ["record.json", "record.yaml"])
def test_a_claimed_folder_goes_on_with_the_same_record_only(tmp_path, name):
    folder = tmp_path / "new" / "folder"
    assert not holds(folder, name, RECORD, what="run")
    assert not folder.exists()
    assert not claim(folder, name, RECORD, what="run")
    (folder / "result").write_text("kept")
    assert claim(folder, name, {**RECORD, "model": {"layers": (0, 1), "name": "a"}}, what="run")
    before = (folder / name).read_bytes()
    other = {**RECORD, "model": {"name": "b", "layers": [0, 1]}, "more": None}
    with pytest.raises(InputError, match=r"holds another run \(it differs in model.name, more\); ask somebody\."):
        claim(folder, name, other, what="run", remedy="ask somebody")
    assert (folder / name).read_bytes() == before
    assert not holds(folder, name, other, what="run", overwrite=True)
    assert (folder / "result").read_text() == "kept"
    assert not claim(folder, name, other, what="run", overwrite=True)
    assert [path.name for path in folder.iterdir()] == [name]
    assert claim(folder, name, other, what="run")


def test_what_holds_something_else_is_not_claimed_even_to_overwrite(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "r.json").write_bytes(b'{"a": \xff')
    for name, match in (("file", "is a file"), ("full", "not empty and holds no run"), ("damaged", "is damaged")):
        with pytest.raises(InputError, match=match):
            claim(tmp_path / name, "r.json", RECORD, what="run", overwrite=name != "damaged")
    assert (tmp_path / "full" / "thesis.tex").read_text() == "years"


def test_a_lock_does_not_make_a_folder_full(tmp_path):
    with owned(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).exists()
        assert not claim(tmp_path / "run", "r.json", RECORD, what="run")
        assert not claim(tmp_path / "run", "r.json", {}, what="run", overwrite=True)
        assert (tmp_path / "run" / LOCK).exists()


def test_differences_are_named_to_the_entry():
    assert differences({"a": {"b": 1, "c": [1]}}, {"a": {"b": 1, "c": [2]}, "d": None}) == ["a.c", "d"]
    assert differences([1], [1]) == []
    assert differences(None, {"a": 1}) == ["everything"]
