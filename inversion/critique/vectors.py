"""The residual stream over final answers, and the mean difference that is the critique vector."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from inversion.hooks import hooks


@torch.no_grad()
def answer_means(model: TransformerBridge, ids: Sequence[int], start: int, stop: int) -> np.ndarray:
    """Return the residual stream after each layer, averaged over the tokens of the final answer, (layers, d_model).

    Args:
        model: A bridge.
        ids: Prompt and response.
        start: First token of the final answer.
        stop: The one behind its last.
    """
    if not 0 <= start < stop <= len(ids):
        raise ValueError(f"there is no answer between {start} and {stop} of {len(ids)} tokens")
    means: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        stream = output[0] if isinstance(output, tuple) else output  # (1, length, d_model)
        means.append(stream[0, start:stop].double().mean(0).cpu())

    device = next(model.original_model.parameters()).device
    with hooks() as add:
        for block in model.blocks:
            add(block.register_forward_hook(keep))
        model.original_model(input_ids=torch.tensor([list(ids)], device=device), use_cache=False)
    return torch.stack(means).numpy()


def critique_vectors(recovered: np.ndarray, undisturbed: np.ndarray) -> np.ndarray:
    """Return the vector of every layer, (layers, d_model): mean of recovered minus mean of undisturbed, unnormalised.

    Args:
        recovered: Means over the answers of problems in which the error was not corrected in thinking and the answer
            is right, (pairs, layers, d_model).
        undisturbed: The same of the same problems without an error, all right.
    """
    if recovered.shape != undisturbed.shape or recovered.ndim != 3 or not len(recovered):
        raise ValueError(f"pairs need one shape (pairs, layers, width), not {recovered.shape}, {undisturbed.shape}")
    return recovered.mean(0) - undisturbed.mean(0)
