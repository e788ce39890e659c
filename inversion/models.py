"""Load a causal language model, from anywhere, as a TransformerLens bridge.

Weights stay raw: nothing is folded or centred, since that would change the gradients that are measured.
"""

import copy
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components import JointQKVAttentionBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from inversion.demo import MODELS
from inversion.errors import InputError

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def load_model(
    source: str | os.PathLike[str] | PreTrainedModel | TransformerBridge,
    device: str = "auto",
    dtype: str | torch.dtype = "float32",
    *,
    tokenizer: Any = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    random_weights: bool = False,
    seed: int = 0,
) -> TransformerBridge:
    """Return ``source`` as a ``TransformerBridge`` in evaluation mode.

    Args:
        source: A Hugging Face hub id, a local folder, the name of a shipped model (``"fast"``, ``"half"``,
            ``"slow"``), or a loaded Hugging Face causal language model. A loaded model keeps its device and dtype,
            is left as it is, and shares its parameters with the bridge: later training steps show through. A
            bridge is returned unchanged.
        device: ``"auto"`` takes a CUDA device where there is one, else the CPU.
        dtype: One of ``float32``, ``float64``, ``bfloat16``, ``float16``.
        tokenizer: Replaces the tokenizer found beside the weights; a loaded model has none of its own.
        revision: Branch, tag or commit of a hub model.
        trust_remote_code: Run Python code that comes with the checkpoint. Off unless asked for.
        random_weights: Keep the architecture but draw new weights with ``seed``: the control model.
        seed: Seed of ``random_weights``.

    Raises:
        InputError: Nothing is there, it is not a causal language model, its weights are pickled, or the
            architecture has no TransformerLens bridge.
    """
    if isinstance(source, TransformerBridge):
        return source
    if isinstance(source, PreTrainedModel):
        _require_causal(source.config, type(source).__name__, type(source).__name__)
        name = source.config.name_or_path or type(source).__name__
        bridge = _bridge(_skeleton(source), name, tokenizer)
        _follow_fused_weights(bridge)
        return bridge
    if isinstance(source, torch.nn.Module):
        raise InputError(
            f"{type(source).__name__} is not a Hugging Face causal language model; load it with "
            "AutoModelForCausalLM first, or give its folder or hub id."
        )
    name, local = _locate(source)
    options: dict[str, Any] = {
        "revision": revision,
        "trust_remote_code": trust_remote_code,
        "local_files_only": local,
    }
    config = _load_config(name, options)
    torch_dtype = _dtype(dtype)
    if random_weights:
        model = _random_model(config, torch_dtype, seed, trust_remote_code)
    else:
        model = _load_weights(name, config, torch_dtype, options)
    model = model.to(_device(device))  # pyright: ignore[reportArgumentType]
    if tokenizer is None:
        tokenizer = _load_tokenizer(name, options)
    label = str(source) + (" (random weights)" if random_weights else "")
    return _bridge(model, label, tokenizer)


def describe_model(model: TransformerBridge) -> dict[str, Any]:
    """Return what a reader needs to repeat a measurement: name, revision, dtype, device, attention, size."""
    hf_model: Any = model.original_model
    parameters = list(hf_model.parameters())
    return {
        "model": model.cfg.model_name,
        "revision": getattr(hf_model.config, "_commit_hash", None),
        "architecture": model.cfg.architecture,
        "parameters": sum(p.numel() for p in parameters),
        "dtype": str(parameters[0].dtype).removeprefix("torch."),
        "device": parameters[0].device.type,
        "attention": hf_model.config._attn_implementation,
    }


def text_config(model: TransformerBridge) -> Any:
    """Return the configuration of the language model, also where it is one part of a larger model."""
    config: Any = model.original_model.config
    return getattr(config, "text_config", None) or config


def context_length(model: TransformerBridge) -> int | None:
    """Return the longest sequence the model accepts, in tokens, or None where it states no limit."""
    config: Any = model.original_model.config
    for field in ("max_position_embeddings", "n_positions", "max_seq_len"):
        length = getattr(config, field, None)
        if isinstance(length, int):
            return length
    return None


