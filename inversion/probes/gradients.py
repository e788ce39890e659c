"""Gradients of per-token scalars at the outputs of attention projections, as factors, never as weight gradients.

For a token with scalar s_i, read at sequence position n_i, the gradient of s_i with respect to a projection's weight is
``G = Delta_i^T A``: ``A`` (b, d_in) holds what the projection read at positions 0..n_i, and ``Delta_i`` (b, d_out) the
gradient of s_i at what it wrote. This module computes Delta for many tokens at once.

Three facts keep it close to the fewest operations that the exact answer needs:

* above the last attention no position talks to another, so *one* backward pass of sum_i s_i gives every token's own
  row there, and with it the rank-one gradients of the last layer's q and o;
* positions after n_i cannot matter, so tokens are taken in blocks and each block sees its own prefix;
* with the graph cut between blocks, a layer's Delta is used and dropped before the layer below is touched.

The first and the third assume that blocks talk only through the residual stream. :func:`plan_for` checks that on the
model itself and falls back to the whole graph where it does not hold.
"""

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from inversion.models import text_config
from inversion.probes.capture import PROJECTIONS, Recording, Site, attention_layers, run_cut, run_whole
from inversion.probes.linear import LinearMaps

Quantity = Literal["logit", "log_prob", "entropy"]
QUANTITIES: tuple[Quantity, ...] = ("logit", "log_prob", "entropy")


class Delta(NamedTuple):
    """Gradients of c tokens' scalars at one projection's output.

    values: (c, b, d_out), or (c, d_out) where each token's gradient is zero but at its own position.
    """

    site: Site
    values: Tensor

    @property
    def rank_one(self) -> bool:
        """Whether every weight gradient is one outer product, own input times own gradient."""
        return self.values.ndim == 2


@dataclass(frozen=True)
class Plan:
    """How a model's gradients can be computed.

    cut: blocks talk only through the residual stream, so the graph may be cut between them.
    rows: the last block is an attention block whose other parts treat each position alone.
    batched: the backward pass can carry many tokens at once.
    prefix: each block of targets may run on its own prefix instead of the whole sequence.
    """

    cut: bool
    rows: bool
    batched: bool
    prefix: bool = True


@dataclass(frozen=True)
class TopRows:
    """Own-position gradients of every target's scalar in the last block, from one backward pass.

    leaving: at the last block's output, (t, d_model); only where the rest is missing.
    mixed: at what the last o projection read, (t, d_in).
    entering: at the last block's input along all paths but those through k and v, (t, d_model).
    rank_one: at what the last q and o wrote, (t, d_out), by projection.
    """

    leaving: Tensor | None = None
    mixed: Tensor | None = None
    entering: Tensor | None = None
    rank_one: dict[str, Tensor] = field(default_factory=dict)


Walk = Callable[[slice, bool], Iterator[Delta]]


def scalars(logits: Tensor, token_ids: Tensor, quantity: Quantity) -> Tensor:
    """Return the scalar that is differentiated, one per token, (t,).

    ``logit`` is z[y]; ``log_prob`` its log-probability in nats; ``entropy`` that of softmax(z) in bits.

    Args:
        logits: (t, V), in the graph.
        token_ids: The tokens written, (t,).
        quantity: Which scalar.
    """
    if quantity == "logit":
        return logits.gather(1, token_ids[:, None])[:, 0]
    log_probs = torch.log_softmax(logits.float() if logits.dtype.itemsize < 4 else logits, dim=1)
    if quantity == "log_prob":
        return log_probs.gather(1, token_ids[:, None])[:, 0]
    return -(log_probs.exp() * log_probs).sum(1) / math.log(2)


