"""The difference of the correlations of two runs."""

from dataclasses import replace

import numpy as np
import xarray as xr

from inversion.errors import InputError
from inversion.statistics._data import check_run, column
from inversion.statistics._infer import Inference, Sample, infer, infer_difference, to_z
from inversion.statistics._options import Options, sample_of
from inversion.statistics.correlation import correlation_result
from inversion.statistics.results import Correlation, Difference

PAIRINGS = ("auto", "paired", "independent")


def compare(
    run_a: xr.Dataset,
    run_b: xr.Dataset,
    norm: str = "nuclear",
    method: str = "spearman",
    unit: str = "position",
    layers=None,
    projections=None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    *,
    given=(),
    interval: str = "signflip",
    cluster: str = "response",
    pairing: str = "auto",
) -> Difference:
    """Compare the correlation of two runs: the estimate is that of ``run_b`` minus that of ``run_a``.

    With pairing="auto" the runs are paired by prompt where both hold exactly the same prompts, else taken as
    independent; "paired" uses the prompts that both have, "independent" never pairs. Paired, a prompt with all its
    responses in both runs is the unit that is resampled. The p-value tests that the two population correlations are
    equal. Other options as in ``correlate``.
    """
    options = Options(
        norm, method, unit, layers, projections, level, resamples, seed, given=given, interval=interval, cluster=cluster
    )
    if pairing not in PAIRINGS:
        raise InputError(f"pairing must be one of {', '.join(PAIRINGS)}, not {pairing!r}.")
    keep, notes = _pairs(check_run(run_a), check_run(run_b), pairing)
    if keep is None:
        return difference_of(run_a, run_b, options, notes=notes)
    return difference_of(run_a, run_b, replace(options, cluster="prompt"), *keep, paired=True, notes=notes)


def _pairs(a: xr.Dataset, b: xr.Dataset, pairing: str):
    """Masks of the tokens whose prompt both runs have, or None if the runs are to be independent; and notes."""
    named = all("prompt_id" in run.variables for run in (a, b))
    if pairing == "paired" and not named:
        raise InputError("Runs can only be paired by prompt_id, which one of them lacks; use pairing='independent'.")
    if pairing == "independent" or not named:
        return None, ()
    prompts = [column(run, "prompt_id").astype(str) for run in (a, b)]
    shared = np.intersect1d(prompts[0], prompts[1])
    n_all = np.union1d(prompts[0], prompts[1]).size
    if pairing == "auto" and shared.size < n_all:
        note = f"{shared.size} of {n_all} prompts are in both runs; pairing='paired' would use only those"
        return None, (note,) if shared.size else ()
    if shared.size == 0:
        raise InputError("The two runs share no prompt, so they cannot be paired; use pairing='independent'.")
    return [np.isin(p, shared) for p in prompts], ()


def difference_of(
    run_a: xr.Dataset,
    run_b: xr.Dataset,
    options: Options,
    keep_a=None,
    keep_b=None,
    *,
    paired: bool = False,
    label: str = "",
    names: tuple[str, str] = ("", ""),
    notes: tuple[str, ...] = (),
) -> Difference:
    """``compare`` from options; paired runs are matched by the names of their clusters (prompts)."""
    parts: list[Correlation] = []
    samples: list[Sample] = []
    for run, keep, name in ((run_a, keep_a, names[0]), (run_b, keep_b, names[1])):
        sample, facts = sample_of(run, options, keep)
        samples.append(sample)
        parts.append(correlation_result(infer(sample, options.settings), facts, options, name))
    a, b = samples
    if paired and not any(p.reason for p in parts):
        found, n_clusters = infer_paired(a, b, options, cluster_names(run_a, options), cluster_names(run_b, options))
    else:
        found, n_clusters = infer_difference(a, b, options.settings), a.shares.size + b.shares.size
    return _difference(found, parts[0], parts[1], options, paired, n_clusters, label, notes)


def cluster_names(run: xr.Dataset, options: Options) -> np.ndarray:
    """Names of the clusters of a run, in the order of their numbers."""
    if options.cluster == "prompt":
        return np.unique(column(run, "prompt_id")).astype(str)
    if "response" not in run.variables:
        return np.array(["0"])
    return np.unique(column(run, "response")).astype(str)


def infer_paired(a: Sample, b: Sample, options: Options, names_a, names_b) -> tuple[Inference, int]:
    """b minus a where clusters of the same name belong together; a cluster that only one has moves only that one."""
    joint, _ = joint_samples([a, b], [names_a, names_b])
    first, second = joint

    def statistic(weights):
        return second.statistic(weights) - first.statistic(weights)

    def difference_of_z(weights):
        return to_z(second.statistic(weights)) - to_z(first.statistic(weights))

    shares = (first.shares + second.shares) / 2
    tested = Sample(difference_of_z, shares)
    return infer(Sample(statistic, shares), options.settings, fisher=False, tested=tested), shares.size


def joint_samples(samples: list[Sample], names: list[np.ndarray]) -> tuple[list[Sample], np.ndarray]:
    """The same samples as functions of the weights of the union of their clusters, matched by name."""
    own = [n[s.labels] for s, n in zip(samples, names, strict=True)]
    union = np.unique(np.concatenate(own))
    return [_spread_over(s, np.searchsorted(union, o), union.size) for s, o in zip(samples, own, strict=True)], union


def _spread_over(sample: Sample, places: np.ndarray, n_clusters: int) -> Sample:
    shares = np.zeros(n_clusters)
    shares[places] = sample.shares
    return Sample(lambda weights: sample.statistic(weights[:, places]), shares, reason=sample.reason)


def _difference(found: Inference, a: Correlation, b: Correlation, options: Options, paired, n_clusters, label, notes):
    return Difference(
        estimate=found.estimate,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
        standard_error=found.standard_error,
        a=a,
        b=b,
        paired=paired,
        n_clusters=n_clusters,
        method=options.method,
        unit=options.unit,
        norm=options.norm,
        quantity=" / ".join(dict.fromkeys((a.quantity, b.quantity))),
        given=options.given,
        interval=found.interval,
        level=float(options.level),
        resamples=int(options.resamples),
        seed=int(options.seed),
        cluster=options.cluster,
        label=label,
        reason=found.reason,
        notes=tuple(notes) + found.notes,
    )
