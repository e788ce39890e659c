"""Signals: per-token strength and entropy of responses, measured on the policy while it is being trained.

A :class:`Signal` is called as ``signal(model, prompts, responses)`` with lists of token ids and returns one
:class:`Readings` a response. It leaves the policy's gradients, ``requires_grad``, hooks, training mode and the random
state as they were.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from inversion.corrpo.policy import bridge_of, decoder_layers, last_projections, without_wrapper
from inversion.corrpo.recording import Ids, Written, recording
from inversion.errors import InputError
from inversion.hooks import hooks
from inversion.probes import probe
from inversion.probes.capture import PROJECTIONS, at_rest, select_layers, select_projections
from inversion.probes.entropy import token_uncertainty
from inversion.probes.probe import check_norms
from inversion.statistics.strengths import mean_strength

PADDED_TOKENS = 16384
"""Most tokens, padding included, that one pass of :class:`LastLayer` carries."""
WORTH_A_PASS = 512
"""Tokens from which shorter responses get a pass of their own instead of more padding."""
LOGITS = 2**26
"""Most logits that one pass of :class:`LastLayer` holds: 256 MiB in float32."""


class Readings(NamedTuple):
    """What was read at the tokens of one response, each (t,).

    strength: S, in logits per weight.
    entropy_bits: H, in bits.
    token_ids: The tokens written.
    """

    strength: np.ndarray
    entropy_bits: np.ndarray
    token_ids: np.ndarray


class Signal:
    """How strength and entropy are read off the policy. A signal of your own needs ``__call__`` alone."""

    def __call__(self, model: Any, prompts: Sequence[Ids], responses: Sequence[Ids]) -> list[Readings]:
        """Measure responses on ``model``, a causal language model, given token ids."""
        raise NotImplementedError

    def check(self, model: Any) -> None:
        """Make sure before training that the signal can be read off this model.

        Raises:
            InputError: It cannot.
        """

    @contextmanager
    def writing(self, model: Any) -> Iterator[Callable[[Sequence[Ids], Sequence[Ids]], None]]:
        """Let the policy write responses inside, and call what is yielded with the prompts and responses at the end.

        A signal may keep what it sees then for its next call.
        """
        yield lambda prompts, responses: None


@dataclass(frozen=True)
class LastLayer(Signal):
    """Exact strength over the last layer's q and o, for all tokens of a batch, from one backward pass.

    Above the last attention no position talks to another, so the gradient of sum_i z_i[y_i] at what q and o wrote holds
    in row i the gradient of z_i[y_i] alone. Each weight gradient is then one outer product, whose nuclear, Frobenius
    and spectral norms all are the length of the input times the length of the gradient. The graph starts at the last
    layer's q, so nothing below is differentiated.

    It uses plain forward hooks on the policy itself, which is neither wrapped nor copied. Where the hidden states that
    entered the last layer were recorded while the responses were written, the layers below are not run again.

    Args:
        projections: ``q``, ``o`` or both.
    """

    projections: tuple[str, ...] = ("q", "o")
    _kept: list[Written] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.projections or not set(self.projections) <= {"q", "o"}:
            raise InputError(
                f"the last-layer signal cannot use projections {','.join(self.projections)}; choose among q and o, or "
                "take the exact signal."
            )

    def check(self, model: Any) -> None:
        """Make sure that the last layer has separate q and o projections."""
        decoder_layers(without_wrapper(model))

    @contextmanager
    def writing(self, model: Any) -> Iterator[Callable[[Sequence[Ids], Sequence[Ids]], None]]:
        """Keep what enters the last layer inside, for the next measurement, as long as the policy stays the same."""
        self._kept.clear()
        model = without_wrapper(model)
        with recording(model, decoder_layers(model)) as recorder:
            yield lambda prompts, responses: self._kept.append(recorder.by_sequence(prompts, responses))

    def __call__(self, model: Any, prompts: Sequence[Ids], responses: Sequence[Ids]) -> list[Readings]:
        """Measure responses on ``model``, a causal language model with separate q and o projections.

        Args:
            model: The policy.
            prompts: Token ids of each prompt.
            responses: Token ids of each response.
        """
        model = without_wrapper(model)
        modules = last_projections(model)
        vocabulary = model.get_output_embeddings().weight.shape[0]
        written = self._kept.pop() if self._kept else Written()
        readings: list[Readings] = [_nothing()] * len(responses)
        with at_rest(model):
            for part in _batches([len(p) for p in prompts], [len(r) for r in responses], vocabulary):
                chosen = [prompts[i] for i in part], [responses[i] for i in part]
                found = self._measure(model, modules, *chosen, written)
                for i, reading in zip(part, found, strict=True):
                    readings[i] = reading
        return readings

    def _measure(
        self,
        model: Any,
        modules: dict[str, nn.Module],
        prompts: Sequence[Ids],
        responses: Sequence[Ids],
        written: Written,
    ) -> list[Readings]:
        device = next(model.parameters()).device
        tokens, rows, columns = _pad_right(prompts, responses, device)
        ids = tokens[rows, columns + 1]
        inputs, outputs = {}, {}

        def record(name: str) -> Callable:
            def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
                if not output.requires_grad:
                    output.requires_grad_()
                inputs[name], outputs[name] = args[0].detach(), output

            return hook

        def keep_targets(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            # The head sees the rows that wrote a response token and no others: (1, n, width) -> (1, n, V).
            return (args[0][rows, columns][None],)

        with ExitStack() as stack:
            add = stack.enter_context(hooks())
            for name in ("q", "o"):
                add(modules[name].register_forward_hook(record(name)))
            add(model.get_output_embeddings().register_forward_pre_hook(keep_targets))
            # PEFT lets the embeddings require gradients where activations are checkpointed: no graph is needed there.
            add(model.get_input_embeddings().register_forward_hook(lambda *args: args[-1].detach()))
            if written.holds(model, prompts, responses):
                stack.enter_context(written.instead_of(decoder_layers(model), prompts, responses))
            logits = model(input_ids=tokens, use_cache=False).logits[0]  # (n, V)
        own = logits.gather(1, ids[:, None]).sum()
        deltas = torch.autograd.grad(own, [outputs[name] for name in self.projections])
        norms = [
            _length(inputs[name][rows, columns]) * _length(delta[rows, columns])
            for name, delta in zip(self.projections, deltas, strict=True)
        ]
        strength = torch.stack(norms).mean(0)
        entropy = token_uncertainty(logits.detach(), ids).entropy_bits
        columns_of = [values.cpu().numpy() for values in (strength, entropy, ids)]
        ends = np.cumsum([len(response) for response in responses])[:-1]
        return [Readings(*parts) for parts in zip(*(np.split(column, ends) for column in columns_of), strict=True)]


@dataclass(frozen=True)
class Exact(Signal):
    """Exact strength over any layers and projections, response by response, through :func:`inversion.probe`.

    The policy is not wrapped: the probe works on a TransformerLens bridge around a skeleton that shares its parameters.

    Args:
        layers: Layer numbers, negative ones counted from the end; None for all.
        projections: Among ``q``, ``k``, ``v``, ``o``.
        norm: ``nuclear``, ``frobenius``, ``spectral`` or ``l1``.
        targets: Tokens drawn from each response, stratified by entropy; None for all.
        seed: Seed of that draw.
    """

    layers: tuple[int, ...] | None = None
    projections: tuple[str, ...] = PROJECTIONS
    norm: str = "nuclear"
    targets: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_norms([self.norm])
        if self.targets is not None and self.targets < 3:
            raise InputError(f"targets is {self.targets}; give at least 3, or none for all tokens.")

    def check(self, model: Any) -> None:
        """Make sure that TransformerLens bridges the model and that it has the layers and projections."""
        bridge = bridge_of(model)
        select_layers(bridge, self.layers)
        select_projections(self.projections)

    def __call__(self, model: Any, prompts: Sequence[Ids], responses: Sequence[Ids]) -> list[Readings]:
        """Measure responses on ``model``, a Hugging Face causal language model that TransformerLens can bridge."""
        bridge = bridge_of(model)
        readings = []
        with at_rest(model):
            for prompt, response in zip(prompts, responses, strict=True):
                if not response:
                    readings.append(_nothing())
                    continue
                capture = probe(
                    bridge,
                    prompt,
                    response,
                    norms=(self.norm,),
                    projections=self.projections,
                    layers=self.layers,
                    targets=self.targets,
                    seed=self.seed,
                )
                strength = mean_strength(capture[self.norm].values)
                readings.append(Readings(strength, capture.entropy_bits.values, capture.token_id.values))
        return readings


def _batches(prompts: Sequence[int], responses: Sequence[int], vocabulary: int) -> Iterator[list[int]]:
    """Yield the indices of non-empty responses, longest first, in parts of similar length that keep to the limits."""
    length = [p + r for p, r in zip(prompts, responses, strict=True)]
    part: list[int] = []
    for i in sorted((i for i, t in enumerate(responses) if t), key=lambda i: length[i], reverse=True):
        longest = length[part[0]] if part else 0
        too_large = (len(part) + 1) * longest > PADDED_TOKENS
        too_large |= (sum(responses[j] for j in part) + responses[i]) * vocabulary > LOGITS
        # Padding costs as much as tokens do; below a few hundred tokens, so does one more pass.
        wasteful = length[i] < 0.8 * longest and len(part) * longest >= WORTH_A_PASS
        if part and (too_large or wasteful):
            yield part
            part = []
        part.append(i)
    if part:
        yield part


def _pad_right(prompts: Sequence[Ids], responses: Sequence[Ids], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return token ids (b, L), and row and column (n,) where each response token's logits are read.

    Padded on the right, causal attention needs no mask and positions count from 0, as in an unpadded sequence.
    """
    if any(not prompt for prompt in prompts):
        raise InputError("a prompt is empty; the first response token needs at least one token before it.")
    sequences = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
    tokens = torch.zeros((len(sequences), max(map(len, sequences))), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = torch.tensor(sequence)
    lengths = torch.tensor([len(response) for response in responses])
    rows = torch.arange(len(sequences)).repeat_interleave(lengths)
    columns = torch.cat([torch.arange(len(s) - len(r), len(s)) - 1 for s, r in zip(sequences, responses, strict=True)])
    return tokens.to(device), rows.to(device), columns.to(device)


def _length(vectors: Tensor) -> Tensor:
    """Return the Euclidean length of each row, in float64."""
    return torch.linalg.vector_norm(vectors, dim=-1, dtype=torch.float64)


def _nothing() -> Readings:
    return Readings(np.empty(0), np.empty(0), np.empty(0, int))
