"""What enters the last layer, recorded while responses are written, so that measuring them skips the layers below."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from inversion.hooks import hooks, replaced

Ids = Sequence[int]


@dataclass(frozen=True)
class Written:
    """What one ``generate`` left behind; :func:`recording` makes it.

    hidden: Token ids of prompt and response -> hidden states that entered the last layer, (t, width).
    in_tuples: Whether a layer returns its hidden states as the first of a tuple.
    versions: How often each parameter had been changed; once one is changed again, the states are out of date.
    """

    hidden: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    in_tuples: bool = False
    versions: tuple[int, ...] = ()

    def holds(self, model: nn.Module, prompts: Sequence[Ids], responses: Sequence[Ids]) -> bool:
        """Say whether every sequence was recorded, on the model as it is now."""
        known = all((*p, *r) in self.hidden for p, r in zip(prompts, responses, strict=True))
        return known and self.versions == _versions(model)

    @contextmanager
    def instead_of(self, layers: nn.ModuleList, prompts: Sequence[Ids], responses: Sequence[Ids]) -> Iterator[None]:
        """Let the last of ``layers`` read what was recorded inside, and the others not run at all."""
        rows = [self.hidden[(*p, *r)] for p, r in zip(prompts, responses, strict=True)]
        hidden = pad_sequence(rows, batch_first=True)  # (b, t, width)

        def stand_in(*_: Any, **__: Any) -> Any:
            return (hidden,) if self.in_tuples else hidden

        with replaced(dict.fromkeys(layers[:-1], stand_in)):
            yield


class Recorder:
    """Record the last layer's inputs of one ``generate``: :func:`recording` makes one."""

    def __init__(self, model: nn.Module) -> None:
        self.parts: list[Tensor] = []
        self.in_tuples = False
        self.versions = _versions(model)

    def by_sequence(self, prompts: Sequence[Ids], responses: Sequence[Ids]) -> Written:
        """Return the hidden states of each prompt with its response, in the order of generation.

        The last token of a response is written but not read, so its row is 0; nothing that precedes it needs it.

        Args:
            prompts: Token ids, which were padded on the left.
            responses: Token ids, end token included.

        Returns:
            Nothing where generation did not go through the model in the ordinary way, token by token.
        """
        if not self.parts or any(part.ndim != 3 or len(part) != len(prompts) for part in self.parts):
            return Written()
        if any(part.shape[1] != 1 for part in self.parts[1:]):
            return Written()
        hidden = torch.cat(self.parts, 1)  # (b, prompt and all but the last written token, width)
        start = self.parts[0].shape[1]
        if start < max(map(len, prompts)) or hidden.shape[1] < start + max(map(len, responses)) - 1:
            return Written()
        found = {}
        for row, prompt, response in zip(hidden, prompts, responses, strict=True):
            read = row[start - len(prompt) : start + len(response) - 1]
            found[(*prompt, *response)] = torch.cat([read, read.new_zeros(1, read.shape[1])])
        return Written(found, self.in_tuples, self.versions)


@contextmanager
def recording(model: nn.Module, layers: nn.ModuleList) -> Iterator[Recorder]:
    """Record what enters the last of ``layers`` inside; with dropout, which measuring leaves out, record nothing."""
    recorder = Recorder(model)

    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        if args:
            recorder.parts.append(args[0].detach())

    def note_form(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        recorder.in_tuples = isinstance(output, tuple)

    dropout = getattr(getattr(model, "config", None), "attention_dropout", 0.0) or 0.0
    dropout += sum(module.p for module in model.modules() if isinstance(module, nn.Dropout))
    with hooks() as add:
        if not dropout:
            add(layers[-1].register_forward_pre_hook(keep))
            add(layers[-1].register_forward_hook(note_form))
        yield recorder


def _versions(model: nn.Module) -> tuple[int, ...]:
    return tuple(parameter._version for parameter in model.parameters())
