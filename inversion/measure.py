"""From problems to a run on disk: what measuring a response is, for the engine to have done and written."""

import hashlib
import json
import os
import warnings
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
from inversion.files import check_part, owned
from inversion.models import describe_model, fingerprint
from inversion.preparation import Encoded, Preparation, Prepared, have_written, prepare, response_parts, response_row
from inversion.probes import probe
from inversion.probes.capture import PROJECTIONS, select_layers, select_projections
from inversion.probes.gradients import QUANTITIES, Quantity, plan_for
from inversion.probes.probe import check_norms, package_versions
from inversion.responses import Generation, Problem, Source, Written, end_tokens, write_responses
from inversion.runs import Piece, RunWriter, check_folder, is_complete, tidy, token_table

BATCH = 16
"""Responses that are generated together."""
SHARD = 16
"""Responses that are stored together."""


ENTROPIES = {
    "entropy_bits": "of softmax(z), the model's own distribution",
    "sampled_entropy_bits": "of the distribution that tokens were drawn from",
}
"""What a run says of its two entropies, where they differ."""


@dataclass(frozen=True)
class Measurement:
    """What :func:`inversion.probe` is asked for; see there."""

    norms: Sequence[str] = ("nuclear", "frobenius")
    layers: Sequence[int] | None = None
    projections: Sequence[str] = PROJECTIONS
    quantity: Quantity = "logit"
    targets: int | None = None

    def __post_init__(self) -> None:
        if self.targets is not None and self.targets < 1:
            raise InputError(f"targets is {self.targets}; give at least 1 token per response, or none for all of them.")
        if self.quantity not in QUANTITIES:
            raise InputError(f"quantity {self.quantity!r} is not known; choose among {', '.join(QUANTITIES)}.")


