"""From spans to texts: tokens by layer 0, then prefixes, one token longer at a time, by layer 1."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from inversion.errors import InputError
from inversion.hooks import hooks
from inversion.models import context_length
from inversion.recover.gradient import SharedGradient, projection
from inversion.recover.span import Span, row_span

ENTRIES_AT_ONCE = 2**23
"""Most numbers of a layer's inputs that are held at once: 64 MB in float64."""
TELLING = 0.5
"""A span that holds more than this share of the vocabulary, or of many prefixes, tells nothing about a text."""


@dataclass(frozen=True)
class Recovery:
    """What a gradient gave away.

    sequences: Token ids of every text, without its last token where the loss was that of the next token: the last
        token is only ever predicted, never read. A text that begins another one is not listed apart from it. Where
        positions are rotary, repeats of a first token change nothing that attention reads, so a text that is nothing
        but one token repeated is listed with that token once, and more repeats of a first token than any other text
        is long are not followed.
    tokens: Ids of the tokens found in layer 0, by position where positions are added to embeddings; else one set.
    ranks: Rank of the gradient of layers 0 and 1.
    width: Largest rank there could be: the model's width.
    reason: Why nothing, or not all, was recovered; empty where the search came to its own end.
    """

    sequences: list[list[int]] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    ranks: tuple[int, int] = (0, 0)
    width: int = 0
    reason: str = ""


@torch.no_grad()
def recover(
    model: TransformerBridge, gradient: SharedGradient, *, longest: int = 128, prefixes: int | None = None
) -> Recovery:
    """Recover the texts of a batch from its gradient, exactly or not at all.

    Args:
        model: The model whose gradient it is, in the dtype of the gradient.
        gradient: From :func:`load_gradient` or :func:`text_gradient`.
        longest: Give up on texts longer than this many tokens.
        prefixes: Most prefixes to keep; those nearest the span stay. By default the rank of layer 1, since different
            prefixes of one length have different directions there.

    Raises:
        InputError: The gradient is not of this model.
    """
    spans = [_span(model, gradient, layer) for layer in (0, 1)]
    found = {"ranks": (spans[0].rank, spans[1].rank), "width": spans[0].width}
    limit = context_length(model)
    longest = min(longest, limit) if limit else longest
    tokens, share, cut = _tokens(model, spans[0], longest)
    if not tokens or share > TELLING:
        what = "no token" if not tokens else f"{share:.0%} of the vocabulary"
        return Recovery(**found, reason=f"the span of layer 0, of rank {spans[0].rank}, holds {what}")
    sequences, reason = _extend(model, spans[1], tokens, longest, prefixes or spans[1].rank)
    return Recovery(sequences, tokens, reason=reason or cut, **found)


def _span(model: TransformerBridge, gradient: SharedGradient, layer: int) -> Span:
    matrix = gradient.layer(layer)
    width = model.cfg.d_model
    if matrix.shape[1] != width:
        raise InputError(
            f"the gradient is that of a model of width {matrix.shape[1]}, and {model.cfg.model_name} has {width}; "
            "give the model that it was computed from."
        )
    own = next(model.original_model.parameters()).dtype
    if own != gradient.dtype:
        name, other = (str(dtype).removeprefix("torch.") for dtype in (gradient.dtype, own))
        raise InputError(f"the gradient was computed in {name} and the model is in {other}; load it in {name}.")
    return row_span(matrix, gradient.dtype, noise=gradient.noise, layer=layer)


