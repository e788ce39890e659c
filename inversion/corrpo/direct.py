"""The inversion as a differentiable term of the loss. Our intervention, not the paper's method.

A reward only chooses among texts; it never sees that rho depends on the weights. Here rho itself is differentiated
through the weights, so that it can be set, up or down or to a value, and nothing else is asked for.

For every response the term takes Pearson's correlation of log S and log H over its tokens: S is the exact strength of
the last layer's q and o, as in :class:`~inversion.corrpo.LastLayer`, and H the entropy at temperature 1. Both stretch
over orders of magnitude and are positive. On the logarithms Pearson's correlation follows Spearman's, which has no
gradient; on the raw numbers a few large ones would decide (``benchmarks/corrpo_step.py --only correlations``).

S holds a gradient already, so the term's gradient is of second order. It is taken in the graph that the loss has made:
one backward pass through the last layer, kept differentiable, and no further forward pass.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from inversion.corrpo.policy import last_projections, without_wrapper
from inversion.errors import InputError
from inversion.hooks import hooks

ENTROPY_FLOOR = 1e-4
"""Bits added to H before its logarithm is taken. In float32 an entropy is off by about 1e-6 bits times the size of the
logits, and the logarithm would blow that up at nearly certain tokens; ten times more follows Spearman's rho less."""
ROWS_AT_ONCE = 512
"""Tokens whose logits are formed at once where the trainer's own entropies cannot be used."""
TERMS = ("rho", "strength")


@dataclass
class Seen:
    """What one forward pass of the policy left in the graph; tensors are (b, s, width).

    inputs: What the last layer's q and o read.
    outputs: What they wrote.
    hidden: What enters the head.
    """

    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    hidden: Tensor | None = None


@contextmanager
def watching(model: nn.Module) -> Iterator[Seen]:
    """Record one forward pass of a policy inside, in the graph."""
    model, seen = without_wrapper(model), Seen()

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            seen.inputs[name], seen.outputs[name] = args[0], output

        return hook

    def keep_hidden(module: nn.Module, args: Any, output: Any) -> None:
        seen.hidden = output.last_hidden_state

    def keep_read(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.hidden = args[0] if seen.hidden is None else seen.hidden

    with hooks() as add:
        for name, module in last_projections(model).items():
            add(module.register_forward_hook(keep(name)))
        # TRL calls what is below the head, and a model its head; either may go round the other.
        add(model.base_model.register_forward_hook(keep_hidden))  # pyright: ignore
        add(model.get_output_embeddings().register_forward_pre_hook(keep_read))  # pyright: ignore
        yield seen


def allow_second_order(model: Any) -> None:
    """Let the last attention be differentiated twice, for good: fused kernels cannot be.

    Raises:
        InputError: The attention implementation has no way around its kernel.
    """
    bare: Any = without_wrapper(model)
    implementation = bare.config._attn_implementation
    if implementation not in ("eager", "sdpa"):
        raise InputError(
            f"inversion_loss differentiates twice, which {implementation} attention cannot; load the model with "
            "attn_implementation sdpa or eager."
        )
    q = last_projections(bare)["q"]
    attention = next(module for module in bare.modules() if any(child is q for child in module.children()))
    entered: list[AbstractContextManager] = []

    def enter(*_: Any) -> None:
        entered.append(sdpa_kernel(SDPBackend.MATH) if torch.is_grad_enabled() else nullcontext())
        entered[-1].__enter__()

    def leave(*_: Any) -> None:
        entered.pop().__exit__(None, None, None)

    # Not for a while only: where activations are checkpointed, the layer runs again in the backward pass.
    attention.register_forward_pre_hook(enter)
    attention.register_forward_hook(leave, always_call=True)


def token_strength(seen: Seen, model: nn.Module, input_ids: Tensor, mask: Tensor) -> Tensor:
    """Return the strength of the tokens written, (n,), in the graph, in the order of ``mask``.

    Args:
        seen: What a forward pass over ``input_ids`` left behind.
        model: The policy.
        input_ids: Prompts and responses, (b, s).
        mask: Which of the last t positions hold a token that the policy wrote, (b, t), bool.
    """
    model = without_wrapper(model)
    count = mask.shape[1]
    own = _own_logits(model, _rows(seen.hidden, mask), input_ids[:, -count:][mask])
    deltas = torch.autograd.grad(own.sum(), [seen.outputs[name] for name in ("q", "o")], create_graph=True)
    lengths = [
        _length(_rows(seen.inputs[name], mask)) * _length(_rows(delta, mask))
        for name, delta in zip(("q", "o"), deltas, strict=True)
    ]
    return torch.stack(lengths).mean(0)


def token_entropy(seen: Seen, model: Any, mask: Tensor) -> Tensor:
    """Return the entropy in bits at temperature 1 where ``mask`` says, (n,), in the graph."""
    bare: Any = without_wrapper(model)

    def entropy(hidden: Tensor) -> Tensor:
        log_probs = _transformed(bare, bare.get_output_embeddings()(hidden)).log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1) / torch.log(log_probs.new_tensor(2.0))

    parts = _rows(seen.hidden, mask).split(ROWS_AT_ONCE)
    # Logits are formed again in the backward pass rather than kept.
    return torch.cat([checkpoint(entropy, part, use_reentrant=False) for part in parts])  # pyright: ignore


