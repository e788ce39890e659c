"""``inversion demo``."""

from dataclasses import dataclass

from inversion.commands.options import option


@dataclass(frozen=True)
class Demo:
    """Measure both shipped models on 64 held-out problems and compare them."""

    out: str = option("folder for runs and figures", "runs/demo")
    overwrite: bool = option("measure again instead of reusing the runs", False)
    seed: int = option("seed of the sampled responses", 0, type=int)

    def __call__(self) -> None:
        """Run the command."""
        import torch
        from transformers.utils.logging import disable_progress_bar

        from inversion.demo.tour import tour

        disable_progress_bar()
        torch.set_num_threads(1)  # models this small only lose by waiting for a second thread
        tour(self.out, overwrite=self.overwrite, seed=self.seed)
