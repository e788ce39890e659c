"""``inversion reproduce``."""

from dataclasses import dataclass

from inversion.commands.options import option
from inversion.commands.train import owning, training


@dataclass(frozen=True)
class Reproduce:
    """Train base, fine-tuned and reinforced models from nothing and measure rho along the way."""

    out: str = option("folder of the lineage", "runs/lineage")
    profile: str = option("small: one seed in minutes; full: three seeds", "small", choices=("small", "full"))
    seeds: int | None = option("train this many seeds instead of the profile's number", None, type=int)
    scale: float = option("multiplies width and training steps, for a GPU", 1.0, type=float)
    device: str = option("of training and measuring; auto takes a GPU if there is one", "auto", choices=("auto", "cpu"))
    wait: bool = option("wait while another process writes to OUT", False)

    def __call__(self) -> None:
        """Run the command."""
        with training():
            from inversion.experiments.lineage import reproduce
        from transformers.utils.logging import disable_progress_bar

        from inversion.experiments.lineage.spec import lineage_spec

        disable_progress_bar()
        spec = lineage_spec(self.profile, self.seeds, self.scale, self.device)
        with owning(self.out, self.wait):
            folder = reproduce(spec, self.out)
        print(f"{folder} is complete; its tables are lineage.csv and layers.csv.")
