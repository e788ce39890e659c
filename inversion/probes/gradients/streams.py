"""A model cut at the boundaries of its blocks: one pass keeps the stream there, and single blocks can be run again."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from inversion.hooks import hooks, replaced
from inversion.probes.capture import Add, Recording, Site, record_sites
from inversion.probes.gradients.method import Gradients, Pass, Targets, run_model
from inversion.probes.linear import LinearMaps, worth_keeping


class _Stopped(Exception):
    """Raised to end a forward pass whose remainder is not needed."""


class Call(NamedTuple):
    """How the model calls a block, but for the stream that goes in: a mask, rotary angles and the like."""

    args: tuple
    kwargs: dict[str, Any]


@dataclass
class BlockGraph(Recording):
    """The graph of one block over b positions.

    sites: Projections to record.
    entering: The stream before the block, a leaf, (1, b, d_model).
    leaving: The stream after it, (1, b, d_model).
    """

    sites: Sequence[Site] = ()
    entering: Tensor = field(default_factory=lambda: torch.empty(0))
    leaving: Tensor = field(default_factory=lambda: torch.empty(0))

    def hook_into(self, model: TransformerBridge, layer: int, add: Add) -> None:
        """Hook into the block so that its next pass fills this recording."""
        record_sites(model, self.sites, self, add)


class Streams(Pass):
    """A pass that keeps the residual stream at block boundaries, (1, T, d_model) each, and nothing else that is large.

    The stream takes layers x T x d_model numbers; everything that is derived from it is made one block at a time.

    Args:
        model: See :class:`Pass`, as for the others.
        tokens: (1, T).
        sites: Projections wanted, sorted.
        batched: Whether one backward pass can carry many targets.
        prefix: Whether targets may run on their own prefix.
        way: Makes of this and of targets what gives their gradients.
    """

    def __init__(
        self,
        model: TransformerBridge,
        tokens: Tensor,
        sites: Sequence[Site],
        *,
        batched: bool,
        prefix: bool,
        way: Callable[["Streams", Targets], Gradients],
    ) -> None:
        super().__init__(model, tokens, sites, batched=batched, prefix=prefix)
        self._way = way
        self._entering: dict[int, Tensor] = {}
        self._sizes: dict[int, int] = {}
        # Forward passes hang hooks on the model: one at a time. Backward passes only touch what was recorded.
        self._running = Lock()
        maps = {layer: LinearMaps(model.blocks[layer]) for layer in range(self.lowest, self.last + 1)}
        self._maps = maps if worth_keeping(maps.values(), tokens.shape[1]) else {}
        self._read()

    def _read(self) -> None:
        """Run the sequence up to the head."""

        def enter(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            self._entering[self.lowest] = args[0] if args else kwargs["hidden_states"]

        def leave(layer: int) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple, output: Any) -> None:
                self._sizes[layer] = len(output) if isinstance(output, tuple) else 0
                self._entering[layer + 1] = output[0] if isinstance(output, tuple) else output
                if layer == self.last:
                    raise _Stopped

            return hook

        with torch.no_grad(), hooks() as add, ExitStack() as stack:
            for maps in self._maps.values():
                stack.enter_context(maps.kept())
            add(self.model.blocks[self.lowest].register_forward_pre_hook(enter, with_kwargs=True))
            for layer in range(self.lowest, self.last + 1):
                add(self.model.blocks[layer].register_forward_hook(leave(layer)))
            with suppress(_Stopped):
                run_model(self.model, self.tokens)

    def gradients(self, targets: Targets) -> Gradients:
        """Return what gives the gradients of these targets."""
        return self._way(self, targets)

    def logits(self, positions: Tensor) -> Tensor:
        """Return the logits at positions of the sequence, (n, V)."""
        with torch.no_grad():
            return self.head(self.leaving_rows(positions))

    def residual(self, layer: int, positions: Tensor) -> Tensor | None:
        """Return the stream after a layer, (n, d_model)."""
        stream = self._entering[layer + 1][0]
        return stream[positions.to(stream.device)]

    def leaving_rows(self, positions: Tensor) -> Tensor:
        """Return the stream that leaves the last block, (n, d_model)."""
        stream = self._entering[self.last + 1][0]
        return stream[positions.to(stream.device)]

    def head(self, rows: Tensor) -> Tensor:
        """Run only what is above the last block, on n rows of the stream (n, d_model): logits (n, V)."""

        def forward(*_: Any, **__: Any) -> Any:
            return self._as_output(self.last, rows[None])

        with replaced(dict.fromkeys(self.model.blocks, forward)), LinearMaps(self._unembedding).kept():
            return run_model(self.model, self.tokens[:, :1].expand(1, len(rows)))

    def calls(self, length: int) -> dict[int, Call]:
        """Let the model prepare what it hands to its blocks on the first ``length`` positions, without running them."""
        calls: dict[int, Call] = {}

        def note(layer: int) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                stream = args[0] if args else kwargs.pop("hidden_states")
                calls[layer] = Call(args[1:], kwargs)
                if layer == self.last:
                    raise _Stopped
                return self._as_output(layer, stream)

            return forward

        forwards = {block: note(layer) for layer, block in enumerate(self.model.blocks)}
        with torch.no_grad(), replaced(forwards), suppress(_Stopped):
            run_model(self.model, self.tokens[:, :length])
        return calls

    def _as_output(self, layer: int, stream: Tensor) -> Any:
        """Dress a stream up as what a layer returns."""
        size = self._sizes.get(layer, self._sizes[self.last])
        return (stream, *[None] * (size - 1)) if size else stream

    @property
    def vocabulary(self) -> int:
        """Logits of a position."""
        return self._unembedding.weight.shape[0]

    @property
    def _unembedding(self) -> Any:
        hf_model: Any = self.model.original_model
        return hf_model.get_output_embeddings()

    def maps_of(self, layer: int) -> LinearMaps:
        """Return the linear maps of a layer: with what they wrote on the whole sequence, where that was kept."""
        return self._maps.get(layer) or LinearMaps(self.model.blocks[layer])

    def record(self, graph: BlockGraph, layer: int, length: int, call: Call, maps: LinearMaps) -> None:
        """Run one block again, on the first ``length`` positions of what entered it, and keep the graph.

        Args:
            graph: To be filled.
            layer: Which block.
            length: Positions.
            call: How the model calls the block on them.
            maps: Its linear maps; what they have kept is taken from there, and else what they write is kept.
        """
        graph.entering = self._entering[layer][:, :length].detach().requires_grad_(layer > self.lowest)
        with self._running, maps.reused() if maps.has_kept else maps.kept(), hooks() as add:
            graph.hook_into(self.model, layer, add)
            output = self.model.blocks[layer](graph.entering, *call.args, **call.kwargs)
        graph.leaving = output[0] if isinstance(output, tuple) else output
