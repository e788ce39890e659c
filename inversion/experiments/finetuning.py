"""``inversion train``: a fine-tune from a specification, measured before and after on held-out problems."""

import dataclasses
from collections.abc import Callable, Iterable
from functools import partial
from math import isnan
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import Dataset
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl.rewards.other_rewards import get_soft_overlong_punishment

from inversion.corrpo.baselines import METHODS
from inversion.corrpo.config import CorrPOConfig
from inversion.corrpo.seams import old_names
from inversion.corrpo.sharding import loading_whole, save_in_one_piece
from inversion.corrpo.trainer import CorrPOTrainer
from inversion.demo.tasks import TASKS, Split, mixed_problems
from inversion.engine import Workers
from inversion.errors import InputError
from inversion.experiments.checkpoints import train_on
from inversion.experiments.held_out import HeldOut
from inversion.experiments.rows import cluster_of
from inversion.experiments.spec import DEMO, TrainSpec, flat_fields
from inversion.files import check_resumable, claim, put_table
from inversion.measure import Measurement, measure_run
from inversion.models import context_length, load_checkpoint, load_model, prompt_ids
from inversion.progress import bar
from inversion.responses import Generation, Problem, read_problems, require_texts
from inversion.responses.benchmarks import find_benchmark
from inversion.responses.sources import is_source
from inversion.responses.tasks import TaskScorer
from inversion.runs import load_responses, load_run, mean_entropy
from inversion.scoring import AnswerScorer, Unscorable, accuracy, scorer_for
from inversion.shipped import PROBLEMS
from inversion.statistics import correlate
from inversion.statistics.results import with_interval
from inversion.tables import text_table

RECORD = "train.yaml"
WAIT_SECONDS = 7 * 86400
"""How long training processes wait for the first one, which measures before and after: half an hour is too short."""
TASK_SEEDS = 10**6
"""How far the seeds of a reasoning-gym task lie apart: item i of its seed s is item 0 of s + i."""
SHOWN = {"reward": "reward", "right": "first_reward", "rho": "rho", "tokens": "completions/mean_length"}
TABLE: tuple[str, ...] = ("", "right", "tokens", "bits", "rho, positions", "rho, token types")


def train(spec: TrainSpec, *, resume: bool = False, workers: Workers | None = None) -> Path:
    """Train, measure before and after, print the table; return the folder of the results.

    The folder holds ``train.yaml`` (the specification), ``before`` and ``after`` (runs for ``inversion stats`` and
    ``inversion compare``), ``model`` (in Hugging Face format), ``log.csv`` (what was logged, a row an entry) and
    ``trainer`` (checkpoints and TensorBoard files). Each is written whole or not at all.

    Args:
        spec: What to do.
        resume: Go on from the last whole checkpoint in ``spec.out``; the result equals that of an uninterrupted run.
        workers: Replicas of the model that measure before and after; None for this process.

    Raises:
        InputError: Something cannot be used; nothing has been trained then.
    """
    method_of(spec)
    problems, held_out = training_problems(spec)
    out = _results_folder(spec, resume)
    trainer = build_trainer(spec, problems, out / "trainer")
    if spec.held_out_every:
        generation = Generation(spec.temperature, spec.max_completion_length)
        trainer.add_callback(
            HeldOut(trainer, held_out, spec.held_out_every, spec.held_out_samples, generation, spec.seed)
        )
    # Only now that everything has proved usable: a failed start must not stand in the way of the next.
    main = trainer.accelerator.is_main_process
    if main:
        claim(out, RECORD, flat_fields(spec), what="training run")
        with loading_whole(trainer.args):
            _measure(spec, spec.model, held_out, out / "before", workers)
    trainer.accelerator.wait_for_everyone()
    if not (resume and (out / "model").is_dir()):
        train_on(trainer)
        log = pd.DataFrame(trainer.state.log_history)
        if main:
            put_table(out / "log.csv", log)
        _save(trainer, out / "model")
    if main:
        with loading_whole(trainer.args):
            _measure(spec, str(out / "model"), held_out, out / "after", workers)
        print(before_and_after(out))
    return out


