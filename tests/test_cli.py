import dataclasses
import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import inversion
from inversion.cli import COMMANDS, build_parser, main
from inversion.files import owned


def run(capsys, *arguments):
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"{a} + 2 =", "answer": str(a + 2)} for a in range(6)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_help_loads_nothing_heavy():
    code = (
        "import sys, inversion, inversion.cli\n"
        "try:\n    inversion.cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'numpy', 'xarray', 'scipy', 'transformers'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "[]"
    assert "probe" in printed


def test_probing_and_statistics_from_the_command_line(capsys, checkpoint, prompts, tmp_path):
    out = tmp_path / "run"
    probe = ("probe", "--model", checkpoint(), "--prompts", prompts, "--out", out, "--max-new-tokens", 8)
    code, printed, _ = run(capsys, *probe, "--layers=-1,0", "--norms", "frobenius,spectral")
    assert code == 0
    assert f"inversion stats {out}" in printed
    loaded = inversion.load_run(out)
    assert loaded.layer.values.tolist() == [0, 2]
    assert {"frobenius", "spectral"} <= set(loaded.data_vars)
    code, printed, _ = run(capsys, "stats", out, "--norm", "spectral", "--resamples", 100)
    assert code == 0
    estimate = inversion.correlate(loaded, norm="spectral", resamples=100).estimate
    assert f"{estimate:+.3f}" in printed


def test_comparing_two_runs_pairs_them_by_prompt(capsys, checkpoint, prompts, tmp_path):
    folder = checkpoint()
    for name, more in (("a", ()), ("b", ("--random-weights", "--seed", 1))):
        command = ("probe", "--model", folder, "--prompts", prompts, "--out", tmp_path / name, "--max-new-tokens", 8)
        assert run(capsys, *command, *more)[0] == 0
    code, printed, _ = run(capsys, "compare", tmp_path / "a", tmp_path / "b", "--resamples", 100)
    assert code == 0
    a, b = (inversion.load_run(tmp_path / name) for name in "ab")
    assert f"{inversion.compare(a, b, resamples=100).estimate:+.3f}" in printed
    assert printed.count("paired by prompt") == 2
    code, printed, _ = run(capsys, "stats", tmp_path / "a", "--random-weights", tmp_path / "b", "--resamples", 100)
    assert code == 0
    assert "random weights" in printed


def test_bad_input_exits_with_two_and_one_sentence(capsys, checkpoint, prompts, tmp_path):
    out, folder = tmp_path / "run", checkpoint()
    empty, short = tmp_path / "empty.jsonl", tmp_path / "short.jsonl"
    empty.write_text("")
    short.write_text('{"prompt": "1", "response": "2"}')
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    cases = [
        ("probe", "--model", folder, "--prompts", tmp_path / "none.jsonl", "--out", out),
        ("probe", "--model", folder, "--prompts", empty, "--out", out),
        ("probe", "--model", folder, "--prompts", short, "--out", out),
        ("probe", "--model", tmp_path / "nowhere", "--prompts", prompts, "--out", out),
        ("probe", "--model", folder, "--prompts", "no_such_task", "--out", out),
        ("probe", "--model", folder, "--prompts", prompts, "--out", tmp_path / "full"),
        ("probe", "--model", folder, "--prompts", prompts, "--out", out, "--norms", "trace"),
        ("probe", "--model", folder, "--prompts", prompts, "--out", out, "--layers", "9"),
        ("stats", tmp_path / "nowhere"),
    ]
    for arguments in cases:
        code, printed, error = run(capsys, *arguments)
        assert code == 2, arguments
        assert printed == ""
        assert error.startswith("inversion: "), error
        assert error.strip().count("\n") == 0, error
        assert "Traceback" not in error
        assert not out.exists()


def test_an_unknown_option_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["probe", "--modle", "fast"])
    assert stop.value.code == 2


def test_a_file_of_a_benchmark_is_measured_with_its_columns_and_scorer(capsys, caplog, checkpoint, tmp_path):
    path = tmp_path / "test.jsonl"
    rows = [{"question": f"{a} + 2 =", "answer": f"so {a} + 2 = {a + 2}\n#### {a + 2}", "level": 1} for a in range(3)]
    path.write_text("\n".join(map(json.dumps, rows)))
    probe = ("probe", "--model", checkpoint(), "--prompts", path, "--out", tmp_path / "run", "--max-new-tokens", 8)
    code, _, _ = run(capsys, *probe, "--benchmark", "gsm8k", "--samples", 2, "--limit", 2)
    assert code == 0
    assert [record.getMessage() for record in caplog.records] == [f"{path}: not used: level"]
    responses = inversion.load_responses(tmp_path / "run")
    assert responses.prompt.tolist() == ["0 + 2 ="] * 2 + ["1 + 2 ="] * 2
    assert responses.answer.tolist() == ["2", "2", "3", "3"]
    reading = json.loads((tmp_path / "run" / "run.json").read_text())["responses"]["reading"]
    assert reading == {"benchmark": "gsm8k", "samples": 2, "limit": 2, "seed": 0}


