"""Time a CorR-PO step against a GRPO step in one run, and say how well each signal follows the full rho.

    python benchmarks/corrpo_step.py

Every method trains a fresh copy of the model on the same prompts with the same seed. Methods take turns over several
rounds, so that whatever else the machine does hits them alike; a round gives the median over its steps, and the ratio
is that of the best rounds.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from scipy.stats import spearmanr
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from trl.trainer.grpo_trainer import GRPOTrainer

from inversion import load_model
from inversion.corrpo import CorrPOConfig, CorrPOTrainer, Exact, InversionReward, LastLayer
from inversion.corrpo.direct import ENTROPY_FLOOR
from inversion.corrpo.rho import response_rho
from inversion.demo import MODELS, load_problems
from inversion.responses import Generation, generate
from inversion.scoring import scorer_for

METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "GRPO": (GRPOTrainer, {}),
    "CorR-PO, last layer's q and o (default)": (CorrPOTrainer, {}),
    "direct: rho as a term of the loss": (CorrPOTrainer, {"inversion_weight": 0.0, "inversion_loss_weight": 1.0}),
    "CorR-PO, exact, 8 tokens a response": (
        CorrPOTrainer,
        {"inversion_signal": "exact", "inversion_targets": 8},
    ),
    "CorR-PO, exact, all tokens": (CorrPOTrainer, {"inversion_signal": "exact"}),
}
SIGNALS = {
    "last layer's q and o": LastLayer(),
    "last layer's q": LastLayer(("q",)),
    "last layer's o": LastLayer(("o",)),
    "last layer's q, k, v, o": Exact(layers=(-1,)),
    "all layers, 8 tokens": Exact(targets=8),
    "all layers, 16 tokens": Exact(targets=16),
    "all layers, Frobenius": Exact(norm="frobenius"),
}


class StepTimes(TrainerCallback):
    """Collect the seconds of each optimizer step, rollout included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, args, state, control, **_):
        self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        self.seconds.append(time.perf_counter() - self.started)


def right(completions, answer, **_):
    return [scorer_for("tags", a, form_required=True)(text) for a, text in zip(answer, completions, strict=True)]


def build(name: str, options: argparse.Namespace, folder: str) -> tuple[Any, StepTimes]:
    trainer_class, extra = METHODS[name]
    config = CorrPOConfig(
        output_dir=folder,
        per_device_train_batch_size=options.batch,
        num_generations=8,
        max_completion_length=options.tokens,
        # The exact signals take seconds a step: two of them say enough.
        max_steps=1 + (min(options.steps, 2) if "inversion_signal" in extra else options.steps),
        learning_rate=1e-5,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        gradient_checkpointing=options.checkpointing,
        **extra,
    )
    path, times = MODELS.get(options.model, options.model), StepTimes()
    trainer = trainer_class(
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        reward_funcs=[right],
        args=config,
        train_dataset=Dataset.from_list(load_problems()),
        processing_class=AutoTokenizer.from_pretrained(path),
        callbacks=[times],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer, times


def time_steps(options: argparse.Namespace) -> None:
    medians: dict[str, list[float]] = {name: [] for name in list(METHODS)[: 3 if options.only == "default" else None]}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for name in medians:
                trainer, times = build(name, options, folder)
                with contextlib.redirect_stdout(io.StringIO()):
                    trainer.train()
                # The first step warms up: it builds the bridge, among others.
                medians[name].append(statistics.median(times.seconds[1:]))
    print(f"{'seconds a step (median; best of rounds)':45s}  ratio to GRPO")
    base = min(medians["GRPO"])
    for name, values in medians.items():
        print(f"{name:45s} {min(values):8.3f}  {min(values) / base:6.2f}")


def follow(options: argparse.Namespace) -> None:
    """Correlate, over responses, each cheap signal's rho with the rho of everything."""
    bridge = load_model(options.model)
    model: Any = AutoModelForCausalLM.from_pretrained(MODELS.get(options.model, options.model), dtype=torch.float32)
    prompts = [bridge.tokenizer(problem["prompt"])["input_ids"] for problem in load_problems()]
    responses = [ids for ids, _ in generate(bridge, prompts, Generation(1.0, options.tokens), seed=0)]

    def rhos(signal):
        started = time.perf_counter()
        values = InversionReward(signal).measure(model, prompts, responses)
        return np.array([np.nan if v is None else v for v in values]), time.perf_counter() - started

    full, seconds = rhos(Exact())
    kept = np.isfinite(full)
    print(f"\n{options.model}: {kept.sum()} of {len(full)} responses have a rho; mean {full[kept].mean():+.2f}")
    print(f"{'signal':28s} {'mean rho':>9s} {'Spearman with full':>19s} {'seconds':>8s}")
    print(f"{'all layers and projections':28s} {full[kept].mean():+9.2f} {'':>19s} {seconds:8.2f}")
    for name, signal in SIGNALS.items():
        found, seconds = rhos(signal)
        both = kept & np.isfinite(found)
        agreement = spearmanr(full[both], found[both]).statistic
        print(f"{name:28s} {found[both].mean():+9.2f} {agreement:19.2f} {seconds:8.2f}")


def correlations(options: argparse.Namespace) -> None:
    """Say how well correlations that have a gradient follow Spearman's, from response to response."""
    bridge = load_model(options.model)
    model: Any = AutoModelForCausalLM.from_pretrained(MODELS.get(options.model, options.model), dtype=torch.float32)
    prompts = [bridge.tokenizer(problem["prompt"])["input_ids"] for problem in load_problems()]
    responses = [ids for ids, _ in generate(bridge, prompts, Generation(1.0, options.tokens), seed=0)]
    found: dict[str, list[float]] = {"Spearman": [], "Pearson": [], "Pearson on logarithms": []}
    for strength, bits, ids in LastLayer()(model, prompts, responses):
        values = (
            response_rho(strength, bits, ids, min_tokens=8),
            response_rho(strength, bits, ids, "pearson", min_tokens=8),
            response_rho(np.log(strength), np.log(bits + ENTROPY_FLOOR), ids, "pearson", min_tokens=8),
        )
        if None not in values:
            for column, value in zip(found.values(), values, strict=True):
                column.append(value)
    print(f"\n{options.model}, last layer's q and o, {len(found['Spearman'])} responses")
    print(f"{'correlation':24s} {'mean':>6s} {'Spearman with rho':>18s} {'mean distance':>14s}")
    rho = np.array(found["Spearman"])
    for name, column in found.items():
        apart = np.abs(np.array(column) - rho).mean()
        print(f"{name:24s} {np.mean(column):+6.2f} {spearmanr(rho, column).statistic:18.2f} {apart:14.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="slow")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32, help="responses a step")
    parser.add_argument("--tokens", type=int, default=96, help="longest response")
    parser.add_argument(
        "--checkpointing", action="store_true", help="activation checkpointing, as TRL has it by default"
    )
    parser.add_argument(
        "--only", choices=("time", "default", "follow", "correlations"), help="one table; default: the first two rows"
    )
    options = parser.parse_args()
    if options.only == "correlations":
        return correlations(options)
    if options.only != "follow":
        time_steps(options)
    if options.only in (None, "follow"):
        follow(options)


if __name__ == "__main__":
    main()
