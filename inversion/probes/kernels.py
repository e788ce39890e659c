"""Attention that never holds a pattern, for one sequence and the gradients of many targets at once.

Eager attention keeps heads x T x T numbers a layer for the backward pass, and a batched backward pass holds as many
again for every target. The kernels here recompute the pattern piece by piece instead, and take all targets as one
batch over the same q, k and v. They are registered with transformers under the name :data:`PIECEWISE`.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

PIECEWISE = "inversion_piecewise"
"""Name of this implementation among those of ``transformers.AttentionInterface``."""
TILE = 256
"""Rows of the pattern that :class:`_Tiled` holds at a time."""


def piecewise_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend without forming the pattern; dropout is left out, as in evaluation.

    Args:
        module: The attention layer.
        query: (1, heads, T, d_head).
        key: (1, key-value heads, T, d_head).
        value: As ``key``.
        attention_mask: True where a query sees a key, (1, 1, T, T), or what is added to the scores. None is causal.
        scaling: Factor of the scores; by default the inverse root of d_head.
        softcap: Scores s become cap * tanh(s / cap).
        s_aux: Attention sinks: one more score for every head, which takes part in the softmax and mixes nothing in.
        position_bias: Not known here.

    Returns:
        (1, T, heads, d_head), and no pattern.
    """
    if position_bias is not None or query.shape[2] != key.shape[2]:
        raise NotImplementedError("attention with a position bias or a cache")
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, dim=1) if groups > 1 else t for t in (key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    bias = None if attention_mask is None else _additive(attention_mask, query.dtype)
    if softcap is not None or s_aux is not None:
        mixed = _Tiled.apply(query, key, value, bias, scale, softcap, s_aux)
    else:
        mixed = _Fused.apply(query, key, value, bias, scale)[0]
    return mixed.transpose(1, 2), None


AttentionInterface.register(PIECEWISE, piecewise_attention)
# The mask of sdpa: none at all where attention is causal and no window is shorter than the sequence.
AttentionMaskInterface.register(PIECEWISE, sdpa_mask)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn True and False into 0 and minus infinity."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)


class _Fused(torch.autograd.Function):
    """Torch's fused kernel: flash attention on a CPU, memory-efficient attention on a GPU."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, ...]:
        """Return what is mixed, (1, heads, T, d_head), and what the kernel's own backward pass wants to know."""
        if q.device.type == "cpu":
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                q, k, v, 0.0, bias is None, attn_mask=bias, scale=scale
            )
        return torch.ops.aten._scaled_dot_product_efficient_attention(
            q, k, v, _aligned(bias, q), True, 0.0, bias is None, scale=scale
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        q, k, v, bias, ctx.scale = inputs
        ctx.save_for_backward(q, k, v, bias, *output)
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return *_FusedPull.apply(grads[0], ctx.scale, *ctx.saved_tensors), None, None


class _FusedPull(torch.autograd.Function):
    """Gradients at the output, (c, heads, T, d_head), carried to q, k and v, each of the same shape."""

    @staticmethod
    def forward(grad: Tensor, scale: float, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *kept: Tensor) -> Any:
        # Expanded, not copied: every target has the same q, k, v and output.
        q, k, v, out, lse = (t.expand(len(grad), *t.shape[1:]) for t in (q, k, v, *kept[:2]))
        if q.device.type == "cpu":
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad, q, k, v, out, lse, 0.0, bias is None, attn_mask=bias, scale=scale
            )
        return torch.ops.aten._scaled_dot_product_efficient_attention_backward(
            grad, q, k, v, _aligned(bias, q), out, lse, *kept[2:], 0.0, [True, True, True, False], bias is None,
            scale=scale,
        )[:3]  # fmt: skip

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        """Keep nothing: gradients of gradients are never asked for."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple, grad: Tensor, *rest: Any) -> tuple[Any, Any]:
        """Many cotangents are a larger batch."""
        return _as_one_batch(_FusedPull, in_dims, grad, rest)


class _Tiled(torch.autograd.Function):
    """Rows of the pattern in tiles, for what the fused kernels do not know: soft caps and sinks."""

    @staticmethod
    def forward(
        q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, cap: float | None, sinks: Tensor | None
    ) -> Tensor:
        """Return what is mixed, (1, heads, T, d_head)."""
        mixed = [pattern @ v[:, :, :seen] for _, seen, pattern, _ in _tiles(q, k, bias, scale, cap, sinks)]
        return torch.cat(mixed, dim=2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        q, k, v, bias, ctx.scale, ctx.cap, sinks = inputs
        ctx.save_for_backward(q, k, v, bias, sinks, output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return *_TiledPull.apply(grads[0], ctx.scale, ctx.cap, *ctx.saved_tensors), None, None, None, None


class _TiledPull(torch.autograd.Function):
    """Gradients at the output, (c, heads, T, d_head), carried to q, k and v, each of the same shape."""

    @staticmethod
    def forward(
        grad: Tensor,
        scale: float,
        cap: float | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        sinks: Tensor | None,
        out: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        to_q, to_k, to_v = (grad.new_zeros(grad.shape) for _ in "qkv")
        # What a row's softmax takes off each of its gradients; the sink's own gradient is 0, so this holds with sinks.
        shift = (grad * out).sum(-1, keepdim=True)  # (c, heads, T, 1)
        for rows, seen, pattern, slope in _tiles(q, k, bias, scale, cap, sinks):
            row_grad = grad[:, :, rows]  # (c, heads, tile, d_head)
            to_v[:, :, :seen] += pattern.mT @ row_grad
            to_scores = pattern * (row_grad @ v[:, :, :seen].mT - shift[:, :, rows]) * scale  # (c, heads, tile, seen)
            if slope is not None:
                to_scores = to_scores * slope
            to_q[:, :, rows] = to_scores @ k[:, :, :seen]
            to_k[:, :, :seen] += to_scores.mT @ q[:, :, rows]
        return to_q, to_k, to_v

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        """Keep nothing: gradients of gradients are never asked for."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple, grad: Tensor, *rest: Any) -> tuple[Any, Any]:
        """Many cotangents are a larger batch."""
        return _as_one_batch(_TiledPull, in_dims, grad, rest)


