"""Load a causal language model, from anywhere, as a TransformerLens bridge.

Weights stay raw: nothing is folded or centred, since that would change the gradients that are measured.
"""

import os
from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from inversion.errors import InputError, first_line
from inversion.models.bridge import as_bridge, skeleton
from inversion.shipped import MODELS

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
        return as_bridge(skeleton(source), name, tokenizer, trained=True)
    if isinstance(source, torch.nn.Module):
        raise InputError(
            f"{type(source).__name__} is not a Hugging Face causal language model; load it with "
            "AutoModelForCausalLM first, or give its folder or hub id."
        )
    model, found = load_checkpoint(
        source,
        device,
        dtype,
        revision=revision,
        trust_remote_code=trust_remote_code,
        random_weights=random_weights,
        seed=seed,
    )
    label = str(source) + (" (random weights)" if random_weights else "")
    return as_bridge(model, label, found if tokenizer is None else tokenizer)


def load_checkpoint(
    source: str | os.PathLike[str],
    device: str = "auto",
    dtype: str | torch.dtype = "float32",
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    random_weights: bool = False,
    seed: int = 0,
) -> tuple[PreTrainedModel, Any]:
    """Return the Hugging Face model and the tokenizer that :func:`load_model` puts into a bridge.

    The arguments are those of :func:`load_model`. The tokenizer is None where the checkpoint has none.
    """
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
    return model, _load_tokenizer(name, options)


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
            f"cannot load a model from {name}: {first_line(error)}; give a local folder, a hub id you can "
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
            f"cannot load the weights of {name}: {first_line(error)}; only safetensors files are read, "
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
            f"cannot load the tokenizer of {name}: {first_line(error)}; repair it or pass tokenizer=."
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
        raise InputError(f"device {device!r} is not available here: {first_line(error)}; use auto or cpu.") from error
    return chosen
