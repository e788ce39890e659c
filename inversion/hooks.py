"""Hook into a model, or stand in for parts of it, for as long as a ``with`` block lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.hooks import RemovableHandle


@contextmanager
def hooks() -> Iterator[Callable[[RemovableHandle], None]]:
    """Yield a function that takes the handle of a hook; all of those hooks are gone when the block ends.

    ::

        with hooks() as add:
            add(module.register_forward_hook(read))
            model(tokens)
    """
    handles: list[RemovableHandle] = []
    try:
        yield handles.append
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced(forwards: Mapping[nn.Module, Callable[..., Any] | None]) -> Iterator[None]:
    """Replace the ``forward`` of single modules inside; put back what they had before, own or of their class.

    Args:
        forwards: What each module shall do, called with the module's arguments but without the module. None stands
            for what its class does, also where somebody had replaced it.
    """
    before = {module: vars(module).get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            _set_forward(module, forward)
        yield
    finally:
        for module, forward in before.items():
            _set_forward(module, forward)


def _set_forward(module: nn.Module, forward: Callable[..., Any] | None) -> None:
    if forward is None:
        vars(module).pop("forward", None)
    else:
        vars(module)["forward"] = forward