def _tokens(model: TransformerBridge, span: Span, longest: int) -> tuple[list[list[int]], float, str]:
    """Return the tokens in the span of layer 0, by position, the largest share of the vocabulary, and why it was cut.

    Different tokens have different directions, so of those that fit there can be no more real ones than the rank.
    """
    hf_model: Any = model.original_model
    vocabulary = hf_model.get_input_embeddings().weight.shape[0]
    # What layer 0 reads of a token depends on nothing but itself, and its position where that is added to it.
    length = longest if positions_added(model) else 1
    few = max(1, ENTRIES_AT_ONCE // (length * span.width))
    parts = []
    for ids in torch.arange(vocabulary).split(few):
        read = layer_inputs(model, ids[:, None].expand(-1, length), 0)  # (n, length, d)
        parts.append(span.distances(read.flatten(0, 1)).view(len(ids), length))
    distances = torch.cat(parts)  # (V, length)
    inside = distances < 1
    tokens: list[list[int]] = []
    reason = ""
    for position in range(length):
        near = distances[:, position].argsort()
        kept = near[inside[near, position]].tolist()
        if not kept:
            break  # no text is that long
        if len(kept) > span.rank:
            reason = f"more tokens fit the span of layer 0 than its rank, {span.rank}; the nearest were kept"
        tokens.append(kept[: span.rank])
    return tokens, inside.double().mean(0).amax().item(), reason


def _extend(
    model: TransformerBridge, span: Span, tokens: Sequence[Sequence[int]], longest: int, prefixes: int
) -> tuple[list[list[int]], str]:
    """Return the prefixes that no token extends any more, and why the search was cut, if it was."""
    rotary = not positions_added(model)
    complete: list[list[int]] = []
    live: list[list[int]] = [[]]
    reason = ""
    for position in range(longest):
        choice = tokens[0] if rotary else tokens[position] if position < len(tokens) else []
        tried = [[*prefix, token] for prefix in live for token in choice]
        distances = _last_distances(model, span, tried) if tried else torch.zeros(0)
        kept = [index for index in distances.argsort().tolist() if distances[index] < 1]
        # A first token that repeats itself always fits, so it is no sign that the text goes on.
        extended = {index // len(choice) for index in kept if not (rotary and _constant(tried[index]))}
        ended = [prefix for index, prefix in enumerate(live) if prefix and index not in extended]
        complete += [prefix for prefix in ended if not (rotary and len(prefix) > 1 and _constant(prefix))]
        if len(kept) > prefixes:
            reason = (
                f"more than {prefixes} prefixes fit the span of layer 1, of rank {span.rank}; the nearest were kept"
            )
            if len(kept) > TELLING * len(tried):
                return _without_beginnings(complete), reason
        live = [tried[index] for index in kept[:prefixes]]
        if not live or (rotary and position and all(map(_constant, live))):
            return _without_beginnings(complete), reason
    return _without_beginnings(complete + live), reason or f"texts go on after {longest} tokens"


def _constant(prefix: Sequence[int]) -> bool:
    return len(set(prefix)) == 1


def _without_beginnings(sequences: list[list[int]]) -> list[list[int]]:
    """Drop what is the beginning of another: a first token that only its repeats could follow for a while."""
    return [s for s in sequences if not any(len(o) > len(s) and o[: len(s)] == s for o in sequences)]


def _last_distances(model: TransformerBridge, span: Span, prefixes: Sequence[Sequence[int]]) -> Tensor:
    """Return the distance of what layer 1 reads at the last token of each prefix, all of one length."""
    ids = torch.tensor(prefixes)
    few = max(1, ENTRIES_AT_ONCE // (ids.shape[1] ** 2 + ids.shape[1] * 8 * span.width))
    return torch.cat([span.distances(layer_inputs(model, part, 1)[:, -1]) for part in ids.split(few)])


class _Stopped(Exception):
    """Ends a forward pass whose remainder is not needed."""


def layer_inputs(model: TransformerBridge, ids: Tensor, layer: int) -> Tensor:
    """Return what the attention projections of a layer read, (n, length, d), on the CPU; nothing above is run.

    Args:
        model: The bridge.
        ids: (n, length).
        layer: Layer number.
    """
    read: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        read.append(args[0].detach().cpu())
        raise _Stopped

    device = next(model.original_model.parameters()).device
    with hooks() as add:
        add(projection(model, layer, "q").register_forward_pre_hook(keep))
        with suppress(_Stopped):
            model.original_model(input_ids=ids.to(device), use_cache=False)
    return read[0]


def positions_added(model: TransformerBridge) -> bool:
    """Whether what layer 0 reads of a token depends on where it stands, as with learned positions."""
    first, second = layer_inputs(model, torch.zeros(1, 2, dtype=torch.long), 0)[0].double()
    return bool((first - second).norm() > 1e-2 * first.norm())
