"""``inversion compare``."""

import dataclasses
from dataclasses import dataclass

from inversion.commands.options import option


@dataclass(frozen=True)
class Compare:
    """Print the difference between the inversion correlations of two runs, b minus a."""

    run_a: str = option("folder of run a")
    run_b: str = option("folder of run b")
    norm: str = option("nuclear, frobenius, spectral, l1 or logit_space", "nuclear")
    method: str = option("of correlation", "spearman", choices=("spearman", "pearson", "kendall"))
    interval: str = option("kind of interval", "signflip", choices=("signflip", "jackknife", "percentile", "bca"))
    pairing: str = option("of responses by prompt", "auto", choices=("auto", "paired", "independent"))
    level: float = option("of the interval", 0.95, type=float)
    resamples: int = option("resamples of the responses", 2000, type=int)
    seed: int = option("seed of the resampling", 0, type=int)

    def __call__(self) -> None:
        """Run the command."""
        from inversion.runs import load_run
        from inversion.statistics import compare

        options = dataclasses.asdict(self)
        a, b = (load_run(options.pop(name)) for name in ("run_a", "run_b"))
        for unit in ("position", "token_type"):
            print(compare(a, b, unit=unit, **options), end="\n\n")
