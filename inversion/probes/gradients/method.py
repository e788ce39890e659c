"""What the three ways of computing gradients have in common: one pass, targets, and who takes what comes out."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from inversion.probes.capture import Site
from inversion.probes.pace import Pace

Quantity = Literal["logit", "log_prob", "entropy"]
QUANTITIES: tuple[Quantity, ...] = ("logit", "log_prob", "entropy")


@dataclass(frozen=True)
class Targets:
    """The tokens of one sequence whose gradients are wanted.

    positions: Where each target's logits are read, ascending, (t,).
    token_ids: The token that was written next, (t,).
    quantity: The scalar that is differentiated.
    """

    positions: Tensor
    token_ids: Tensor
    quantity: Quantity = "logit"

    def __len__(self) -> int:
        return len(self.positions)


class Delta(NamedTuple):
    """Gradients of c targets' scalars at one projection's output.

    part: Which targets, as a slice of all.
    values: (c, b, d_out); those of positions from b on are zero.
    """

    site: Site
    part: slice
    values: Tensor


class Collector(Protocol):
    """Takes gradients as they are made, and makes of them what is wanted; several threads may ``take`` at a time."""

    def take_inputs(self, inputs: Mapping[Site, Tensor]) -> None:
        """Take what projections read, (b, d_in), from the first position on; their gradients follow."""
        ...

    def take(self, delta: Delta) -> None:
        """Take gradients at a projection whose inputs were given."""
        ...

    def take_rank_one(self, site: Site, inputs: Tensor, values: Tensor) -> None:
        """Take gradients of all targets that are zero but at their own position.

        Args:
            site: The projection.
            inputs: What it read at each target's own position, (t, d_in).
            values: The gradients there, (t, d_out).
        """
        ...


class Pass(ABC):
    """One pass over a sequence, made without a graph.

    Args:
        model: The bridge, with its parameters frozen.
        tokens: Prompt and response up to the last position that is wanted, (1, T).
        sites: Projections wanted, sorted.
        batched: Whether one backward pass can carry many targets.
        prefix: Whether targets may run on their own prefix instead of the whole sequence.
    """

    def __init__(
        self, model: TransformerBridge, tokens: Tensor, sites: Sequence[Site], *, batched: bool, prefix: bool
    ) -> None:
        self.model, self.tokens, self.sites = model, tokens, sites
        self.batched, self.prefix = batched, prefix
        self.lowest, self.last = sites[0].layer, len(model.blocks) - 1

    @abstractmethod
    def logits(self, positions: Tensor) -> Tensor:
        """Return the logits at positions of the sequence, (n, V)."""

    @abstractmethod
    def residual(self, layer: int, positions: Tensor) -> Tensor | None:
        """Return the stream after a layer, (n, d_model); None where a block returns something else."""

    @abstractmethod
    def gradients(self, targets: Targets) -> "Gradients":
        """Return what gives the gradients of these targets."""

    def pull(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> list[Tensor]:
        """Return vector-Jacobian products for c cotangents at once, each (c, ...) with the shape of its input."""

        def one(*cotangent: Tensor) -> tuple[Tensor, ...]:
            # What an output does not depend on, since a hook cut it off, has the gradient 0.
            return torch.autograd.grad(outputs, inputs, cotangent, retain_graph=True, materialize_grads=True)

        if self.batched:
            # Not autograd's is_grads_batched: it batches fewer operations and loops over the rest, SiLU among them.
            return list(torch.func.vmap(one)(*cotangents))
        each = [one(*cotangent) for cotangent in zip(*cotangents, strict=True)]
        return [torch.stack(rows) for rows in zip(*each, strict=True)]


class Gradients(ABC):
    """Gradients of a sequence's targets at the sites of its pass."""

    targets: Targets

    @abstractmethod
    def run(self, collector: Collector, pace: Pace) -> None:
        """Give the collector every target's gradient at every site."""


def scalars(logits: Tensor, token_ids: Tensor, quantity: Quantity) -> Tensor:
    """Return the scalar that is differentiated, one per token, (t,).

    ``logit`` is z[y]; ``log_prob`` its log-probability in nats; ``entropy`` that of softmax(z) in bits.

    Args:
        logits: (t, V), in the graph.
        token_ids: The tokens written, (t,).
        quantity: Which scalar.
    """
    if quantity == "logit":
        return logits.gather(1, token_ids[:, None])[:, 0]
    log_probs = torch.log_softmax(logits.float() if logits.dtype.itemsize < 4 else logits, dim=1)
    if quantity == "log_prob":
        return log_probs.gather(1, token_ids[:, None])[:, 0]
    # 0 log 0 = 0, where a logit is minus infinity.
    return -(log_probs.exp() * log_probs.masked_fill(log_probs == -math.inf, 0)).sum(1) / math.log(2)


def one_hot(values: Tensor, rows: Tensor, length: int) -> Tensor:
    """Place each of c vectors (c, d) at its own row of a zero sequence: (c, 1, length, d)."""
    placed = values.new_zeros(len(values), 1, length, values.shape[1])
    placed[torch.arange(len(values), device=values.device), 0, rows.to(values.device)] = values
    return placed


def run_model(model: TransformerBridge, tokens: Tensor) -> Tensor:
    """Call the wrapped model itself, since the bridge's own forward adds nothing that is needed: logits (T, V)."""
    hf_model: Any = model.original_model
    return hf_model(input_ids=tokens, use_cache=False).logits[0]