def log_correlation(strength: Tensor, entropy_bits: Tensor, mask: Tensor, min_tokens: int) -> Tensor:
    """Return Pearson's correlation of log S and log H within each response, (b,); NaN where it is undefined.

    Args:
        strength: (n,), in the order of ``mask``.
        entropy_bits: (n,).
        mask: Tokens of b responses, (b, t), bool.
        min_tokens: Tokens below which it is undefined.
    """
    counts = mask.sum(1)
    x, y = (
        _spread(values, mask)
        for values in (
            strength.clamp_min(torch.finfo(strength.dtype).tiny).log(),
            (entropy_bits.clamp_min(0) + ENTROPY_FLOOR).log(),
        )
    )
    norms = [values.square().sum(1) for values in (x, y)]
    defined = (counts >= min_tokens) & (torch.minimum(*norms) > 1e-9 * counts)
    # Where it is undefined a 1 stands in for the norms, so that no NaN enters the graph.
    scale = torch.where(defined, norms[0] * norms[1], 1.0).sqrt()
    return torch.where(defined, (x * y).sum(1) / scale, torch.nan)


def inversion_loss(values: Tensor, target: float | None) -> Tensor:
    """Return the term for b responses: the sum of their values, or squared distances to a target, over b.

    Undefined ones, NaN, are left out of the sum and stay in b: so micro-batches of equal size add up to what their
    union gives.

    Args:
        values: rho, or what takes its place, of each response, (b,).
        target: What it is steered to; None pushes it without bound, down with a positive weight.
    """
    defined = ~values.isnan()
    chosen = torch.where(defined, values, 0.0 if target is None else target)
    return (chosen if target is None else (chosen - target).square()).sum() / len(values)


def mean_log_strength(strength: Tensor, mask: Tensor, min_tokens: int) -> Tensor:
    """Return the mean of log2 S over each response's tokens, (b,); NaN below ``min_tokens``: the control's quantity."""
    counts = mask.sum(1)
    full = strength.new_zeros(mask.shape).masked_scatter(
        mask, strength.clamp_min(torch.finfo(strength.dtype).tiny).log2()
    )
    return torch.where(counts >= min_tokens, full.sum(1) / counts.clamp_min(1), torch.nan)


def _rows(values: Tensor | None, mask: Tensor) -> Tensor:
    """Take, of (b, s, width), the positions that wrote the tokens of ``mask``, (b, t): (n, width)."""
    assert values is not None
    return values[:, -mask.shape[1] - 1 : -1][mask]


def _own_logits(model: Any, hidden: Tensor, ids: Tensor) -> Tensor:
    """Return the logit of each token written, (n,), without forming the others."""
    head = model.get_output_embeddings()
    own = (hidden * head.weight[ids]).sum(-1)
    return _transformed(model, own if head.bias is None else own + head.bias[ids])


def _transformed(model: Any, logits: Tensor) -> Tensor:
    """Scale and cap logits as the model does between its head and its output."""
    config = model.config.get_text_config()
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    scale, divisor = (getattr(config, name, None) for name in ("logit_scale", "logits_scaling"))
    cap = getattr(config, "final_logit_softcapping", None)
    logits = logits * scale if scale is not None else logits
    logits = logits / divisor if divisor is not None else logits
    return logits if cap is None else cap * torch.tanh(logits / cap)


def _length(vectors: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    """Put (n,) values into (b, t), less the mean of their response, 0 elsewhere."""
    full = values.new_zeros(mask.shape).masked_scatter(mask, values)
    means = full.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp_min(1)
    return (full - means) * mask
