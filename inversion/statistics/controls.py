"""The controls that belong beside a correlation."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import xarray as xr

from inversion.statistics._data import check_run, response_of
from inversion.statistics._options import Options
from inversion.statistics.correlation import correlation_of
from inversion.statistics.difference import compare
from inversion.statistics.parts import within_between
from inversion.statistics.results import Correlation, Difference, Result, number, p_text, span
from inversion.statistics.shuffle import Shuffle, within_response_shuffle

if TYPE_CHECKING:
    import pandas as pd

GIVEN = (
    ("position",),
    ("surprisal_bits",),
    ("log_frequency",),
    ("position", "surprisal_bits", "log_frequency"),
)
NEEDS = {"log_frequency": "token_id"}


@dataclass(frozen=True, repr=False)
class Controls(Result):
    """A correlation and what must be known beside it."""

    main: Correlation
    others: tuple[Correlation, ...]
    shuffle: Shuffle | None
    random_weights: Difference | None
    notes: tuple[str, ...] = ()

    def to_pandas(self) -> "pd.DataFrame":
        """One row a correlation, the main one first."""
        import pandas as pd

        random = (self.random_weights.a,) if self.random_weights else ()
        return pd.concat([c.to_pandas() for c in (self.main, *self.others, *random)], ignore_index=True)

    def _title(self) -> str:
        return f"Controls of the correlation of {self.main.norm} strength and entropy"

    def _rows(self) -> Iterator[tuple[str, str]]:
        for c in (self.main, *self.others):
            yield c.label, _line(c)
        if self.shuffle:
            s = self.shuffle
            yield f"within-response {s.kind}", f"{number(s.expected)} {span(s.low, s.high)}, {p_text(s.p_value)}"
        if self.random_weights:
            yield "random weights", _line(self.random_weights.a)
            yield "run minus random weights", _line(self.random_weights)
        main = self.main
        yield "over", f"{main.method}, {main.unit}, {main.n_tokens} tokens, {main.n_responses} responses"
        yield "resampling", f"{main.level:.4g} {main.interval}, {main.resamples} resamples, seed {main.seed}"


def _line(result: Correlation | Difference) -> str:
    line = f"{number(result.estimate)} {span(result.low, result.high)}, {p_text(result.p_value)}"
    return line + (f" ({result.reason})" if result.reason else "")


def controls(
    run: xr.Dataset, random_weights: xr.Dataset | None = None, norm: str = "nuclear", **options: Any
) -> Controls:
    """Everything that could explain a correlation away; options as for ``correlate``.

    The strength at the logits (which follows entropy almost by construction), the correlation with position, surprisal
    and token frequency held fixed, its parts inside and between responses, what is left after moving strengths inside
    responses, and, if ``random_weights`` is a run of the same model with random weights, that run's correlation and
    the difference. What a run has no columns for is left out, with a note.
    """
    check_run(run)
    chosen = Options(norm, **options)
    main = correlation_of(run, chosen, label=norm)
    others, notes = [], []
    if "logit_space" in run and norm != "logit_space":
        others.append(correlation_of(run, replace(chosen, norm="logit_space"), label="logit_space (control)"))
    for given in GIVEN:
        missing = [NEEDS.get(g, g) for g in given if NEEDS.get(g, g) not in run.variables]
        if missing:
            notes.append(f"not given {', '.join(given)}: the run has no {', '.join(missing)}")
            continue
        label = "given " + ", ".join(g.removesuffix("_bits") for g in given)
        others.append(correlation_of(run, replace(chosen, given=given), label=label))
    shuffle = None
    if chosen.unit == "position" and not chosen.given:
        parts = within_between(run, norm, **options)
        others += [parts.within, parts.between, parts.typical]
        notes += [note for note in parts._notes() if "Simpson" in note]
        moves: dict[str, Any] = options | {"resamples": min(chosen.resamples, 500)}
        moves.pop("interval", None)
        shuffle = within_response_shuffle(run, norm, **moves)
    if response_of(run).max(initial=0) == 0:
        notes.append("a single response has no between part and no intervals")
    random = compare(random_weights, run, norm, **options) if random_weights is not None else None
    return Controls(main, tuple(others), shuffle, random, tuple(notes))
