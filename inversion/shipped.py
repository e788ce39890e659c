"""The shipped models and problems: their names, and where they lie.

``fast`` was trained to answer directly; ``slow`` is ``fast`` fine-tuned on chains of thought; ``half`` is ``slow``
after a quarter of that fine-tuning, right on 60 % of problems: where reinforcement learning starts. All are Hugging
Face folders, made by ``inversion.demo.recipe``.
"""

import json
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent / "demo"

MODELS: dict[str, Path] = {name: _FOLDER / name for name in ("fast", "half", "slow")}
"""Shipped model name -> its folder (config.json, model.safetensors, tokenizer files, training.json)."""

SMOLLM2 = "smollm2"
"""Name of a real language model that the extra ``real`` makes available: ``inversion.models.smollm2``."""

PROBLEMS: Path = _FOLDER / "problems.jsonl"
"""64 held-out problems, one per line: ``prompt``, ``answer``, ``task``."""


def load_problems() -> list[dict[str, str]]:
    """Return the shipped held-out problems, each with keys ``prompt``, ``answer`` and ``task``."""
    return [json.loads(line) for line in PROBLEMS.read_text(encoding="utf-8").splitlines()]
