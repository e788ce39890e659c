"""The two shipped models, ``fast`` and ``slow``, and the 64 held-out problems the demo puts to them.

``fast`` was trained to answer directly; ``slow`` is ``fast`` fine-tuned on chains of thought. Both are
ordinary Hugging Face folders. Importing this module loads neither torch nor reasoning-gym;
``inversion.demo.recipe`` trains both models from nothing.
"""

import json
from pathlib import Path

_HERE = Path(__file__).resolve().parent

MODELS: dict[str, Path] = {"fast": _HERE / "fast", "slow": _HERE / "slow"}
"""Shipped model name -> its folder (config.json, model.safetensors, tokenizer files, training.json)."""

PROBLEMS: Path = _HERE / "problems.jsonl"
"""One held-out problem a line: ``prompt``, ``answer``, ``task``."""


def load_problems() -> list[dict[str, str]]:
    """Return the shipped held-out problems, each with keys ``prompt``, ``answer`` and ``task``."""
    return [json.loads(line) for line in PROBLEMS.read_text(encoding="utf-8").splitlines()]
