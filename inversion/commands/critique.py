"""``inversion critique``."""

from dataclasses import dataclass

from inversion.commands.options import decimals, option, required
from inversion.errors import InputError


@dataclass(frozen=True)
class Critique:
    """Study how a model recovers from a wrong step that it is made to go on from; one that was interrupted goes on."""

    model: str = required("shipped model (slow is made for this), model folder or hub id")
    out: str = required("folder of the study")
    cases: str = option("demo, or a file with question, ground_truth and search (a trace up to an error)", "demo")
    limit: int | None = option("most problems; of the demo 240 by default", None, type=int)
    scorer: str = option("how thinking and answers of a file are scored", "number", choices=("number", "math"))
    plain: bool = option("of a file: the model has no think tags, so open none and judge whole responses", False)
    layer: int | None = option("layer to steer; by default that of the best classifier", None, type=int)
    alphas: tuple[float, ...] | None = option(
        "coefficients with commas; -1 to 1 by 0.2 by default", None, type=decimals
    )
    random: int = option("random directions that serve as controls of the steering", 2, type=int)
    steered: int = option("most test problems to steer", 60, type=int)
    measured: int = option("most problems whose tokens are measured", 90, type=int)
    max_new_tokens: int = option("longest response", 200, type=int)
    dtype: str = option("float32, float64, bfloat16 or float16", "float32")
    device: str = option("auto, cpu, cuda, ...", "auto")
    seed: int = option("of the problems, the split, the random directions and the resampling", 0, type=int)

    def __call__(self) -> None:
        """Run the command."""
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit is {self.limit}; give at least 1.")
        if self.plain and self.cases == "demo":
            raise InputError("the demo's cases are made for models that think; give a file with --cases.")
        import torch
        from transformers.utils.logging import disable_progress_bar

        from inversion.critique import Settings, read_cases, study
        from inversion.critique.steering import ALPHAS
        from inversion.figures.of_critique import write_page
        from inversion.models import load_model
        from inversion.shipped import MODELS

        settings = Settings(
            max_new_tokens=self.max_new_tokens,
            layer=self.layer,
            alphas=self.alphas or ALPHAS,
            random=self.random,
            steered=self.steered,
            measured=self.measured,
            seed=self.seed,
        )
        disable_progress_bar()
        if self.model in MODELS:
            torch.set_num_threads(1)  # models this small only lose by waiting for a second thread
        model = load_model(self.model, self.device, self.dtype)
        if self.cases == "demo":
            from inversion.critique.mistakes import demo_cases

            cases = demo_cases(self.limit or 240, self.seed)
        else:
            name = str(model.cfg.model_name)
            options = {"limit": self.limit, "scorer": self.scorer, "plain": self.plain, "model": name}
            cases = read_cases(self.cases, model.tokenizer, **options)
        folder = study(model, cases, self.out, settings, source=self.cases)
        print(write_page(folder))
        print(f"{folder} holds the tables, critique.md and the figure critique.pdf; its runs are ordinary ones:")
        print(f"inversion compare {folder / 'runs' / 'original'} {folder / 'runs' / 'injected'}")
