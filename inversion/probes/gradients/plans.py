"""Which way of computing gradients holds for a model: found out on the model itself, once."""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from inversion.errors import InputError
from inversion.models import text_config
from inversion.models.bridge import is_hooked, sample_tokens
from inversion.models.memory import is_out_of_memory
from inversion.probes.attention import attention_of, can_choose_attention
from inversion.probes.capture import PROJECTIONS, Site, attention_layers, undisturbed
from inversion.probes.gradients.cut import CutGraph
from inversion.probes.gradients.method import Delta, Pass, Targets, one_hot
from inversion.probes.gradients.rows import CutGraphWithRows
from inversion.probes.gradients.streams import Streams
from inversion.probes.gradients.whole import WholePass
from inversion.probes.kernels import PIECEWISE
from inversion.probes.pace import Pace

Way = Literal["rows", "cut", "whole"]
_PASSES: dict[Way, Callable[..., Pass]] = {
    "rows": partial(Streams, way=CutGraphWithRows),
    "cut": partial(Streams, way=CutGraph),
    "whole": WholePass,
}


@dataclass(frozen=True)
class Plan:
    """How a model's gradients can be computed.

    method: ``whole`` always holds; ``cut`` where blocks talk only through the residual stream; ``rows`` where also the
        last block is an attention block whose other parts treat each position alone.
    batched: One backward pass can carry many tokens.
    prefix: Tokens may run on their own prefix instead of the whole sequence.
    piecewise: Attention need not form the pattern.
    """

    method: Way
    batched: bool = True
    prefix: bool = True
    piecewise: bool = True

    @property
    def attention(self) -> str:
        """How gradients are taken through attention, for records."""
        return "piecewise" if self.piecewise else "eager"


PLAINEST = Plan("whole", batched=False, prefix=False, piecewise=False)
_PLANS: weakref.WeakKeyDictionary[TransformerBridge, Plan] = weakref.WeakKeyDictionary()
# Structural errors are of the order of the gradients themselves; these bounds only have to clear rounding.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}
_ROUNDINGS = 8


@contextmanager
def run_pass(
    model: TransformerBridge, tokens: Tensor, sites: Sequence[Site], plan: Plan | None = None
) -> Iterator[Pass]:
    """Run a sequence, and yield the pass, which gives the gradients of its tokens; the model is at rest inside.

    Args:
        model: The bridge.
        tokens: Prompt and response up to the last position that is wanted, (1, T).
        sites: Projections wanted.
        plan: What holds for this model; by default found out by :func:`plan_for`.
    """
    plan = plan or plan_for(model)
    attending = attention_of(model, PIECEWISE) if plan.piecewise else nullcontext()
    with undisturbed(model), attending:
        yield _PASSES[plan.method](model, tokens, sorted(sites), batched=plan.batched, prefix=plan.prefix)


def plan_for(model: TransformerBridge) -> Plan:
    """Return the fastest plan that gives this model's exact gradients; found once a model, then remembered.

    Plans are tried from the fastest down on a few tokens and compared with the plainest one: the whole graph, one
    token at a time, with the pattern. So a model whose blocks talk past the residual stream, or mix positions outside
    attention, is measured correctly without having to be known.

    Where somebody has hooked into the model it is the plainest one, without a trial: a hook may want every position,
    and only once.

    Raises:
        InputError: A hook is on the bridge itself, which is not called.
    """
    if model._forward_hooks or model._forward_pre_hooks:
        raise InputError(
            "there is a hook on the bridge itself, which a probe does not call; put it on bridge.original_model, on a "
            "part of it, or on one of TransformerLens's hook points."
        )
    if is_hooked(model):
        return PLAINEST
    if model not in _PLANS:
        with torch.inference_mode(False):
            tokens = sample_tokens(model.original_model, 8)
            expected = _sample_deltas(model, tokens, PLAINEST)
            if not all(delta.isfinite().all() for delta in expected.values()):
                # Broken weights tell nothing, and may be mended.
                return PLAINEST
            _PLANS[model] = next(plan for plan in _candidates(model) if _agrees(model, tokens, plan, expected))
    return _PLANS[model]


