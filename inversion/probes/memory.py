"""What a probe takes of a machine's memory, and what to do where that is not there."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from accelerate.utils.memory import clear_device_cache
from transformer_lens.model_bridge import TransformerBridge

from inversion.errors import InputError
from inversion.models import text_config
from inversion.models.memory import is_out_of_memory


class DoesNotFit(InputError):
    """A response cannot be probed in the memory that there is, not even one token at a time."""

    def __init__(self, tokens: int | None = None) -> None:
        what = "the response does" if tokens is None else f"{tokens} tokens do"
        super().__init__(
            f"{what} not fit into memory even one token at a time; shorten the response, or use a smaller dtype or "
            "another device."
        )


@dataclass(frozen=True)
class Widths:
    """The sizes of a model that memory depends on.

    model: Width of the residual stream.
    feed_forward: Width of the feed-forward part that is active for a token.
    heads: Attention heads.
    layers: Blocks.
    vocabulary: Logits of a position.
    itemsize: Bytes of a number.
    """

    model: int
    feed_forward: int
    heads: int
    layers: int
    vocabulary: int
    itemsize: int

    @classmethod
    def of(cls, model: TransformerBridge) -> "Widths":
        """Read them off a model."""
        config: Any = text_config(model)
        d_model = int(model.cfg.d_model)
        fields = ("intermediate_size", "ffn_dim", "n_inner")
        d_ff = next((getattr(config, name) for name in fields if getattr(config, name, None)), 4 * d_model)
        experts = int(getattr(config, "num_experts_per_tok", None) or 1)
        return cls(
            model=d_model,
            feed_forward=int(max(d_ff if isinstance(d_ff, list) else [d_ff])) * experts,
            heads=int(model.cfg.n_heads),
            layers=len(model.blocks),
            vocabulary=int(model.original_model.get_output_embeddings().weight.shape[0]),  # pyright: ignore
            itemsize=next(model.original_model.parameters()).dtype.itemsize,
        )

    @property
    def weights(self) -> int:
        """Weights that a position meets in one block, roughly."""
        return 4 * self.model**2 + 3 * self.model * self.feed_forward

    def stream(self, length: int) -> int:
        """Bytes of the residual stream, or of one target's gradient at it, over ``length`` positions."""
        return length * self.model * self.itemsize

    def graph(self, length: int, pattern: bool = False) -> int:
        """Bytes that the graph of one block keeps for ``length`` positions.

        A position keeps about ten vectors of the residual width and four of the feed-forward width, and four rows of
        the pattern for every head where attention forms it.
        """
        row = 10 * self.model + 4 * self.feed_forward + 4 * self.heads * length * pattern
        return length * row * self.itemsize

    def backward(self, length: int, pattern: bool = False) -> int:
        """Bytes that one target adds to a backward pass through a block: about half of the graph is alive at once."""
        return self.graph(length, pattern) // 2


@contextmanager
def fitting(tokens: int) -> Iterator[None]:
    """Turn running out of memory inside into one sentence about a response of this many tokens.

    Raises:
        DoesNotFit: Memory ran out.
    """
    try:
        yield
    except (DoesNotFit, RuntimeError) as error:
        if not (isinstance(error, DoesNotFit) or is_out_of_memory(error)):
            raise
        raise DoesNotFit(tokens) from error


def free_bytes(device: torch.device) -> int:
    """Return the memory that is free where the model is."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    return psutil.virtual_memory().available


def release() -> None:
    """Give back what a failed attempt has left in caches."""
    clear_device_cache(garbage_collection=True)
