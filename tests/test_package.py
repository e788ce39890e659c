"""The public face: every name can be reached, and reaching for one loads no more than it needs."""

import subprocess
import sys

import pytest

import inversion


def test_every_public_name_and_submodule_is_there():
    for name in dir(inversion):
        assert getattr(inversion, name) is not None
    assert {"measure_run", "read_problems", "Generation", "experiments", "scoring", "measure"} <= set(dir(inversion))
    assert inversion.measure_run is inversion.measure.measure_run
    with pytest.raises(AttributeError, match="no attribute 'mesure_run'"):
        inversion.mesure_run  # noqa: B018


def test_importing_the_package_and_its_ground_loads_nothing_heavy():
    code = (
        "import sys, inversion\n"
        "dir(inversion), inversion.errors, inversion.shipped, inversion.reference, inversion.scoring, inversion.files\n"
        "inversion.demo.MODELS\n"
        "print(sorted({'torch', 'xarray', 'scipy', 'transformers', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
