import pytest
from tiny import tiny_model, token_ids

import inversion
from inversion.cli import main
from inversion.measure import Measurement, measure_run
from inversion.probes.estimate import Speed, estimate_bytes_per_token, measure_speed, spread_lengths
from inversion.probes.pace import Pace
from inversion.responses import Problem


def test_targets_are_spread_to_the_end():
    assert spread_lengths(100, 4) == [25, 50, 75, 100]
    assert spread_lengths(5, None) == spread_lengths(5, 9) == [1, 2, 3, 4, 5]


def test_time_is_passes_and_targets_at_their_lengths():
    pace = Pace(inversion.load_model(tiny_model("llama")), block=1)
    speed = Speed(100, once=(5.0, 2.5), record=(1.0, 0.5), target=(4.0, 1.0), blocks=3)
    # Linear and quadratic in the length, through both measurements.
    assert speed.seconds(pace, 100, 1) == pytest.approx(5 + 3 * (1 + 4))
    assert speed.seconds(pace, 200, 2) == pytest.approx(10 + 3 * (2 + 16 + 1 + 4))


@pytest.mark.parametrize("layers", [1, 3])
def test_speed_is_measured_on_models_of_any_depth(layers):
    overrides = {"num_hidden_layers": layers}
    bridge = inversion.load_model(tiny_model("llama", **overrides))
    speed = measure_speed(bridge, 40, ("nuclear",), list(range(layers)), "qkvo")
    assert speed.blocks == layers - 1
    assert speed.seconds(Pace(bridge), 40, None) > 0


def test_disk_space_is_that_of_a_run(tmp_path):
    bridge = inversion.load_model("fast")
    problems = [Problem(prompt="12+3=", response_token_ids=token_ids(400, seed, 30)) for seed in range(2)]
    folder = measure_run(bridge, problems, tmp_path / "run", measurement=Measurement(targets=200))
    size = sum(path.stat().st_size for path in folder.glob("tokens-*.parquet"))
    estimated = 400 * estimate_bytes_per_token(("nuclear", "frobenius"), range(len(bridge.blocks)), "qkvo")
    assert size / 1.5 < estimated < 1.5 * size


def test_a_dry_run_prints_choices_and_writes_nothing(capsys, tmp_path):
    arguments = ["probe", "--model", "fast", "--prompts", "demo", "--limit", "2", "--max-new-tokens", "100"]
    assert main([*arguments, "--targets", "8", "--out", str(tmp_path / "run"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    choices = [line.split()[:2] for line in printed.splitlines()[2:10]]
    assert choices == [
        [n, d] for d in ("float32", "bfloat16") for n in ("8*" if d == "float32" else "8", "all", "64", "16")
    ]
    assert "2 responses would have to be written first" in printed
    assert not (tmp_path / "run").exists()
