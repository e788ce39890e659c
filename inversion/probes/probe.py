"""Probe one response: every token's uncertainty and logit-gradient norms, as a labelled dataset."""

import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from numbers import Integral
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from inversion._version import __version__
from inversion.errors import InputError, whole
from inversion.models import describe_model, load_model, processor_of
from inversion.models.tokenization import Text, encode, token_texts
from inversion.probes.capture import PROJECTIONS, Site, select_layers, select_projections
from inversion.probes.collect import NormCollector
from inversion.probes.entropy import layer_entropy_bits, sampled_entropy_bits, token_uncertainty
from inversion.probes.gradients import QUANTITIES, Pass, Quantity, Targets, plan_for, run_pass
from inversion.probes.memory import fitting
from inversion.probes.norms import NORMS
from inversion.probes.pace import Pace, head_rows
from inversion.responses import Generation


def probe(
    model: TransformerBridge,
    prompt: Text,
    response: Text,
    norms: Sequence[str] = ("nuclear", "frobenius"),
    projections: Sequence[str] = PROJECTIONS,
    layers: int | Sequence[int] | None = None,
    quantity: Quantity = "logit",
    targets: int | Sequence[int] | None = None,
    seed: int = 0,
    *,
    generation: Generation | None = None,
    block: int | None = None,
    chunk: int | None = None,
) -> xr.Dataset:
    """Measure the tokens of one response.

    The response is read as it stands, in one pass: nothing is generated. The model is in evaluation mode meanwhile; its
    parameters, their ``requires_grad``, its modes, its hooks and the random state are afterwards as they were. What
    somebody has hooked into the model counts, but costs the faster plans (docs/numerics.md).

    Args:
        model: A bridge from :func:`inversion.load_model`.
        prompt: Text, or token ids. At least one token, since the first response token needs a predecessor.
        response: Text, tokenized without special tokens, or token ids.
        norms: Of each gradient: ``nuclear``, ``frobenius``, ``spectral``, ``l1`` (slow: it forms the gradient).
        projections: Among ``q``, ``k``, ``v``, ``o``.
        layers: Layer numbers, or one, negative ones counted from the end; None takes every layer that can be probed.
        quantity: What is differentiated: the written token's ``logit``, its ``log_prob`` (nats), or the
            ``entropy`` (bits) of the distribution it came from.
        targets: Which response tokens: None for all, indices, or a number. A number is drawn at random with
            ``seed``, one token from each of as many equal strata of entropy.
        seed: Seed of that draw.
        generation: How the response was sampled, where the model wrote it. If that was not from softmax(z), the entropy
            of the distribution sampled from is added as ``sampled_entropy_bits``.
        block: Targets that share a prefix; chosen from the length by default.
        chunk: Targets carried in one backward pass; chosen from the model's size and the free memory by default.
            Neither changes a result beyond rounding.

    Returns:
        A dataset with dimensions (token, layer, projection): ``token_id``, ``position`` (from 0 in the response),
        ``token_text`` (where the model has a tokenizer), ``entropy_bits``, ``surprisal_bits``, ``logit_space``,
        ``weight`` (how many tokens a drawn one stands for) by token; ``layer_entropy_bits`` by token and layer, the
        entropy of the logit-lens read-out after the layer; and each norm by token, layer and projection, in units of
        the quantity per weight. Where weights or numbers are broken, values are NaN, and ``attrs["not_finite"]`` counts
        their tokens.

    Raises:
        InputError: An argument cannot be used; the sentence says what to do.
        DoesNotFit: An InputError too: memory does not hold the response even one token at a time.
    """
    model = load_model(model)
    norms = check_norms(norms)
    if quantity not in QUANTITIES:
        raise InputError(f"quantity {quantity!r} is not known; choose among {', '.join(QUANTITIES)}.")
    for name, size in (("block", block), ("chunk", chunk)):
        if size is not None:
            whole(name, size, 1)
    whole("seed", seed)
    chosen_layers, chosen_projections = select_layers(model, layers), select_projections(projections)
    prompt_ids, response_ids = encode(model, prompt, response)
    index = _wanted(targets, len(response_ids))
    sites = [Site(layer, name) for layer in chosen_layers for name in chosen_projections]
    # Gradients are taken through tokens and positions, too.
    with torch.inference_mode(False), fitting(len(prompt_ids) + len(response_ids)):
        tokens = torch.tensor([prompt_ids + response_ids], device=next(model.original_model.parameters()).device)
        plan = plan_for(model)
        pace = Pace(model, block, chunk, pattern=not plan.piecewise)
        positions = torch.as_tensor(index, device=tokens.device) + len(prompt_ids) - 1
        seen = tokens[:, : int(positions[-1]) + 1] if plan.prefix else tokens
        with run_pass(model, seen, sites, plan) as single:
            by_token = _uncertainty(single, positions, tokens[0, positions + 1], pace, generation)
            by_token |= {"position": index, "weight": np.ones(len(index))}
            if isinstance(targets, Integral) and targets < len(index):
                drawn, weight = _spread(by_token["entropy_bits"], int(targets), int(seed))
                by_token = {name: column[drawn] for name, column in by_token.items()} | {"weight": weight}
                positions = positions[drawn]
            collector = NormCollector(norms, sites, positions.tolist())
            single.gradients(Targets(positions, tokens[0, positions + 1], quantity)).run(collector, pace)
            streams = [single.residual(layer, positions) for layer in chosen_layers]
            lens = layer_entropy_bits(model, streams, len(positions))
    if model.tokenizer is not None:
        texts = token_texts(model.tokenizer, response_ids)
        by_token["token_text"] = np.array([texts[i] for i in by_token["position"]], dtype=object)
    variables: dict[str, Any] = {name: ("token", column) for name, column in by_token.items()}
    variables["layer_entropy_bits"] = (("token", "layer"), lens.cpu().numpy())
    # Norms are computed in float32 at least, and no finer than that unless the model is.
    precision = np.float64 if pace.widths.itemsize == 8 else np.float32
    shape = (len(positions), len(chosen_layers), len(chosen_projections))
    for name, values in collector.norms.items():
        variables[name] = (("token", "layer", "projection"), values.numpy().astype(precision).reshape(shape))
    attributes = {
        **describe_model(model),
        "attention": plan.attention,
        "nuclear_by": sorted(collector.ways),
        "processor": processor_of(pace.device),
        "quantity": quantity,
        "seed": seed,
        "not_finite": _count_not_finite(by_token, collector.norms),
        "versions": package_versions(),
    }
    return xr.Dataset(variables, {"layer": chosen_layers, "projection": chosen_projections}, attributes)


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that numbers may depend on."""
    packages = ("torch", "transformers", "transformer_lens", "numpy", "scipy")
    return {"inversion": __version__} | {name: version(name) for name in packages}


def check_norms(norms: Sequence[str]) -> list[str]:
    """Return the chosen norms, each once."""
    names = [norms] if isinstance(norms, str) else list(norms)
    unknown = [name for name in names if name not in NORMS]
    if unknown or not names:
        raise InputError(f"norms {unknown or names} are not known; choose among {', '.join(NORMS)}.")
    return list(dict.fromkeys(names))


def _spread(entropy: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one token from each of ``count`` equal strata of entropy: indices, ascending, and the strata's sizes."""
    strata = np.array_split(np.argsort(entropy, kind="stable"), count)
    generator = np.random.default_rng(seed % 2**64)  # Negative seeds are allowed, as in sampling.
    drawn = np.array([generator.choice(stratum) for stratum in strata])
    order = np.argsort(drawn)
    return drawn[order], np.array([float(len(stratum)) for stratum in strata])[order]