@dataclass(frozen=True)
class Plan:
    """Everything that measuring any response of a run takes, except the model; it goes to workers as it is.

    manifest: What ``run.json`` will say.
    problems: With or without responses.
    encoded: Token ids of each prompt and, where it is given, of its response.
    measurement: What to measure.
    generation: How to sample missing responses.
    think_tags: What opens and what closes the model's thinking.
    seed: Seed of sampling and of drawn targets.
    batch: Responses that are generated together.
    shard: Responses that are stored together.
    """

    manifest: dict[str, Any]
    problems: Sequence[Problem]
    encoded: Sequence[Encoded]
    measurement: Measurement
    generation: Generation
    think_tags: tuple[str, str]
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
        problem = self.problems[number]
        row = response_row(model, number, problem, prompt, response, self.think_tags, self.generation.stop)
        try:
            capture = self._probe(model, prompt, response)
            parts = response_parts(model, problem, response.ids, self.think_tags)
            if parts is not None:
                # Known from the whole response, of which the capture may hold a few tokens only.
                capture["part"] = ("token", [parts[place] for place in capture.position.values])
        except (InputError, torch.OutOfMemoryError) as error:
            return Piece({**row, "error": first_line(error)}, None)
        except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
            return Piece({**row, "error": f"no norm of its gradients can be computed: {first_line(error)}"}, None)
        row |= {name: capture.attrs[name] for name in ("not_finite", "processor")}
        row["nuclear_by"] = ", ".join(capture.attrs["nuclear_by"])
        return Piece(row, token_table(capture, row, self.manifest))

    def _probe(self, model: TransformerBridge, prompt: list[int], response: Written) -> xr.Dataset:
        if not response.ids:
            raise InputError("it has no token, since the logits behind its prompt are not finite numbers")
        sampling = None if response.ended == "given" else self.generation
        with warnings.catch_warnings():
            # Counted in the run instead, response by response.
            warnings.filterwarnings("ignore", ".*not finite numbers, recorded as NaN", UserWarning)
            capture = probe(
                model, prompt, response.ids, **asdict(self.measurement), seed=self.seed, generation=sampling
            )
        if capture.attrs["not_finite"] == capture.sizes["token"]:
            raise InputError(
                "none of its tokens has finite readings, since the model's weights are broken or its numbers too large "
                f"for {capture.attrs['dtype']}"
            )
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
    preparation: Preparation | None = None,
    seed: int = 0,
    overwrite: bool = False,
    batch: int = BATCH,
    shard: int = SHARD,
    workers: Workers | None = None,
    part: tuple[int, int] | None = None,
    wait: bool = False,
    log: str = "auto",
    mend: Callable[[dict[str, Any]], None] | None = None,
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
        preparation: What stands around each question, and what becomes of what cannot be measured.
        seed: Seed of sampling and of drawn targets.
        overwrite: Replace another run in ``out``.
        batch: Responses that are generated together.
        shard: Responses that are stored together. Any size gives the same tables.
        workers: Replicas of the model on Ray; None measures in this process. Any number gives the same run.
        part: (i, n): measure the i-th of n parts only. Parts can run at the same time, on machines that share ``out``.
        wait: Wait for another process that writes to ``out``, instead of refusing.
        log: How to tell of progress; see :class:`inversion.engine.Watch`.
        mend: Called with the manifest, once it is known that all of this can be measured; puts a damaged run right.

    Raises:
        InputError: Something cannot be used; nothing has been written then.
        ShardError: Some shards failed for another reason; the others are written.
    """
    folder = Path(out).expanduser()
    _check_options(batch, shard, part, log)
    if part is not None and overwrite:
        raise InputError("a part cannot replace the run that the others write to; remove it first, or leave one out.")
    with open_pool(model, workers) as pool:
        settings = (measurement or Measurement(), generation or Generation(), preparation or Preparation())
        plan: Plan = pool.call(partial(make_plan, problems, source, folder, *settings, seed, batch, shard, overwrite))
        if mend is not None:
            mend(plan.manifest)
        check_folder(folder, plan.manifest, overwrite=overwrite)
        if not overwrite and is_complete(folder):
            tidy(folder)
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
    folder: Path,
    measurement: Measurement,
    generation: Generation,
    preparation: Preparation,
    seed: int,
    batch: int,
    shard: int,
    overwrite: bool,
    model: TransformerBridge,
) -> Plan:
    """Return what is to be measured, checked against the model."""
    prepared, measured = prepare(model, problems, preparation), fingerprint(model)
    if preparation.server is not None:
        keep = folder.with_name(f"{folder.name}.responses.jsonl")
        prepared = have_written(preparation.server, model, prepared, generation, seed, keep, measured, fresh=overwrite)
    manifest = _manifest(model, measured, prepared, source, measurement, generation, preparation, seed)
    manifest["responses"] |= {"batch": batch, "shard": shard}
    tags = preparation.think_tags
    return Plan(manifest, prepared.problems, prepared.encoded, measurement, generation, tags, seed, batch, shard)


def _check_options(batch: int, shard: int, part: tuple[int, int] | None, log: str) -> None:
    for name, size in (("batch", batch), ("shard", shard)):
        if size < 1:
            raise InputError(f"{name} is {size}; give at least 1.")
    check_part(part)
    if log not in LOG_FORMATS:
        raise InputError(f"log format {log!r} is not known; choose among {', '.join(LOG_FORMATS)}.")


def _manifest(
    model: TransformerBridge,
    measured: Mapping[str, Any],
    prepared: Prepared,
    source: str | Source,
    measurement: Measurement,
    generation: Generation,
    preparation: Preparation,
    seed: int,
) -> dict[str, Any]:
    contents = [
        [problem.prompt, problem.response, problem.answer, ids]
        for problem, ids in zip(prepared.problems, prepared.encoded, strict=True)
    ]
    chosen = {
        "norms": check_norms(measurement.norms),
        "layers": select_layers(model, measurement.layers),
        "projections": select_projections(measurement.projections),
    }
    # How the gradients are taken, as every capture says; not how the loaded model would attend by itself.
    return {
        "model": {**describe_model(model), "attention": plan_for(model).attention, "fingerprint": measured},
        "measurement": {**asdict(measurement), **chosen},
        "responses": {
            **({"source": source} if isinstance(source, str) else {"source": source.name, "reading": source.record()}),
            **preparation.record(),
            **({} if prepared.server is None else {"server": prepared.server}),
            "skipped": prepared.skipped,
            "sha256": hashlib.sha256(json.dumps(contents).encode()).hexdigest(),
            "count": len(prepared.problems),
            "seed": seed,
            **asdict(generation),
            "end_token_ids": end_tokens(model),
            **({} if generation.plain else {"entropies": ENTROPIES}),
        },
        "versions": package_versions(),
    }
