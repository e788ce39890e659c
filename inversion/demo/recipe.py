"""Train the shipped models from nothing: ``python -m inversion.demo.recipe --out FOLDER``.

``fast`` learns to answer directly from random weights; ``slow`` starts from ``fast`` and learns chains of thought;
``half`` is ``slow`` on the way, where reinforcement learning has something left to do. Every part is a plain
function, so that other experiments can train the same lineage with checkpoints of their own. Batches depend on
(seed, step) alone: training can be picked up at any step.
"""

import argparse
import itertools
import json
import math
import os
import platform
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from inversion.demo.tasks import (
    TASKS,
    DemoProblem,
    Style,
    distinct_problems,
    mixed_problems,
    problem_stream,
    response_for,
)
from inversion.demo.tokenizer import EOS_ID, PAD_ID, build_tokenizer
from inversion.models import processor_of
from inversion.progress import bar
from inversion.scoring import AnswerScorer, scorer_for

_PARTS = 3
IGNORED = -100
"""Label of tokens that carry no loss: the prompt and the padding."""
Precision = Literal["float32", "bfloat16"]
"""Of the products within a step; weights and optimiser state are float32 either way."""


@dataclass(frozen=True, slots=True)
class Training:
    """How one model is trained.

    ``learning_rate`` is the peak of a warm-up and cosine schedule; the tasks in ``mix`` take turns in a batch.
    """

    style: Style
    steps: int
    batch_size: int = 66
    learning_rate: float = 2e-3
    warmup: int = 50
    weight_decay: float = 0.1
    seed: int = 0
    precision: Precision = "float32"
    mix: tuple[str, ...] = tuple(TASKS)


FAST = Training(style="direct", steps=2500, learning_rate=3e-3)
# Sums take longest to learn and spelling is learnt at once, hence the unequal shares.
SLOW = Training(
    style="chain",
    steps=3000,
    mix=("chain_sum", "number_sorting", "spell_backward", "chain_sum", "number_sorting", "chain_sum"),
)