def _wanted(targets: int | Sequence[int] | None, count: int) -> np.ndarray:
    """Return the response indices whose uncertainty is needed, ascending: all of them where targets are drawn."""
    if targets is None:
        return np.arange(count)
    if isinstance(targets, int | Integral):
        whole("targets", targets, 1)
        return np.arange(count)
    asked = [whole("a target", target) for target in targets]
    index = np.unique([target + count if target < 0 else target for target in asked])
    if len(index) == 0 or index[0] < 0 or index[-1] >= count:
        raise InputError(f"targets {asked} are not all among the {count} response tokens; correct them.")
    return index.astype(int)


def _uncertainty(
    single: Pass, positions: Tensor, written: Tensor, pace: Pace, generation: Generation | None
) -> dict[str, np.ndarray]:
    """Read the distributions that tokens were drawn from, a few at a time, since a vocabulary may be large."""
    columns: dict[str, list[Tensor]] = {"token_id": [written]}
    for part in head_rows(len(positions), pace.widths.vocabulary):
        logits = single.logits(positions[part])
        for name, values in token_uncertainty(logits, written[part])._asdict().items():
            columns.setdefault(name, []).append(values)
        if generation is not None and not generation.plain:
            columns.setdefault("sampled_entropy_bits", []).append(sampled_entropy_bits(logits, generation))
    return {name: torch.cat(parts).cpu().numpy() for name, parts in columns.items()}


def _count_not_finite(by_token: Mapping[str, np.ndarray], norms: Mapping[str, Tensor]) -> int:
    """Count tokens with an entropy or a norm that is not a number, and warn of them."""
    broken = np.isnan(by_token["entropy_bits"])
    for values in norms.values():
        broken |= values.isnan().any(1).numpy()
    if broken.any():
        warnings.warn(
            f"{broken.sum()} of {len(broken)} tokens have values that are not finite numbers, recorded as NaN: the "
            "model's weights are broken, or its numbers too large for its dtype",
            stacklevel=3,
        )
    return int(broken.sum())
