"""The difference of the correlations of two runs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import xarray as xr

from inversion.errors import InputError
from inversion.statistics.core.inference import Sample, infer, infer_difference, infer_paired
from inversion.statistics.correlation import correlation_result, estimate_fields
from inversion.statistics.layout import Columns
from inversion.statistics.options import Interval, Method, Options, Unit, one_of
from inversion.statistics.results import Correlation, Difference
from inversion.statistics.samples import Mask, Sampler

Pairing = Literal["auto", "paired", "independent"]
PAIRINGS = ("auto", "paired", "independent")
TOLD = {"dtype": "dtype", "attention": "attention implementation", "temperature": "temperature", "targets": "targets"}
"""What may differ between two runs that are compared, and is then said."""


def compare(
    run_a: xr.Dataset | Columns,
    run_b: xr.Dataset | Columns,
    norm: str = "nuclear",
    method: Method = "spearman",
    unit: Unit = "position",
    layers: int | Sequence[int] | None = None,
    projections: str | Sequence[str] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    *,
    given: str | Sequence[str] = (),
    interval: Interval = "signflip",
    cluster: str = "response",
    pairing: Pairing = "auto",
) -> Difference:
    """Compare the correlations of two runs: that of ``run_b`` minus that of ``run_a``.

    Args:
        run_a: A run or capture.
        run_b: Another one, of the same quantity.
        norm: Norm of the strength, as for :func:`inversion.correlate`.
        method: As for :func:`inversion.correlate`.
        unit: As for :func:`inversion.correlate`.
        layers: As for :func:`inversion.correlate`, in both runs.
        projections: As for :func:`inversion.correlate`, in both runs.
        level: Level of the interval.
        resamples: Number of resamples.
        seed: Seed of the resamples.
        given: Columns to hold fixed.
        interval: Kind of interval.
        cluster: What is resampled in independent runs.
        pairing: ``"auto"`` pairs the runs by prompt where both have exactly the same prompts; ``"paired"`` uses the
            prompts that both have; ``"independent"`` never pairs. Paired, a prompt with all its responses in both runs
            is what is resampled.

    Returns:
        The difference, with an interval and the p-value of equal population correlations. These are two tests on
        different scales, the interval's on that of the correlations and the p-value's on that of Fisher's z, so that
        with few responses one can exclude 0 where the other does not. Its notes name what differs in how the two runs
        were made.

    Raises:
        InputError: The runs measure gradients of different quantities, lack what is asked for, or cannot be paired.
    """
    options = Options(
        norm, method, unit, layers, projections, level, resamples, seed, given=given, interval=interval, cluster=cluster
    )
    one_of("pairing", pairing, PAIRINGS)
    a, b = Columns.of(run_a), Columns.of(run_b)
    notes = told_apart({"a": a, "b": b}, options)
    shared, more = _pairs(a, b, pairing)
    keep: tuple[Mask | None, Mask | None] = (None, None)
    if shared is not None:
        options, keep = replace(options, cluster="prompt"), (a.of_prompts(shared), b.of_prompts(shared))
    one, other = (Sampler(columns, options.cluster, shared) for columns in (a, b))
    return difference_of(one, other, options, keep, paired=shared is not None, notes=notes + more)


def told_apart(runs: dict[str, Columns], options: Options) -> tuple[str, ...]:
    """Notes on what differs in how runs were made that are going to be compared.

    Raises:
        InputError: They measure gradients of different quantities, or one lacks the norm.
    """
    quantities = {name: run.measured.quantity for name, run in runs.items() if run.measured.quantity}
    if len(set(quantities.values())) > 1:
        found = ", ".join(f"{name} that of the {quantity}" for name, quantity in quantities.items())
        raise InputError(
            f"The runs measure gradients of different quantities ({found}), whose correlations do not compare; "
            "measure both with the same quantity."
        )
    for name, run in runs.items():
        if options.norm not in run.run:
            there = ", ".join(run.norms()) or "none"
            raise InputError(f"Run {name} has no norm {options.norm!r}; it has {there}.")
    notes = []
    for field, shown in TOLD.items():
        values = {name: getattr(run.measured, field) for name, run in runs.items()}
        if len({value for value in values.values() if value}) > 1:
            notes.append(f"{shown} differs: " + ", ".join(f"{name} {value}" for name, value in values.items()))
    strengths = {name: run.strength(options.selection) for name, run in runs.items()}
    for part in ("layers", "projections"):
        sets = {name: getattr(strength, part) for name, strength in strengths.items()}
        if len(set(sets.values())) > 1:
            notes.append(f"{part} differ: " + ", ".join(f"{name} {_listed(value)}" for name, value in sets.items()))
    return tuple(notes)


def _listed(values: tuple[int, ...] | tuple[str, ...]) -> str:
    return " ".join(str(value) for value in values) or "none"


def _pairs(a: Columns, b: Columns, pairing: str) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Names of the prompts that both runs have, or None if the runs are to be independent; and notes."""
    names_a, names_b = a.prompt_names, b.prompt_names
    if names_a is None or names_b is None:
        if pairing == "paired":
            raise InputError("Runs are paired by prompt_id, which one of them lacks; use pairing='independent'.")
        return None, ()
    if pairing == "independent":
        return None, ()
    shared, n_all = np.intersect1d(names_a, names_b), np.union1d(names_a, names_b).size
    if pairing == "auto" and shared.size < n_all:
        note = f"{shared.size} of {n_all} prompts are in both runs; pairing='paired' would use only those"
        return None, (note,) if shared.size else ()
    if shared.size == 0:
        raise InputError("The two runs share no prompt, so they cannot be paired; use pairing='independent'.")
    left = n_all - shared.size
    note = (f"{left} of {n_all} prompts are in one run only and left out",) if left else ()
    return shared, note


def difference_of(
    a: Sampler,
    b: Sampler,
    options: Options,
    keep: tuple[Mask | None, Mask | None] = (None, None),
    *,
    paired: bool = False,
    label: str = "",
    names: tuple[str, str] = ("", ""),
    notes: tuple[str, ...] = (),
) -> Difference:
    """``compare`` from samplers and options; paired runs are matched by the names of their clusters."""
    parts: list[Correlation] = []
    samples: list[Sample] = []
    for sampler, mask, name in zip((a, b), keep, names, strict=True):
        drawn = sampler.draw(options, mask)
        samples.append(drawn.sample)
        found = infer(drawn.sample, options.resampling)
        parts.append(correlation_result(found, drawn.facts, options, sampler.columns.measured, name))
    if paired and not any(p.reason for p in parts):
        of_a, of_b = by_name(samples, [a, b])[0]
        found, n_clusters = infer_paired(of_a, of_b, options.resampling)
    else:
        found = infer_difference(samples[0], samples[1], options.resampling)
        n_clusters = sum(sample.shares.size for sample in samples)
    return Difference(
        a=parts[0],
        b=parts[1],
        paired=paired,
        n_clusters=n_clusters,
        quantity=" / ".join(dict.fromkeys(part.quantity for part in parts)),
        label=label,
        notes=tuple(notes) + found.notes,
        **estimate_fields(found, options),
    )


def by_name(samples: Sequence[Sample], samplers: Sequence[Sampler]) -> tuple[list[Sample], np.ndarray]:
    """The samples with labels that are the same wherever clusters have the same name; and the names, ascending."""
    own = [sampler.clusters.names[sample.labels] for sample, sampler in zip(samples, samplers, strict=True)]
    names = np.unique(np.concatenate(own))
    labelled = [replace(s, labels=np.searchsorted(names, o)) for s, o in zip(samples, own, strict=True)]
    return labelled, names
