"""``inversion stats``."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inversion.commands.options import option

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Stats:
    """Print a run's inversion correlation: uncertainty, controls, layers, segments and how it depends on choices."""

    run: str = option("folder of the run")
    random_weights: str | None = option("a run of the same model with random weights, as a control", None)
    norm: str = option("nuclear, frobenius, spectral, l1 or logit_space", "nuclear")
    method: str = option("of correlation", "spearman", choices=("spearman", "pearson", "kendall"))
    interval: str = option("kind of interval", "signflip", choices=("signflip", "jackknife", "percentile", "bca"))
    level: float = option("of the intervals", 0.95, type=float)
    resamples: int = option("resamples of the responses", 2000, type=int)
    seed: int = option("seed of the resampling", 0, type=int)
    width: float = option("width of interval to plan for", 0.1, type=float)

    def __call__(self) -> None:
        """Run the command."""
        from inversion.runs import load_run
        from inversion.statistics import overview

        control = None if self.random_weights is None else load_run(self.random_weights)
        run = load_run(self.run)
        note = sampling_note(run)
        if note:
            print(note, end="\n\n")
        for result in overview(
            run,
            control,
            self.norm,
            self.width,
            method=self.method,  # pyright: ignore[reportArgumentType]
            interval=self.interval,  # pyright: ignore[reportArgumentType]
            level=self.level,
            resamples=self.resamples,
            seed=self.seed,
        ):
            print(result, end="\n\n")


def sampling_note(run: "xr.Dataset") -> str:
    """Say which entropy is which where a run's tokens were not drawn from softmax(z); empty where they were."""
    import numpy as np

    if "sampled_entropy_bits" not in run or not np.isfinite(run["sampled_entropy_bits"]).any():
        return ""
    settings = run.attrs["responses"]
    changed = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    how = ", ".join(f"{name} {settings[name]}" for name, plain in changed.items() if settings[name] != plain)
    means = {name: float(np.nanmean(run[name])) for name in ("entropy_bits", "sampled_entropy_bits")}
    return (
        f"Tokens were sampled with {how}. entropy_bits, which the correlations below use, is that of softmax(z), the "
        f"model's own distribution (mean {means['entropy_bits']:.3g}); that of the distribution sampled from is "
        f"sampled_entropy_bits (mean {means['sampled_entropy_bits']:.3g})."
    )
