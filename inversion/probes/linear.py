"""Linear maps of one sequence: each computed once, and by the machine's faster matrix product.

In a causal model a prefix writes the first rows of what the whole sequence writes. So the whole sequence is run once,
and the forward pass of a prefix, which is only needed for its graph, takes those rows instead of multiplying again.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from inversion.hooks import replaced

Map = Callable[[Tensor], Tensor]

PANELS = (256, 64)
"""Rows that oneDNN multiplies at a time.

It compiles code for every number of rows it meets, about half a millisecond and up to some megabytes each, and keeps
it. Prefixes come in any length, so they are cut into pieces of two sizes.
"""
FILLED = 32
"""From this many rows on, a remainder is filled up with zeros to the smaller panel; fewer go another way, half as fast.
"""


KEPT_BYTES = 2**26
"""Most bytes of what all layers' maps wrote that are kept (64 MiB); beyond, each layer is computed once more."""


def product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``rows @ weight.T + bias``.

    Where it is the faster one, oneDNN's kernel does it instead of the BLAS that torch was built with: see
    :func:`prefers_onednn`.

    Args:
        rows: (..., d_in).
        weight: (d_out, d_in), in any memory layout.
        bias: (d_out,).

    Returns:
        (..., d_out).
    """
    if rows.device.type == "cpu" and rows.dtype == weight.dtype == torch.float32 and prefers_onednn():
        return _in_panels(rows.reshape(-1, rows.shape[-1]), weight, bias).view(*rows.shape[:-1], len(weight))
    return nn.functional.linear(rows, weight, bias)


def _in_panels(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    def panel(piece: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(piece, weight, bias, "none", [], "")

    results, start = [], 0
    for size in PANELS:
        while len(rows) - start >= size:
            results.append(panel(rows[start : start + size]))
            start += size
    rest = rows[start:]
    if len(rest) >= FILLED:
        results.append(panel(nn.functional.pad(rest, (0, 0, 0, PANELS[-1] - len(rest))))[: len(rest)])
    elif len(rest) or not results:
        results.append(nn.functional.linear(rest, weight, bias))
    return results[0] if len(results) == 1 else torch.cat(results)


def rows_worth(rows: Any) -> Any:
    """Return what a product of so many rows costs in panels, in rows of full ones; of a number or of an array."""
    rest = rows % PANELS[-1]
    return rows - rest + np.where(rest < FILLED, 2 * rest, PANELS[-1])


@cache
def prefers_onednn() -> bool:
    """Whether float32 products on this CPU should go through oneDNN.

    Torch's BLAS on x86, MKL, keeps to 256-bit registers on processors that are not Intel's, and oneDNN does not:
    where there are 512-bit ones it was twice as fast (``inversion bench`` prints both rates). The rule looks at the
    processor and not at a clock, so that a machine always rounds alike.
    """
    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return there and torch.backends.cpu.get_cpu_capability() == "AVX512"


class LinearMaps:
    """The linear maps of a model, or of a part of it, while one sequence is probed.

    Kinds that are not known here (quantized ones, say) and modules whose ``forward`` somebody has replaced stay as
    they are. Maps that are called more than once, or on something else than one sequence, as experts are, are always
    computed.
    """

    def __init__(self, module: nn.Module) -> None:
        kinds = (nn.Linear, Conv1D)
        self._maps: list[Any] = [m for m in module.modules() if type(m) in kinds and "forward" not in vars(m)]
        self._calls: dict[nn.Module, int] = dict.fromkeys(self._maps, 0)
        self._written: dict[nn.Module, Tensor] = {}
        self.has_kept = False

    @property
    def bytes_per_row(self) -> int:
        """Bytes that all maps write for one position."""
        return sum(len(_weight(m)) * m.weight.dtype.itemsize for m in self._maps)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Compute what the maps write inside, and keep it."""

        def compute(module: Any, weight: Tensor) -> Map:
            def forward(inputs: Tensor) -> Tensor:
                self._calls[module] += 1
                with torch.no_grad():
                    output = product(inputs, weight, module.bias)
                if inputs.ndim == 3:
                    self._written[module] = output
                return _LinearMap.apply(inputs, weight, [output])

            return forward

        with replaced({module: compute(module, _weight(module)) for module in self._maps}):
            yield
        self.has_kept = True

    @contextmanager
    def reused(self) -> Iterator[None]:
        """Hand out the first rows of what was kept instead of computing them, with the same gradient."""

        def look_up(written: Tensor, weight: Tensor) -> Map:
            return lambda inputs: _LinearMap.apply(inputs, weight, [written[:, : inputs.shape[1]]])

        once = {module: written for module, written in self._written.items() if self._calls[module] == 1}
        with replaced({module: look_up(written, _weight(module)) for module, written in once.items()}):
            yield


def worth_keeping(maps: Iterable[LinearMaps], length: int) -> bool:
    """Whether what these maps write on ``length`` positions is little enough to keep it all."""
    return length * sum(some.bytes_per_row for some in maps) <= KEPT_BYTES


def _weight(module: Any) -> Tensor:
    """Return the weight as (d_out, d_in)."""
    return module.weight.T if isinstance(module, Conv1D) else module.weight


class _LinearMap(torch.autograd.Function):
    """A linear map with weight (d_out, d_in) whose output is known. The weight gets no gradient."""

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor, output: list[Tensor]) -> Tensor:
        # In a list, since a tensor that is handed through would be taken for an input of the graph.
        return output[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (weight,) = ctx.saved_tensors
        return _Pull.apply(grads[0], weight), None, None


class _Pull(torch.autograd.Function):
    """Gradients at a linear map's output, (..., d_out), carried to its input, (..., d_in)."""

    @staticmethod
    def forward(grad: Tensor, weight: Tensor) -> Tensor:
        return product(grad, weight.T)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        """Keep nothing: gradients of gradients are never asked for."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple, grad: Tensor, weight: Tensor) -> tuple[Tensor, int]:
        """Many cotangents are only more rows; the weight is the same for all."""
        return product(grad.movedim(in_dims[0], 0), weight.T), 0
