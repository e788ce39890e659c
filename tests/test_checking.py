import json
import shutil

import pytest

import inversion
from inversion import InputError
from inversion.checking import inspect_run, read_command
from inversion.cli import main


@pytest.fixture(scope="module")
def command(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checking")
    rows = [{"prompt": f"{a} + 2 =", "answer": str(a + 2)} for a in range(7)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ["--model", checkpoint(), "--prompts", folder / "prompts.jsonl", "--max-new-tokens", 4, "--shard", 3]
    return ["probe", *map(str, arguments)]


@pytest.fixture(scope="module")
def finished(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checked") / "run"
    assert main([*command, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def tables(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".parquet"}


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def test_a_whole_run_is_whole(capsys, run):
    assert main(["check", str(run)]) == 0
    assert "3 of 3 shards are whole, with 7 of 7 responses" in capsys.readouterr().out


def test_every_fault_is_named_and_repaired_to_the_byte(capsys, finished, run):
    flip(run / "tokens-00000.parquet")
    (run / "responses-00001.parquet").write_bytes(b"PAR1")
    (run / "shard-00002.json").unlink()
    assert main(["check", str(run)]) == 2
    printed, told = capsys.readouterr()
    assert "shard 0: tokens-00000.parquet is damaged: its checksum is not" in printed
    assert "shard 1: responses-00001.parquet is damaged: it has 4 bytes instead of" in printed
    assert "missing: 2" in printed
    assert told.startswith("inversion: 2 shards are damaged and 1 are missing")
    assert main(["check", str(run), "--repair"]) == 0
    assert tables(run) == tables(finished)
    assert inspect_run(run).is_whole


def test_a_damaged_record_counts_as_a_damaged_shard(run):
    (run / "shard-00001.json").write_text("{")
    found = inspect_run(run)
    assert list(found.damaged) == [1]
    assert found.whole == (0, 2)
    assert found.responses == 4


def test_repair_needs_the_command_and_does_nothing_without_it(capsys, run):
    flip(run / "tokens-00000.parquet")
    (run / "command.json").unlink()
    before = tables(run)
    assert main(["check", str(run), "--repair"]) == 2
    assert "does not say which command measured it" in capsys.readouterr().err
    assert tables(run) == before


@pytest.mark.parametrize("text", ["{", "[]", '{"modle": 1}', "\x00"])
def test_a_damaged_command_is_one_sentence(capsys, run, text):
    flip(run / "tokens-00000.parquet")
    (run / "command.json").write_text(text)
    assert main(["check", str(run), "--repair"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_runs_folder_cannot_ask_for_foreign_code(run):
    options = json.loads((run / "command.json").read_text())
    (run / "command.json").write_text(json.dumps({**options, "trust_remote_code": True, "out": "/elsewhere"}))
    command = read_command(run)
    assert command["trust_remote_code"] is False
    assert command["out"] == str(run)


def test_a_manifest_of_another_version_is_named(capsys, run):
    manifest = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**manifest, "format": "inversion-run/1"}))
    for command in (["check", run], ["stats", run]):
        assert main([str(part) for part in command]) == 2
        assert "format" in capsys.readouterr().err
    with pytest.raises(InputError, match="format"):
        inversion.load_run(run)


def test_a_changed_manifest_is_put_back_and_no_shard_is_touched(capsys, finished, run):
    manifest = json.loads((run / "run.json").read_text())
    manifest["responses"]["seed"] = 5
    (run / "run.json").write_text(json.dumps(manifest))
    touched = {path.name: path.stat().st_mtime_ns for path in run.glob("*.parquet")}
    assert main(["check", str(run)]) == 2
    printed, told = capsys.readouterr()
    assert "3 of 3 shards are whole" in printed
    assert "run.json was changed" in printed
    assert told.startswith("inversion: run.json was changed; mend it with")
    assert main(["check", str(run), "--repair"]) == 0
    assert (run / "run.json").read_bytes() == (finished / "run.json").read_bytes()
    assert {path.name: path.stat().st_mtime_ns for path in run.glob("*.parquet")} == touched
    assert inspect_run(run).is_whole


def test_a_manifest_that_its_command_does_not_make_again_costs_no_shard(capsys, run):
    command = json.loads((run / "command.json").read_text())
    (run / "command.json").write_text(json.dumps({**command, "seed": 6}))
    flip(run / "tokens-00000.parquet")
    before = tables(run)
    assert main(["check", str(run), "--repair"]) == 2
    assert "holds another run (it differs in" in capsys.readouterr().err
    manifest = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**manifest, "versions": {}}))
    assert main(["check", str(run), "--repair"]) == 2
    assert "nothing was removed" in capsys.readouterr().err
    (run / "command.json").write_text(json.dumps({**command, "model": "no/such/folder"}))
    assert main(["check", str(run), "--repair"]) == 2
    assert tables(run) == before
