"""``inversion bench``."""

from dataclasses import dataclass

from inversion.commands.options import option
from inversion.errors import InputError


@dataclass(frozen=True)
class Bench:
    """Time the probe against the plain loop and against the fewest operations the exact answer needs."""

    shapes: tuple[str, ...] = option("comma-separated beginnings of shape names; all by default", ())
    device: str = option("cpu or cuda", "cpu")
    sample: int = option("tokens that the plain loop is timed on", 4, type=int)
    repeats: int = option("timings of the probe, of which the best counts", 3, type=int)

    gpu: bool = option("measure a 7B model's shape and the norms on this machine's GPU instead", False)

    def __call__(self) -> None:
        """Run the command."""
        from inversion.bench import SHAPES, gpu_report, table, time_shape
        from inversion.progress import bar

        if self.gpu:
            import torch

            if not torch.cuda.is_available():
                raise InputError("torch finds no GPU here; run it on a machine with one, or leave --gpu out.")
            print(gpu_report("cuda"))
            return
        chosen = [s for s in SHAPES if not self.shapes or s.name.startswith(self.shapes)]
        if not chosen or self.sample < 1 or self.repeats < 1:
            known = "; ".join(shape.name for shape in SHAPES)
            raise InputError(f"nothing to time; choose among {known}, with a sample and repeats of 1 or more.")
        timed = [time_shape(shape, self.device, self.sample, self.repeats) for shape in bar(chosen, unit="shape")]
        print(table(timed, self.device))
