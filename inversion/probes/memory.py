"""How many tokens to work on at once: enough to keep the processor busy, few enough to fit.

Targets go in blocks that share a prefix, and a block in chunks that share a backward pass.
"""

import math
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from inversion.models import text_config

CACHE_ELEMENTS = 3 * 2**19
"""On a CPU a chunk's widest tensor should stay in cache, (about 6 MB of float32): beyond, memory traffic dominates."""
NORMS_ELEMENTS = 2**18
"""What norms are computed from should stay in the cache of one core (1 MB of float32), or be that of a few tokens."""
FEWEST_ROWS = 256
"""Yet a matrix product wants this many rows to be worth reading the weights for."""
SHARE_OF_FREE = 0.25
"""Most of the free memory a chunk may take by the estimate; the estimate is rough and others use the machine too."""


@dataclass(frozen=True)
class Memory:
    """Estimated bytes for a sequence of a given length.

    activations: what the graph of one forward pass keeps.
    per_target: what one target adds to a backward pass.
    """

    activations: int
    per_target: int


def estimate_memory(model: TransformerBridge, length: int) -> Memory:
    """Estimate the memory that probing a sequence of ``length`` tokens takes, from the model's shape.

    A position of a block keeps about ten vectors of the residual width, four of the feed-forward width and four
    attention rows, and a backward pass has about half of that alive at once.
    """
    d_model, d_ff, heads = _widths(model)
    itemsize = next(model.original_model.parameters()).dtype.itemsize
    block = length * (10 * d_model + 4 * d_ff + 4 * heads * length) * itemsize
    return Memory(activations=len(model.blocks) * block, per_target=block // 2)


def block_size(count: int, device: torch.device) -> int:
    """Return how many of ``count`` targets share a prefix.

    A block of B costs one more forward pass and B / 2 positions too many for each of its targets. In a forward pass of
    few rows a position costs about twice as much, so the sum is least at the root of twice the length. A GPU prefers
    fewer, larger blocks.
    """
    return max(4, math.isqrt(2 * count)) * (1 if device.type == "cpu" else 4)


def worker_count(blocks: int, device: torch.device) -> int:
    """Return how many blocks to work on at the same time.

    Two halves of the cores, each with its own block, wait less than all of them on one small operation after another.
    More workers would each hold a graph of their own.
    """
    return min(2, torch.get_num_threads(), blocks) if device.type == "cpu" else 1


def chunk_size(model: TransformerBridge, length: int, block: int, workers: int = 1) -> int:
    """Return how many targets of a block to carry in one backward pass over ``length`` positions.

    ``workers`` do so at the same time.
    """
    device = next(model.original_model.parameters()).device
    fitting = int(SHARE_OF_FREE * free_bytes(device) / workers / estimate_memory(model, length).per_target)
    if device.type == "cpu":
        d_model, d_ff, heads = _widths(model)
        busy = max(CACHE_ELEMENTS // max(d_model, d_ff, heads * length), FEWEST_ROWS) // length
        fitting = min(fitting, busy)
    return max(1, min(block, fitting))


def norms_at_once(deltas: Tensor) -> int:
    """Return for how many of c targets, (c, b, d_out), to compute norms together.

    A CPU decomposes one matrix after another anyway; a GPU wants them all.
    """
    return max(4, NORMS_ELEMENTS // deltas[0].numel()) if deltas.device.type == "cpu" else len(deltas)


def free_bytes(device: torch.device) -> int:
    """Return the memory that is free where the model is."""
    if device.type == "cuda":
        return (
            torch.cuda.mem_get_info(device)[0]
            + torch.cuda.memory_reserved(device)
            - torch.cuda.memory_allocated(device)
        )
    return psutil.virtual_memory().available


def _widths(model: TransformerBridge) -> tuple[int, int, int]:
    """Return residual width, feed-forward width that is active for a token, and attention heads."""
    config = text_config(model)
    d_model = int(model.cfg.d_model)
    d_ff = next(
        (getattr(config, name) for name in ("intermediate_size", "ffn_dim", "n_inner") if getattr(config, name, None)),
        4 * d_model,
    )
    experts = getattr(config, "num_experts_per_tok", None) or 1
    return d_model, int(max(d_ff if isinstance(d_ff, list) else [d_ff])) * int(experts), int(model.cfg.n_heads)
