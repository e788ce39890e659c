"""From problems to a run on disk: what measuring a response is, for the engine to have done and written."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from inversion.engine import LOG_FORMATS, Watch, Workers, open_pool, run_shards
from inversion.engine.loop import shard_numbers, shards_of
from inversion.errors import InputError, first_line
from inversion.files import owned
from inversion.models import decode, describe_model, encode
from inversion.probes import probe
from inversion.probes.capture import PROJECTIONS, select_layers, select_projections
from inversion.probes.gradients import Quantity
from inversion.probes.probe import check_norms, package_versions
from inversion.responses import Generation, Problem, Source, Written, end_tokens, write_responses
from inversion.runs import Piece, RunWriter, check_folder, is_complete, token_table
from inversion.scoring import score_of

BATCH = 16
"""Responses that are generated together."""
SHARD = 16
"""Responses that are stored together."""


@dataclass(frozen=True)
class Measurement:
    """What :func:`inversion.probe` is asked for; see there."""

    norms: Sequence[str] = ("nuclear", "frobenius")
    layers: Sequence[int] | None = None
    projections: Sequence[str] = PROJECTIONS
    quantity: Quantity = "logit"
    targets: int | None = None


Encoded = tuple[list[int], list[int] | None]
"""Token ids of a prompt and, where it is given, of its response."""


@dataclass(frozen=True)
class Plan:
    """Everything that measuring any response of a run takes, except the model; it goes to workers as it is.

    manifest: What ``run.json`` will say.
    problems: With or without responses.
    encoded: Token ids of each prompt and, where it is given, of its response.
    measurement: What to measure.
    generation: How to sample missing responses.
    seed: Seed of sampling and of drawn targets.
    batch: Responses that are generated together.
    shard: Responses that are stored together.
    """

    manifest: dict[str, Any]
    problems: Sequence[Problem]
    encoded: Sequence[Encoded]
    measurement: Measurement
    generation: Generation
    seed: int
    batch: int
    shard: int

    @property
    def count(self) -> int:
        """Number of responses."""
        return len(self.problems)

    def is_written(self, number: int) -> bool:
        """Whether a response is given, so that the model need not write it."""
        return self.encoded[number][1] is not None

    def write(self, model: TransformerBridge, batch: int) -> dict[int, Written]:
        """Let the model write the missing responses of a batch; return them by number."""
        start = batch * self.batch
        numbers = [n for n in range(start, min(start + self.batch, self.count)) if not self.is_written(n)]
        prompts = [self.encoded[number][0] for number in numbers]
        written = write_responses(model, prompts, self.generation, self.seed, numbers=numbers, progress=True)
        return dict(zip(numbers, written, strict=True))

    def measure(self, model: TransformerBridge, numbers: Sequence[int], written: Mapping[int, Written]) -> list[Piece]:
        """Measure some responses, each by itself."""
        return [self._measure_one(model, number, written) for number in numbers]

    def _measure_one(self, model: TransformerBridge, number: int, written: Mapping[int, Written]) -> Piece:
        prompt, given = self.encoded[number]
        response = written[number] if given is None else Written(given, "given")
        row = _row(model, number, self.problems[number], prompt, response)
        try:
            capture = self._probe(model, prompt, response)
        except (InputError, torch.OutOfMemoryError) as error:
            return Piece({**row, "error": first_line(error)}, None)
        except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
            return Piece({**row, "error": f"no norm of its gradients can be computed: {first_line(error)}"}, None)
        return Piece(row, token_table(capture, row, self.manifest))

    def _probe(self, model: TransformerBridge, prompt: list[int], response: Written) -> xr.Dataset:
        if not response.ids:
            raise InputError("it has no token, since the logits behind its prompt are not finite numbers")
        sampling = None if response.ended == "given" else self.generation
        capture = probe(model, prompt, response.ids, **asdict(self.measurement), seed=self.seed, generation=sampling)
        _require_finite(capture)
        if sampling is None and not self.generation.plain:
            # All tables of a run have the same columns; how a given response was sampled is not known.
            capture["sampled_entropy_bits"] = ("token", np.full(capture.sizes["token"], np.nan))
        return capture


def measure_run(
    model: TransformerBridge | Callable[[], TransformerBridge],
    problems: Sequence[Problem],
    out: str | os.PathLike[str],
    *,
    source: str | Source = "",
    measurement: Measurement | None = None,
    generation: Generation | None = None,
    seed: int = 0,
    overwrite: bool = False,
    batch: int = BATCH,
    shard: int = SHARD,
    workers: Workers | None = None,
    part: tuple[int, int] | None = None,
    wait: bool = False,
    log: str = "auto",
) -> Path:
    """Measure a model on problems and write the run to ``out``.

    Problems without a response get one from the model. A run that was interrupted goes on where it stopped and ends
    equal to one that was not; a finished one is left as it is. A response that cannot be measured is recorded with the
    reason and does not stop the others.

    Args:
        model: A bridge, or a function without arguments that loads one, which is what ``workers`` need.
        problems: From :func:`inversion.responses.read_problems`.
        out: Folder of the run.
        source: Where the problems came from and how they were read, for the record.
        measurement: What to measure.
        generation: How to sample missing responses.
        seed: Seed of sampling and of drawn targets.
        overwrite: Replace another run in ``out``.
        batch: Responses that are generated together.
        shard: Responses that are stored together. Any size gives the same tables.
        workers: Replicas of the model on Ray; None measures in this process. Any number gives the same run.
        part: (i, n): measure the i-th of n parts only. Parts can run at the same time, on machines that share ``out``.
        wait: Wait for another process that writes to ``out``, instead of refusing.
        log: How to tell of progress; see :class:`inversion.engine.Watch`.

    Raises:
        InputError: Something cannot be used; nothing has been written then.
        ShardError: Some shards failed for another reason; the others are written.
    """
    folder = Path(out).expanduser()
    _check_options(batch, shard, part, log)
    if part is not None and overwrite:
        raise InputError("a part cannot replace the run that the others write to; remove it first, or leave one out.")
    with open_pool(model, workers) as pool:
        options = (measurement or Measurement(), generation or Generation(), seed, batch, shard)
        plan: Plan = pool.call(partial(make_plan, problems, source, *options))
        check_folder(folder, plan.manifest, overwrite=overwrite)
        if not overwrite and is_complete(folder):
            return folder
        with owned(folder, wait=wait, part=part):
            writer = RunWriter(folder, plan.manifest, overwrite=overwrite)
            shards = shards_of(plan, part)
            total, done = (
                sum(len(shard_numbers(plan, k)) for k in some) for some in (shards, filter(writer.has, shards))
            )
            with Watch(folder.name, total, done, len(shards_of(plan)), log) as watch:
                run_shards(plan, writer, pool, shards, watch)
            if is_complete(folder):
                writer.forget()
    return folder


def make_plan(
    problems: Sequence[Problem],
    source: str | Source,
    measurement: Measurement,
    generation: Generation,
    seed: int,
    batch: int,
    shard: int,
    model: TransformerBridge,
) -> Plan:
    """Return what is to be measured, checked against the model."""
    encoded = _encode_all(model, problems)
    manifest = _manifest(model, problems, source, measurement, generation, seed)
    manifest["responses"] |= {"batch": batch, "shard": shard}
    return Plan(manifest, list(problems), encoded, measurement, generation, seed, batch, shard)


def _check_options(batch: int, shard: int, part: tuple[int, int] | None, log: str) -> None:
    for name, size in (("batch", batch), ("shard", shard)):
        if size < 1:
            raise InputError(f"{name} is {size}; give at least 1.")
    if part is not None and not 1 <= part[0] <= part[1]:
        raise InputError(f"part is {part[0]}/{part[1]}; give i/n with i from 1 to n.")
    if log not in LOG_FORMATS:
        raise InputError(f"log format {log!r} is not known; choose among {', '.join(LOG_FORMATS)}.")


def _require_finite(capture: xr.Dataset) -> None:
    """Make sure that every reading is a number.

    ``layer_entropy_bits`` may be NaN where the lens does not apply to an architecture; that is another matter.
    """
    for name, values in capture.data_vars.items():
        if values.dtype.kind == "f" and name != "layer_entropy_bits":
            bad = np.logical_not(np.isfinite(values.values).reshape(len(values), -1).all(1))
            if bad.any():
                raise InputError(
                    f"{name} is not a finite number at {bad.sum()} of {len(bad)} tokens, first at token "
                    f"{int(capture.position[bad][0])}; the model overflows in {capture.attrs['dtype']}, or its weights "
                    "are damaged."
                )


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


def _row(
    model: TransformerBridge, number: int, problem: Problem, prompt: list[int], response: Written
) -> dict[str, Any]:
    text = problem.response
    if text is None:
        # The end token belongs to the measurement, not to the text.
        text = decode(model.tokenizer, response.ids[:-1] if response.ended == "end" else response.ids)
    return {
        "response": number,
        "prompt_id": hashlib.sha256(problem.prompt.encode()).hexdigest()[:12],
        "task": problem.task,
        "prompt": problem.prompt,
        "text": text,
        "answer": problem.answer,
        "score": float(score_of(problem.scorer, text, response.finished)),
        "finished": response.finished,
        "ended": response.ended,
        "n_tokens": len(response.ids),
        "prompt_token_ids": prompt,
        "error": None,
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
            **asdict(generation),
            "end_token_ids": end_tokens(model),
        },
        "versions": package_versions(),
    }
