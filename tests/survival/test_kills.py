"""Kills at random moments; ``killing.py`` does the work, and does more of it when run by hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killing.py")


def kill(target, kills, checkpoint, tmp_path):
    root = SCRIPT.parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    arguments = [target, "--kills", kills, "--model", checkpoint(max_position_embeddings=128), "--out", tmp_path]
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["kills"] == kills
    return result


def test_a_probe_that_is_killed_loses_nothing_that_was_finished(checkpoint, tmp_path):
    result = kill("probe", 3, checkpoint, tmp_path)
    assert [result[name] for name in ("SIGKILL", "SIGTERM", "SIGINT")] == [1, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["probe", "train", "compare", "reproduce", "survey"])
def test_twenty_kills_of_each_command(checkpoint, tmp_path, target):
    print(kill(target, 20, checkpoint, tmp_path))
