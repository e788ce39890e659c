"""The gradient that is shared: computed from texts, and kept in a file."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from inversion.errors import InputError
from inversion.files import put
from inversion.models import DTYPES, context_length

FORMAT = "inversion-gradient-1"
LAYERS = (0, 1)
"""What recovery reads: tokens are tested against layer 0, prefixes against layer 1."""
PROJECTIONS = ("q", "k", "v")
"""The projections that read the normed residual stream; their gradients have their rows in one span.

The query alone, which the method's authors use in rotary models, misses the first token of every sequence: attention
to a single position does not depend on the query, so the gradient there is zero.
"""


@dataclass(frozen=True)
class SharedGradient:
    """Gradients of the query, key and value weights of the first two layers.

    weights: by layer and projection, (d_out, d_in) in the convention ``y = W x``.
    dtype: In which the gradient was computed and kept; recovery takes its rounding from this.
    noise: Standard deviation of the Gaussian noise that was added to every entry, 0 for none.
    model: Name of the model, for the record.
    """

    weights: dict[tuple[int, str], Tensor]
    dtype: torch.dtype
    noise: float = 0.0
    model: str = ""

    def layer(self, layer: int) -> Tensor:
        """Return the gradients of one layer below one another, (sum of d_out, d_in), in float64."""
        found = [self.weights[layer, name].double() for name in PROJECTIONS if (layer, name) in self.weights]
        if not found:
            raise InputError(f"the gradient holds no q, k or v of layer {layer}; save layers 0 and 1.")
        return torch.cat(found)


def text_gradient(
    model: TransformerBridge, texts: Sequence[str | Sequence[int]], *, noise: float = 0.0, seed: int = 0
) -> SharedGradient:
    """Compute what a participant in distributed training would share for one batch.

    The loss is the mean cross-entropy, in nats, of every next token of every text. The gradient is torch's own with
    respect to the weights; nothing of the probe is used.

    Args:
        model: A bridge from :func:`inversion.load_model`.
        texts: Texts, or token ids; of at least two tokens each.
        noise: Standard deviation of Gaussian noise added to every entry, as a multiple of the root mean square of all
            entries: the defence of differential privacy.
        seed: Seed of the noise.

    Raises:
        InputError: There is no text, one is too short or too long, or the model has no q, k and v to differentiate.
    """
    ids = [encode_text(model, text, number) for number, text in enumerate(texts, 1)]
    if not ids:
        raise InputError("there is no text to take the gradient of; give at least one.")
    if noise < 0:
        raise InputError(f"noise is {noise}; give 0 or more.")
    weights = {(layer, name): _weight(model, layer, name) for layer in LAYERS for name in PROJECTIONS}
    longest = max(map(len, ids))
    device = next(model.original_model.parameters()).device
    # Padding stands to the right, where causal attention never looks back at it, and is no target of the loss.
    tokens = torch.tensor([row + [0] * (longest - len(row)) for row in ids], device=device)
    targets = torch.tensor([row[1:] + [-100] * (longest - len(row) + 1) for row in ids], device=device)
    required = {weight: weight.requires_grad for weight in weights.values()}
    try:
        for weight in required:
            weight.requires_grad_(True)
        hf_model: Any = model.original_model
        with torch.enable_grad():
            logits = hf_model(input_ids=tokens, use_cache=False).logits.flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(logits, targets.flatten(), ignore_index=-100)
            gradients = torch.autograd.grad(loss, list(weights.values()))
    finally:
        for weight, before in required.items():
            weight.requires_grad_(before)
    found = dict(zip(weights, (gradient.detach().cpu() for gradient in gradients), strict=True))
    return add_noise(SharedGradient(found, gradients[0].dtype, 0.0, str(model.cfg.model_name)), noise, seed)


def add_noise(gradient: SharedGradient, noise: float, seed: int = 0) -> SharedGradient:
    """Return the gradient with Gaussian noise, ``noise`` times the root mean square of its entries."""
    if noise == 0:
        return gradient
    entries = sum(weight.numel() for weight in gradient.weights.values())
    mean_square = sum(weight.double().square().sum().item() for weight in gradient.weights.values()) / entries
    deviation = noise * mean_square**0.5
    generator = torch.Generator().manual_seed(seed)
    noisy = {
        key: (weight + deviation * torch.randn(weight.shape, generator=generator)).to(weight.dtype)
        for key, weight in gradient.weights.items()
    }
    return SharedGradient(noisy, gradient.dtype, (gradient.noise**2 + deviation**2) ** 0.5, gradient.model)


def save_gradient(gradient: SharedGradient, path: str | os.PathLike[str]) -> Path:
    """Write a gradient as a safetensors file: tensors ``layers.L.P``, and model, dtype and noise as metadata.

    The file holds neither the texts nor their number nor their lengths.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        raise InputError(f"{file} is a folder; name a file, such as gradient.safetensors.")
    tensors = {f"layers.{layer}.{name}": tensor.contiguous() for (layer, name), tensor in gradient.weights.items()}
    metadata = {
        "format": FORMAT,
        "model": gradient.model,
        "dtype": str(gradient.dtype).removeprefix("torch."),
        "noise": repr(gradient.noise),
    }
    put(file, lambda part: save_file(tensors, part, metadata))
    return file


