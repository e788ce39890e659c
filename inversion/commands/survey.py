"""``inversion survey``."""

from dataclasses import dataclass
from pathlib import Path

from inversion.commands.options import OnWorkers, option, required
from inversion.errors import InputError


@dataclass(frozen=True)
class Survey(OnWorkers):
    """Measure several models on several benchmarks, and compare them; what was interrupted goes on."""

    config: str = option("YAML file, such as surveys/demo.yaml")
    out: str = required("folder of runs, tables, figure and report")
    dry_run: bool = option("only say what there is to measure and what it will cost", False)
    resamples: int = option("resamples of the responses", 2000, type=int)

    def __call__(self) -> None:
        """Run the command."""
        from transformers.utils.logging import disable_progress_bar

        from inversion.experiments.survey import read_survey, run_survey
        from inversion.experiments.survey_estimate import estimate
        from inversion.files import owned

        disable_progress_bar()
        survey, out = read_survey(self.config), Path(self.out).expanduser()
        print(estimate(survey, out), flush=True)
        if self.dry_run:
            return
        from inversion.experiments.survey_results import write_results

        with owned(out):
            failures = run_survey(survey, out, workers=self.replicas())
            write_results(survey, out, resamples=self.resamples)
        if failures:
            raise InputError(f"{len(failures)} of {len(list(survey.cells()))} runs failed; the first, {failures[0]}")
