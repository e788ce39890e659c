"""``inversion report``."""

from collections.abc import Sequence
from dataclasses import dataclass

from inversion.commands.options import option, required


@dataclass(frozen=True)
class Report:
    """Write one self-contained HTML page about one or several runs, with a reader for their responses."""

    runs: Sequence[str] = option("folders of runs or of inversion critique", nargs="+", metavar="RUN")
    out: str = required("HTML file to write")
    norm: str = option("nuclear, frobenius, spectral or l1, for summary and figures", "nuclear")
    resamples: int = option("resamples of the responses", 2000, type=int)
    seed: int = option("seed of the resampling", 0, type=int)

    def __call__(self) -> None:
        """Run the command."""
        from inversion.report import write_report

        path = write_report(self.runs, self.out, self.norm, resamples=self.resamples, seed=self.seed)
        print(f"{path} is complete; open it in a browser, it needs no network.")
