import functools
import os
import signal
import sys
from pathlib import Path

import pytest

import inversion
from inversion import InputError, measure
from inversion.engine import Workers
from inversion.measure import measure_run
from inversion.responses import Generation, Problem

PROBLEMS = [Problem(f"{a} + {b} =", scorer=lambda text: float(len(text))) for a in range(1, 5) for b in range(1, 6)]
OPTIONS = {"generation": Generation(max_new_tokens=5), "batch": 4, "shard": 3}

ray = pytest.importorskip("ray")
# Workers cannot import tests.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def load(folder):
    return inversion.load_model(folder)


def load_and_die(folder, died: Path):
    """Load a model; the first worker to measure its third response is killed in the middle of it."""
    original, calls = measure.probe, []

    def probe(*arguments, **options):
        calls.append(1)
        if len(calls) == 3 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    measure.probe = probe
    return inversion.load_model(folder)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_two_workers_of_which_one_is_killed_make_the_run_of_one_process(checkpoint, tmp_path, capfd):
    folder = checkpoint()
    alone = measure_run(inversion.load_model(folder), PROBLEMS, tmp_path / "alone", **OPTIONS)
    capfd.readouterr()
    together = measure_run(
        functools.partial(load_and_die, folder, tmp_path / "died"),
        PROBLEMS,
        tmp_path / "together",
        workers=Workers(2, threads=1, gpus=0),
        **OPTIONS,
    )
    assert (tmp_path / "died").exists()
    assert contents(together) == contents(alone)
    printed, told = capfd.readouterr()
    assert all(line.startswith("(raylet)") for line in printed.splitlines())  # Ray's own account of the death
    assert "together: a worker died; what it was at is done again\n" in told
    assert [line for line in told.splitlines() if not line.startswith("together: ")] == []
    with pytest.raises(InputError, match="there is no model folder"):
        measure_run(
            functools.partial(load, str(tmp_path / "nowhere" / "model")),
            PROBLEMS,
            tmp_path / "none",
            workers=Workers(1, threads=1, gpus=0),
        )
    assert not (tmp_path / "none").exists()


def test_workers_want_a_way_to_load_the_model(checkpoint, tmp_path):
    with pytest.raises(InputError, match="workers load the model for themselves"):
        measure_run(inversion.load_model(checkpoint()), PROBLEMS, tmp_path / "run", workers=Workers(2))


def test_without_ray_workers_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"install inversion\[cluster\]"):
        measure_run(functools.partial(load, "fast"), PROBLEMS, tmp_path / "run", workers=Workers(2))


def test_a_ray_that_does_not_start_in_time_is_one_sentence_and_its_other_errors_stay(tmp_path, monkeypatch):
    def init(**_):
        raise Exception(words)

    monkeypatch.setattr(ray, "init", init)
    words = "The current node timed out during startup. This could happen because ..."
    with pytest.raises(InputError, match="too busy; try again"):
        measure_run(functools.partial(load, "fast"), PROBLEMS, tmp_path / "run", workers=Workers(2))
    words = "something else"
    with pytest.raises(Exception, match="something else"):
        measure_run(functools.partial(load, "fast"), PROBLEMS, tmp_path / "run", workers=Workers(2))


@pytest.mark.parametrize("options", [{"count": 0}, {"count": 1, "gpus": -1}, {"count": 1, "threads": 0}])
def test_workers_that_cannot_be(options):
    with pytest.raises(InputError, match="give"):
        Workers(**options)
