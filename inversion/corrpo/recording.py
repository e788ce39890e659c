"""What enters the last layer, recorded while responses are written, so that measuring them skips the layers below."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Ids = Sequence[int]
Recorded = Mapping[tuple[int, ...], Tensor]
"""Token ids of prompt and response -> hidden states that entered the last layer, (t, width)."""


class Recorder:
    """Record the last layer's inputs of one ``generate``: :func:`recording` makes one."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []

    def by_sequence(self, prompts: Sequence[Ids], responses: Sequence[Ids]) -> Recorded:
        """Return the hidden states of each prompt with its response, in the order of generation.

        The last token of a response is written but not read, so its row is 0; nothing that precedes it needs it.

        Args:
            prompts: Token ids, which were padded on the left.
            responses: Token ids, end token included.

        Returns:
            Nothing where generation did not go through the model in the ordinary way, token by token.
        """
        if not self.parts or any(part.ndim != 3 or len(part) != len(prompts) for part in self.parts):
            return {}
        if any(part.shape[1] != 1 for part in self.parts[1:]):
            return {}
        hidden = torch.cat(self.parts, 1)  # (b, prompt and all but the last written token, width)
        start = self.parts[0].shape[1]
        if start < max(map(len, prompts)) or hidden.shape[1] < start + max(map(len, responses)) - 1:
            return {}
        found = {}
        for row, prompt, response in zip(hidden, prompts, responses, strict=True):
            read = row[start - len(prompt) : start + len(response) - 1]
            found[(*prompt, *response)] = torch.cat([read, read.new_zeros(1, read.shape[1])])
        return found


@contextmanager
def recording(model: nn.Module, layers: nn.ModuleList) -> Iterator[Recorder]:
    """Record what enters the last of ``layers`` inside; with dropout, which measuring leaves out, record nothing."""
    recorder = Recorder()

    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        if args:
            recorder.parts.append(args[0].detach())

    dropout = getattr(getattr(model, "config", None), "attention_dropout", 0.0) or 0.0
    dropout += sum(module.p for module in model.modules() if isinstance(module, nn.Dropout))
    hook = None if dropout else layers[-1].register_forward_pre_hook(keep)
    try:
        yield recorder
    finally:
        if hook is not None:
            hook.remove()


@contextmanager
def skipped(layers: nn.ModuleList, hidden: Tensor) -> Iterator[None]:
    """Let the last of ``layers`` read ``hidden``, (b, t, width), inside, and the others not run at all."""
    own = [layer.__dict__.get("forward") for layer in layers[:-1]]

    def stand_in(*_: Any, **__: Any) -> Tensor:
        return hidden

    try:
        for layer in layers[:-1]:
            layer.__dict__["forward"] = stand_in
        yield
    finally:
        for layer, forward in zip(layers[:-1], own, strict=True):
            _restore(layer, forward)


def _restore(layer: nn.Module, forward: Callable | None) -> None:
    if forward is None:
        layer.__dict__.pop("forward", None)
    else:
        layer.__dict__["forward"] = forward
