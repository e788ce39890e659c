"""Run as a process of its own: kill a command at random moments, let it go on, and compare with an undisturbed one.

    python tests/survival/killing.py TARGET --kills 100 --model FOLDER --out FOLDER

A fork of this process does the work, so that a hundred kills do not import torch a hundred times; this process itself
never works. Each trial has a folder of its own with the same relative paths, is killed up to three times at moments
drawn uniformly from the time that an undisturbed one takes, and then ends undisturbed. The last line is a JSON object.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import torch

from inversion import measure
from inversion.cli import main
from inversion.experiments import comparison, finetuning, survey_estimate, survey_results
from inversion.experiments.lineage import laboratory, spec

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SHARDS = ("tokens-*.parquet", "responses-*.parquet", "shard-*.json", "run.json")
KEPT = (*SHARDS, "cells/*.json", "model.safetensors", "lineage.csv", "survey.csv", "pairs.csv")
"""What must not change once it stands, and is equal in the end."""
GROWING = ("run/lineage.csv",)
"""Of these what is put together from all parts so far, so that it is equal in the end only."""
MODULES = (measure, comparison, finetuning, laboratory, survey_estimate, survey_results)
"""Imported before the forks."""


def _sums():
    rows = [json.dumps({"prompt": f"{a} + {b} =", "answer": str(a + b)}) for a in range(4) for b in range(6)]
    Path("prompts.jsonl").write_text("\n".join(rows))


def probe(model, resume):
    _sums()
    options = ["--max-new-tokens", "8", "--shard", "3", "--batch", "4", "--out", "run"]
    return main(["probe", "--model", model, "--prompts", "prompts.jsonl", *options])


def _problems():
    words = ("cat", "dog", "bird", "horse", "cow", "sheep", "goose", "hen")
    rows = [{"prompt": f"Spell this word backward (example: sun -> nus): {w}", "answer": w[::-1]} for w in words]
    Path("problems.jsonl").write_text("\n".join(map(json.dumps, rows)))


def _training(model):
    _problems()
    fields = {
        "model": model,
        "problems": "problems.jsonl",
        "held_out_limit": 4,
        "device": "cpu",
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "num_generations": 2,
        "max_completion_length": 6,
        "save_steps": 2,
    }
    return [f"{name}={value}" for name, value in fields.items()]


def train(model, resume):
    # A run that was killed before it said what it is starts anew.
    more = ["--resume"] if resume and Path("run/train.yaml").is_file() else []
    return main(["train", "demo", *_training(model), "out=run", *more])


def compare(model, resume):
    more = ["--resume"] if resume and Path("run/compare.yaml").is_file() else []
    settings = ["methods={grpo: 1, corrpo: 1}", "samples=2", "pass_k=[1]"]
    return main(["train", "compare", "demo", *_training(model), *settings, "out=run", *more])


def reproduce(model, resume):
    laboratory.make_figures = lambda *_: None  # drawn last, from tables that are compared here
    sizes = {"seeds": 1, "base_steps": 8, "finetune_steps": 8, "rl_steps": 4, "batch_size": 4, "prompts": 1}
    sizes |= {"generations": 2, "problems": 3, "max_new_tokens": 12, "temperatures": (0.5,), "width": 64, "layers": 1}
    spec.lineage_spec = lambda *_: laboratory.LineageSpec(**sizes)
    return main(["reproduce", "--out", "run", "--device", "cpu"])


def survey(model, resume):
    _sums()
    models = {"base": {"model": model, "kind": "base"}, "random": {"model": model, "random_weights": True}}
    settings = {
        "models": {name: {"family": "tiny", **fields} for name, fields in models.items()},
        "benchmarks": {"sums": {"prompts": "prompts.jsonl"}, "few": {"prompts": "prompts.jsonl", "limit": 5}},
        "measurements": {"short": {"max_new_tokens": 8}},
    }
    Path("survey.yaml").write_text(json.dumps(settings))  # JSON is YAML
    return main(["survey", "survey.yaml", "--out", "run", "--resamples", "50"])


TARGETS = {"probe": probe, "train": train, "compare": compare, "reproduce": reproduce, "survey": survey}


def start(target, model, folder, resume):
    """Fork a process that works in ``folder``; return its number."""
    folder.mkdir(parents=True, exist_ok=True)
    number = os.fork()
    if number:
        return number
    code = 99
    try:
        os.chdir(folder)
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        code = TARGETS[target](model, resume)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 98
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def ends(number):
    """Wait for a process; return how it ended, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def finished(folder):
    """Return what counts as finished: of shards, those with a record."""
    found = {}
    for pattern in KEPT:
        for path in folder.rglob(pattern):
            shard = path.stem.partition("-")[2]
            is_table = path.suffix == ".parquet"
            in_trainer = "trainer" in path.parts or any(part.startswith(".") for part in path.relative_to(folder).parts)
            if not in_trainer and (not is_table or (path.parent / f"shard-{shard}.json").exists()):
                found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def leftovers(folder):
    """Name what a killed process leaves and the next one must clear: locks, and files that were being written."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*")]


def run(target, kills, model, out, seed):
    chance, tally, trial = random.Random(seed), Counter(), 0
    begin = time.monotonic()
    assert ends(start(target, model, out / "whole", False)) == 0, (out / "whole" / "log.txt").read_text()
    duration = time.monotonic() - begin
    whole = finished(out / "whole")
    assert whole, "the undisturbed run left nothing"
    while tally["kills"] < kills:
        folder, trial = out / f"trial-{trial}", trial + 1
        for attempt in range(chance.randint(1, 3)):
            if tally["kills"] == kills:
                break
            number = start(target, model, folder, attempt > 0)
            time.sleep(chance.uniform(0, duration))
            how = SIGNALS[tally["kills"] % len(SIGNALS)]
            os.kill(number, how)
            code = ends(number)
            if code == 0:
                tally["too late"] += 1
                break
            # A command that has asked to be told says so; before that the signal itself ends it.
            assert code in (-how, 128 + how), (code, (folder / "log.txt").read_text())
            tally["kills"] += 1
            tally[how.name] += 1
            standing = {name: content for name, content in finished(folder).items() if name not in GROWING}
            for name, content in standing.items():
                assert whole[name] == content, f"{folder / name} differs after {how.name}"
                tally["files checked after a kill"] += 1
        assert ends(start(target, model, folder, True)) == 0, (folder / "log.txt").read_text()
        there = finished(folder)
        differing = [name for name in whole if there.get(name) != whole[name]]
        assert not differing, f"{folder} ends otherwise in {differing}"
        assert set(there) == set(whole)
        assert leftovers(folder) == []
        shutil.rmtree(folder)
    return {"target": target, "trials": trial, "seconds undisturbed": round(duration, 2), **tally, "lost": 0}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(run(given.target, given.kills, given.model, given.out.resolve(), given.seed)))