def build_trainer(spec: TrainSpec, problems: list[Problem], folder: Path) -> CorrPOTrainer:
    """Return the trainer that a specification describes, ready to train."""
    method = method_of(spec)
    model, tokenizer = load_checkpoint(spec.model, "cpu")  # The trainer moves it where it belongs.
    if tokenizer is None:
        raise InputError(f"{spec.model} came without a tokenizer; put one beside its weights.")
    # A copy of the modules that shares the weights: what cannot be measured is refused before anything is trained.
    _check_context(spec, load_model(model, tokenizer=tokenizer), problems)
    length = spec.max_completion_length
    rewards: list[Callable] = [_reward(problems)]
    if method.overlong:
        # DAPO starts to punish in the last fifth of the length: 4096 of 20480 tokens.
        rewards.append(get_soft_overlong_punishment(length, max(1, length // 5)))
    with old_names():
        trainer = method.trainer(
            model,
            reward_funcs=rewards,
            args=_config(spec, folder),
            train_dataset=Dataset.from_list([{"prompt": p.prompt, "problem": i} for i, p in enumerate(problems)]),
            processing_class=tokenizer,
        )
    save_in_one_piece(trainer.accelerator)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(_Progress())
    return trainer


def _check_context(spec: TrainSpec, bridge: Any, problems: list[Problem]) -> None:
    """Refuse a prompt beside which a response of full length does not fit into the context."""
    limit = context_length(bridge)
    if limit is None:
        return
    for number, problem in enumerate(problems, 1):
        tokens = len(prompt_ids(bridge.tokenizer, problem.prompt))
        if tokens + spec.max_completion_length > limit:
            raise InputError(
                f"problem {number} has a prompt of {tokens} tokens, which with max_completion_length "
                f"{spec.max_completion_length} exceeds the context of {spec.model}, {limit}; lower "
                "max_completion_length or remove the problem."
            )


def method_of(spec: TrainSpec) -> Any:
    """Return the method of a specification."""
    if spec.method not in METHODS:
        raise InputError(f"method {spec.method!r} is not known; choose among {', '.join(METHODS)}.")
    return METHODS[spec.method]


def training_problems(spec: TrainSpec) -> tuple[list[Problem], list[Problem]]:
    """Return the problems to train on and the held-out ones, each with a scorer; none is both.

    Problems of a reasoning-gym task are held out by a seed of their own, so that all seeds of a comparison share them;
    of a file without ``held_out``, the last ones.

    Raises:
        InputError: They cannot be read, or nothing is left to train on.
    """
    if spec.problems == DEMO:
        # The split by prompt keeps all held-out problems, the shipped ones among them, out of the training stream.
        problems = _demo_problems(spec, "train", spec.limit, spec.seed)
        if spec.task_options and spec.held_out is None:
            held_out = _demo_problems(spec, "held_out", spec.held_out_limit, "held out")
        else:
            held_out = read_problems(str(PROBLEMS) if spec.held_out is None else spec.held_out, spec.held_out_limit)
    elif spec.held_out is not None:
        problems = read_problems(spec.problems, spec.limit, spec.seed, spec.task_options)
        held_out = read_problems(spec.held_out, spec.held_out_limit)
    elif is_source(spec.problems) or find_benchmark(spec.problems):
        both = read_problems(spec.problems, spec.limit + spec.held_out_limit, spec.seed, spec.task_options)
        problems, held_out = both[: -spec.held_out_limit], both[-spec.held_out_limit :]
    else:
        problems = read_problems(spec.problems, spec.limit, spec.seed * TASK_SEEDS, spec.task_options)
        held_out = read_problems(spec.problems, spec.held_out_limit, TASK_SEEDS // 2, spec.task_options)
    if not (left := apart(problems, held_out)):
        raise InputError(
            f"{spec.problems} has no problem that is not held out, {len(held_out)} being so; lower held_out_limit or "
            "give more problems."
        )
    if len(left) < len(problems):
        print(f"{len(problems) - len(left)} of {len(problems)} training problems are left out: they are held out.")
    problems = left
    problems, held_out = require_texts(problems, "training"), require_texts(held_out, "training")
    return _scored(spec, problems), _scored(spec, held_out)


def apart(problems: Iterable[Problem], held_out: Iterable[Problem]) -> list[Problem]:
    """Return the problems that are not held out, by their prompts."""
    prompts = {problem.prompt for problem in held_out}
    return [problem for problem in problems if problem.prompt not in prompts]


def _demo_problems(spec: TrainSpec, split: Split, limit: int, seed: int | str) -> list[Problem]:
    """Draw problems of the demo's tasks, or of those that ``task_options`` names."""
    chosen = spec.task_options.get("tasks", list(TASKS))
    if set(spec.task_options) - {"tasks"} or not isinstance(chosen, list) or not chosen or set(chosen) - set(TASKS):
        raise InputError(
            f"task_options of demo may name tasks among {', '.join(TASKS)}, such as {{tasks: [chain_sum]}}."
        )
    drawn = mixed_problems(split, -(-limit // len(chosen)) * len(TASKS), seed)
    return [Problem(p.prompt, None, p.answer, p.task) for p in drawn if p.task in chosen][:limit]


def before_and_after(out: Path) -> str:
    """Return the table of accuracy, length, entropy and rho before and after, with 95 % intervals."""
    rows: list[tuple[str, ...]] = []
    for name in ("before", "after"):
        run, responses = load_run(out / name), load_responses(out / name)
        cluster = cluster_of(run)
        rhos = [correlate(run, unit=unit, cluster=cluster) for unit in ("position", "token_type")]
        rows.append(
            (
                name,
                str(accuracy(responses.score)),
                f"{responses.n_tokens.mean():.1f}",
                f"{mean_entropy(run):.2f}",
                *map(with_interval, rhos),
            )
        )
    return text_table(TABLE, rows)


class _Progress(ProgressCallback):
    """A bar with a few numbers beside it, where transformers' has a dictionary a line."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.training_bar = bar(total=state.max_steps, desc="train", unit="step")
        self.current_step = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and self.training_bar is not None:
            shown = {label: logs[name] for label, name in SHOWN.items() if (logs or {}).get(name) is not None}  # pyright: ignore
            self.training_bar.set_postfix({label: f"{value:.2f}" for label, value in shown.items()}, refresh=False)


def _results_folder(spec: TrainSpec, resume: bool) -> Path:
    """Return the folder of the results; what is there already must be this very training run, to be resumed."""
    out = Path(spec.out).expanduser()
    remedy = f"go on with {out / RECORD} as it stands, or choose another out"
    check_resumable(out, RECORD, flat_fields(spec), what="training run", remedy=remedy, resume=resume)
    return out


def _config(spec: TrainSpec, folder: Path) -> CorrPOConfig:
    method = method_of(spec)
    values = {
        "output_dir": str(folder),
        "use_cpu": spec.device == "cpu",
        "bf16": False,
        "dataloader_pin_memory": spec.device != "cpu" and torch.cuda.is_available(),
        "report_to": "tensorboard",
        "ddp_timeout": WAIT_SECONDS,
        **method.settings,
        **spec.trainer_fields(),
        "inversion_weight": method.weight_factor * spec.inversion_weight,
    }
    try:
        with old_names():
            config: Any = CorrPOConfig(**values)
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(f"TRL refuses these settings: {str(error).rstrip('.')}; correct them.") from error
    # A rollout's responses are in no checkpoint, so one between its updates could not be resumed exactly.
    updates = config.steps_per_generation * config.num_iterations / config.gradient_accumulation_steps
    if config.save_steps % updates:
        raise InputError(f"save_steps is {config.save_steps}; give a multiple of a rollout's {updates:g} updates.")
    # What is to be logged is in no checkpoint either, and a row stands for all the steps since the last one.
    for name, steps in (("save_steps", config.save_steps), ("held_out_every", spec.held_out_every)):
        if steps % config.logging_steps:
            raise InputError(f"{name} is {steps}; give a multiple of logging_steps, which is {config.logging_steps:g}.")
    return config


def has_own_rules(problem: Problem) -> bool:
    """Whether a problem is scored in a way that its answer alone does not decide, as those of a task are."""
    return isinstance(problem.scorer, TaskScorer) or not isinstance(problem.scorer, AnswerScorer | None)


def _scored(spec: TrainSpec, problems: list[Problem]) -> list[Problem]:
    """Give every problem the scorer that was asked for; a task's own scorer stays."""
    scored = []
    for number, problem in enumerate(problems, 1):
        # A task has its own scorer. A response that lacks the form is wrong here: training is to teach it.
        if spec.scorer == "math" or not has_own_rules(problem):
            scorer = scorer_for(spec.scorer, problem.answer, form_required=True)
            problem = dataclasses.replace(problem, scorer=scorer)
        if problem.scorer is None:
            raise InputError(f"problem {number} has no answer to score responses against; give every row an answer.")
        if isinstance(problem.scorer, Unscorable):
            raise InputError(f"problem {number} cannot be scored: {problem.scorer.reason}; correct or remove it.")
        scored.append(dataclasses.replace(problem, response=None))
    return scored


def _reward(problems: list[Problem]) -> Callable:
    def correct(completions: list[str], problem: list[int], **_: Any) -> list[float | None]:
        # Whether a response was cut makes no difference: without an answer it is wrong here in any case.
        scores = [problems[i].score(text) for i, text in zip(problem, completions, strict=True)]
        # TRL leaves a reward of None out; what cannot be scored teaches nothing.
        return [None if isnan(score) else float(score) for score in scores]

    return correct


def _save(trainer: CorrPOTrainer, folder: Path) -> None:
    """Write the model; all processes take part, since each may hold a shard of it."""
    part = folder.with_name(".model.part")
    trainer.save_model(str(part))
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        part.rename(folder)
    trainer.accelerator.wait_for_everyone()


def _measure(spec: TrainSpec, model: str, problems: list[Problem], folder: Path, workers: Workers | None) -> None:
    measure_run(
        partial(load_model, model, spec.device),
        problems,
        folder,
        source=spec.held_out or spec.problems,
        measurement=Measurement(targets=spec.held_out_targets),
        generation=Generation(spec.temperature, spec.max_completion_length),
        seed=spec.seed,
        workers=workers,
    )
