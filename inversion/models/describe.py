"""What a loaded model is: the record that a run keeps, its language model's configuration, its context."""

from typing import Any

from transformer_lens.model_bridge import TransformerBridge


def describe_model(model: TransformerBridge) -> dict[str, Any]:
    """Return what a reader needs to repeat a measurement: name, revision, dtype, device, attention, size.

    Where the weights were dequantised or merged with an adapter, that too. :func:`inversion.models.fingerprint` tells
    models of the same name apart.
    """
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
        **getattr(hf_model, "provenance", {}),
    }


def text_config(model: TransformerBridge) -> Any:
    """Return the configuration of the language model, also where it is one part of a larger model."""
    config: Any = model.original_model.config
    return config.get_text_config(decoder=True)


def context_length(model: TransformerBridge) -> int | None:
    """Return the longest sequence the model accepts, in tokens, or None where it states no limit."""
    config = text_config(model)
    for field in ("max_position_embeddings", "n_positions", "max_seq_len"):
        length = getattr(config, field, None)
        if isinstance(length, int):
            return length
    return None