def test_a_chat_model_is_measured_on_conversations_with_examples(capsys, checkpoint, tmp_path):
    folder = checkpoint(max_position_embeddings=512)
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if think %}<t>\n{% endif %}"
    )
    rows = [{"question": f"{a} + 2 =", "answer": f"so\n#### {a + 2}"} for a in range(3)]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "train.jsonl").write_text(json.dumps({"question": "9 + 2 =", "answer": "so\n#### 11"}))
    probe = ("probe", "--model", folder, "--prompts", tmp_path / "test.jsonl", "--out", tmp_path / "run")
    chat = ("--chat", "--system", "Be brief.", "--chat-options", "think=true", "--think-tags", "<t>,</t>")
    shots = ("--benchmark", "gsm8k", "--num-fewshot", 1, "--fewshot-from", tmp_path / "train.jsonl")
    assert run(capsys, *probe, *chat, *shots, "--max-new-tokens", 8, "--template", "{prompt} ?")[0] == 0
    first = inversion.load_responses(tmp_path / "run").loc[0]
    assert first.prompt == "<system>Be brief.<user>9 + 2 = ?<assistant>so\n#### 11<user>0 + 2 = ?<t>\n"
    assert first.question == "0 + 2 ="
    assert set(inversion.load_run(tmp_path / "run").part.values) == {"think"}
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())["responses"]
    assert recorded["system"] == "Be brief."
    assert recorded["options"] == {"think": True}
    assert recorded["think_tags"] == ["<t>", "</t>"]


def test_options_that_contradict_each_other_leave_nothing_behind(capsys, checkpoint, prompts, tmp_path):
    probe = ("probe", "--model", checkpoint(), "--prompts", prompts, "--out", tmp_path / "run")
    for more, match in [
        (("--targets", 0), "targets is 0"),
        (("--samples", 2, "--temperature", 0), "every sample of a prompt is the same"),
        (("--system", "s"), "belong to a chat"),
        (("--chat",), "has no chat template"),
        (("--num-fewshot", 1), "no worked examples"),
        (("--scorer", "number", "--columns", "answer=x"), "no column 'x'"),
    ]:
        code, _, error = run(capsys, *probe, *more)
        assert (code, error.count("\n")) == (2, 1), error
        assert match in error
        assert not (tmp_path / "run").exists()


def test_a_folder_that_another_command_writes_to_is_refused(capsys, checkpoint, prompts, tmp_path):
    out = tmp_path / "out"
    commands = [
        ("probe", "--model", checkpoint(), "--prompts", prompts, "--out", out),
        ("train", "demo", f"out={out}"),
        ("train", "compare", "demo", f"out={out}"),
        ("reproduce", "--out", out),
    ]
    with owned(out):
        for arguments in commands:
            code, _, error = run(capsys, *arguments)
            assert code == 2, arguments
            assert f"{out} is in use by process" in error
            assert error.count("\n") == 1
        assert [path.name for path in out.iterdir() if not path.name.startswith(".")] == []


@pytest.fixture
def failing(monkeypatch):
    """Let ``inversion bench`` raise an error."""

    def arrange(error):
        class Failing:
            """Fail."""

            def __call__(self):
                raise error

        monkeypatch.setitem(COMMANDS, "bench", dataclasses.dataclass(Failing))

    return arrange


def test_an_unforeseen_error_is_one_sentence_with_the_place_of_its_traceback(capsys, failing, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    failing(ZeroDivisionError("by \ud800"))
    code, printed, error = run(capsys, "bench")
    assert (code, printed) == (70, "")
    assert error.strip().count("\n") == 0
    assert "ZeroDivisionError" in error
    (path,) = tmp_path.iterdir()
    assert str(path) in error
    written = path.read_text(encoding="utf-8")
    assert "inversion bench" in written
    assert "Traceback" in written
    assert "by \\ud800" in written


def test_a_traceback_that_cannot_be_written_is_shown(capsys, failing, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    failing(ZeroDivisionError("by 0"))
    code, _, error = run(capsys, "bench")
    assert code == 70
    assert "Traceback" in error
    assert "stands above" in error.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/a"), 2, "runs/a: No space left on device; make room"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 2, "x: Permission denied; make room or choose"),
        (OSError("a model that is not there\nor so"), 70, "OSError"),
        (MemoryError(), 70, "MemoryError"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 0, ""),
        (inversion.InputError("two\nlines"), 2, "inversion: two lines"),
    ],
)
def test_what_becomes_of_errors(capsys, failing, monkeypatch, tmp_path, error, code, says):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    failing(error)
    found, printed, said = run(capsys, "bench")
    assert (found, printed) == (code, "")
    assert says in said
    assert said.count("\n") == (code != 0)
    assert len(list(tmp_path.iterdir())) == (code == 70)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_behind_the_output_is_one_sentence():
    code = "from inversion.guard import guarded; import sys; sys.exit(guarded(lambda: print('x'), []))"
    with open("/dev/full", "w") as full:
        found = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert found.returncode == 2
    assert found.stderr.startswith("inversion: No space left on device")
    assert found.stderr.count("\n") == 1


def test_a_folder_that_cannot_be_made_is_one_sentence(capsys, checkpoint, prompts, tmp_path):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "run"
    code, _, error = run(capsys, "probe", "--model", checkpoint(), "--prompts", prompts, "--out", out)
    assert code == 2
    assert error.splitlines()[-1].startswith("inversion: ")
    assert "Traceback" not in error


def test_signs_that_the_terminal_does_not_know_are_written_as_escapes():
    code = "from inversion.cli import main; import sys; sys.argv = ['inversion', 'stats', 'ρ']; sys.exit(main())"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert found.returncode == 2
    assert "\\u03c1" in found.stderr


def test_stop_texts_keep_their_white_space():
    parsed = build_parser().parse_args(["probe", "--model=m", "--prompts=p", "--out=o", r"--stop=\nQuestion:, So"])
    assert parsed.stop == ("\nQuestion:", " So")
