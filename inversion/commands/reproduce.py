"""``inversion reproduce``."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from inversion.commands.options import names, option, part
from inversion.commands.train import owning, training
from inversion.errors import InputError


@dataclass(frozen=True)
class Reproduce:
    """Ask the claim of models trained from nothing or, with --model, of a pretrained one; what is cut off goes on."""

    overrides: Sequence[str] = option("with --model: field=value for any field of it", nargs="*", metavar="field=value")
    out: str | None = option("folder of the results; runs/lineage, or runs/study with --model, by default", None)
    device: str = option("of training and measuring; auto takes a GPU if there is one", "auto", choices=("auto", "cpu"))
    wait: bool = option("wait while another process writes to OUT", False)

    profile: str = option(
        "small: one seed in minutes; full: three seeds", "small", choices=("small", "full"), heading="from nothing"
    )
    seeds: int | None = option("train this many seeds instead of the profile's number", None, type=int)
    scale: float = option("multiplies width and training steps, for a GPU", 1.0, type=float)

    model: str | None = option("smollm2, a folder or a hub id", None, heading="a pretrained model")
    only: tuple[str, ...] | None = option("some of baseline,finetuning,reinforcement; all by default", None, type=names)
    part: tuple[int, int] | None = option(
        "do every n-th piece only, such as 2/3; all may run at once, into the same OUT", None, type=part
    )
    data: str | None = option("folder with GSM8K and reasoning traces; without it reasoning-gym makes problems", None)
    config: str | None = option("YAML file of the study; by default the one that comes along", None)
    dry_run: bool = option("only say what is left to do and how long it will take", False)

    def __call__(self) -> None:
        """Run the command."""
        lineage = self.model is None
        self._refuse(
            ("overrides", "only", "part", "data", "config", "dry_run") if lineage else ("profile", "seeds", "scale")
        )
        with training():
            from transformers.utils.logging import disable_progress_bar

            disable_progress_bar()
            if lineage:
                self._lineage()
            else:
                self._study()

    def _refuse(self, others: tuple[str, ...]) -> None:
        """Refuse what belongs to the other kind of reproduction: it would have no effect."""
        defaults = {field.name: field.default for field in fields(self)} | {"overrides": []}
        for name in others:
            if getattr(self, name) != defaults[name]:
                given = "field=value" if name == "overrides" else f"--{name.replace('_', '-')}"
                where = "goes with --model" if self.model is None else "does not go with --model"
                raise InputError(f"{given} {where}; leave it out, or see inversion reproduce --help.")

    def _lineage(self) -> None:
        from inversion.experiments.lineage import reproduce
        from inversion.experiments.lineage.spec import lineage_spec

        out = self.out or "runs/lineage"
        spec = lineage_spec(self.profile, self.seeds, self.scale, self.device)
        with owning(out, self.wait):
            folder = reproduce(spec, out)
        print(f"{folder} is complete; its tables are lineage.csv and layers.csv.")

    def _study(self) -> None:
        from pathlib import Path

        from inversion.experiments.pretrained import PARTS, read_study, run_study

        out = self.out or "runs/study"
        overrides = [f"device={self.device}", *self.overrides]
        spec = read_study(str(self.model), self.config, overrides, self.data)
        run_study(spec, Path(out), self.only or PARTS, share=self.part, dry_run=self.dry_run, wait=self.wait)