class TokenGradients:
    """Gradients of the scalars of one sequence's tokens at the outputs of chosen projections.

    Create it with the model's parameters frozen and use it within the same :func:`~inversion.probes.capture.frozen`.

    Args:
        model: The bridge.
        tokens: Prompt and response, (1, T).
        positions: Where each target's logits are read, ascending, (t,); target i is ``tokens[positions[i] + 1]``.
        sites: Projections wanted.
        quantity: The scalar that is differentiated.
        plan: What holds for this model; by default found out by :func:`plan_for`.

    Attributes:
        logits: (t, V) at the target positions.
        inputs: What each projection read, (T, d_in), by site.
        residuals: The stream after each layer at the target positions, (t, d_model), by layer.
    """

    def __init__(
        self,
        model: TransformerBridge,
        tokens: Tensor,
        positions: Tensor,
        sites: Sequence[Site],
        quantity: Quantity = "logit",
        plan: Plan | None = None,
    ) -> None:
        self.model, self.positions = model, positions
        self.targets = tokens[0, positions + 1]
        self.sites = sorted(sites)
        self.quantity: Quantity = quantity
        self.plan = plan or plan_for(model, tokens)
        self.tokens = tokens[:, : int(positions[-1]) + 1] if self.plan.prefix else tokens
        self.lowest, self.last = self.sites[0].layer, len(model.blocks) - 1
        # Forward passes hang hooks on the model: one at a time. Backward passes only touch what was recorded.
        self._running = Lock()
        self._whole: Recording | None = None
        self._maps = LinearMaps(model)
        self._top = self._read_cut() if self.plan.cut else self._read_whole()

    def top_deltas(self) -> Iterator[Delta]:
        """Yield the rank-one deltas of all targets at the last layer's q and o, where the plan offers them."""
        for name, values in self._top.rank_one.items():
            if Site(self.last, name) in self.sites:
                yield Delta(Site(self.last, name), values)

    def block_deltas(self, block: slice, chunk: int) -> Iterator[tuple[slice, Delta]]:
        """Yield the deltas of a block of targets at every site that :meth:`top_deltas` leaves out.

        Only the prefix up to the block's last target is run. Deltas come layer by layer from the top.

        Args:
            block: Targets to work through, as a slice of ``positions``.
            chunk: Most targets in one backward pass.

        Yields:
            The targets covered, as a slice of ``positions``, and their Delta at one site.
        """
        remaining = [s for s in self.sites if not (s.layer == self.last and s.projection in self._top.rank_one)]
        if not remaining:
            return
        prefix = self.tokens[:, : self.prefix_length(block)]
        walk = self._walk_cut(prefix, remaining) if self.plan.cut else self._walk_whole(prefix, remaining)
        starts = range(block.start, block.stop, chunk)
        for start in starts:
            part = slice(start, min(start + chunk, block.stop))
            for delta in walk(part, start != starts[-1]):
                yield part, delta

    def prefix_length(self, part: slice) -> int:
        """Return how many positions can matter to a part of the targets; the deltas of later ones are zero."""
        return int(self.positions[part][-1]) + 1 if self.plan.prefix else self.tokens.shape[1]

    def _read_whole(self) -> TopRows:
        recording, logits = run_whole(self.model, self.tokens, self.sites)
        self._keep(recording, logits[self.positions])
        return TopRows()

    def _keep(self, recording: Recording, logits: Tensor) -> None:
        self.inputs, self.logits = recording.inputs, logits.detach()
        self.residuals = {layer: stream[self.positions] for layer, stream in recording.residuals.items()}

    def _read_cut(self) -> TopRows:
        """Run the whole sequence once and go back once from the sum of all scalars."""
        top = [Site(self.last, name) for name in "qo"] if self.plan.rows else []
        with self._maps.kept():
            recording, logits = run_cut(
                self.model, self.tokens, sorted({*self.sites, *top}), cut_attention=self.plan.rows, head=True
            )
        assert logits is not None
        logits = logits[self.positions]
        total = scalars(logits, self.targets, self.quantity).sum()
        self._keep(recording, logits)
        self._whole = recording
        (leaving,) = torch.autograd.grad(total, [recording.boundaries[self.last + 1].above])
        if not self.plan.rows:
            return TopRows(leaving=leaving[0, self.positions])
        return self._read_last_block(recording, leaving)

    def _read_last_block(self, recording: Recording, leaving: Tensor) -> TopRows:
        """Carry every target's own row from the last block's output to its input, past k and v."""
        assert recording.mixed is not None
        q = recording.attention_cuts["q"]
        entering = recording.boundaries[self.last].above
        wanted = [recording.outputs[Site(self.last, "o")], recording.mixed, q.above]
        below = self.lowest < self.last
        if below:
            wanted.append(entering)
        # The graph is kept for the longest block of targets, which sees the whole sequence.
        rows = torch.autograd.grad(recording.boundaries[self.last + 1].below, wanted, leaving, retain_graph=True)
        o_row, mixed_row, q_row = (row[0, self.positions] for row in rows[:3])
        past = None
        if below:
            (through_q,) = torch.autograd.grad(q.below, [entering], rows[2], retain_graph=True)
            past = (rows[3] + through_q)[0, self.positions]
        return TopRows(mixed=mixed_row, entering=past, rank_one={"q": q_row, "o": o_row})

    def _walk_whole(self, prefix: Tensor, sites: Sequence[Site]) -> Walk:
        with self._running:
            recording, logits = run_whole(self.model, prefix, sites)

        def walk(part: slice, keep: bool) -> Iterator[Delta]:
            rows = self.positions[part]
            values = scalars(logits[rows], self.targets[part], self.quantity)
            identity = torch.eye(len(rows), dtype=values.dtype, device=values.device)
            wanted = [recording.outputs[site] for site in sites]
            for site, delta in zip(sites, self._pull([values], wanted, [identity], keep), strict=True):
                yield Delta(site, delta[:, 0])

        return walk

    def _walk_cut(self, prefix: Tensor, sites: Sequence[Site]) -> Walk:
        """Record a prefix and return the function that carries a chunk of targets down through its blocks."""
        keys = [Site(self.last, name) for name in "kv"] if self.plan.rows else []
        recording, length = self._record_cut(prefix, sorted({*sites, *keys})), prefix.shape[1]

        def walk(part: slice, keep: bool) -> Iterator[Delta]:
            rows, top = self.positions[part], self.last
            if self.plan.rows:
                assert self._top.mixed is not None
                assert recording.mixed is not None
                cotangent = _one_hot(self._top.mixed[part], rows, length)
                cuts = [recording.attention_cuts[name] for name in "kv"]
                deltas = self._pull([recording.mixed], [cut.above for cut in cuts], [cotangent], keep)
                for site, delta in zip(keys, deltas, strict=True):
                    if site in sites:
                        yield Delta(site, delta[:, 0])
                if self.lowest == self.last:
                    return
                entering = recording.boundaries[self.last].above
                (cotangent,) = self._pull([cut.below for cut in cuts], [entering], deltas, keep)
                assert self._top.entering is not None
                cotangent = cotangent + _one_hot(self._top.entering[part], rows, length)
                top -= 1
            else:
                assert self._top.leaving is not None
                cotangent = _one_hot(self._top.leaving[part], rows, length)
            for layer in range(top, self.lowest - 1, -1):
                here = [site for site in sites if site.layer == layer]
                wanted = [recording.outputs[site] for site in here]
                if layer > self.lowest:
                    wanted.append(recording.boundaries[layer].above)
                pulled = self._pull([recording.boundaries[layer + 1].below], wanted, [cotangent], keep)
                cotangent = pulled[-1]
                for site, delta in zip(here, pulled, strict=False):
                    yield Delta(site, delta[:, 0])

        return walk

    def _record_cut(self, prefix: Tensor, sites: Sequence[Site]) -> Recording:
        """Run a prefix, unless it is the whole sequence, which was run already; that recording serves once."""
        with self._running:
            if self._whole is not None and prefix.shape == self.tokens.shape:
                recording, self._whole = self._whole, None
                return recording
            with self._maps.reused():
                return run_cut(self.model, prefix, sites, cut_attention=self.plan.rows, head=False)[0]

    def _pull(
        self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor], keep: bool
    ) -> Sequence[Tensor]:
        """Vector-Jacobian products for c cotangents at once, each (c, *shape of its output)."""
        if self.plan.batched:

            def pull(*one: Any) -> Any:
                return torch.autograd.grad(outputs, inputs, one, retain_graph=keep)

            # Not autograd's is_grads_batched: it batches fewer operations and loops over the rest, SiLU among them.
            return torch.func.vmap(pull)(*cotangents)
        count = len(cotangents[0])
        each = [
            torch.autograd.grad(outputs, inputs, [c[i] for c in cotangents], retain_graph=keep or i < count - 1)
            for i in range(count)
        ]
        return [torch.stack(rows) for rows in zip(*each, strict=True)]