def _tiles(
    q: Tensor, k: Tensor, bias: Tensor | None, scale: float, cap: float | None, sinks: Tensor | None
) -> Iterator[tuple[slice, int, Tensor, Tensor | None]]:
    """Yield rows, how many keys they see, their pattern (1, heads, tile, seen) and the slope of the soft cap there."""
    length = q.shape[2]
    for start in range(0, length, TILE):
        rows, seen = slice(start, min(start + TILE, length)), min(start + TILE, length)
        scores = q[:, :, rows] @ k[:, :, :seen].mT * scale
        slope = None
        if cap is not None:
            bent = torch.tanh(scores / cap)
            scores, slope = bent * cap, 1 - bent.square()
        if bias is not None:
            scores = scores + bias[..., rows, :seen]
        else:
            later = torch.arange(seen, device=q.device) > torch.arange(start, seen, device=q.device)[:, None]
            scores = scores.masked_fill(later, -torch.inf)
        if sinks is not None:
            column = sinks.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
            scores = torch.cat([scores, column], dim=-1)
        pattern = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        yield rows, seen, pattern[..., :seen], slope


def _as_one_batch(pull: Any, in_dims: tuple, grad: Tensor, rest: tuple) -> tuple[Any, Any]:
    """Fold targets (c, 1, heads, T, d_head) into the batch, and take them out again."""
    folded = grad.movedim(in_dims[0], 0).flatten(0, 1)  # (c, heads, T, d_head)
    pulled = tuple(t[:, None] for t in pull.apply(folded, *rest))
    return pulled, (0,) * len(pulled)


def _aligned(bias: Tensor | None, q: Tensor) -> Tensor | None:
    """Expand a bias to every head, with rows that start at multiples of 16 bytes, as the GPU's kernel wants them."""
    if bias is None:
        return None
    length = bias.shape[-1]
    padded = torch.nn.functional.pad(bias, (0, -length % 8))[..., :length]
    return padded.expand(len(q), q.shape[1], length, length)