HALF_STEPS = 700
"""Steps of ``SLOW`` after which ``half`` is kept: right on about 60 % of held-out problems at temperature 1."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids and labels, both (sequence, position), padded on the right."""

    input_ids: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Return the same batch on a device."""
        return Batch(self.input_ids.to(device), self.labels.to(device))


def build_model(seed: int, device: str = "cpu") -> LlamaForCausalLM:
    """Build the untrained model: Llama architecture, 4 layers of width 128, about 0.8 M parameters."""
    config = LlamaConfig(
        vocab_size=len(build_tokenizer()),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        # At width 128 the usual 0.02 makes for a start several times slower.
        initializer_range=0.06,
        bos_token_id=None,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
    )
    # On a CPU and at these lengths plain attention is faster than the fused kernel.
    config._attn_implementation = "sdpa" if device.startswith("cuda") else "eager"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.generation_config.update(max_new_tokens=160)
    return model.to(torch.device(device))  # pyright: ignore[reportArgumentType]


def batches(tokenizer: PreTrainedTokenizerBase, training: Training, start: int = 0) -> Iterator[list[Batch]]:
    """Yield the batches of a training, without end, from step ``start`` on.

    A batch comes in parts of similar length, which spares the padding. One step takes all of its parts: batches
    of one length, and so often of one task, train far worse.
    """
    size, mix = training.batch_size, training.mix
    for step in itertools.count(start):
        name = f"{training.seed}/{step}"
        streams = {task: problem_stream(task, "train", name) for task in mix}
        words = random.Random(f"words/{training.style}/{name}")
        problems = [next(streams[mix[i % len(mix)]]) for i in range(size)]
        examples = [_encode(tokenizer, problem, training.style, words) for problem in problems]
        examples.sort(key=lambda example: len(example[0]) + len(example[1]))
        cuts = [size * part // _PARTS for part in range(_PARTS + 1)]
        yield [_pad(examples[i:j]) for i, j in itertools.pairwise(cuts) if i < j]


def _encode(
    tokenizer: PreTrainedTokenizerBase, problem: DemoProblem, style: Style, rng: random.Random
) -> tuple[list[int], list[int]]:
    """Return the ids of a prompt and of its response, which ends with the end-of-sequence token."""
    response = response_for(problem, style, rng)
    return tokenizer.encode(problem.prompt), [*tokenizer.encode(response), EOS_ID]


def _pad(group: list[tuple[list[int], list[int]]]) -> Batch:
    """Pad on the right: causal attention then needs no mask, since no real token looks to its right."""
    length = max(len(prompt) + len(response) for prompt, response in group)
    input_ids = torch.full((len(group), length), PAD_ID)
    labels = torch.full((len(group), length), IGNORED)
    for row, (prompt, response) in enumerate(group):
        end = len(prompt) + len(response)
        input_ids[row, :end] = torch.tensor(prompt + response)
        labels[row, len(prompt) : end] = torch.tensor(response)
    return Batch(input_ids, labels)


def response_loss(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """Return the cross-entropy of the response tokens, summed, in nats; a scalar."""
    hidden = model.model(batch.input_ids[:, :-1], use_cache=False).last_hidden_state
    targets = batch.labels[:, 1:]
    kept = targets != IGNORED
    # The read-out is worked out at response tokens only: hidden[kept] is (response token, width).
    return functional.cross_entropy(model.lm_head(hidden[kept]).float(), targets[kept], reduction="sum")


def backward(model: LlamaForCausalLM, parts: Sequence[Batch], precision: Precision) -> float:
    """Add the gradient of the mean loss a response token; return that loss in nats."""
    n_tokens = sum(int((part.labels != IGNORED).sum()) for part in parts)
    total = 0.0
    for part in parts:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = response_loss(model, part.to(model.device)) / n_tokens
        loss.backward()
        total += loss.item()
    return total


def learning_rate_at(step: int, training: Training) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine down to a hundredth of the peak."""
    if step < training.warmup:
        return training.learning_rate * (step + 1) / training.warmup
    progress = (step - training.warmup) / max(1, training.steps - training.warmup)
    return training.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def build_optimizer(model: LlamaForCausalLM, training: Training) -> torch.optim.Optimizer:
    """Return the AdamW of one training."""
    return torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=training.weight_decay, fused=True)


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    training: Training,
    on_step: Callable[[int, float], None] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    start: int = 0,
    backward: Callable[[LlamaForCausalLM, Sequence[Batch], Precision], float] = backward,
) -> list[tuple[int, float]]:
    """Train ``model`` in place; return (step, loss in nats) about every hundredth of the way.

    ``on_step(step, loss)`` is called after every update, steps counted from 1: the place for checkpoints. A
    training cut off after ``start`` steps goes on as if it had not been, given the weights and optimiser of then.
    """
    optimizer = optimizer or build_optimizer(model, training)
    stream = batches(tokenizer, training, start)
    curve = []
    every = max(1, training.steps // 100)
    model.train()
    steps = range(start + 1, training.steps + 1)
    shown = bar(steps, desc=f"train, {training.style}", unit="step", initial=start, total=training.steps)
    for step in shown:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step - 1, training)
        loss = backward(model, next(stream), training.precision)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % every == 0:
            curve.append((step, round(loss, 4)))
            shown.set_postfix(loss=f"{loss:.3f}", refresh=False)
        if on_step is not None:
            on_step(step, loss)
    model.eval()
    return curve


@torch.inference_mode()
def respond(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    temperature: float,
    seed: int,
    max_new_tokens: int = 160,
) -> list[str]:
    """Generate one response a prompt, greedily at temperature 0; texts end before end of sequence."""
    inputs = tokenizer(list(prompts), return_tensors="pt", padding=True).to(model.device)
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        ids: Any = cast(Any, model).generate(**inputs, max_new_tokens=max_new_tokens, **sampling)
    return tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def evaluate(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[DemoProblem],
    temperature: float,
    seed: int = 0,
    batch_size: int = 250,
) -> dict[str, dict[str, float]]:
    """Return, for each task, the exact-match ``accuracy`` and the mean length ``tokens`` of a response."""
    results: dict[str, list[tuple[float, int]]] = {}
    ordered = sorted(problems, key=lambda problem: problem.task)
    for i in range(0, len(ordered), batch_size):
        group = ordered[i : i + batch_size]
        texts = respond(model, tokenizer, [problem.prompt for problem in group], temperature, seed + i)
        for problem, text in zip(group, texts, strict=True):
            scorer = cast(AnswerScorer, scorer_for("tags", problem.answer, form_required=True))
            row = (scorer(text), len(tokenizer.encode(text)) + 1)
            results.setdefault(problem.task, []).append(row)
    return {
        task: {
            "accuracy": round(sum(right for right, _ in rows) / len(rows), 4),
            "tokens": round(sum(length for _, length in rows) / len(rows), 1),
        }
        for task, rows in results.items()
    }


