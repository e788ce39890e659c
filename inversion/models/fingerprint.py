"""What tells one model from another, whatever it is called: hashes of weights, configuration, tokenizer, template."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from inversion.models.bridge import plain_model

PASSING = frozenset(
    {"_name_or_path", "_commit_hash", "_attn_implementation", "attn_implementation", "transformers_version", "dtype"}
)
"""Entries of a configuration that say where it came from or how it is run, not what the model is."""


def fingerprint(model: TransformerBridge) -> dict[str, str | None]:
    """Return SHA-256 hashes of what a model consists of.

    The weights are hashed as they were loaded, so the hash differs with the dtype but not with the files they came
    from. It takes about a second per gigabyte and core.

    Returns:
        ``weights``, ``config``, ``tokenizer`` and ``chat_template``; None for what the model lacks.
    """
    tokenizer = model.tokenizer
    config: Any = model.original_model.config
    template = getattr(tokenizer, "chat_template", None)
    return {
        "weights": _weights(plain_model(model, hooked=False)),
        "config": _json({k: v for k, v in config.to_dict().items() if k not in PASSING}),
        "tokenizer": None if tokenizer is None else _tokenizer(tokenizer),
        "chat_template": None if template is None else _json(template),
    }


def _weights(hf_model: Any) -> str:
    tensors = dict(sorted(hf_model.state_dict().items()))
    # Hashing leaves Python's lock to the other threads.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        digests = list(pool.map(_tensor, tensors.values()))
    return _json([[name, *digest] for name, digest in zip(tensors, digests, strict=True)])


def _tensor(tensor: Tensor) -> tuple[str, list[int], str]:
    data: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return str(tensor.dtype), list(tensor.shape), hashlib.sha256(data).hexdigest()


def _tokenizer(tokenizer: Any) -> str:
    """Hash what decides about ids: the pipeline of a fast tokenizer, the vocabulary of another, the special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        pipeline = [type(tokenizer).__name__, tokenizer.get_vocab()]
    else:
        pipeline = json.loads(backend.to_str())
        for setting in ("padding", "truncation"):  # of the last call
            pipeline.pop(setting, None)
    return _json([pipeline, {name: str(token) for name, token in tokenizer.special_tokens_map.items()}])


def _json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
