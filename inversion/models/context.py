"""What a model's configuration says of its language model, and of the context that it accepts."""

from typing import Any

from transformer_lens.model_bridge import TransformerBridge


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
