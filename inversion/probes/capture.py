"""Read and cut one forward pass.

A :class:`Recording` keeps what the projections of chosen attention layers read and wrote. With ``cut=True`` it also
severs the autograd graph at every block boundary, so that each block's vector-Jacobian product can be taken, used and
freed on its own. Hooks live in a context manager and are removed whatever happens.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from inversion.errors import InputError
from inversion.hooks import hooks

PROJECTIONS = ("q", "k", "v", "o")


class Site(NamedTuple):
    """One attention projection of one layer."""

    layer: int
    projection: str


@dataclass(frozen=True)
class Cut:
    """A tensor of the graph below a cut and the leaf that stands for it in the graph above."""

    below: Tensor
    above: Tensor


@dataclass
class Recording:
    """What one forward pass over a sequence of length b left behind.

    inputs: what each projection read, detached, (b, d_in).
    outputs: what it wrote, in the graph, (1, b, d_out).
    residuals: the stream after a layer, detached, (b, d_model); missing where a block returns something else.
    boundaries: residual stream entering block l, and at ``n_blocks`` the one leaving the last, (1, b, d_model).
    attention_cuts: q, k and v of the last block, where it was cut there too, (1, b, d_out).
    mixed: what the last block's o projection read, in the graph, (1, b, d_in).
    """

    inputs: dict[Site, Tensor] = field(default_factory=dict)
    outputs: dict[Site, Tensor] = field(default_factory=dict)
    residuals: dict[int, Tensor] = field(default_factory=dict)
    boundaries: dict[int, Cut] = field(default_factory=dict)
    attention_cuts: dict[str, Cut] = field(default_factory=dict)
    mixed: Tensor | None = None


class _Stopped(Exception):
    """Raised by a hook to end a forward pass whose remainder is not needed."""


def attention_layers(model: TransformerBridge) -> list[int]:
    """Return the layers whose attention has q, k, v and o projections, in order."""
    return [layer for layer in range(len(model.blocks)) if _projections(model, layer)]


def select_layers(model: TransformerBridge, layers: Sequence[int] | None) -> list[int]:
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
    chosen = sorted({layer + count if layer < 0 else layer for layer in layers})
    impossible = [layer for layer in chosen if layer not in possible]
    if impossible or not chosen:
        raise InputError(
            f"layers {impossible or list(layers)} cannot be probed in {model.cfg.model_name}; choose among "
            f"{', '.join(map(str, possible))}."
        )
    return chosen


def select_projections(projections: Sequence[str]) -> list[str]:
    """Check a choice of projections and put it into the order q, k, v, o."""
    chosen = [name for name in PROJECTIONS if name in projections]
    if not chosen or len(chosen) != len(set(projections)):
        raise InputError(f"projections {list(projections)} are not known; choose among q, k, v and o.")
    return chosen


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Let no parameter require a gradient inside: the graph then holds activations only."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def run_whole(model: TransformerBridge, tokens: Tensor, sites: Sequence[Site]) -> tuple[Recording, Tensor]:
    """Run the model on ``tokens`` (1, T) with one uncut graph from the sites to the logits (T, V)."""
    recording = Recording()
    with hooks() as add:
        _record(model, sites, recording, add)
        logits = _forward(model, tokens)
    return recording, logits


def run_cut(
    model: TransformerBridge, tokens: Tensor, sites: Sequence[Site], *, cut_attention: bool, head: bool
) -> tuple[Recording, Tensor | None]:
    """Run the model on ``tokens`` (1, T) with the graph cut between blocks.

    Args:
        model: The bridge.
        tokens: Token ids, (1, T).
        sites: Projections to record; the graph starts at the lowest of their layers.
        cut_attention: Also cut at q, k and v of the last block.
        head: Run on to the logits. Without it the pass ends as early as the recording allows.

    Returns:
        The recording, and the logits (T, V) where ``head``.
    """
    recording = Recording()
    lowest, last = sites[0].layer, len(model.blocks) - 1
    with hooks() as add:
        for layer in range(lowest, last + 1):
            _cut_before(model, layer, recording, add, leaf=layer > lowest)
        _cut_after(model, last, recording, add, stop=not head)
        if cut_attention:
            _cut_attention(model, last, recording, add, stop=not head)
        _record(model, sites, recording, add)
        logits = None
        with suppress(_Stopped):
            logits = _forward(model, tokens)
    return recording, logits


def _forward(model: TransformerBridge, tokens: Tensor) -> Tensor:
    """Call the wrapped model itself: the bridge's own forward adds nothing that is needed here."""
    hf_model: Any = model.original_model
    with torch.enable_grad():
        return hf_model(input_ids=tokens, use_cache=False).logits[0]


