"""Tiny models of several architectures, as Hugging Face objects and as checkpoints on disk."""

import os

# Before anything imports the hub client: a missed local path must fail at once, not retry over the network.
os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import tiny_model

from inversion.demo.tokenizer import build_tokenizer


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tiny models gain nothing from threads, and a shared machine loses much."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Callable[..., Path]:
    """Save a tiny model with a tokenizer in Hugging Face format and return its folder."""

    def save(family: str = "llama", **overrides) -> Path:
        tokenizer = build_tokenizer()
        folder = tmp_path_factory.mktemp(family)
        tiny_model(family, vocab_size=len(tokenizer), **overrides).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save
