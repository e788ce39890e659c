"""Responses written by the model itself: from its plain distribution, each with random numbers of its own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inversion.errors import InputError


@dataclass(frozen=True)
class Generation:
    """How responses are sampled.

    temperature: Divides the logits; 0 takes the most probable token, 1 samples from the model's own distribution.
    max_new_tokens: Length at which an unfinished response is cut.
    top_p: Sample among the most probable tokens that together hold this probability; 1 takes all.
    top_k: Sample among this many of the most probable tokens; 0 takes all. Applied before ``top_p``.
    stop: Texts that end a response when they appear in it; they stay part of it.
    """

    temperature: float = 1.0
    max_new_tokens: int = 512
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"temperature is {self.temperature}; give a finite number, 0 or more.")
        if self.max_new_tokens != int(self.max_new_tokens) or self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {self.max_new_tokens}; give a whole number, at least 1.")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}; give a probability above 0, at most 1.")
        if self.top_k != int(self.top_k) or self.top_k < 0:
            raise InputError(f"top_k is {self.top_k}; give a whole number, 0 for all tokens.")
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        if not all(self.stop):
            raise InputError("a stop text is empty, which would end every response at once; leave it out.")

    @property
    def plain(self) -> bool:
        """Whether tokens are drawn from softmax(z), the distribution whose entropy is recorded."""
        return self.temperature == 1 and self.top_p == 1 and self.top_k == 0


@dataclass(frozen=True)
class Written:
    """One response.

    ids: Its tokens, an end token included.
    ended: What ended it: ``"end"`` (an end token), ``"stop"`` (a stop text), ``"length"`` (``max_new_tokens``),
        ``"context"`` (no more room behind the prompt) or ``"not finite"`` (NaN or infinite logits, so that no further
        token could be drawn; the response may then be empty); ``"given"`` where it was not written but given.
    """

    ids: list[int]
    ended: str

    @property
    def finished(self) -> bool:
        """Whether the response came to an end of its own."""
        return self.ended in ("end", "stop", "given")


def generate(
    model: Any, prompts: Sequence[Sequence[int]], generation: Generation, seed: int, **options: Any
) -> list[tuple[list[int], bool]]:
    """Let the model write one response to each prompt.

    The arguments are those of :func:`write_responses`.

    Returns:
        For each prompt the token ids of its response, an end token included, and whether it came to an end.
    """
    return [(w.ids, w.finished) for w in write_responses(model, prompts, generation, seed, **options)]


def write_responses(
    model: Any,
    prompts: Sequence[Sequence[int]],
    generation: Generation,
    seed: int,
    *,
    numbers: Sequence[int] | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> list[Written]:
    """Let the model write one response to each prompt, and say how each ended.

    Args:
        model: A bridge with a tokenizer.
        prompts: Token ids of each prompt.
        generation: Sampling settings. Settings stored with the checkpoint, such as ``top_p`` or
            ``repetition_penalty``, are not used: tokens come from the model's plain distribution, changed by
            ``generation`` alone. Only its end tokens are: those of the generation settings, of the configuration and
            of the tokenizer.
        seed: With a response's number the seed of its random numbers, one per token; global random state is left
            alone. So a response does not depend on which others are written beside it, except where rounding, which
            differs with the size of a batch, moves a boundary between two tokens across a random number.
        numbers: The number of each response; by default from 0.
        batch_size: Responses written together; chosen by memory by default, and halved where it runs out.
        progress: Show a bar that counts tokens, on a terminal.

    Raises:
        InputError: The model has no tokenizer, or a prompt leaves no room for a token.
    """
    from inversion.models import context_length
    from inversion.responses.sampling import Draft, Writer

    if model.tokenizer is None:
        raise InputError(f"{model.cfg.model_name} came without a tokenizer, so it cannot write responses; give them.")
    limit = context_length(model)
    drafts = []
    for number, prompt in zip(range(len(prompts)) if numbers is None else numbers, prompts, strict=True):
        room = generation.max_new_tokens if limit is None else min(generation.max_new_tokens, limit - len(prompt))
        if not prompt or room < 1:
            raise InputError(
                f"prompt {number} has {len(prompt)} tokens and the context of {model.cfg.model_name} is {limit}, which "
                "leaves no room for a response; give a prompt of at least one token, shorter than the context."
            )
        cut = "length" if room == generation.max_new_tokens else "context"
        drafts.append(Draft(list(prompt), room, cut, seed, number))
    Writer(model, generation, batch_size).write(drafts, progress=progress)
    return [Written(draft.ids, draft.ended) for draft in drafts]


def end_tokens(model: Any) -> list[int]:
    """Return every token that ends a response: chat models often have several."""
    hf_model = model.original_model
    places = (getattr(hf_model, "generation_config", None), hf_model.config, model.tokenizer)
    found: set[Any] = set()
    for place in places:
        stored = getattr(place, "eos_token_id", None)
        found.update(stored if isinstance(stored, list | tuple) else [stored])
    return sorted(int(token) for token in found - {None})
