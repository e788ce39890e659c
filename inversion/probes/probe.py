"""Probe one response: every token's uncertainty and logit-gradient norms, as a labelled dataset."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from inversion._version import __version__
from inversion.errors import InputError
from inversion.models import describe_model, load_model
from inversion.models.memory import is_out_of_memory
from inversion.models.tokenization import Text, encode, token_texts
from inversion.probes.capture import PROJECTIONS, Site, frozen, select_layers, select_projections
from inversion.probes.entropy import layer_entropy_bits, sampled_entropy_bits, token_uncertainty
from inversion.probes.gradients import QUANTITIES, Delta, Quantity, TokenGradients
from inversion.probes.memory import block_size, chunk_size, norms_at_once, worker_count
from inversion.probes.norms import NORMS, factored_norms, l1_norm, rank_one_norms, triangular_factor
from inversion.responses import Generation


def probe(
    model: TransformerBridge,
    prompt: Text,
    response: Text,
    norms: Sequence[str] = ("nuclear", "frobenius"),
    projections: Sequence[str] = PROJECTIONS,
    layers: Sequence[int] | None = None,
    quantity: Quantity = "logit",
    targets: int | Sequence[int] | None = None,
    seed: int = 0,
    *,
    generation: Generation | None = None,
    block: int | None = None,
    chunk: int | None = None,
) -> xr.Dataset:
    """Measure the tokens of one response.

    The response is read as it stands, in one pass: nothing is generated. The model's parameters, their
    ``requires_grad``, its hooks and the random state are afterwards as they were.

    Args:
        model: A bridge from :func:`inversion.load_model`.
        prompt: Text, or token ids. At least one token, since the first response token needs a predecessor.
        response: Text, tokenized without special tokens, or token ids.
        norms: Of each gradient: ``nuclear``, ``frobenius``, ``spectral``, ``l1`` (slow: it forms the gradient).
        projections: Among ``q``, ``k``, ``v``, ``o``.
        layers: Layer numbers, negative ones counted from the end; None takes every layer that can be probed.
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
        the quantity per weight.

    Raises:
        InputError: An argument cannot be used; the sentence says what to do.
    """
    model = load_model(model)
    norms = check_norms(norms)
    if quantity not in QUANTITIES:
        raise InputError(f"quantity {quantity!r} is not known; choose among {', '.join(QUANTITIES)}.")
    chosen_layers, chosen_projections = select_layers(model, layers), select_projections(projections)
    prompt_ids, response_ids = encode(model, prompt, response)
    device = next(model.original_model.parameters()).device
    tokens = torch.tensor([prompt_ids + response_ids], device=device)
    index, weight = _choose_targets(model, tokens, len(prompt_ids), targets, seed)
    positions = torch.as_tensor(index, device=device) + len(prompt_ids) - 1
    with frozen(model), torch.enable_grad():
        sites = [Site(layer, name) for layer in chosen_layers for name in chosen_projections]
        gradients = TokenGradients(model, tokens, positions, sites, quantity)
        measured = _measure_norms(gradients, sites, norms, block, chunk)
        written = tokens[0, positions + 1]
        uncertainty = token_uncertainty(gradients.logits, written)
        sampled = None if generation is None or generation.plain else sampled_entropy_bits(gradients.logits, generation)
        streams = [gradients.residuals.get(layer) for layer in chosen_layers]
        lens = layer_entropy_bits(model, streams, len(index))
    by_token: dict[str, Any] = {"token_id": written, "position": index, "weight": weight}
    by_token |= uncertainty._asdict()
    if sampled is not None:
        by_token["sampled_entropy_bits"] = sampled
    variables: dict[str, Any] = {name: ("token", _numpy(values)) for name, values in by_token.items()}
    if model.tokenizer is not None:
        texts = token_texts(model.tokenizer, response_ids)
        variables["token_text"] = ("token", [texts[i] for i in index])
    shape = (len(index), len(chosen_layers), len(chosen_projections))
    variables["layer_entropy_bits"] = (("token", "layer"), _numpy(lens))
    for name, values in measured.items():
        variables[name] = (("token", "layer", "projection"), _numpy(values).reshape(shape))
    coords = {"layer": chosen_layers, "projection": chosen_projections}
    return xr.Dataset(variables, coords, _attributes(model, quantity, seed))


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


def _choose_targets(
    model: TransformerBridge, tokens: Tensor, prompt_length: int, targets: int | Sequence[int] | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the response indices to measure, ascending, and how many tokens each stands for."""
    count = tokens.shape[1] - prompt_length
    if targets is None or (isinstance(targets, int) and targets >= count):
        return np.arange(count), np.ones(count)
    if not isinstance(targets, int):
        index = np.unique([target + count if target < 0 else target for target in targets])
        if len(index) == 0 or index[0] < 0 or index[-1] >= count:
            raise InputError(f"targets {list(targets)} are not all among the {count} response tokens; correct them.")
        return index.astype(int), np.ones(len(index))
    if targets < 1:
        raise InputError(f"targets is {targets}; give at least 1, or None for all tokens.")
    with torch.no_grad():
        logits = model.original_model(input_ids=tokens, use_cache=False).logits[0, prompt_length - 1 : -1]
    entropy = token_uncertainty(logits, tokens[0, prompt_length:]).entropy_bits.cpu().numpy()
    strata = np.array_split(np.argsort(entropy, kind="stable"), targets)
    generator = np.random.default_rng(seed)
    drawn = np.array([generator.choice(stratum) for stratum in strata])
    order = np.argsort(drawn)
    return drawn[order], np.array([float(len(stratum)) for stratum in strata])[order]