def train_and_save(
    model: LlamaForCausalLM,
    training: Training,
    folder: Path,
    problems: Sequence[DemoProblem],
    keep: Mapping[int, Path] | None = None,
) -> dict[str, Any]:
    """Train, measure on held-out problems, and write a Hugging Face folder with its ``training.json``.

    ``keep`` maps further steps to folders: the model as it was after that many, with a record of its own.
    """
    keep, curve = keep or {}, []
    every = max(1, training.steps // 100)
    started = time.perf_counter()

    def on_step(step: int, loss: float) -> None:
        if step % every == 0:
            curve.append((step, round(loss, 4)))
        if step in keep:
            facts = {"stopped_after": step, "seconds": time.perf_counter() - started}
            save(model.eval(), training, keep[step], problems, {**facts, "loss_nats": list(curve)})
            model.train()

    train(model, build_tokenizer(), training, on_step)
    return save(model, training, folder, problems, {"seconds": time.perf_counter() - started, "loss_nats": curve})


def save(
    model: LlamaForCausalLM, training: Training, folder: Path, problems: Sequence[DemoProblem], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Measure a model on held-out problems and write it with its ``training.json``; return what that says.

    ``facts`` join the record; ``seconds`` is among them.
    """
    tokenizer = build_tokenizer()
    record = {
        "name": folder.name,
        **asdict(training),
        **facts,
        "seconds": round(facts["seconds"], 1),
        "device": processor_of(model.device),
        "threads": torch.get_num_threads(),
        "parameters": model.num_parameters(),
        "tasks": {task: dict(configuration) for task, configuration in TASKS.items()},
        "held_out_problems": len(problems),
        "greedy": evaluate(model, tokenizer, problems, temperature=0),
        "temperature_1": evaluate(model, tokenizer, problems, temperature=1),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "reasoning-gym")},
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def write_problems(path: Path, n: int = 64) -> None:
    """Write ``n`` held-out problems, mixed over the tasks, one JSON object a line."""
    rows = [json.dumps(asdict(problem)) for problem in mixed_problems("held_out", n, "demo")]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def has_fast_bfloat16(device: str) -> bool:
    """Say whether the processor multiplies bfloat16 natively; where it does not, float32 is faster."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Older releases of torch cannot say; float32 is then the safe choice.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m inversion.demo.recipe", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-models"), help="folder for fast/, half/ and slow/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--fast-steps", type=int, default=FAST.steps)
    parser.add_argument("--slow-steps", type=int, default=SLOW.steps)
    parser.add_argument("--half-steps", type=int, default=HALF_STEPS, help="step of slow's training to keep as half/")
    parser.add_argument("--held-out", type=int, default=500, help="held-out problems a task to measure on")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="CPU threads")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train ``fast``, then ``slow`` from it, keep ``half`` on the way, and write all beside the held-out problems."""
    options = parse_arguments(arguments)
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = options.precision
    if precision == "auto":
        precision = "bfloat16" if has_fast_bfloat16(device) else "float32"
    torch.set_num_threads(options.threads)
    held_out = [p for task in TASKS for p in distinct_problems(task, "held_out", options.held_out, "measure")]
    model = build_model(options.seed, device)
    keep = {options.half_steps: options.out / "half"}
    for name, training, steps in (("fast", FAST, options.fast_steps), ("slow", SLOW, options.slow_steps)):
        training = replace(training, steps=steps, seed=options.seed, precision=precision)
        record = train_and_save(model, training, options.out / name, held_out, keep if name == "slow" else None)
        for kind in ("greedy", "temperature_1"):
            print(name, kind, record[kind])
    write_problems(options.out / "problems.jsonl")


if __name__ == "__main__":
    main()
