"""A Hugging Face model as a TransformerLens bridge: weights shared, tokenizer untouched."""

import copy
from functools import partial
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components import JointQKVAttentionBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module, detect_tokenizer_bos_eos
from transformers import PreTrainedModel

from inversion.errors import InputError, first_line


def as_bridge(model: PreTrainedModel, name: str, tokenizer: Any) -> TransformerBridge:
    """Wrap a model in place. Eager attention, because fused kernels have no batched backward pass."""
    model.eval()
    model.set_attn_implementation("eager")
    config = model.config
    architecture = (config.architectures or [type(model).__name__])[0]
    try:
        bridge = build_bridge_from_module(
            model,
            architecture,
            hf_config=config,
            model_name=name,
        )
    except (ValueError, NotImplementedError) as error:
        raise InputError(
            f"TransformerLens cannot bridge {architecture}: {first_line(error)}; choose a supported "
            "decoder architecture."
        ) from error
    if config.model_type in ("gpt_neox", "phi3"):
        _take_softmax_in_float32(bridge)
    if tokenizer is not None:
        _attach_tokenizer(bridge, tokenizer)
    return bridge.eval()


def _attach_tokenizer(bridge: TransformerBridge, tokenizer: Any) -> None:
    """Give the bridge the tokenizer as it is.

    Handed to the builder, it would be loaded again so that it adds a start token, and get special tokens that it lacks.
    """
    bridge.tokenizer = tokenizer
    bridge._driver.tokenizer = tokenizer
    bridge.cfg.tokenizer_prepends_bos, bridge.cfg.tokenizer_appends_eos = detect_tokenizer_bos_eos(tokenizer)


def _take_softmax_in_float32(bridge: TransformerBridge) -> None:
    """Give a bridge that splits fused q, k, v the float32 softmax that the original has and the bridge drops."""
    for block in bridge.blocks:
        attention = block.attn
        dtype = attention.q.weight.dtype
        attention._softmax_dropout_pattern = partial(
            attention._softmax_dropout_pattern, target_dtype=dtype, upcast_to_fp32=True
        )


def skeleton(model: PreTrainedModel) -> PreTrainedModel:
    """Copy the modules of ``model`` but none of its tensors.

    A bridge rewrites the module tree that it wraps, so it gets this copy. Parameters and buffers are the very
    objects of the original, so updates show through and no memory is spent.
    """
    memo = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, memo)


def follow_fused_weights(bridge: TransformerBridge) -> None:
    """Keep split q, k, v weights equal to the fused weight they came from.

    Some bridges split a fused projection by copying, so that later updates of the original would not show. There the
    copies are compared before every forward pass, and taken anew where they differ: to write into them would void the
    graph of an earlier pass that is still in use.
    """
    stale = []
    for block in bridge.blocks:
        attention = block._modules.get("attn")
        fused = getattr(attention, "original_component", None)
        if isinstance(attention, JointQKVAttentionBridge) and fused is not None:
            storages = {tensor.untyped_storage().data_ptr() for tensor in fused.parameters()}
            if attention.q.weight.untyped_storage().data_ptr() not in storages:
                stale.append(attention)
    if not stale:
        return

    @torch.no_grad()
    def refresh(*_: Any) -> None:
        for attention in stale:
            for name, new in zip("qkv", attention.split_qkv_matrix(attention.original_component), strict=True):
                for old, fresh in zip(getattr(attention, name).parameters(), new.parameters(), strict=True):
                    if not torch.equal(old, fresh):
                        old.copy_(fresh)

    bridge.original_model.register_forward_pre_hook(refresh)
