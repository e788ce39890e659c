"""Train the stages of a lineage and keep their checkpoints; killed at any point, a stage goes on where it was.

A model that is scaled up keeps heads of 32 and four layers. Its learning rates are divided by the factor of its width,
and its initial weights by that factor's root, as width-independent parametrisations have it (Tensor Programs V, arXiv
2203.03466). Neither has been tuned.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from inversion.demo.recipe import FAST, SLOW, Training, backward, build_model, build_optimizer, train
from inversion.demo.tokenizer import build_tokenizer
from inversion.experiments.checkpoints import train_on
from inversion.experiments.finetuning import build_trainer, training_problems
from inversion.experiments.lineage.spec import HEAD_WIDTH, RL_STAGES, STYLES, LineageSpec, step_folder
from inversion.experiments.spec import TrainSpec
from inversion.files import put

DEMO_WIDTH, DEMO_LAYERS = 128, 4
STATE = "state.pt"
SAVE_EVERY = 100
"""Supervised steps after which the state for resuming is written, beside the kept checkpoints."""
RL_LEARNING_RATE = 2e-4


def random_model(spec: LineageSpec, seed: int) -> LlamaForCausalLM:
    """Return the untrained model: the demo's, widened if the specification says so."""
    model = build_model(seed, spec.device)
    if (spec.width, spec.layers) == (DEMO_WIDTH, DEMO_LAYERS):
        return model
    heads, factor = spec.width // HEAD_WIDTH, spec.width / DEMO_WIDTH
    sizes = {
        "hidden_size": spec.width,
        "intermediate_size": spec.width * 11 // 4,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "head_dim": HEAD_WIDTH,
        "initializer_range": model.config.initializer_range / factor**0.5,
    }
    config = LlamaConfig.from_dict({**model.config.to_dict(), **sizes})
    config._attn_implementation = model.config._attn_implementation
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wide = LlamaForCausalLM(config)
    wide.generation_config = model.generation_config
    return wide.to(torch.device(spec.device))  # pyright: ignore[reportArgumentType]


def load(folder: Path, spec: LineageSpec) -> LlamaForCausalLM:
    """Load a kept model, to be trained further or probed."""
    # On a CPU and at these lengths plain attention is faster than the fused kernel.
    attention = "eager" if spec.device == "cpu" else "sdpa"
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)
    return model.to(torch.device(spec.device))  # pyright: ignore[reportArgumentType]


def train_stage(stage: str, spec: LineageSpec, seed: int, folder: Path, start: Path | None) -> None:
    """Train a stage from the model in ``start``, none for random weights; keep ``step-*/model`` in ``folder``.

    A stage that is complete is left as it is.
    """
    steps = spec.steps(stage)
    if not (step_folder(folder, steps[-1]) / "model").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        if stage in RL_STAGES:
            _reinforce(RL_STAGES[stage], spec, seed, folder, cast(Path, start), steps)
        else:
            model = random_model(spec, seed) if start is None else load(start, spec)
            supervise(model, _training(stage, spec, seed), folder, steps)
    # What resuming needed.
    (folder / STATE).unlink(missing_ok=True)
    shutil.rmtree(folder / "trainer", ignore_errors=True)


def _training(stage: str, spec: LineageSpec, seed: int) -> Training:
    recipe = FAST if STYLES[stage] == "direct" else SLOW
    return replace(
        recipe,
        steps=spec.steps(stage)[-1],
        batch_size=spec.batch_size,
        learning_rate=recipe.learning_rate * DEMO_WIDTH / spec.width,
        seed=seed,
        precision=spec.precision,
    )


def supervise(
    model: LlamaForCausalLM, training: Training, folder: Path, steps: tuple[int, ...], backward: Any = backward
) -> None:
    """Train a model on worked responses; keep it at ``steps``, and what resuming needs beside it."""
    optimizer = build_optimizer(model, training)
    state, done = folder / STATE, 0
    if state.is_file():
        saved = torch.load(state, map_location=model.device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        done = saved["step"]
    else:
        _keep(model, folder, 0)

    def on_step(step: int, loss: float) -> None:
        if step in steps:
            _keep(model, folder, step)
        if step in steps or step % SAVE_EVERY == 0:
            content = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
            put(state, lambda path: torch.save(content, path))

    train(model, build_tokenizer(), training, on_step, optimizer, done, backward)


def _reinforce(method: str, spec: LineageSpec, seed: int, folder: Path, start: Path, steps: tuple[int, ...]) -> None:
    """Train with the trainer of ``inversion train``, and leave its log in ``log.json``."""
    train_spec = TrainSpec(
        method=method,
        model=str(start),
        out=str(folder),
        max_steps=steps[-1],
        per_device_train_batch_size=spec.prompts * spec.generations,
        num_generations=spec.generations,
        max_completion_length=spec.max_new_tokens,
        learning_rate=RL_LEARNING_RATE * DEMO_WIDTH / spec.width,
        seed=seed,
        save_steps=steps[-1],
        device="cpu" if spec.device == "cpu" else "auto",
        # Recomputing activations would save memory that models this small do not need.
        options={"report_to": "none", "save_total_limit": 1, "gradient_checkpointing": False},
    )
    problems, _ = training_problems(train_spec)
    trainer = build_trainer(train_spec, problems, folder / "trainer")
    trainer.add_callback(_KeepAt(folder, steps))
    if not (step_folder(folder, 0) / "model").is_dir():
        put(step_folder(folder, 0) / "model", lambda path: shutil.copytree(start, path))
    train_on(trainer)
    log = json.dumps(trainer.state.log_history, indent=1)
    put(folder / "log.json", lambda path: path.write_text(log + "\n"))
    # Last, since it says that the stage is complete.
    _keep(trainer.model, folder, steps[-1])


class _KeepAt(TrainerCallback):
    """Keep the model, and a checkpoint to resume from, at given steps; the last one is kept after training."""

    def __init__(self, folder: Path, steps: tuple[int, ...]) -> None:
        self.folder, self.steps = folder, steps

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step in self.steps[:-1]:
            _keep(model, self.folder, state.global_step)
            control.should_save = True


def _keep(model: Any, folder: Path, step: int) -> None:
    """Write a model and its tokenizer in Hugging Face format, whole or not at all."""

    def write(path: Path) -> None:
        model.save_pretrained(path)
        build_tokenizer().save_pretrained(path)

    put(step_folder(folder, step) / "model", write)
