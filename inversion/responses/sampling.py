"""Sampling itself: the distribution that a token is drawn from, and batches of responses that grow token by token.

transformers runs the model and its cache; which token comes next is decided here, so that nothing stored with a
checkpoint has a say in it.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria
from transformers.generation.logits_process import LogitsProcessorList
from transformers.generation.stopping_criteria import StoppingCriteriaList

from inversion.errors import InputError
from inversion.models.bridge import plain_model
from inversion.models.memory import is_out_of_memory, sequences_at_once
from inversion.models.tokenization import decode
from inversion.responses.generation import Generation, end_tokens

SPARE_TOKENS = 4
"""Tokens decoded beyond a stop text's length: a character may take as many tokens, and a decoder may strip a space."""


def sampled_logits(logits: Tensor, generation: Generation) -> Tensor:
    """Return the logits of the distribution that a token is drawn from, in float64; -inf where nothing is drawn.

    Args:
        logits: The model's own, (..., V).
        generation: Temperature, then top-k, then top-p.
    """
    scores = logits.double()
    if generation.temperature == 0:
        best = scores.argmax(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter(-1, best, 0.0)
    scores = scores / generation.temperature
    if 0 < generation.top_k < scores.shape[-1]:
        least = scores.topk(generation.top_k).values[..., -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if generation.top_p < 1:
        ordered, order = scores.sort(descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        beyond = (before >= generation.top_p).scatter(-1, order, before >= generation.top_p)
        scores = scores.masked_fill(beyond, -torch.inf)
    return scores


def draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Return, per row of logits (b, V), where the cumulative probability passes the row's number in [0, 1)."""
    cumulative = logits.softmax(-1).cumsum(-1)
    target = uniforms[:, None] * cumulative[:, -1:]
    # The first token whose cumulative probability exceeds the target has a probability above zero; rounding must not
    # push the target past the last of them.
    last = (cumulative < cumulative[:, -1:]).sum(-1)
    return torch.minimum(torch.searchsorted(cumulative, target, right=True)[:, 0], last)


@dataclass
class Draft:
    """A response while it is being written.

    prompt: Its token ids.
    room: Most tokens it may have.
    cut: What it means to reach that: ``"length"`` or ``"context"``.
    seed, number: Seed its random numbers.
    ids: The tokens so far.
    ended: What ended it, empty while it goes on.
    """

    prompt: list[int]
    room: int
    cut: str
    seed: int
    number: int
    ids: list[int] = field(default_factory=list)
    ended: str = ""

    def __post_init__(self) -> None:
        # Negative seeds are allowed elsewhere; here they are taken modulo 2^64.
        self.random = np.random.default_rng([self.seed % 2**64, self.number])


class Writer:
    """Write responses in batches."""

    def __init__(self, model: Any, generation: Generation, batch_size: int | None) -> None:
        self.tokenizer, self.generation = model.tokenizer, generation
        self.hf_model = plain_model(model)
        self.ends = frozenset(end_tokens(model))
        self.model, self.batch_size = model, batch_size
        pad, size = getattr(self.tokenizer, "pad_token_id", None), model.original_model.get_input_embeddings()
        # What stands in padded places is masked; it only has to be a row of the embedding.
        self.pad = pad if pad is not None and pad < size.num_embeddings else 0

    def write(self, drafts: Sequence[Draft], *, progress: bool) -> None:
        """Write the drafts to their ends.

        The longest prompts go first: beside others of its length a prompt needs little padding.
        """
        waiting = sorted(drafts, key=lambda draft: -len(draft.prompt))
        longest = max((len(draft.prompt) + draft.room for draft in drafts), default=0)
        size = self.batch_size or sequences_at_once(self.model, longest)
        total = sum(draft.room for draft in drafts)
        with tqdm(total=total, desc="write", unit="token", leave=False, disable=None if progress else True) as bar:
            while waiting:
                batch = waiting[:size]
                try:
                    self._write_batch(batch, bar)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    if len(batch) == 1:
                        raise InputError(
                            f"memory ran out while writing a response of up to {longest} tokens, prompt included; "
                            "lower max_new_tokens, or use a smaller dtype or another device."
                        ) from error
                    size = len(batch) // 2
                    warnings.warn(f"memory ran out; going on with {size} responses at a time", stacklevel=4)
                waiting = [draft for draft in waiting if not draft.ended]

    def _write_batch(self, batch: Sequence[Draft], bar: tqdm) -> None:
        """Run the model until half of the batch has ended; what is left goes on in a smaller one."""
        sequences = [draft.prompt + draft.ids for draft in batch]
        longest = max(map(len, sequences))
        device = next(self.hf_model.parameters()).device
        # Padding goes left, so that all continue at the same place.
        ids = torch.tensor([[self.pad] * (longest - len(s)) + s for s in sequences], device=device)
        mask = torch.tensor([[0] * (longest - len(s)) + [1] * len(s) for s in sequences], device=device)
        step = Step(self, batch, bar)
        settings = GenerationConfig(
            do_sample=False,
            max_new_tokens=min(draft.room - len(draft.ids) for draft in batch),
            pad_token_id=self.pad,
        )
        with _no_stored_settings(self.hf_model), torch.no_grad():
            self.hf_model.generate(
                ids,
                attention_mask=mask,
                generation_config=settings,
                logits_processor=LogitsProcessorList([step]),
                stopping_criteria=StoppingCriteriaList([_Enough(step)]),
            )


class Step(LogitsProcessor):
    """Choose the next token of every draft, and leave transformers, which takes the largest score, no choice."""

    def __init__(self, writer: Writer, batch: Sequence[Draft], bar: tqdm) -> None:
        self.writer, self.batch, self.bar = writer, batch, bar

    @property
    def enough(self) -> bool:
        """Whether so few drafts go on that a smaller batch is worth reading their tokens again."""
        return 2 * sum(not draft.ended for draft in self.batch) <= len(self.batch)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Draw and record; ``scores`` are the logits, (b, V)."""
        going = [row for row, draft in enumerate(self.batch) if not draft.ended]
        chosen = torch.full((len(self.batch),), self.writer.pad, dtype=torch.long)
        if going:
            chosen[going] = self._draw(going, scores)
        forced = torch.full_like(scores, -torch.inf)
        return forced.scatter_(1, chosen.to(scores.device)[:, None], 0.0)

    def _draw(self, going: list[int], scores: Tensor) -> Tensor:
        logits = scores[torch.tensor(going, device=scores.device)]
        finite = logits.max(-1).values.isfinite()  # NaN and infinity pass through a maximum; -inf everywhere stays.
        safe = torch.where(finite[:, None], logits, 0.0)
        uniforms = torch.tensor([self.batch[row].random.random() for row in going], dtype=torch.float64)
        tokens = draw(sampled_logits(safe, self.writer.generation), uniforms.to(scores.device)).cpu()
        for row, token, usable in zip(going, tokens.tolist(), finite.tolist(), strict=True):
            self._record(self.batch[row], token if usable else None)
        return tokens

    def _record(self, draft: Draft, token: int | None) -> None:
        if token is None:
            draft.ended = "not finite"
        else:
            draft.ids.append(token)
            self.bar.update()
            if token in self.writer.ends:
                draft.ended = "end"
            elif self._stopped(draft):
                draft.ended = "stop"
            elif len(draft.ids) >= draft.room:
                draft.ended = draft.cut
        if draft.ended and self.bar.total:
            self.bar.total -= draft.room - len(draft.ids)

    def _stopped(self, draft: Draft) -> bool:
        stops = self.writer.generation.stop
        if not stops:
            return False
        tail = max(len(stop.encode()) for stop in stops) + SPARE_TOKENS
        text = decode(self.writer.tokenizer, draft.ids[-tail:])
        return any(stop in text for stop in stops)


class _Enough(StoppingCriteria):
    """End a run of the model when enough of its drafts have ended."""

    def __init__(self, step: Step) -> None:
        self.step = step

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return torch.full((len(input_ids),), self.step.enough, dtype=torch.bool, device=input_ids.device)


@contextmanager
def _no_stored_settings(hf_model: Any) -> Iterator[None]:
    """Hide the checkpoint's generation settings: transformers fills from them whatever a caller leaves open."""
    stored = hf_model.generation_config
    hf_model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        hf_model.generation_config = stored
