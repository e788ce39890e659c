"""Tiny policies, data and trainers for the tests of CorR-PO."""

from typing import Any

import torch
from datasets import Dataset
from tiny import tiny_model

from inversion.demo.tokenizer import build_tokenizer

TOKENIZER = build_tokenizer()
# Two steps; Adam moves a parameter by its learning rate however small the gradient, unless that is far below epsilon.
LEARNING = {"inversion_form": "additive", "inversion_weight": 1.0, "max_steps": 2, "adam_epsilon": 1e-3}
# FSDP2 waits for events of streams, which CPUs have in newer releases of torch than the oldest that is supported.
SHARDS_ON_CPUS = hasattr(torch.cpu.Stream(), "record_event")
DIGITS = set(TOKENIZER("0123456789")["input_ids"])


def policy(family: str = "llama", **overrides: Any):
    return tiny_model(family, **{"vocab_size": len(TOKENIZER), "eos_token_id": 1, "pad_token_id": 0, **overrides})


def even_tokens(completion_ids, **_):
    """Right where the first token's id is even: random policies are right half the time."""
    return [float(ids[0] % 2 == 0) for ids in completion_ids]


def varied_by_prompt(prompts, **_):
    """Alternating rewards for prompts that start with 0, 1 or 2, nothing for the other five."""
    return [float(i % 2) if prompt[0] in "012" else 0.0 for i, prompt in enumerate(prompts)]


def unequal(trainer: Any) -> Any:
    """Let responses of a trainer end early, at different lengths: four tokens end one."""
    trainer.eos_token_ids = trainer.generation_config.eos_token_id = [1, 5, 9, 13]
    return trainer


def data(count: int = 8) -> Dataset:
    return Dataset.from_list([{"prompt": f"{i} + {i + 1} ="} for i in range(count)])


def settings(folder, **overrides: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 12,
        "max_steps": 3,
        "learning_rate": 1e-3,
        "report_to": "none",
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "bf16": False,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        **overrides,
    }


def make(trainer_class: Any, config_class: Any, folder, model=None, reward=even_tokens, rows=None, **overrides: Any):
    return trainer_class(
        policy() if model is None else model,
        reward_funcs=[reward],
        args=config_class(**settings(folder, **overrides)),
        train_dataset=data() if rows is None else rows,
        processing_class=TOKENIZER,
    )