def plan_for(model: TransformerBridge, tokens: Tensor) -> Plan:
    """Return the fastest plan that gives this model's exact gradients; found once a model, then remembered.

    Plans are tried from the fastest down on a few tokens and held against the plainest one: the whole graph, one
    token at a time. So a model whose blocks talk past the residual stream, or mix positions outside attention, is
    measured correctly without having to be known.
    """
    if model not in _PLANS:
        sample = tokens.repeat(1, 8)[:, :8]
        _PLANS[model] = next(plan for plan in _candidates(model) if _agrees(model, sample, plan))
    return _PLANS[model]


_PLANS: weakref.WeakKeyDictionary[TransformerBridge, Plan] = weakref.WeakKeyDictionary()
_PLAINEST = Plan(cut=False, rows=False, batched=False)
# Structural errors are of the order of the gradients themselves; these bounds only have to clear rounding.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}


def _candidates(model: TransformerBridge) -> Iterator[Plan]:
    # A float64 model may hold a norm or a softmax in float32, whose rounding depends on how a sum is taken apart. So
    # float64, which is asked for when digits count, takes the plain road.
    exact = next(model.original_model.parameters()).dtype == torch.float64
    prefix = not exact and not _rotates_by_length(model)
    ends_in_attention = attention_layers(model)[-1] == len(model.blocks) - 1
    for batched in (True, False):
        if ends_in_attention and not exact:
            yield Plan(cut=True, rows=True, batched=batched, prefix=prefix)
        yield Plan(cut=True, rows=False, batched=batched, prefix=prefix)
        yield Plan(cut=False, rows=False, batched=batched, prefix=prefix)


