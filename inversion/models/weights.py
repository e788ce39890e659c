"""Configuration, weights and tokenizer of a checkpoint, by transformers, and nothing drawn at random unnoticed."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from inversion.errors import InputError, first_line
from inversion.models.checkpoint import PROVENANCE, Place, check_folder, refuse_pointer, refuse_quantised
from inversion.shipped import MODELS

NO_PART = re.compile(
    r"inv_freq|masked_bias|causal_mask|(attn|attention)\.bias$|position_ids"
    r"|vision|visual|image|audio|projector|mtp|v_head|value_head"
)
"""Names in a checkpoint that no language model is the poorer for: buffers, other senses, extra heads."""
TOKENIZER_FILES = ("*token*", "vocab.json", "vocab.txt", "*.model", "*.tiktoken")
SHOWN = 3
"""Most names that a message lists."""


def load_config(place: Place, options: dict[str, Any]) -> Any:
    """Return the configuration of a causal language model."""
    name = place.name
    if place.local and not place.gguf_file:
        refuse_pointer(Path(name) / "config.json")
    try:
        config = AutoConfig.from_pretrained(name, **options)
    except Exception as error:  # What a configuration says may break any of the code that reads it.
        if "custom code" in str(error):
            raise InputError(
                f"{name} comes with Python code of its own; read it, then pass trust_remote_code (on the command line "
                "--trust-remote-code) if you trust it."
            ) from error
        raise InputError(
            f"cannot load a model from {name}: {first_line(error)}; give a local folder, a hub id you can "
            f"reach, or one of the shipped models ({', '.join(MODELS)})."
        ) from error
    require_causal(config, name, (config.architectures or [None])[0])
    quantisation = getattr(config, "quantization_config", None)
    if quantisation and not place.gguf_file:
        method = quantisation.get("quant_method") if isinstance(quantisation, dict) else quantisation.quant_method
        refuse_quantised(name, str(getattr(method, "value", method)))
    return config


def require_causal(config: Any, name: str, architecture: str | None) -> None:
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


def load_weights(place: Place, config: Any, dtype: torch.dtype, options: dict[str, Any]) -> PreTrainedModel:
    """Return the model with the checkpoint's weights, all of them and no others."""
    name = place.name
    if place.gguf_file:
        source: dict[str, Any] = {}  # transformers reads the configuration out of the file itself.
    else:
        source = {"config": config, "use_safetensors": True}
        if place.local:
            check_folder(Path(name))
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **source, **options
        )
    except Exception as error:  # So may weights.
        raise InputError(f"cannot load the weights of {name}: {first_line(error)}; {_advice(error)}.") from error
    model, report = loaded
    _require_whole(name, report)
    return model


def provenance(place: Place) -> dict[str, Any]:
    """Return what a run should say about how the weights came to be, beyond the checkpoint's name."""
    if place.gguf_file:
        return {"gguf_file": place.gguf_file, "dequantised": True}
    path = Path(place.name) / PROVENANCE
    return json.loads(path.read_text()) if place.local and path.is_file() else {}


def random_model(config: Any, dtype: torch.dtype, seed: int, trust_remote_code: bool) -> PreTrainedModel:
    """Draw new weights on the CPU, the same for a seed whatever the device, without touching global state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)


def load_tokenizer(place: Place, options: dict[str, Any]) -> Any:
    """Load the tokenizer beside the weights; a checkpoint without one can still be probed by token ids."""
    if place.local and not place.gguf_file:
        files = [path for pattern in TOKENIZER_FILES for path in Path(place.name).glob(pattern)]
        for path in files:
            refuse_pointer(path)
        if not files:
            return None
    try:
        return AutoTokenizer.from_pretrained(place.name, **options)
    except Exception as error:  # Tokenizers raise bare exceptions.
        raise InputError(
            f"cannot load the tokenizer of {place.name}: {type(error).__name__}: {first_line(error)}; download its "
            "files again, or pass tokenizer=."
        ) from error


def _advice(error: Exception) -> str:
    if "safetensors" in str(error) and isinstance(error, OSError):
        return "only safetensors files are read, since other formats can run code when they are opened"
    return "make sure that its files are whole and belong together"


def _require_whole(name: str, report: dict[str, Any]) -> None:
    """Refuse a checkpoint that does not fit its configuration: what it lacks would be drawn at random, unnoticed."""
    mismatched = sorted(report["mismatched_keys"])
    if mismatched:
        weight, stored, wanted = mismatched[0]
        raise InputError(
            f"{len(mismatched)} weights of {name} have another shape than its config.json says, such as {weight} with "
            f"{list(stored)} instead of {list(wanted)}; use the configuration that the weights were saved with."
        )
    missing = sorted(report["missing_keys"])
    foreign = sorted(key for key in report["unexpected_keys"] if not NO_PART.search(key))
    if not (missing or foreign):
        return
    faults = [
        f"{what} {', '.join(keys[:SHOWN])}" + (f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else "")
        for what, keys in (("lacks", missing), ("holds, beyond its model,", foreign))
        if keys
    ]
    raise InputError(
        f"the checkpoint {name} does not fit its config.json: it {' and '.join(faults)}; save the weights again "
        "under the names that transformers gives them (no wrapper's prefix), with the configuration they belong to."
    )
