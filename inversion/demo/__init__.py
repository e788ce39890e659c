"""The shipped models, ``fast``, ``half`` and ``slow``, and the 64 held-out problems the demo puts to them.

``fast`` was trained to answer directly; ``slow`` is ``fast`` fine-tuned on chains of thought; ``half`` is ``slow``
after a quarter of that fine-tuning, right on 60 % of problems: where reinforcement learning starts. All are Hugging
Face folders. Importing this module loads neither torch nor reasoning-gym; ``inversion.demo.recipe`` trains them
from nothing.
"""

import json
from pathlib import Path

_HERE = Path(__file__).resolve().parent

MODELS: dict[str, Path] = {name: _HERE / name for name in ("fast", "half", "slow")}
"""Shipped model name -> its folder (config.json, model.safetensors, tokenizer files, training.json)."""

PROBLEMS: Path = _HERE / "problems.jsonl"
"""One held-out problem a line: ``prompt``, ``answer``, ``task``."""


def load_problems() -> list[dict[str, str]]:
    """Return the shipped held-out problems, each with keys ``prompt``, ``answer`` and ``task``."""
    return [json.loads(line) for line in PROBLEMS.read_text(encoding="utf-8").splitlines()]