def load_gradient(path: str | os.PathLike[str]) -> SharedGradient:
    """Read a file that :func:`save_gradient` or another program has written in its format.

    Raises:
        InputError: There is no such file, or it is not in the format.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"there is no file {file}; make one with inversion recover save.")
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dictionary)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is not a readable safetensors file; make it again.") from error
    wanted = {f"layers.{layer}.{name}": (layer, name) for layer in LAYERS for name in PROJECTIONS}
    weights = {wanted[name]: tensor for name, tensor in tensors.items() if name in wanted}
    if metadata.get("format") != FORMAT or metadata.get("dtype") not in DTYPES or not weights:
        raise InputError(
            f"{file} is not a gradient in the format {FORMAT} (tensors layers.0.q ... layers.1.v of two dimensions and "
            "the metadata format and dtype); make it with inversion recover save."
        )
    if any(weight.ndim != 2 or not weight.isfinite().all() for weight in weights.values()):
        raise InputError(f"{file} holds a gradient that is not a finite matrix; make it again.")
    try:
        noise = float(metadata.get("noise", "0"))
    except ValueError as error:
        raise InputError(f"the noise in {file} is not a number; make it again.") from error
    return SharedGradient(weights, DTYPES[metadata["dtype"]], noise, metadata.get("model", ""))


def encode_text(model: TransformerBridge, text: str | Sequence[int], number: int) -> list[int]:
    """Return a text's token ids as a trainer would see them, special tokens included."""
    if isinstance(text, str):
        if model.tokenizer is None:
            raise InputError(f"{model.cfg.model_name} came without a tokenizer; give token ids instead of text.")
        text = model.tokenizer(text).input_ids
    ids = [int(token) for token in text]
    limit = context_length(model)
    if len(ids) < 2:
        raise InputError(f"text {number} has fewer than two tokens, so no next token to learn; remove it.")
    if limit is not None and len(ids) > limit:
        raise InputError(f"text {number} has {len(ids)} tokens but the context is {limit}; shorten it.")
    return ids


def projection(model: TransformerBridge, layer: int, name: str) -> torch.nn.Module:
    """Return a projection's module, or raise where the layer has none of that name."""
    attention = model.blocks[layer]._modules.get("attn") if layer < len(model.blocks) else None
    found = None if attention is None else attention._modules.get(name)
    if found is None:
        raise InputError(
            f"layer {layer} of {model.cfg.model_name} has no {name} projection that a gradient could be recovered "
            "from; choose a decoder with at least two layers of attention."
        )
    return found


def _weight(model: TransformerBridge, layer: int, name: str) -> Tensor:
    module: Any = projection(model, layer, name)
    linear = getattr(module, "original_component", None) or module
    if type(linear) is not torch.nn.Linear:
        raise InputError(
            f"the {name} projection of layer {layer} of {model.cfg.model_name} is not a plain linear map; choose "
            "another model."
        )
    return linear.weight
