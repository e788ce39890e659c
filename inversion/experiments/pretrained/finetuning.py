"""The fine-tuning curve of a pretrained model: supervised training, measured at marks on the way.

The trainer is transformers', the adapters peft's. A checkpoint is measured as soon as it is saved, from the weights in
memory; of the saved ones only the last is kept, to go on from, and none once the training is over.
"""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from inversion.corrpo.seams import Reloading
from inversion.errors import InputError
from inversion.experiments.checkpoints import train_on
from inversion.experiments.lineage.spec import step_folder
from inversion.experiments.pretrained.measuring import is_measured
from inversion.experiments.pretrained.spec import ArmSpec, StudySpec
from inversion.experiments.pretrained.texts import Example
from inversion.models import load_checkpoint

WARMUP = 10
ALIKE = 16
"""Batches whose texts are sorted by length together."""
STATE = "trainer"
"""Folder of what resuming needs."""
Measure = Callable[[Any, int], None]
"""Measures a model at a step, unless that is done."""


class _Supervised(Reloading, Trainer):
    """transformers' trainer, which can also take the weights of a checkpoint without training on."""


class _AtMarks(TrainerCallback):
    """Save and measure the model at given steps, and tell of every step."""

    def __init__(self, marks: tuple[int, ...], measure: Measure, step: Callable[[], None]) -> None:
        self.marks, self.measure, self.step = marks, measure, step

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Measure what was saved but not measured before a kill."""
        if state.global_step in self.marks:
            self.measure(model, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.step()
        if state.global_step in self.marks:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step in self.marks:
            self.measure(model, state.global_step)


def is_trained(folder: Path, marks: tuple[int, ...]) -> bool:
    """Whether a training is over and measured at every mark but the first, which is the start of all of them."""
    return all(is_measured(step_folder(folder, step)) for step in marks[1:])


def train_arm(
    spec: StudySpec,
    arm: ArmSpec,
    seed: int,
    examples: list[Example],
    tokenizer: Any,
    folder: Path,
    measure: Measure,
    step: Callable[[], None] = lambda: None,
) -> None:
    """Train one arm with one seed and have it measured at the marks; a kill costs the steps since the last checkpoint.

    Args:
        spec: The study.
        arm: The condition.
        seed: Of adapters and of the order of texts.
        examples: Training texts.
        tokenizer: For padding.
        folder: Of the training.
        measure: Measures the model at a step.
        step: Called after every step.
    """
    marks = spec.finetuning.marks
    if not is_trained(folder, marks):
        trainer = build_trainer(spec, arm, seed, examples, tokenizer, folder / STATE)
        trainer.add_callback(_AtMarks(marks[1:], measure, step))
        train_on(trainer)
        measure(trainer.model, marks[-1])
    shutil.rmtree(folder / STATE, ignore_errors=True)


def build_trainer(
    spec: StudySpec, arm: ArmSpec, seed: int, examples: list[Example], tokenizer: Any, folder: Path
) -> _Supervised:
    """Return the trainer of an arm, ready to train."""
    how = spec.finetuning
    model, _ = load_checkpoint(spec.model, "cpu")  # The trainer moves it where it belongs.
    if arm.lora is not None:
        model = _with_adapters(model, arm.lora, seed)
    on_cpu = spec.device == "cpu" or not torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=how.marks[-1],
        per_device_train_batch_size=how.batch_size,
        learning_rate=arm.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=min(WARMUP, how.marks[-1]),
        max_grad_norm=1.0,
        bf16=how.precision == "bfloat16",
        use_cpu=on_cpu,
        seed=seed,
        data_seed=seed,
        train_sampling_strategy="sequential",
        save_steps=how.save_every,
        save_total_limit=1,
        report_to="none",
        logging_strategy="no",
        dataloader_pin_memory=not on_cpu,
        disable_tqdm=True,
    )
    trainer = _Supervised(
        model=model,
        args=arguments,
        train_dataset=in_order(examples, how.batch_size, how.marks[-1], seed),  # pyright: ignore[reportArgumentType]
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def in_order(examples: list[Example], batch_size: int, steps: int, seed: int) -> list[dict[str, list[int]]]:
    """Return the texts of every step in their order: epochs at random, texts of like length in one batch.

    So a training that goes on sees what one that was not interrupted sees, and little is padded.
    """
    generator, batches = random.Random(seed), []
    if len(examples) < batch_size:
        raise InputError(f"there are {len(examples)} training texts, fewer than finetuning.batch_size, {batch_size}.")
    while len(batches) < steps:
        shuffled = generator.sample(examples, len(examples))
        for start in range(0, len(shuffled) - batch_size + 1, ALIKE * batch_size):
            pool = sorted(shuffled[start : start + ALIKE * batch_size], key=lambda text: len(text.input_ids))
            some = [pool[i : i + batch_size] for i in range(0, len(pool) - batch_size + 1, batch_size)]
            batches += generator.sample(some, len(some))
    return [vars(text) for batch in batches[:steps] for text in batch]


def _with_adapters(model: Any, rank: int, seed: int) -> Any:
    """Return the model with LoRA adapters on all linear maps but the head."""
    try:
        from peft import LoraConfig, get_peft_model
    except ModuleNotFoundError as error:
        raise InputError("training adapters needs peft; install inversion[train], or leave lora out.") from error
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, config)
