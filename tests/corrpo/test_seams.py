"""Private names of TRL and transformers: each has the arguments that are written down, and stands in one file only."""

import inspect
import re
from pathlib import Path

import pytest
from trl.trainer.grpo_trainer import GRPOTrainer

import inversion
from inversion.corrpo.seams import SIGNATURES, SeamTrainer

ROOT = Path(inversion.__file__).parent


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_private_method_has_the_arguments_that_are_relied_on(name):
    found = [parameter for parameter in inspect.signature(getattr(GRPOTrainer, name)).parameters if parameter != "self"]
    assert found == SIGNATURES[name].split()


def test_every_private_method_that_is_overridden_or_called_is_written_down():
    own = {name for name in vars(SeamTrainer) if re.fullmatch(r"_[a-z]\w+", name) and hasattr(GRPOTrainer, name)}
    source = (ROOT / "corrpo" / "seams.py").read_text(encoding="utf-8")
    called = set(re.findall(r"(?:super\(\)|self|trainer)\.(_[a-z]\w+)\(", source))
    assert own | called == set(SIGNATURES)


def test_private_names_stand_in_one_file():
    # What TRL's base classes keep private and these rooms may name all the same: their own attributes.
    private = {name for cls in GRPOTrainer.__mro__ for name in vars(cls) if re.fullmatch(r"_[a-z]\w+", name)}
    private |= {"_metrics", "_step", "_buffered_inputs", "_logs", "_tokenizer"}
    for path in [*(ROOT / "corrpo").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]:
        if path.name != "seams.py":
            used = set(re.findall(r"\b(?:trainer|self|super\(\))\.(_[a-z]\w+)", path.read_text(encoding="utf-8")))
            assert not used & private, path
