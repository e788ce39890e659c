"""What correlation is left when strengths are moved about inside their response."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Unpack

import numpy as np
import xarray as xr

from inversion.statistics.core.moves import KINDS, moved_correlations
from inversion.statistics.layout import Columns
from inversion.statistics.options import Method, Moved, Options, one_of, read_choices
from inversion.statistics.parts import by_response
from inversion.statistics.results import Result, number, p_text, span
from inversion.statistics.samples import Sampler

MOVES = 500
"""Number of moves by default."""


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
    notes: tuple[str, ...] = ()

    def _title(self) -> str:
        return f"Correlation of {self.norm} strength and entropy against a within-response {self.kind}"

    def _rows(self) -> Iterator[tuple[str, str]]:
        yield "estimate", number(self.estimate)
        yield f"after {self.kind}", f"{number(self.expected)}, {self.level:.4g} range {span(self.low, self.high)}"
        yield "p-value", f"{p_text(self.p_value)} (null: inside a response, strength and entropy are unrelated)"
        yield "from", f"{self.n_tokens} tokens, {self.n_responses} responses, {self.method} over positions"
        yield "resampling", f"{self.resamples} moves, seed {self.seed}"


def within_response_shuffle(
    run: xr.Dataset | Columns,
    norm: str = "nuclear",
    method: Method = "spearman",
    *,
    kind: Literal["shift", "permute"] = "shift",
    resamples: int = MOVES,
    **options: Unpack[Moved],
) -> Shuffle:
    """Correlate again with the strengths of each response moved about.

    Args:
        run: A run or capture.
        norm: Norm of the strength.
        method: As for :func:`inversion.correlate`.
        kind: ``"shift"`` turns each response's strengths by a random number of positions, which keeps their dependence
            from token to token; ``"permute"`` scatters them, which does not, so that its p-value takes neighbours as
            independent and is too small wherever they are not. Both keep what each response has as a whole.
        resamples: Number of moves.
        options: ``layers``, ``projections``, ``level`` and ``seed``, as for :func:`inversion.correlate`.

    Returns:
        The correlation, and what remains of it after the moves.

    Raises:
        InputError: The run lacks what is asked for, or an option cannot be used.
    """
    chosen = read_choices("within_response_shuffle", options, Moved, norm=norm, method=method, resamples=resamples)
    return shuffle_of(Sampler.of(run, chosen), chosen, kind)


def shuffle_of(sampler: Sampler, options: Options, kind: str = "shift") -> Shuffle:
    """``within_response_shuffle`` from a sampler and options."""
    one_of("kind", kind, KINDS)
    drawn = sampler.draw(options)
    reason = drawn.sample.reason
    estimate, moved = float("nan"), np.array([np.nan])
    if reason is None:
        x, y, _ = by_response(drawn)
        estimate, moved = moved_correlations(x, y, options.method, kind, int(options.resamples), int(options.seed))
    low, high = (float(v) for v in np.quantile(moved, [0.5 - options.level / 2, 0.5 + options.level / 2]))
    expected = float(moved.mean())
    far = np.abs(moved - expected) >= abs(estimate - expected) - 1e-12
    return Shuffle(
        estimate=estimate,
        expected=expected,
        low=low,
        high=high,
        p_value=float((1 + far.sum()) / (1 + far.size)) if reason is None else float("nan"),
        n_tokens=drawn.facts.n_tokens,
        n_responses=drawn.facts.n_responses,
        kind=kind,
        norm=options.norm,
        method=options.method,
        unit="position",
        quantity=sampler.columns.measured.quantity,
        level=float(options.level),
        resamples=int(options.resamples),
        seed=int(options.seed),
        reason=reason,
        notes=drawn.facts.notes,
    )
