"""What the package stands on: pins and hashes that agree, and a dependency that is to do nothing."""

import json
import os
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", flags=re.M)


def pins(text):
    return {canonicalize_name(name): version.strip() for name, version in PIN.findall(text)}


def test_every_pinned_release_has_hashes_and_the_two_lists_of_pins_agree():
    constraints = pins((ROOT / "constraints.txt").read_text())
    entries = re.split(r"^(?=[A-Za-z0-9])", (ROOT / "requirements.lock").read_text(), flags=re.M)[1:]
    locked = {}
    for entry in entries:
        locked |= pins(entry)
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry.splitlines()[0]
    assert {name: locked.get(name) for name in constraints} == constraints


def test_every_dependency_has_a_lower_bound_and_its_pin_lies_above_it():
    constraints = pins((ROOT / "constraints.txt").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in chain(project["dependencies"], *project["optional-dependencies"].values()):
        requirement = Requirement(line)
        assert any(bound.operator == ">=" for bound in requirement.specifier), line
        assert constraints[canonicalize_name(requirement.name)] in requirement.specifier, line


WATCHED = """
import json, sys
seen = []
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.posix_spawn", "os.exec"):
        seen.append((event, str(arguments)))
sys.addaudithook(hook)
import wandb
from inversion.cli import main
code = main(sys.argv[1:])
print(json.dumps({"code": code, "seen": seen, "run": str(wandb.run)}))
"""


def test_wandb_which_a_dependency_brings_does_nothing(checkpoint, tmp_path):
    pytest.importorskip("wandb")
    words = ("cat", "dog", "bird", "cow")
    rows = [{"prompt": f"Spell this word backward (example: sun -> nus): {w}", "answer": w[::-1]} for w in words]
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fields = ["problems=problems.jsonl", "held_out_limit=2", "max_steps=1", "per_device_train_batch_size=2"]
    fields += [f"model={checkpoint(max_position_embeddings=128)}", "num_generations=2", "max_completion_length=6"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment = {**kept, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", WATCHED, "train", "demo", "device=cpu", "out=run", *fields]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["code"], result["run"]) == (0, "None")
    assert not [event for event in result["seen"] if event[0].startswith("socket")]
    assert not [event for event in result["seen"] if "wandb" in event[1]]
    assert (tmp_path / "run" / "model").is_dir()
    assert [path for path in tmp_path.rglob("*wandb*")] == []
