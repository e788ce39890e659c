"""What fits into memory, as far as a model's configuration tells."""

from typing import Any

import psutil
import torch
from accelerate.utils.memory import should_reduce_batch_size

from inversion.models.context import text_config

MOST_SEQUENCES = 256
"""Beyond this a larger batch gains nothing."""
SHARE_OF_MEMORY = 0.25
"""Of what a device has beside the weights, for keys, values and logits; the rest is for the model's own work."""


def sequences_at_once(model: Any, length: int) -> int:
    """Return how many sequences of up to ``length`` tokens to write together.

    It comes from the size of the device's memory and not from what is free of it, so that it is the same every time on
    machines of a kind; and it is a power of two, so that small differences between them do not matter.
    """
    parameters = list(model.original_model.parameters())
    config, device = text_config(model), parameters[0].device
    heads = getattr(config, "num_key_value_heads", None) or model.cfg.n_heads
    layers = len(model.blocks)
    keys_and_values = 2 * layers * int(heads) * int(model.cfg.d_head) * parameters[0].dtype.itemsize
    logits = 8 * torch.float64.itemsize * int(model.cfg.d_vocab)  # probabilities, sorted ones, their sums, ...
    if device.type == "cuda":
        weights = sum(p.numel() * p.dtype.itemsize for p in parameters)
        memory = torch.cuda.get_device_properties(device).total_memory - weights
    else:
        memory = psutil.virtual_memory().total
    fitting = int(max(0, memory) * SHARE_OF_MEMORY) // (length * keys_and_values + logits)
    return 1 << (max(1, min(MOST_SEQUENCES, fitting)).bit_length() - 1)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on a GPU or a CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or should_reduce_batch_size(error)
