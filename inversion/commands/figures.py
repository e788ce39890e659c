"""``inversion figures``."""

from collections.abc import Sequence
from dataclasses import dataclass

from inversion.commands.options import names, option, required


@dataclass(frozen=True)
class Figures:
    """Draw every paper figure that the given folders allow, each as PDF and PNG with a caption."""

    folders: Sequence[str] = option("runs, folders of runs, a lineage, a comparison", nargs="+", metavar="RUNS")
    out: str = required("folder of the figures")
    only: tuple[str, ...] | None = option(
        "some figures, such as layer-map,fingerprint; all by default", None, type=names, metavar="NAMES"
    )
    norm: str = option("nuclear, frobenius or spectral", "nuclear")
    resamples: int = option("resamples of the responses, where statistics are made", 2000, type=int)
    seed: int = option("seed of the resampling", 0, type=int)

    def __call__(self) -> None:
        """Run the command."""
        from inversion.figures import make_figures, read_sources

        sources = read_sources(self.folders, self.norm, resamples=self.resamples, seed=self.seed)
        paths = make_figures(sources, self.out, only=self.only, tell=print)
        print(f"{len(paths) // 3} figures are in {self.out}: {', '.join(p.stem for p in paths[::3])}")
