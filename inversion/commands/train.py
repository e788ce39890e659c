"""``inversion train``: one training run, measured before and after."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from inversion.commands.options import OnWorkers, option, part
from inversion.errors import InputError


@contextmanager
def training() -> Iterator[None]:
    """Say what to install where a package that training needs is missing, and how to go on after an interruption."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("trl", "pydantic", "datasets"):
            raise
        raise InputError(
            f"training needs {error.name}, which is not installed; install inversion[tasks,train]."
        ) from error
    except KeyboardInterrupt:
        print("inversion: interrupted; with --resume it goes on from the last checkpoint.", file=sys.stderr)
        raise SystemExit(130) from None


@contextmanager
def owning(out: str, wait: bool, part: tuple[int, int] | None = None) -> Iterator[None]:
    """Keep other commands from writing to a folder; of several training processes the first one does so for all."""
    from inversion.files import owned

    if int(os.environ.get("RANK", "0")) == 0:
        with owned(Path(out).expanduser(), wait=wait, part=part):
            yield
    else:
        yield


@dataclass(frozen=True)
class Train(OnWorkers):
    """Fine-tune a model with CorR-PO or a baseline and measure it before and after; see also train compare."""

    config: str = option("YAML file, or demo for the built-in run")
    overrides: Sequence[str] = option("field=value for any field of the file", nargs="*", metavar="field=value")
    resume: bool = option("go on from the last checkpoint", False)
    wait: bool = option("wait while another process writes to out", False)

    def __call__(self) -> None:
        """Run the command."""
        with training():
            from inversion.experiments.finetuning import train
            from inversion.experiments.spec import read_spec

            _quiet()
            spec = read_spec(self.config, self.overrides)
            with owning(spec.out, self.wait):
                folder = train(spec, resume=self.resume, workers=self.replicas())
        print(f"{folder} is complete; see more with: inversion compare {folder}/before {folder}/after")


@dataclass(frozen=True)
class TrainCompare(OnWorkers):
    """Fine-tune a model with several methods and seeds, and set them side by side."""

    config: str = option("YAML file, or demo, rho, forms or entropy for the built-in ones")
    overrides: Sequence[str] = option("field=value for any field of the file", nargs="*", metavar="field=value")
    resume: bool = option("go on where the comparison stopped", False)
    part: tuple[int, int] | None = option(
        "take every n-th seed only, such as 2/3; all parts may run at once, into the same out", None, type=part
    )
    wait: bool = option("wait while another process writes to out", False)

    def __call__(self) -> None:
        """Run the command."""
        with training():
            from inversion.experiments.comparison import compare_methods, read_compare_spec

            _quiet()
            spec = read_compare_spec(self.config, self.overrides)
            with owning(spec.train.out, self.wait, self.part):
                folder = compare_methods(spec, resume=self.resume, workers=self.replicas(), part=self.part)
        print(f"{_of(self.part)}{folder} is complete: comparison.csv, curves.csv, table.md")


@dataclass(frozen=True)
class TrainSupervised:
    """Learn chains of thought with rho steered down, up and not at all, and follow accuracy along the way."""

    config: str = option("YAML file, or demo for the built-in experiment")
    overrides: Sequence[str] = option("field=value for any field of the file", nargs="*", metavar="field=value")
    part: tuple[int, int] | None = option(
        "take every n-th seed only, such as 2/3; all parts may run at once, into the same out", None, type=part
    )
    wait: bool = option("wait while another process writes to out", False)

    def __call__(self) -> None:
        """Run the command."""
        with training():
            from inversion.experiments.supervised import read_supervised_spec, run_supervised

            _quiet()
            spec = read_supervised_spec(self.config, self.overrides)
            with owning(spec.out, self.wait, self.part):
                folder = run_supervised(spec, self.part)
        print(f"{_of(self.part)}{folder} is complete: supervised.csv")


def _of(part: tuple[int, int] | None) -> str:
    return "" if part is None else f"part {part[0]} of {part[1]} of "


def _quiet() -> None:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