def _projections(model: TransformerBridge, layer: int) -> dict[str, nn.Module]:
    """Return the four projections of a layer's attention, or nothing where one is missing."""
    attention = model.blocks[layer]._modules.get("attn")
    if attention is None:
        return {}
    found = {name: attention._modules.get(name) for name in PROJECTIONS}
    return {} if None in found.values() else found  # pyright: ignore[reportReturnType]


def _record(model: TransformerBridge, sites: Sequence[Site], recording: Recording, add: Any) -> None:
    for site in sites:
        _record_site(model, site, recording, add)
    for layer in {site.layer for site in sites}:
        _record_residual(model, layer, recording, add)


def _record_residual(model: TransformerBridge, layer: int, recording: Recording, add: Any) -> None:
    def hook(module: nn.Module, args: tuple, output: Any) -> None:
        stream = output[0] if isinstance(output, tuple) else output
        if stream.ndim == 3 and stream.shape[2] == model.cfg.d_model:
            recording.residuals[layer] = stream.detach()[0]

    add(model.blocks[layer].register_forward_hook(hook))


def _record_site(model: TransformerBridge, site: Site, recording: Recording, add: Any) -> None:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if site in recording.outputs:
            raise InputError(
                f"layer {site.layer} of {model.cfg.model_name} runs more than once in a forward pass, which the "
                "probe cannot take apart; choose other layers."
            )
        if not output.requires_grad:
            # Nothing below needs a gradient: the graph starts here.
            output.requires_grad_()
        recording.inputs[site] = args[0].detach()[0]
        recording.outputs[site] = output

    add(_projections(model, site.layer)[site.projection].register_forward_hook(hook))


def _cut_before(model: TransformerBridge, layer: int, recording: Recording, add: Any, *, leaf: bool) -> None:
    def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        below = args[0] if args else kwargs["hidden_states"]
        above = below.detach().requires_grad_(leaf)
        recording.boundaries[layer] = Cut(below, above)
        if args:
            return (above, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": above}

    add(model.blocks[layer].register_forward_pre_hook(hook, with_kwargs=True))


def _cut_after(model: TransformerBridge, layer: int, recording: Recording, add: Any, *, stop: bool) -> None:
    def hook(module: nn.Module, args: tuple, output: Any) -> Any:
        below = output[0] if isinstance(output, tuple) else output
        above = below.detach().requires_grad_()
        recording.boundaries[layer + 1] = Cut(below, above)
        if stop:
            raise _Stopped
        return (above, *output[1:]) if isinstance(output, tuple) else above

    add(model.blocks[layer].register_forward_hook(hook))


def _cut_attention(model: TransformerBridge, layer: int, recording: Recording, add: Any, *, stop: bool) -> None:
    modules = _projections(model, layer)

    def cut(name: str) -> Any:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            above = output.detach().requires_grad_()
            recording.attention_cuts[name] = Cut(output, above)
            return above

        return hook

    def mixed(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        recording.mixed = args[0]
        if stop:
            raise _Stopped

    for name in ("q", "k", "v"):
        add(modules[name].register_forward_hook(cut(name)))
    add(modules["o"].register_forward_pre_hook(mixed))