def _candidates(model: TransformerBridge) -> Iterator[Plan]:
    # A float64 model may hold a norm or a softmax in float32, whose rounding depends on how a sum is taken apart. So
    # float64, which is asked for when digits count, takes the plain road.
    exact = next(model.original_model.parameters()).dtype == torch.float64
    prefix = not exact and not _rotates_by_length(model)
    ends_in_attention = attention_layers(model)[-1] == len(model.blocks) - 1
    methods: list[Way] = ["rows", "cut", "whole"] if ends_in_attention and not exact else ["cut", "whole"]
    choices = [True, False] if not exact and can_choose_attention(model) else [False]
    for batched in (True, False):
        for piecewise in choices:
            yield from (Plan(method, batched, prefix, piecewise) for method in methods)


def _rotates_by_length(model: TransformerBridge) -> bool:
    """Whether rotary frequencies depend on the length of the sequence: then a prefix on its own is another computation.

    The few tokens that plans are tried on cannot show that.
    """
    parameters = getattr(text_config(model), "rope_parameters", None) or {}
    # One set for all layers, or one for each kind of layer.
    sets = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    return any(one.get("rope_type") in ("longrope", "dynamic") for one in sets)


def _agrees(model: TransformerBridge, tokens: Tensor, plan: Plan, expected: Mapping[Site, Tensor]) -> bool:
    """Whether a plan gives the plainest plan's deltas on a short sequence."""
    if plan == replace(PLAINEST, prefix=plan.prefix):
        return True
    try:
        found = _sample_deltas(model, tokens, plan)
    except (RuntimeError, NotImplementedError, KeyError) as error:
        if is_out_of_memory(error):
            raise
        # An operation without a batching rule, or a block that takes no residual stream: not this plan.
        return False
    sizes = {site: torch.linalg.vector_norm(delta) for site, delta in expected.items()}
    largest = {site.layer: max(sizes[other] for other in sizes if other.layer == site.layer) for site in sizes}
    return all(
        torch.linalg.vector_norm(found[site] - delta)
        # Where gradients all but cancel, what is left of them is the rounding of their layer's larger ones.
        <= _TOLERANCE[delta.dtype] * sizes[site] + _ROUNDINGS * torch.finfo(delta.dtype).eps * largest[site.layer]
        for site, delta in expected.items()
    )


class _Dense:
    """Collects the deltas of t targets at positions 0..t-1 as they are, (t, t, d_out) by site."""

    def __init__(self, positions: Tensor) -> None:
        self.positions, self.deltas = positions, {}

    def take_inputs(self, inputs: Mapping[Site, Tensor]) -> None:
        """Nothing is made of inputs here."""

    def take(self, delta: Delta) -> None:
        """Put the values into their place."""
        count, length = len(self.positions), min(delta.values.shape[1], len(self.positions))
        shape = (count, count, delta.values.shape[2])
        whole = self.deltas.setdefault(delta.site, delta.values.new_zeros(shape))
        whole[delta.part, :length] = delta.values[:, :length]

    def take_rank_one(self, site: Site, inputs: Tensor, values: Tensor) -> None:
        """Put the values into their place."""
        self.deltas[site] = one_hot(values, self.positions, len(self.positions))[:, 0]


def _sample_deltas(model: TransformerBridge, tokens: Tensor, plan: Plan) -> dict[Site, Tensor]:
    """Return dense deltas, (t, T - 1, d_out), of all tokens at every site of a short sequence."""
    sites = [Site(layer, name) for layer in attention_layers(model) for name in PROJECTIONS]
    positions = torch.arange(tokens.shape[1] - 1, device=tokens.device)
    dense = _Dense(positions)
    with run_pass(model, tokens, sites, plan) as single:
        single.gradients(Targets(positions, tokens[0, 1:])).run(
            dense, Pace(model, block=(len(positions) + 1) // 2, chunk=8)
        )
    return dense.deltas