def _measure_norms(
    gradients: TokenGradients, sites: Sequence[Site], norms: Sequence[str], block: int | None, chunk: int | None
) -> dict[str, Tensor]:
    """Work through the targets block by block and return each norm, (t, sites)."""
    count, columns = len(gradients.positions), {site: i for i, site in enumerate(sites)}
    device = gradients.logits.device
    wide = torch.float64 if gradients.logits.dtype == torch.float64 else torch.float32
    measured = {name: torch.full((count, len(columns)), math.nan, dtype=wide, device=device) for name in norms}

    def keep(part: slice, delta: Delta, values: dict[str, Tensor]) -> None:
        for name, column in values.items():
            measured[name][part, columns[delta.site]] = column.to(wide)

    dense = set(sites)
    for delta in gradients.top_deltas():
        own = gradients.inputs[delta.site][gradients.positions]
        keep(slice(None), delta, rank_one_norms(own, delta.values, norms))
        dense.remove(delta.site)
    if not dense:
        return measured
    factors = _triangular_factors(gradients.inputs, sorted(dense))
    block = block or block_size(count, device)
    # The longest first: the recording of the whole sequence serves it, and the short ones even out the workers' loads.
    blocks = [slice(start, min(start + block, count)) for start in range(0, count, block)][::-1]
    workers = worker_count(len(blocks), device)

    def measure(chunked: slice, delta: Delta) -> None:
        for part, few in _prefixes(gradients, chunked, delta.values):
            values = factored_norms(factors[delta.site], few, norms)
            if "l1" in norms:
                values["l1"] = l1_norm(gradients.inputs[delta.site][: few.shape[1]], few)
            keep(part, delta, values)

    _side_by_side(lambda targets: _in_memory(gradients, targets, chunk, workers, measure), blocks, workers)
    return measured


def _in_memory(
    gradients: TokenGradients,
    targets: slice,
    chunk: int | None,
    workers: int,
    measure: Callable[[slice, Delta], None],
) -> None:
    """Measure a block's deltas; where memory runs out, halve the chunk, start the block again and say so."""
    length = int(gradients.positions[targets][-1]) + 1
    chunk = chunk or chunk_size(gradients.model, length, targets.stop - targets.start, workers)
    while True:
        try:
            for part, delta in gradients.block_deltas(targets, chunk):
                measure(part, delta)
            return
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if chunk == 1:
                raise InputError(
                    f"{length} tokens do not fit into memory even one at a time; shorten the response, or use a "
                    "smaller dtype or another device."
                ) from error
        chunk = max(1, chunk // 2)
        warnings.warn(f"memory ran out; going on with {chunk} tokens at a time", stacklevel=4)


def _prefixes(gradients: TokenGradients, part: slice, values: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Take the deltas of a part of the targets, (c, b, d_out), a few targets at a time, each few on its own prefix.

    The work on a norm grows with the cube of the prefix.
    """
    few = norms_at_once(values)
    for start in range(part.start, part.stop, few):
        group = slice(start, min(start + few, part.stop))
        yield group, values[group.start - part.start : group.stop - part.start, : gradients.prefix_length(group)]


def _triangular_factors(inputs: Mapping[Site, Tensor], sites: Iterable[Site]) -> dict[Site, Tensor]:
    """Factor what each site read; q, k and v of a layer mostly read the very same tensor and then share its factor."""
    factors: dict[Site, Tensor] = {}
    known: dict[tuple[int, torch.Size], Tensor] = {}
    for site in sites:
        read = inputs[site]
        key = (read.data_ptr(), read.shape)
        if key not in known:
            known[key] = triangular_factor(read)
        factors[site] = known[key]
    return factors


def _side_by_side(work: Callable[[slice], None], blocks: Sequence[slice], workers: int) -> None:
    """Do the work on every block, on several threads of Python that share torch's threads among them."""
    if workers == 1:
        for block in blocks:
            work(block)
        return
    threads = torch.get_num_threads()
    try:
        # The setting holds for the calling thread, here each worker.
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
            futures = [pool.submit(work, block) for block in blocks]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        # It is also what threads start with that are made later.
        torch.set_num_threads(threads)


def _attributes(model: TransformerBridge, quantity: str, seed: int) -> dict[str, Any]:
    return {**describe_model(model), "quantity": quantity, "seed": seed, "versions": package_versions()}


def _numpy(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
