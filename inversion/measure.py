"""From problems to a run on disk: generate what is missing, probe every response, write shard by shard."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from inversion.errors import InputError
from inversion.models import context_length, decode, describe_model, encode
from inversion.probes import probe
from inversion.probes.capture import PROJECTIONS, select_layers, select_projections
from inversion.probes.gradients import Quantity
from inversion.probes.probe import check_norms, package_versions
from inversion.responses import Generation, Problem, Source, generate
from inversion.runs import RunWriter
from inversion.scoring import score_of

SHARD = 16
"""Responses that are generated together and written together."""


@dataclass(frozen=True)
class Measurement:
    """What :func:`inversion.probe` is asked for; see there."""

    norms: Sequence[str] = ("nuclear", "frobenius")
    layers: Sequence[int] | None = None
    projections: Sequence[str] = PROJECTIONS
    quantity: Quantity = "logit"
    targets: int | None = None


def measure_run(
    model: TransformerBridge,
    problems: Sequence[Problem],
    out: str | os.PathLike[str],
    *,
    source: str | Source = "",
    measurement: Measurement | None = None,
    generation: Generation | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Measure a model on problems and write the run to ``out``.

    Problems without a response get one from the model. A run that was interrupted goes on where it stopped and ends
    equal to one that was not; a finished one is left as it is.

    Args:
        model: A bridge.
        problems: From :func:`inversion.responses.read_problems`.
        out: Folder of the run.
        source: Where the problems came from and how they were read, for the record.
        measurement: What to measure.
        generation: How to sample missing responses.
        seed: Seed of sampling and of drawn targets.
        overwrite: Replace another run in ``out``.

    Raises:
        InputError: Something cannot be used; nothing has been written then.
    """
    measurement, generation = measurement or Measurement(), generation or Generation()
    encoded = _encode_all(model, problems)
    manifest = _manifest(model, problems, source, measurement, generation, seed)
    writer = RunWriter(out, manifest, overwrite=overwrite)
    starts = range(0, len(problems), SHARD)
    done = sum(min(SHARD, len(problems) - start) for start in starts if writer.has(start // SHARD))
    with tqdm(total=len(problems), initial=done, desc=f"probe {writer.folder.name}", unit="response") as bar:
        for start in starts:
            if writer.has(start // SHARD):
                continue
            part = slice(start, start + SHARD)
            written = _responses(model, encoded[part], generation, _shard_seed(seed, start))
            captures, rows = [], []
            for number, (problem, ids, (response, finished)) in enumerate(
                zip(problems[part], encoded[part], written, strict=True), start
            ):
                captures.append(_probe(model, ids[0], response, measurement, seed))
                rows.append(_row(model, number, problem, ids[0], response, finished))
                bar.update()
            writer.write(start // SHARD, captures, rows)
    return writer.folder


Encoded = tuple[list[int], list[int] | None]


def _encode_all(model: TransformerBridge, problems: Sequence[Problem]) -> list[Encoded]:
    """Tokenize everything first, so that bad input is found before any work is done."""
    encoded: list[Encoded] = []
    for number, problem in enumerate(problems, 1):
        try:
            # A stand-in for the response to come: at least one token has to fit.
            prompt, response = encode(model, problem.prompt, [0] if problem.response is None else problem.response)
        except InputError as error:
            raise InputError(f"problem {number}: {error}") from error
        if problem.response is not None and len(response) < 2:
            raise InputError(
                f"problem {number} has a response of one token, which cannot show a correlation; remove it."
            )
        encoded.append((prompt, None if problem.response is None else response))
    return encoded


def _responses(
    model: TransformerBridge, encoded: Sequence[Encoded], generation: Generation, seed: int
) -> list[tuple[list[int], bool]]:
    """Return the given responses, and generated ones where there are none, as one batch."""
    missing = [prompt for prompt, response in encoded if response is None]
    written = iter(generate(model, missing, _fitting(model, missing, generation), seed) if missing else [])
    return [next(written) if response is None else (response, True) for _, response in encoded]


def _fitting(model: TransformerBridge, prompts: Sequence[Sequence[int]], generation: Generation) -> Generation:
    """Shorten the responses to what the context leaves beside the longest prompt of the batch."""
    limit = context_length(model)
    if limit is None:
        return generation
    room = limit - max(map(len, prompts))
    return Generation(generation.temperature, min(generation.max_new_tokens, room))


def _shard_seed(seed: int, start: int) -> int:
    """Give every shard its own stream, so that resuming draws what an uninterrupted run would have drawn."""
    return int(np.random.SeedSequence([seed, start]).generate_state(1)[0])


def _probe(
    model: TransformerBridge, prompt: list[int], response: list[int], measurement: Measurement, seed: int
) -> xr.Dataset:
    return probe(model, prompt, response, **asdict(measurement), seed=seed)


def _row(
    model: TransformerBridge, number: int, problem: Problem, prompt: list[int], response: list[int], finished: bool
) -> dict[str, Any]:
    text = problem.response
    if text is None:
        # The end token belongs to the measurement, not to the text.
        ids = response[:-1] if finished else response
        text = decode(model.tokenizer, ids)
    return {
        "response": number,
        "prompt_id": hashlib.sha256(problem.prompt.encode()).hexdigest()[:12],
        "task": problem.task,
        "prompt": problem.prompt,
        "text": text,
        "answer": problem.answer,
        "score": float(score_of(problem.scorer, text, finished)),
        "finished": finished,
        "n_tokens": len(response),
        "prompt_token_ids": prompt,
    }


def _manifest(
    model: TransformerBridge,
    problems: Sequence[Problem],
    source: str | Source,
    measurement: Measurement,
    generation: Generation,
    seed: int,
) -> dict[str, Any]:
    texts = [[problem.prompt, problem.response, problem.answer] for problem in problems]
    return {
        "model": describe_model(model),
        "measurement": {
            **asdict(measurement),
            "norms": check_norms(measurement.norms),
            "layers": select_layers(model, measurement.layers),
            "projections": select_projections(measurement.projections),
        },
        "responses": {
            **({"source": source} if isinstance(source, str) else {"source": source.name, "reading": source.record()}),
            "sha256": hashlib.sha256(json.dumps(texts).encode()).hexdigest(),
            "count": len(problems),
            "seed": seed,
            "batch": SHARD,
            **asdict(generation),
        },
        "versions": package_versions(),
    }
