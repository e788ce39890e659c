"""Which attention a bridge runs: its own, which forms the pattern, or one that transformers knows by name.

TransformerLens computes attention step by step, so that hooks can read scores and pattern: heads x T x T numbers a
layer. Where nobody reads them, the model's own attention layer does the same through any implementation that is
registered with transformers.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components import (
    JointQKVAttentionBridge,
    JointQKVPositionEmbeddingsAttentionBridge,
)
from transformers import AttentionInterface

from inversion.hooks import replaced

SPLIT = (JointQKVAttentionBridge, JointQKVPositionEmbeddingsAttentionBridge)
"""Bridges that split a fused projection into q, k and v; they do without the original's forward."""


@contextmanager
def attention_of(model: TransformerBridge, implementation: str) -> Iterator[None]:
    """Let every attention layer inside compute by the implementation of this name, with no pattern to hook into.

    The bridge's q, k, v and o projections run all the same, also where the original fuses them.

    Args:
        model: A bridge that :func:`can_choose_attention`.
        implementation: A name known to ``transformers.AttentionInterface``.
    """
    hf_model: Any = model.original_model
    before = hf_model.config._attn_implementation
    hf_model.set_attn_implementation(implementation)
    try:
        with replaced({layer: _forward(layer, implementation) for layer in _layers(model)}):
            yield
    finally:
        hf_model.set_attn_implementation(before)


def can_choose_attention(model: TransformerBridge) -> bool:
    """Whether :func:`attention_of` can be used: the layers look implementations up."""
    return all(_looks_up(type(layer.original_component)) or type(layer) in SPLIT for layer in _layers(model))


def _layers(model: TransformerBridge) -> list[Any]:
    layers = (block._modules.get("attn") for block in model.blocks)
    return [layer for layer in layers if layer is not None]


@cache
def _looks_up(kind: type) -> bool:
    """Whether a transformers layer of this kind takes its implementation from the registry."""
    return "ALL_ATTENTION_FUNCTIONS" in inspect.getsource(kind.forward)  # pyright: ignore


def _forward(layer: Any, implementation: str) -> Callable[..., Any]:
    if not isinstance(layer, JointQKVAttentionBridge):
        return layer.original_component.forward
    bridge: Any = layer  # narrowed above to a class whose attributes may be None; those of an attention are not
    attend = AttentionInterface()[implementation]

    def forward(
        hidden_states: Tensor,
        *_: Any,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **__: Any,
    ) -> tuple[Tensor, None]:
        heads, groups = bridge.config.n_heads, getattr(bridge.config, "n_key_value_heads", None)
        q, k, v, *_shape = layer._reshape_qkv_to_heads(  # (1, heads, T, d_head) each
            layer.q(hidden_states), layer.k(hidden_states), layer.v(hidden_states), heads, groups or heads
        )
        if position_embeddings is not None:
            q, k = layer._apply_rotary_pos_emb(q, k, *position_embeddings)
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
        scale = q.shape[-1] ** -0.5
        if getattr(layer.config, "scale_attn_by_inverse_layer_idx", False):
            scale /= bridge._layer_idx + 1
        mixed, _pattern = attend(layer, q, k, v, attention_mask, scaling=scale)  # (1, T, heads, d_head)
        return layer.o(mixed.flatten(2)), None

    return forward