def _bridge(model: PreTrainedModel, name: str, tokenizer: Any) -> TransformerBridge:
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
            # The bridge fills in missing special tokens: on a copy, since the tokenizer is the caller's.
            tokenizer=copy.deepcopy(tokenizer),
            model_name=name,
        )
    except (ValueError, NotImplementedError) as error:
        raise InputError(
            f"TransformerLens cannot bridge {architecture}: {_first_line(error)}; choose a supported "
            "decoder architecture."
        ) from error
    if config.model_type in ("gpt_neox", "phi3"):
        _take_softmax_in_float32(bridge)
    return bridge.eval()


def _take_softmax_in_float32(bridge: TransformerBridge) -> None:
    """Give a bridge that splits fused q, k, v the float32 softmax that the original has and the bridge drops."""
    for block in bridge.blocks:
        attention = block.attn
        dtype = attention.q.weight.dtype
        attention._softmax_dropout_pattern = partial(
            attention._softmax_dropout_pattern, target_dtype=dtype, upcast_to_fp32=True
        )


def _skeleton(model: PreTrainedModel) -> PreTrainedModel:
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
            for name, new in zip("qkv", attention.split_qkv_matrix(attention.original_component), strict=True):
                for old, fresh in zip(getattr(attention, name).parameters(), new.parameters(), strict=True):
                    if not torch.equal(old, fresh):
                        old.copy_(fresh)

    bridge.original_model.register_forward_pre_hook(refresh)


def _locate(source: str | os.PathLike[str]) -> tuple[str, bool]:
    """Return the name to load and whether it is local, which forbids any network access."""
    text = os.fspath(source)
    if text in MODELS:
        return str(MODELS[text]), True
    path = Path(text).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"{text} holds no config.json; give a folder in Hugging Face format.")
        return str(path), True
    looks_local = path.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1 or path.exists()
    if looks_local:
        raise InputError(f"there is no model folder {text}; give a folder in Hugging Face format or a hub id.")
    return text, False


def _load_config(name: str, options: dict[str, Any]) -> Any:
    try:
        config = AutoConfig.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError) as error:
        if "custom code" in str(error):
            raise InputError(
                f"{name} comes with Python code of its own; read it, then pass trust_remote_code (on the command line "
                "--trust-remote-code) if you trust it."
            ) from error
        raise InputError(
            f"cannot load a model from {name}: {_first_line(error)}; give a local folder, a hub id you can "
            f"reach, or one of the shipped models ({', '.join(MODELS)})."
        ) from error
    _require_causal(config, name, (config.architectures or [None])[0])
    return config


def _require_causal(config: Any, name: str, architecture: str | None) -> None:
    """Refuse encoders, encoder-decoders and models with a head other than next-token prediction."""
    causal = set()
    for value in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        causal.update([value] if isinstance(value, str) else value)
    known = architecture in causal or (architecture is None and config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    remote = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if getattr(config, "is_encoder_decoder", False) or not (known or remote):
        raise InputError(
            f"{name} is not a causal language model ({architecture or config.model_type}); choose a decoder "
            "that predicts the next token."
        )


def _load_weights(name: str, config: Any, dtype: torch.dtype, options: dict[str, Any]) -> PreTrainedModel:
    try:
        return AutoModelForCausalLM.from_pretrained(name, config=config, dtype=dtype, use_safetensors=True, **options)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot load the weights of {name}: {_first_line(error)}; only safetensors files are read, "
            "since other formats can run code when they are opened."
        ) from error


def _random_model(config: Any, dtype: torch.dtype, seed: int, trust_remote_code: bool) -> PreTrainedModel:
    """Draw new weights on the CPU, the same for a seed whatever the device, without touching global state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)


def _load_tokenizer(name: str, options: dict[str, Any]) -> Any:
    """Load the tokenizer beside the weights; a checkpoint without one can still be probed by token ids."""
    if options["local_files_only"] and not any(Path(name).glob("*token*")):
        return None
    try:
        return AutoTokenizer.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot load the tokenizer of {name}: {_first_line(error)}; repair it or pass tokenizer=."
        ) from error


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} is not available here: {_first_line(error)}; use auto or cpu.") from error
    return chosen


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
