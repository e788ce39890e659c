"""``inversion train``: one training run, measured before and after."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from inversion.commands.options import option
from inversion.errors import InputError


@contextmanager
def training() -> Iterator[None]:
    """Say what to install where a package that training needs is missing, and how to go on after an interruption."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("trl", "yaml", "datasets"):
            raise
        raise InputError(
            f"training needs {error.name}, which is not installed; install inversion[tasks,train]."
        ) from error
    except KeyboardInterrupt:
        print("inversion: interrupted; with --resume it goes on from the last checkpoint.", file=sys.stderr)
        raise SystemExit(130) from None


@dataclass(frozen=True)
class Train:
    """Fine-tune a model with CorR-PO or a baseline and measure it before and after; see also train compare."""

    config: str = option("YAML file, or demo for the built-in run")
    overrides: Sequence[str] = option("field=value for any field of the file", nargs="*", metavar="field=value")
    resume: bool = option("go on from the last checkpoint", False)

    def __call__(self) -> None:
        """Run the command."""
        with training():
            from inversion.experiments.finetuning import train
            from inversion.experiments.spec import read_spec

            _quiet()
            folder = train(read_spec(self.config, self.overrides), resume=self.resume)
        print(f"{folder} is complete; see more with: inversion compare {folder}/before {folder}/after")


@dataclass(frozen=True)
class TrainCompare:
    """Fine-tune a model with several methods and seeds, and set them side by side."""

    config: str = option("YAML file, or demo for the built-in comparison")
    overrides: Sequence[str] = option("field=value for any field of the file", nargs="*", metavar="field=value")
    resume: bool = option("go on where the comparison stopped", False)

    def __call__(self) -> None:
        """Run the command."""
        with training():
            from inversion.experiments.comparison import compare_methods, read_compare_spec

            _quiet()
            folder = compare_methods(read_compare_spec(self.config, self.overrides), resume=self.resume)
        print(f"{folder} is complete: comparison.csv, curves.csv, table.md")


def _quiet() -> None:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
