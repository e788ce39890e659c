"""Responses written by the model itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inversion.errors import InputError


@dataclass(frozen=True)
class Generation:
    """How responses are sampled.

    temperature: 0 takes the most probable token; 1 samples from the model's own distribution.
    max_new_tokens: Length at which an unfinished response is cut.
    """

    temperature: float = 1.0
    max_new_tokens: int = 512

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise InputError(f"temperature is {self.temperature}; give 0 or more.")
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {self.max_new_tokens}; give at least 1.")


def generate(
    model: Any, prompts: Sequence[Sequence[int]], generation: Generation, seed: int
) -> list[tuple[list[int], bool]]:
    """Let the model write one response to each prompt, as one batch.

    Args:
        model: A bridge with a tokenizer.
        prompts: Token ids of each prompt.
        generation: Sampling settings. Settings stored with the model, such as top_p, are not used: the responses
            come from its plain distribution at this temperature.
        seed: Seed of the batch; global random state is left alone.

    Returns:
        For each prompt the token ids of its response, an end token included, and whether it came to that end.
    """
    import torch

    hf_model, tokenizer = model.original_model, model.tokenizer
    if tokenizer is None:
        raise InputError(f"{model.cfg.model_name} came without a tokenizer, so it cannot write responses; give them.")
    device = next(hf_model.parameters()).device
    longest = max(map(len, prompts))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    # Padding goes left, so that every response starts at the same place.
    ids = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    ends = _end_tokens(hf_model, tokenizer)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(seed)
        written = hf_model.generate(ids, attention_mask=mask, generation_config=_settings(generation, ends, pad))
    return [_until_end(row, ends) for row in written[:, longest:].tolist()]


def _settings(generation: Generation, ends: list[int], pad: int) -> Any:
    from transformers import GenerationConfig

    sampling = {"temperature": generation.temperature, "top_k": 0, "top_p": 1.0} if generation.temperature else {}
    return GenerationConfig(
        do_sample=generation.temperature > 0,
        max_new_tokens=generation.max_new_tokens,
        eos_token_id=ends,
        pad_token_id=pad,
        **sampling,
    )


def _end_tokens(hf_model: Any, tokenizer: Any) -> list[int]:
    """Return every token that ends a response: chat models often have several."""
    stored = hf_model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(stored if isinstance(stored, list) else [stored])}
    return sorted(ends - {None})


def _until_end(ids: list[int], ends: list[int]) -> tuple[list[int], bool]:
    for index, token in enumerate(ids):
        if token in ends:
            return ids[: index + 1], True
    return ids, False