def _rotates_by_length(model: TransformerBridge) -> bool:
    """Whether rotary frequencies hang on the length of the sequence: then a prefix on its own is another computation.

    The few tokens that plans are tried on cannot show that.
    """
    parameters = getattr(text_config(model), "rope_parameters", None) or {}
    # One set for all layers, or one for each kind of layer.
    sets = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    return any(one.get("rope_type") in ("longrope", "dynamic") for one in sets)


def _agrees(model: TransformerBridge, tokens: Tensor, plan: Plan) -> bool:
    """Whether a plan gives the plainest plan's deltas on a short sequence."""
    if not (plan.cut or plan.batched):
        return True
    try:
        found = _sample_deltas(model, tokens, plan)
    except (RuntimeError, NotImplementedError, KeyError):
        # An operation without a batching rule, or a block that takes no residual stream: not this plan.
        return False
    expected = _sample_deltas(model, tokens, _PLAINEST)
    return all(
        torch.linalg.vector_norm(found[site] - delta) <= _TOLERANCE[delta.dtype] * torch.linalg.vector_norm(delta)
        for site, delta in expected.items()
    )


def _sample_deltas(model: TransformerBridge, tokens: Tensor, plan: Plan) -> dict[Site, Tensor]:
    """Return dense deltas, (t, T - 1, d_out), of all tokens at every site of a short sequence."""
    sites = [Site(layer, name) for layer in attention_layers(model) for name in PROJECTIONS]
    positions = torch.arange(tokens.shape[1] - 1, device=tokens.device)
    gradients = TokenGradients(model, tokens, positions, sites, plan=plan)
    found = {d.site: _one_hot(d.values, positions, len(positions))[:, 0] for d in gradients.top_deltas()}
    half = len(positions) // 2
    for block in (slice(0, half), slice(half, len(positions))):
        for part, delta in gradients.block_deltas(block, 8):
            length = min(delta.values.shape[1], len(positions))
            shape = (len(positions), len(positions), delta.values.shape[2])
            whole = found.setdefault(delta.site, delta.values.new_zeros(shape))
            whole[part, :length] = delta.values[:, :length]
    return found


def _one_hot(values: Tensor, rows: Tensor, length: int) -> Tensor:
    """Place each of c vectors (c, d) at its own row of a zero sequence: (c, 1, length, d)."""
    placed = values.new_zeros(len(values), 1, length, values.shape[1])
    placed[torch.arange(len(values), device=values.device), 0, rows] = values
    return placed
