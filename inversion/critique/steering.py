"""Add a vector to the residual stream, and see what becomes of the answers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge

from inversion.hooks import hooks

ALPHAS = tuple(round(-1 + 0.2 * step, 1) for step in range(11))
"""-1 to 1 by 0.2."""


@contextmanager
def steered(model: TransformerBridge, layer: int, vector: np.ndarray) -> Iterator[None]:
    """Add a vector to the residual stream after a layer inside, at every position, prompt included.

    Args:
        model: A bridge.
        layer: Layer number.
        vector: (d_model,), already multiplied by its coefficient.
    """
    parameter = next(model.original_model.parameters())
    added = torch.as_tensor(vector).to(parameter.device, parameter.dtype)

    def add_vector(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + added, *output[1:])
        return output + added

    with hooks() as add:
        add(model.blocks[layer].register_forward_hook(add_vector))
        yield


def directions(vectors: np.ndarray, layer: int, random: int, seed: int) -> dict[str, np.ndarray]:
    """Return the critique vector of a layer and its controls, all of one length.

    Args:
        vectors: Of every layer, (layers, d_model).
        layer: The layer to steer.
        random: How many random directions.
        seed: Their seed.
    """
    own = vectors[layer]
    length = np.linalg.norm(own)
    generator = np.random.default_rng(seed)
    found = {"critique vector": own}
    for number in range(1, random + 1):
        direction = generator.standard_normal(own.shape)
        found[f"random direction {number}"] = direction * length / np.linalg.norm(direction)
    other = farthest_layer(len(vectors), layer)
    if other != layer and np.linalg.norm(vectors[other]) > 0:
        found[f"vector of layer {other}"] = vectors[other] * length / np.linalg.norm(vectors[other])
    return found


def farthest_layer(layers: int, layer: int) -> int:
    """Return the first or the last layer, whichever is farther away."""
    return 0 if layer >= layers - 1 - layer else layers - 1


def alphas(values: Sequence[float]) -> list[float]:
    """Return coefficients without 0, which is no steering and needs no direction."""
    return [alpha for alpha in values if alpha != 0]
