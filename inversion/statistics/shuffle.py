"""What correlation is left when strengths are moved about inside their response."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from inversion.errors import InputError
from inversion.statistics._correlations import standardise, tau
from inversion.statistics._options import Options, sample_of
from inversion.statistics._ranks import Floats, Ints, doubled_ranks
from inversion.statistics.parts import arrays_of, positions_only
from inversion.statistics.results import Result, number, p_text, span

KINDS = ("shift", "permute")


@dataclass(frozen=True, repr=False)
class Shuffle(Result):
    """The correlation against those after moving strengths inside responses.

    ``expected`` and ``low``..``high`` are the mean and central range of the moved ones: what the differences between
    responses give by themselves. ``p_value``: the share of moved correlations as far from ``expected``.
    """

    estimate: float
    expected: float
    low: float
    high: float
    p_value: float
    n_tokens: int
    n_responses: int
    kind: str
    norm: str
    method: str
    unit: str
    quantity: str
    level: float
    resamples: int
    seed: int
    reason: str | None = None

    def _title(self) -> str:
        return f"Correlation of {self.norm} strength and entropy against a within-response {self.kind}"

    def _rows(self) -> Iterator[tuple[str, str]]:
        yield "estimate", number(self.estimate)
        yield f"after {self.kind}", f"{number(self.expected)}, {self.level:.4g} range {span(self.low, self.high)}"
        yield "p-value", f"{p_text(self.p_value)} (null: inside a response, strength and entropy are unrelated)"
        yield "from", f"{self.n_tokens} tokens, {self.n_responses} responses, {self.method} over positions"
        yield "resampling", f"{self.resamples} moves, seed {self.seed}"


def within_response_shuffle(
    run: xr.Dataset,
    norm: str = "nuclear",
    method: str = "spearman",
    *,
    kind: str = "shift",
    resamples=500,
    **options: Any,
) -> Shuffle:
    """Correlate again with the strengths of each response moved about; options as for ``correlate``.

    kind="shift" turns each response's strengths by a random number of positions, which keeps their dependence from
    token to token; "permute" scatters them, which does not, so that its p-value takes neighbours as independent and is
    too small wherever they are not. Both keep what each response has as a whole.
    """
    if kind not in KINDS:
        raise InputError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}.")
    chosen = positions_only(Options(norm, method, resamples=resamples, **options))
    sample, facts = sample_of(run, chosen)
    nan, reason = float("nan"), sample.reason
    estimate, moved = nan, np.array([nan])
    if reason is None:
        x, y, response, _ = arrays_of(run, chosen)
        estimate, moved = _moved(x, y, response, method, kind, chosen)
    tails = [0.5 - chosen.level / 2, 0.5 + chosen.level / 2]
    low, high = (float(v) for v in np.quantile(moved, tails))
    expected = float(moved.mean())
    far = np.abs(moved - expected) >= abs(estimate - expected) - 1e-12
    return Shuffle(
        estimate=estimate,
        expected=expected,
        low=low,
        high=high,
        p_value=float((1 + far.sum()) / (1 + far.size)) if reason is None else nan,
        n_tokens=facts.n_tokens,
        n_responses=facts.n_responses,
        kind=kind,
        norm=norm,
        method=method,
        unit="position",
        quantity=facts.quantity,
        level=float(chosen.level),
        resamples=int(chosen.resamples),
        seed=int(chosen.seed),
        reason=reason,
    )


def _moved(x: Floats, y: Floats, response: Ints, method: str, kind: str, options: Options):
    """The correlation as it is, and after each move, (resamples,). Tokens are sorted by response."""
    rng = np.random.default_rng(options.seed)
    if method == "spearman":
        x, y = doubled_ranks(x).astype(float), doubled_ranks(y).astype(float)
    if method != "kendall":
        x, y = standardise(x), standardise(y)

    def correlate(a: Floats) -> float:
        return tau(a, y) if method == "kendall" else float((a * y).mean())

    starts = np.flatnonzero(np.diff(response, prepend=-1))
    sizes = np.diff(np.append(starts, x.size))
    offset = np.arange(x.size) - np.repeat(starts, sizes)
    moved = np.empty(options.resamples)
    for b in range(options.resamples):
        if kind == "shift":
            turn = np.repeat(rng.integers(0, sizes), sizes)
            source = np.repeat(starts, sizes) + (offset + turn) % np.repeat(sizes, sizes)
        else:
            source = np.lexsort((rng.random(x.size), response))
        moved[b] = correlate(x[source])
    return correlate(x), moved
