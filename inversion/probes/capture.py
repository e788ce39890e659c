"""Which layers and projections can be probed, and hooks that record what they read and wrote."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from inversion.errors import InputError, whole

PROJECTIONS = ("q", "k", "v", "o")
Add = Callable[[Any], None]
"""Takes the handle of a hook, to remove it in time: what :func:`inversion.hooks.hooks` yields."""


class Site(NamedTuple):
    """One attention projection of one layer."""

    layer: int
    projection: str


@dataclass
class Recording:
    """What one forward pass over b positions left behind.

    inputs: What each projection read, detached, (b, d_in).
    outputs: What it wrote, in the graph, (1, b, d_out).
    residuals: The stream after a layer, detached, (b, d_model); missing where a block returns something else.
    """

    inputs: dict[Site, Tensor] = field(default_factory=dict)
    outputs: dict[Site, Tensor] = field(default_factory=dict)
    residuals: dict[int, Tensor] = field(default_factory=dict)


def attention_layers(model: TransformerBridge) -> list[int]:
    """Return the layers whose attention has q, k, v and o projections, in order."""
    return [layer for layer in range(len(model.blocks)) if projections_of(model, layer)]


def select_layers(model: TransformerBridge, layers: int | Sequence[int] | None) -> list[int]:
    """Turn a choice of layers, negative ones counted from the end, into ascending layer numbers."""
    possible = attention_layers(model)
    if not possible:
        raise InputError(
            f"{model.cfg.model_name} has no attention layer with q, k, v and o projections, so there is no logit "
            "gradient to measure; choose another model."
        )
    count = len(model.blocks)
    if layers is None:
        if len(possible) < count:
            warnings.warn(
                f"only layers {', '.join(map(str, possible))} of {model.cfg.model_name}'s {count} have attention with "
                "q, k, v and o projections; they are probed and the others left out",
                stacklevel=3,
            )
        return possible
    asked = [whole("a layer", layer) for layer in ([layers] if isinstance(layers, int | Integral) else layers)]
    chosen = {layer: layer + count if layer < 0 else layer for layer in asked}
    impossible = [layer for layer, number in chosen.items() if number not in possible]
    if impossible or not chosen:
        raise InputError(
            f"layers {impossible or asked} cannot be probed in {model.cfg.model_name}; choose among "
            f"{', '.join(map(str, possible))}."
        )
    return sorted(set(chosen.values()))


def select_projections(projections: Sequence[str]) -> list[str]:
    """Check a choice of projections and put it into the order q, k, v, o."""
    chosen = [name for name in PROJECTIONS if name in projections]
    if not chosen or len(chosen) != len(set(projections)):
        raise InputError(f"projections {list(projections)} are not known; choose among q, k, v and o.")
    return chosen


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Let no parameter require a gradient inside: the graph then holds activations only."""
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        for parameter in before:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, required in before.items():
            parameter.requires_grad_(required)


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode and freeze every parameter inside; restore both afterwards."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with frozen(model), torch.enable_grad():
            yield
    finally:
        # Not model.train(), which would switch on submodules that were off.
        for module in training:
            module.training = True


@contextmanager
def undisturbed(model: TransformerBridge) -> Iterator[None]:
    """Let a model compute inside in its own precision, at rest and with gradients, whatever its caller is in.

    Tensors that gradients are taken through, token ids too, must not come from inference mode.
    """
    device = next(model.original_model.parameters()).device.type
    training, model.training = model.training, False  # The bridge is no part of the model inside it.
    try:
        with torch.inference_mode(False), torch.autocast(device, enabled=False), at_rest(model.original_model):
            yield
    finally:
        model.training = training


def projections_of(model: TransformerBridge, layer: int) -> dict[str, nn.Module]:
    """Return the four projections of a layer's attention, or nothing where one is missing."""
    attention = model.blocks[layer]._modules.get("attn")
    if attention is None:
        return {}
    found = {name: attention._modules.get(name) for name in PROJECTIONS}
    return {} if None in found.values() else found  # pyright: ignore[reportReturnType]


def record_sites(
    model: TransformerBridge, sites: Sequence[Site], recording: Recording, add: Add, *, apart: bool = False
) -> None:
    """Hook into projections so that the next pass leaves what they read and wrote in ``recording``.

    Args:
        model: The bridge.
        sites: Projections to record.
        recording: Is filled.
        add: Takes the handles.
        apart: Record ahead of everybody else's hooks, and hand on copies, which those may change in place.
    """
    for site in sites:
        hook = partial(_record_site, site, recording, model, apart)
        projection: Any = projections_of(model, site.layer)[site.projection]
        # Inside TransformerLens's module are points that change what its linear map reads, and what it wrote.
        module = projection.original_component if apart else projection
        add(module.register_forward_hook(hook, prepend=apart))


def _record_site(
    site: Site,
    recording: Recording,
    model: TransformerBridge,
    apart: bool,
    _: nn.Module,
    args: tuple[Tensor, ...],
    output: Tensor,
) -> Tensor:
    if site in recording.outputs:
        raise InputError(
            f"layer {site.layer} of {model.cfg.model_name} runs more than once in a forward pass, which the probe "
            "cannot take apart; choose other layers."
        )
    if torch.is_grad_enabled() and not output.requires_grad:
        # Nothing below needs a gradient: the graph starts here.
        output.requires_grad_()
    read = args[0].detach()[0]
    recording.inputs[site] = read.clone() if apart else read
    recording.outputs[site] = output
    return output.clone() if apart else output


def record_residuals(model: TransformerBridge, layers: Iterable[int], recording: Recording, add: Add) -> None:
    """Hook into blocks so that the next pass leaves the stream after them in ``recording``."""
    for layer in layers:

        def hook(module: nn.Module, args: tuple, output: Any, layer: int = layer) -> None:
            stream = output[0] if isinstance(output, tuple) else output
            if stream.ndim == 3 and stream.shape[2] == model.cfg.d_model:
                recording.residuals[layer] = stream.detach()[0]

        add(model.blocks[layer].register_forward_hook(hook))
