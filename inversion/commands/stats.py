"""``inversion stats``."""

from dataclasses import dataclass

from inversion.commands.options import option


@dataclass(frozen=True)
class Stats:
    """Print a run's inversion correlation: uncertainty, controls, layers, segments and how it hangs on choices."""

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
        from inversion.runs import load_run, sampling_note
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
            method=self.method,
            interval=self.interval,
            level=self.level,
            resamples=self.resamples,
            seed=self.seed,
        ):
            print(result, end="\n\n")
