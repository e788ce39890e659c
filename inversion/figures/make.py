"""Make every figure that the given folders allow, or a single one by name."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from inversion.errors import InputError
from inversion.figures.of_entropy import covariance_figure, entropy_curves_figure, law_figure
from inversion.figures.of_lineage import (
    controls_figure,
    finetune_figure,
    layer_curves_figure,
    rl_from_base_figure,
    trajectory_figure,
)
from inversion.figures.of_pretrained import baseline_figure, curve_figure
from inversion.figures.of_pretrained import controls_figure as pretrained_controls_figure
from inversion.figures.of_runs import (
    entropy_strength_figure,
    fingerprint_figure,
    layer_map_figure,
    specification_figure,
)
from inversion.figures.of_training import (
    comparison_figure,
    dose_response_figure,
    supervised_figure,
    training_curves_figure,
    training_layers_figure,
)
from inversion.figures.panels import Drawn
from inversion.figures.sources import Sources, read_sources


@dataclass(frozen=True)
class Recipe:
    """How to make a figure, and what it needs, in words. It makes nothing where the sources lack that."""

    draw: Callable[[Sources], Iterator[Drawn]]
    needs: str


FIGURES: dict[str, Recipe] = {
    "entropy-strength": Recipe(entropy_strength_figure, "a run"),
    "layer-map": Recipe(layer_map_figure, "a run, or layers.csv of a lineage"),
    "fingerprint": Recipe(fingerprint_figure, "a run, or lineage.csv"),
    "finetune-curve": Recipe(finetune_figure, "lineage.csv with the stage finetune"),
    "rl-from-base": Recipe(rl_from_base_figure, "lineage.csv with the stage base_grpo"),
    "trajectory": Recipe(trajectory_figure, "lineage.csv with two of base, finetune and grpo or corrpo"),
    "layer-curves": Recipe(layer_curves_figure, "layers.csv with the stage finetune"),
    "controls": Recipe(controls_figure, "lineage.csv with controls of the stage finetune"),
    "specification-curve": Recipe(specification_figure, "a run, or lineage.csv with the stage finetune"),
    "training-comparison": Recipe(comparison_figure, "comparison.csv of inversion train compare"),
    "training-curves": Recipe(training_curves_figure, "curves.csv of inversion train compare"),
    "training-layers": Recipe(training_layers_figure, "rho-by-layer.csv of inversion train compare"),
    "dose-response": Recipe(dose_response_figure, "comparison.csv of methods that moved rho"),
    "supervised-curve": Recipe(supervised_figure, "supervised.csv of inversion train supervised"),
    "entropy-law": Recipe(law_figure, "entropy.csv of inversion train compare with 8 or more points a curve"),
    "entropy-covariance": Recipe(covariance_figure, "entropy.csv of inversion train compare"),
    "entropy-curves": Recipe(entropy_curves_figure, "entropy.csv of inversion train compare"),
    "pretrained-baseline": Recipe(baseline_figure, "baseline.csv of a study of a pretrained model"),
    "pretrained-curve": Recipe(curve_figure, "finetuning.csv of a study of a pretrained model"),
    "pretrained-controls": Recipe(pretrained_controls_figure, "finetuning.csv of a study of a pretrained model"),
}


def make_figures(
    sources: Sequence[str | Path] | Sources,
    out: str | Path,
    *,
    only: Sequence[str] | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Draw every figure that the sources allow into a folder: NAME.pdf, NAME.png, and NAME.md with the caption.

    Nothing is written before everything has been drawn.

    Args:
        sources: Folders of runs, of a lineage or of a comparison, in any mixture; or what ``read_sources`` returned.
        out: Folder of the figures; made where it is missing.
        only: Names out of ``FIGURES``; all by default.
        tell: Is called with a line for each figure that could not be made, saying what it would need.

    Returns:
        The files, figure by figure.

    Raises:
        InputError: A folder cannot be read, a name is not known, or no figure can be made.
    """
    unknown = [name for name in only or () if name not in FIGURES]
    if unknown:
        raise InputError(f"there is no figure {unknown[0]!r}; choose among {', '.join(FIGURES)}.")
    found = sources if isinstance(sources, Sources) else read_sources(sources)
    drawn = {name: list(FIGURES[name].draw(found)) for name in only or FIGURES}
    missing = [f"{name} (needs {FIGURES[name].needs})" for name, figures in drawn.items() if not figures]
    if len(missing) == len(drawn):
        raise InputError(f"the folders do not allow {'; '.join(missing)}.")
    folder = Path(out).expanduser()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; choose a folder for the figures.")
    folder.mkdir(parents=True, exist_ok=True)
    for line in missing:
        tell(f"not made: {line}")
    return [path for figures in drawn.values() for figure in figures for path in figure.save(folder)]


def script(name: str, description: str, default: Sequence[str] = ("figures/data",)) -> None:
    """Be the command line of a script that makes one figure: folders, and where the figure goes."""
    parser = argparse.ArgumentParser(description=description.strip())
    parser.add_argument("folders", nargs="*", default=list(default), help=f"default: {' '.join(default)}")
    parser.add_argument("--out", default="figures", help="default: figures")
    options = parser.parse_args()
    try:
        paths = make_figures(options.folders, options.out, only=[name])
    except InputError as error:
        parser.error(str(error))
    print(*paths, sep="\n")
