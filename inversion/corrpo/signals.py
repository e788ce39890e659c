"""Signals: per-token strength and entropy of responses, measured on the policy while it is being trained.

A signal is called as ``signal(model, prompts, responses)`` with lists of token ids and returns one :class:`Readings` a
response. It leaves the policy's gradients, ``requires_grad``, hooks, training mode and the random state as they were.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from inversion.corrpo.recording import Ids, Recorded, skipped
from inversion.errors import InputError
from inversion.models import load_model
from inversion.probes import probe
from inversion.probes.capture import PROJECTIONS, frozen
from inversion.probes.entropy import token_uncertainty
from inversion.probes.probe import check_norms
from inversion.statistics._data import mean_strength

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


Signal = Callable[[Any, Sequence[Ids], Sequence[Ids]], list[Readings]]


@dataclass(frozen=True)
class LastLayer:
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

    def __post_init__(self) -> None:
        if not self.projections or not set(self.projections) <= {"q", "o"}:
            raise InputError(
                f"the last-layer signal cannot use projections {','.join(self.projections)}; choose among q and o, or "
                "take the exact signal."
            )

    def __call__(
        self, model: Any, prompts: Sequence[Ids], responses: Sequence[Ids], recorded: Recorded | None = None
    ) -> list[Readings]:
        """Measure responses on ``model``, a causal language model with separate q and o projections.

        Args:
            model: The policy.
            prompts: Token ids of each prompt.
            responses: Token ids of each response.
            recorded: Hidden states by sequence, from ``inversion.corrpo.recording``; used if they hold every one.
        """
        if hasattr(model, "get_base_model"):
            model = _without_wrapper(model)
        modules = last_projections(model)
        vocabulary = model.get_output_embeddings().weight.shape[0]
        readings: list[Readings] = [_nothing()] * len(responses)
        with at_rest(model):
            for part in _batches([len(p) for p in prompts], [len(r) for r in responses], vocabulary):
                chosen = [prompts[i] for i in part], [responses[i] for i in part]
                found = self._measure(model, modules, *chosen, recorded or {})
                for i, reading in zip(part, found, strict=True):
                    readings[i] = reading
        return readings

    def _measure(
        self,
        model: Any,
        modules: dict[str, nn.Module],
        prompts: Sequence[Ids],
        responses: Sequence[Ids],
        recorded: Recorded,
    ) -> list[Readings]:
        device = next(model.parameters()).device
        tokens, rows, columns = _pad_right(prompts, responses, device)
        written = tokens[rows, columns + 1]
        inputs, outputs, hooks = {}, {}, []

        def record(name: str) -> Callable:
            def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
                if not output.requires_grad:
                    output.requires_grad_()
                inputs[name], outputs[name] = args[0].detach(), output

            return hook

        def keep_targets(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            # The head sees the rows that wrote a response token and no others: (1, n, width) -> (1, n, V).
            return (args[0][rows, columns][None],)

        try:
            hooks += [modules[name].register_forward_hook(record(name)) for name in ("q", "o")]
            hooks.append(model.get_output_embeddings().register_forward_pre_hook(keep_targets))
            # PEFT lets the embeddings require gradients where activations are checkpointed: no graph is needed there.
            hooks.append(model.get_input_embeddings().register_forward_hook(lambda *args: args[-1].detach()))
            with ExitStack() as stack:
                if all((*p, *r) in recorded for p, r in zip(prompts, responses, strict=True)):
                    hidden = [recorded[(*p, *r)] for p, r in zip(prompts, responses, strict=True)]
                    stack.enter_context(skipped(decoder_layers(model), pad_sequence(hidden, batch_first=True)))
                logits = model(input_ids=tokens, use_cache=False).logits[0]  # (n, V)
        finally:
            for hook in hooks:
                hook.remove()
        own = logits.gather(1, written[:, None]).sum()
        deltas = torch.autograd.grad(own, [outputs[name] for name in self.projections])
        norms = [
            _length(inputs[name][rows, columns]) * _length(delta[rows, columns])
            for name, delta in zip(self.projections, deltas, strict=True)
        ]
        strength = torch.stack(norms).mean(0)
        entropy = token_uncertainty(logits.detach(), written).entropy_bits
        columns_of = [values.cpu().numpy() for values in (strength, entropy, written)]
        ends = np.cumsum([len(response) for response in responses])[:-1]
        return [Readings(*parts) for parts in zip(*(np.split(column, ends) for column in columns_of), strict=True)]


@dataclass(frozen=True)
class Exact:
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

    def __call__(self, model: Any, prompts: Sequence[Ids], responses: Sequence[Ids]) -> list[Readings]:
        """Measure responses on ``model``, a Hugging Face causal language model that TransformerLens can bridge."""
        bridge = _bridge_of(model)
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


def last_projections(model: nn.Module) -> dict[str, nn.Module]:
    """Return the q and o projections of the last layer's attention.

    Raises:
        InputError: The last layer has no attention with separate projections, as where q, k and v are fused.
    """
    count = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    for name, module in reversed(list(model.named_modules())):
        q = module._modules.get("q_proj")
        o = next((module._modules[n] for n in ("o_proj", "out_proj", "dense") if n in module._modules), None)
        if q is not None and o is not None:
            if str((count or 0) - 1) in name.split("."):
                return {"q": q, "o": o}
            break
    raise InputError(
        f"the last layer of {type(model).__name__} has no attention with separate q and o projections; take the exact "
        "signal with layers -1 instead."
    )


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """Return the list of layers, of whose last one :func:`last_projections` returns projections."""
    q = last_projections(model)["q"]
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) and any(q is part for part in module[-1].modules()):
            return module
    raise InputError(f"{type(model).__name__} keeps its layers in no list; take the exact signal.")


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode and freeze every parameter inside; restore both afterwards."""
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        with frozen(model), torch.enable_grad():
            yield
    finally:
        # Not model.train(), which would switch on submodules that were off.
        for module in training:
            module.training = True


_BRIDGES: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def _bridge_of(model: Any) -> Any:
    """Return the bridge that shares the policy's parameters, built on first use."""
    if hasattr(model, "get_base_model"):
        model = _without_wrapper(model)
    if model not in _BRIDGES:
        # TRL and accelerate patch the instance's forward with closures over the policy. A copy would inherit them, run
        # the policy instead of itself, and no hook of the bridge would fire.
        patched = model.__dict__.pop("forward", None)
        try:
            with torch.random.fork_rng():
                _BRIDGES[model] = load_model(model)
        finally:
            if patched is not None:
                model.__dict__["forward"] = patched
    return _BRIDGES[model]


def _without_wrapper(model: Any) -> Any:
    """Return the model inside PEFT's wrapper; adapters sit in its layers, so it computes what the whole does."""
    if model.active_peft_config.is_prompt_learning:
        raise InputError("rho cannot be read behind learnt prompts, which shift the tokens; train adapters instead.")
    return model.get_base_model()


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
