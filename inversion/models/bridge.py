"""A Hugging Face model as a TransformerLens bridge: weights shared, tokenizer untouched."""

import copy
import inspect
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components import JointQKVAttentionBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module, detect_tokenizer_bos_eos
from transformers import PreTrainedModel

from inversion.errors import InputError, first_line
from inversion.models.context import context_length
from inversion.models.memory import is_out_of_memory

LIBRARIES = frozenset({"accelerate", "inversion", "peft", "torch", "transformers", "trl"})
"""Packages whose hooks, where a model comes with them, are a part of it and no intervention."""
SAMPLE = 32
"""Tokens that a bridge is compared with its model on: one short pass, yet long enough for positions to matter."""
ROUNDING = {torch.float64: 1e-5, torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.04}
"""How far the logits of one model may be apart, computed in another order, as a part of their spread.

Bridges are within 1e-6, 2e-3 and 0.02 (40 layers) in float32, float16 and bfloat16, and most are equal; float64 models
hold float32 inside. A setting left out costs 0.05 and more.
"""


def as_bridge(model: PreTrainedModel, name: str, tokenizer: Any, *, trained: bool = False) -> TransformerBridge:
    """Wrap a model in place. Eager attention, because fused kernels have no batched backward pass.

    Args:
        model: Its modules are replaced, its parameters are kept.
        name: Name for records and messages.
        tokenizer: Its own, or None.
        trained: The parameters may change later, and the bridge shall follow.

    Raises:
        InputError: TransformerLens has no bridge for it, or one that computes something else.
    """
    model.eval()
    plain = skeleton(model)
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
    except Exception as error:  # What its adapters do not expect ends in assertions and shapes that do not fit, too.
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"TransformerLens cannot bridge {architecture}: {first_line(error)}; choose a supported "
            "decoder architecture."
        ) from error
    if config.model_type in ("gpt_neox", "phi3"):
        _take_softmax_in_float32(bridge)
    if tokenizer is not None:
        _attach_tokenizer(bridge, tokenizer)
    if trained:
        _follow_fused_weights(bridge)
    _require_same_logits(plain, bridge, architecture)
    _use_fast_attention(plain)
    hooks = hooks_by_package(bridge.original_model)
    came_with = Counter({package: n for package, n in hooks.items() if package in LIBRARIES})
    bridge._plain = _Plain(plain, came_with, _identities(plain) & _identities(bridge.original_model))  # pyright: ignore
    return bridge.eval()


def sample_tokens(model: Any, count: int) -> Tensor:
    """Return tokens to try something on, (1, count): spread over the vocabulary, distinct where that is large enough.

    Args:
        model: A Hugging Face model.
        count: How many.
    """
    embedding = model.get_input_embeddings()
    size, device = embedding.num_embeddings, embedding.weight.device
    return (((2 * torch.arange(count, device=device) + 1) * size // (2 * count)) % size)[None]


@torch.inference_mode(False)  # Nothing made here may be of use inside the caller's inference mode alone.
def _require_same_logits(plain: PreTrainedModel, bridge: TransformerBridge, architecture: str) -> None:
    """Refuse a bridge that computes something else than its model.

    TransformerLens computes some attentions itself, and passes over settings that it does not know.
    """
    plain.set_attn_implementation("eager")
    tokens = sample_tokens(plain, min(SAMPLE, context_length(bridge) or SAMPLE))
    try:
        with torch.no_grad(), torch.autocast(tokens.device.type, enabled=False):
            expected, found = (_spread_of_logits(model, tokens) for model in (plain, bridge.original_model))
    except Exception as error:  # Some architectures are not there for every dtype and device.
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"{architecture} cannot be run here in {plain.dtype}: {first_line(error)}; choose another dtype or model."
        ) from error
    off, size = (torch.linalg.vector_norm(tensor) for tensor in (found - expected, expected))
    bound = max(ROUNDING.get(parameter.dtype, 0) for parameter in plain.parameters())
    # Where the model's own are not finite, its weights are broken, which the probe says token by token.
    if size.isfinite() and not off <= bound * size:
        raise InputError(
            f"TransformerLens's bridge of {architecture} computes other logits than the model itself, by "
            f"{off / size:.2g} of their spread, so nothing measured on it would hold; choose another model, or the "
            "same without the setting that the bridge does not know."
        )


def _spread_of_logits(model: Any, tokens: Tensor) -> Tensor:
    """Return logits without their mean over the vocabulary, (1, T, V), which softmax ignores and which may be large."""
    logits = model(input_ids=tokens, use_cache=False).logits.double()
    return logits - logits.mean(-1, keepdim=True)


@dataclass(frozen=True)
class _Plain:
    """The model as it was before it was bridged, with libraries' hooks in the bridge and shared parameters then."""

    model: PreTrainedModel
    hooks: Counter[str]
    shared: frozenset[int]


def plain_model(bridge: TransformerBridge, *, hooked: bool = True) -> Any:
    """Return the Hugging Face model inside a bridge as it was before, to generate with or to read weights from.

    It shares the bridge's parameters but not its modules, which are slower and know eager attention only. Where
    parameters were replaced, or hooks were added and ``hooked`` says that they count, it is the bridged model.
    """
    plain, bridged = getattr(bridge, "_plain", None), bridge.original_model
    if plain is None or not plain.shared <= _identities(bridged) or (hooked and is_hooked(bridge)):
        return bridged
    # Buffers are not shared for ever: moving a bridge to another device replaces them.
    if not hasattr(plain.model, "hf_device_map"):
        plain.model.to(next(bridged.parameters()).device)
    return plain.model.eval()


def is_hooked(bridge: TransformerBridge) -> bool:
    """Whether somebody has hooked into the model, forward or backward; what libraries had done to it is not counted."""
    plain = getattr(bridge, "_plain", None)
    return hooks_by_package(bridge.original_model) != (Counter() if plain is None else plain.hooks)


def hooks_by_package(model: torch.nn.Module) -> Counter[str]:
    """Count hooks by the package of their function, but for TransformerLens's own, which come with the first pass."""
    packages = Counter(
        _package(hook, isinstance(module, HookPoint))
        for module in model.modules()
        for hooks in (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        )
        for hook in hooks.values()
    )
    del packages["transformer_lens"]
    return packages


def _package(hook: Any, wrapped: bool) -> str:
    """Return the package that a hook's function comes from, which a hook point wraps in one of TransformerLens's."""
    if wrapped:
        hook = inspect.getclosurevars(hook).nonlocals.get("hook")
    return (getattr(hook, "__module__", None) or "").partition(".")[0]


def _identities(model: torch.nn.Module) -> frozenset[int]:
    return frozenset(map(id, model.parameters()))


def _use_fast_attention(model: PreTrainedModel) -> None:
    try:
        model.set_attn_implementation("sdpa")
    except ValueError:  # What it computes is more than the kernel does, such as soft caps.
        model.set_attn_implementation("eager")


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


def _follow_fused_weights(bridge: TransformerBridge) -> None:
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
            with torch.random.fork_rng(devices=[]):  # It makes new layers, which draw weights first.
                split = attention.split_qkv_matrix(attention.original_component)
            for name, new in zip("qkv", split, strict=True):
                for old, fresh in zip(getattr(attention, name).parameters(), new.parameters(), strict=True):
                    if not torch.equal(old, fresh):
                        old.copy_(fresh)

    bridge.original_model.register_forward_pre_hook(refresh)
