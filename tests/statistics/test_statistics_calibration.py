"""A small version of benchmarks/statistics_calibration.py, and the promise about threads."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location(
    "statistics_calibration", ROOT / "benchmarks" / "statistics_calibration.py"
)
calibration = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = calibration
SPEC.loader.exec_module(calibration)
CASES = {case.name: case for case in calibration.CASES}


def test_simulated_truth_is_the_population_correlation():
    rng = np.random.default_rng(0)
    case = calibration.Case("many", (20_000, 20_000), -0.5, 0.2)
    (run,), truth, _ = calibration.simulate(case, rng)
    found = stats.spearmanr(run.nuclear.values.ravel(), run.entropy_bits.values).statistic
    assert truth == pytest.approx(6 / np.pi * np.arcsin((0.6 * -0.5 + 0.4 * 0.2) / 2))
    assert found == pytest.approx(truth, abs=0.02)


@pytest.mark.parametrize(
    "name", ["no correlation, 30 responses", "strong, 30 responses", "compare paired, 30 responses"]
)
def test_intervals_hold_the_truth_and_token_level_ones_do_not(name):
    sets = 150
    found = calibration.run_case(CASES[name], sets, seed=0, resamples=199)
    # The bounds let a true 95 % pass with probability above 0.999 at this number of data sets.
    low, high = stats.binom.ppf([0.0003, 0.9999], sets, 0.95) / sets
    assert low <= found["signflip"] <= high
    assert found["naive"] < 0.7
    assert found.get("rejected", 0.0) <= stats.binom.ppf(0.9997, sets, 0.05) / sets


THREADS = """
import numpy as np, inversion
from statistics_samples import make_run
run = make_run(k=60, layers=2, mean=60)
assert run.sizes["token"] > 2048
print(inversion.layer_map(run, interval="percentile", resamples=300).to_dict())
for method in ("pearson", "kendall"):
    print(repr(inversion.correlate(run, method=method, interval="bca", resamples=300).to_dict()))
print(repr(inversion.correlate(run, unit="token_type", given=("position",), resamples=300).to_dict()))
"""


def test_results_are_the_same_to_the_last_bit_on_any_number_of_threads():
    outputs = []
    for threads in ("1", "3"):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
        env = os.environ | {name: threads for name in names} | {"PYTHONPATH": path}
        done = subprocess.run([sys.executable, "-c", THREADS], env=env, capture_output=True, text=True, check=True)
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
    assert "estimate" in outputs[0]


def test_statistics_import_no_torch():
    code = "import sys, inversion.statistics; assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
