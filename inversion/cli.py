"""The command line: one small frozen dataclass a command, its fields the options.

Nothing heavy is imported here. A command imports what it needs when it runs, so that ``inversion --help`` is instant.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from inversion import __version__
from inversion.errors import InputError


def option(description: str, default: Any = dataclasses.MISSING, **argparse_options: Any) -> Any:
    """Declare a field: positional if it has no default, else an option; a False default makes it a switch."""
    metadata = {"help": description, **argparse_options}
    return dataclasses.field(default=default, metadata=metadata)


def required(description: str, **argparse_options: Any) -> Any:
    """Declare an option that must be given."""
    return option(description, None, required=True, **argparse_options)


@contextmanager
def training_packages() -> Iterator[None]:
    """Say what to install where an import inside fails for want of the extras that training needs."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("trl", "yaml", "datasets"):
            raise
        raise InputError(
            f"training needs {error.name}, which is not installed; install inversion[tasks,train]."
        ) from error


def names(text: str) -> tuple[str, ...]:
    """Read ``a,b,c``."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def numbers(text: str) -> tuple[int, ...]:
    """Read ``0,3,-1``."""
    return tuple(int(part) for part in names(text))


def settings(text: str) -> dict[str, Any]:
    """Read ``min_terms=2,max_terms=4``; values that are numbers become numbers."""
    pairs = (part.partition("=") for part in names(text))
    return {name: int(value) if value.lstrip("-").isdigit() else value for name, _, value in pairs}


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


@dataclass(frozen=True)
class Probe:
    """Measure a model on prompts and write a run; a run that was interrupted goes on."""

    model: str = required("shipped model (fast, half, slow), model folder or hub id")
    prompts: str = required("JSONL or Parquet file with a prompt column, or a reasoning-gym task")
    out: str = required("folder of the run")
    limit: int | None = option("most problems to use", None, type=int)
    seed: int = option("seed of sampling, of drawn targets and of random weights", 0, type=int)
    norms: tuple[str, ...] = option("comma-separated: nuclear, frobenius, spectral, l1", ("nuclear", "frobenius"))
    layers: tuple[int, ...] | None = option("comma-separated; negative ones count from the end", None, type=numbers)
    projections: tuple[str, ...] = option("comma-separated: q, k, v, o", ("q", "k", "v", "o"))
    quantity: str = option("what is differentiated", "logit", choices=("logit", "log_prob", "entropy"))
    targets: int | None = option("draw this many tokens of each response", None, type=int)
    dtype: str = option("float32, float64, bfloat16 or float16", "float32")
    device: str = option("auto, cpu, cuda, ...", "auto")
    temperature: float = option("of sampling; 0 takes the most probable token", 1.0, type=float)
    max_new_tokens: int = option("longest generated response", 512, type=int)
    task_options: dict[str, Any] | None = option(
        "settings of the task's generator, such as max_terms=4,max_digits=2", None, type=settings
    )
    revision: str | None = option("branch, tag or commit of a hub model", None)
    random_weights: bool = option("keep the architecture, draw new weights: the control model", False)
    trust_remote_code: bool = option("run code that comes with the checkpoint", False)
    overwrite: bool = option("replace another run in OUT", False)

    def __call__(self) -> None:
        """Run the command."""
        from inversion.responses import Generation, read_problems

        problems = read_problems(self.prompts, self.limit, self.seed, self.task_options)
        generation = Generation(self.temperature, self.max_new_tokens)
        from transformers.utils.logging import disable_progress_bar

        from inversion.measure import Measurement, measure_run
        from inversion.models import load_model

        disable_progress_bar()  # of loading weights, which takes no time; downloads still show theirs
        model = load_model(
            self.model,
            self.device,
            self.dtype,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
            random_weights=self.random_weights,
            seed=self.seed,
        )
        folder = measure_run(
            model,
            problems,
            self.out,
            source=self.prompts,
            measurement=Measurement(self.norms, self.layers, self.projections, self.quantity, self.targets),  # pyright: ignore[reportArgumentType]
            generation=generation,
            seed=self.seed,
            overwrite=self.overwrite,
        )
        print(f"{folder} is complete; see it with: inversion stats {folder}")


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
        from inversion.runs import load_run
        from inversion.statistics import overview

        control = None if self.random_weights is None else load_run(self.random_weights)
        for result in overview(
            load_run(self.run),
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


@dataclass(frozen=True)
class Train:
    """Fine-tune a model with CorR-PO or a baseline and measure it before and after; or compare several methods."""

    config: str = option("YAML file, or demo for the built-in run; compare, followed by either, for several methods")
    overrides: Sequence[str] = option("field=value for any field of the file", nargs="*", metavar="field=value")
    resume: bool = option("go on from the last checkpoint", False)

    def __call__(self) -> None:
        """Run the command."""
        with training_packages():
            from inversion.corrpo.comparison import compare_methods, read_compare_spec
            from inversion.corrpo.spec import read_spec
            from inversion.corrpo.training import train
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        try:
            if self.config == "compare":
                if not self.overrides or "=" in self.overrides[0]:
                    raise InputError("name the comparison: inversion train compare FILE, or demo for FILE.")
                spec = read_compare_spec(self.overrides[0], self.overrides[1:])
                folder = compare_methods(spec, resume=self.resume)
                print(f"{folder} is complete: comparison.csv, curves.csv, table.md")
                return
            folder = train(read_spec(self.config, self.overrides), resume=self.resume)
        except KeyboardInterrupt:
            print("inversion: interrupted; with --resume it goes on from the last checkpoint.", file=sys.stderr)
            raise SystemExit(130) from None
        print(f"{folder} is complete; see more with: inversion compare {folder}/before {folder}/after")


@dataclass(frozen=True)
class Reproduce:
    """Train base, fine-tuned and reinforced models from nothing and measure rho along the way."""

    out: str = option("folder of the lineage", "runs/lineage")
    profile: str = option("small: one seed in minutes; full: three seeds", "small", choices=("small", "full"))
    seeds: int | None = option("train this many seeds instead of the profile's number", None, type=int)
    scale: float = option("multiplies width and training steps, for a GPU", 1.0, type=float)
    device: str = option("of training and measuring; auto takes a GPU if there is one", "auto", choices=("auto", "cpu"))

    def __call__(self) -> None:
        """Run the command."""
        with training_packages():
            from inversion.lineage import reproduce
        from transformers.utils.logging import disable_progress_bar

        from inversion.lineage.settings import settings_for

        disable_progress_bar()
        folder = reproduce(settings_for(self.profile, self.seeds, self.scale, self.device), self.out)
        print(f"{folder} is complete; its tables are lineage.csv and layers.csv.")


@dataclass(frozen=True)
class Figures:
    """Draw every paper figure that the given folders allow, each as PDF and PNG with a caption."""

    folders: Sequence[str] = option("runs, folders of runs, a lineage, a comparison", nargs="+", metavar="RUNS")
    out: str = required("folder of the figures")
    norm: str = option("nuclear, frobenius or spectral", "nuclear")
    resamples: int = option("resamples of the responses, where statistics are made", 2000, type=int)
    seed: int = option("seed of the resampling", 0, type=int)

    def __call__(self) -> None:
        """Run the command."""
        from inversion.figures import make_figures, read_sources

        sources = read_sources(self.folders, self.norm, resamples=self.resamples, seed=self.seed)
        paths = make_figures(sources, self.out, tell=print)
        print(f"{len(paths) // 3} figures are in {self.out}: {', '.join(p.stem for p in paths[::3])}")


@dataclass(frozen=True)
class Report:
    """Write one self-contained HTML page about one or several runs, with a reader for their responses."""

    runs: Sequence[str] = option("folders of runs", nargs="+", metavar="RUN")
    out: str = required("HTML file to write")
    norm: str = option("nuclear, frobenius, spectral or l1, for summary and figures", "nuclear")
    resamples: int = option("resamples of the responses", 2000, type=int)
    seed: int = option("seed of the resampling", 0, type=int)

    def __call__(self) -> None:
        """Run the command."""
        from inversion.report import write_report

        path = write_report(self.runs, self.out, self.norm, resamples=self.resamples, seed=self.seed)
        print(f"{path} is complete; open it in a browser, it needs no network.")


@dataclass(frozen=True)
class Bench:
    """Time the probe against the plain loop and against the fewest operations the exact answer needs."""

    shapes: tuple[str, ...] = option("comma-separated beginnings of shape names; all by default", ())
    device: str = option("cpu or cuda", "cpu")
    sample: int = option("tokens that the plain loop is timed on", 4, type=int)
    repeats: int = option("timings of the probe, of which the best counts", 3, type=int)

    def __call__(self) -> None:
        """Run the command."""
        from tqdm import tqdm

        from inversion.bench import SHAPES, table, time_shape

        chosen = [s for s in SHAPES if not self.shapes or s.name.startswith(self.shapes)]
        if not chosen or self.sample < 1 or self.repeats < 1:
            known = "; ".join(shape.name for shape in SHAPES)
            raise InputError(f"nothing to time; choose among {known}, with a sample and repeats of 1 or more.")
        bar = tqdm(chosen, unit="shape")
        print(table([time_shape(shape, self.device, self.sample, self.repeats) for shape in bar], self.device))


COMMANDS: dict[str, type] = {
    "demo": Demo,
    "probe": Probe,
    "stats": Stats,
    "compare": Compare,
    "train": Train,
    "reproduce": Reproduce,
    "figures": Figures,
    "report": Report,
    "bench": Bench,
}


def build_parser() -> argparse.ArgumentParser:
    """Turn the command classes into a parser."""
    parser = argparse.ArgumentParser(
        "inversion", description="Measure the entropy-gradient inversion of causal language models."
    )
    parser.add_argument("--version", action="version", version=f"inversion {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        summary = (command.__doc__ or "").splitlines()[0]
        sub = commands.add_parser(name, help=summary, description=summary)
        for field in dataclasses.fields(command):
            _add_argument(sub, field)
    return parser


def _add_argument(parser: argparse.ArgumentParser, field: dataclasses.Field) -> None:
    options = dict(field.metadata)
    if field.default is dataclasses.MISSING:
        parser.add_argument(field.name, **options)
        return
    flag = "--" + field.name.replace("_", "-")
    if field.default is False:
        parser.add_argument(flag, action="store_true", **options)
        return
    if isinstance(field.default, tuple):
        options.setdefault("type", names)
    if field.default is not None:
        shown = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        options["help"] += f" (default: {shown})"
    options.setdefault("metavar", None if "choices" in options else field.name.rpartition("_")[2].upper())
    parser.add_argument(flag, default=field.default, **options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for input that cannot be used, 130 when interrupted."""
    parsed = vars(build_parser().parse_args(arguments))
    command = COMMANDS[parsed.pop("command")]
    try:
        command(**parsed)()
    except InputError as error:
        print(f"inversion: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader, such as head, has seen enough; without this Python complains once more as it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("inversion: interrupted; the same command goes on where it stopped.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
