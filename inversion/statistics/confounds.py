"""The controls that belong beside a correlation."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Unpack

import xarray as xr

from inversion.statistics.correlation import correlation_of
from inversion.statistics.difference import compare
from inversion.statistics.layout import Columns
from inversion.statistics.options import Choices, Options, read_choices
from inversion.statistics.parts import parts_of
from inversion.statistics.results import Correlation, Difference, Result, number, p_text, span
from inversion.statistics.samples import Sampler
from inversion.statistics.shuffle import MOVES, Shuffle, shuffle_of

if TYPE_CHECKING:
    import pandas as pd

GIVEN = (
    ("position",),
    ("surprisal_bits",),
    ("log_frequency",),
    ("position", "surprisal_bits", "log_frequency"),
)


@dataclass(frozen=True, repr=False)
class Controls(Result):
    """A correlation and what must be known beside it."""

    main: Correlation
    others: tuple[Correlation, ...]
    shuffle: Shuffle | None
    random_weights: Difference | None
    notes: tuple[str, ...] = ()

    def to_pandas(self) -> "pd.DataFrame":
        """One row per correlation, the main one first."""
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

    def _notes(self) -> tuple[str, ...]:
        """Those of the correlation, and of the others where they differ."""
        own = [f"{c.label}: {note}" for c in self.others for note in c.notes if note not in self.main.notes]
        random = self.random_weights.notes if self.random_weights else ()
        return tuple(dict.fromkeys((*self.main.notes, *own, *random, *self.notes)))


def _line(result: Correlation | Difference) -> str:
    line = f"{number(result.estimate)} {span(result.low, result.high)}, {p_text(result.p_value)}"
    return line + (f" ({result.reason})" if result.reason else "")


def controls(
    run: xr.Dataset | Columns,
    random_weights: xr.Dataset | Columns | None = None,
    norm: str = "nuclear",
    **options: Unpack[Choices],
) -> Controls:
    """Everything that could explain a correlation away.

    What a run has no columns for is left out, with a note.

    Args:
        run: A run or capture; it is read once.
        random_weights: A run of the same model with random weights.
        norm: Norm of the strength.
        options: As for :func:`inversion.correlate`.

    Returns:
        The correlation; that of the strength at the logits (which follows entropy almost by construction); the
        correlation with position, surprisal and token frequency held fixed; its parts inside and between responses;
        what is left after moving strengths inside responses; and, with ``random_weights``, that run's correlation and
        the difference.

    Raises:
        InputError: The run lacks the norm, or an option cannot be used.
    """
    chosen = read_choices("controls", options, Choices, norm=norm)
    return controls_of(Sampler.of(run, chosen), chosen, random_weights)


def controls_of(
    sampler: Sampler,
    options: Options,
    random_weights: xr.Dataset | Columns | None = None,
    main: Correlation | None = None,
) -> Controls:
    """``controls`` from a sampler and options; ``main`` is the correlation itself, where it is known already."""
    columns, norm = sampler.columns, options.norm
    main = correlation_of(sampler, options, label=norm) if main is None else replace(main, label=norm)
    others, notes = [], []
    if "logit_space" in columns.norms() and norm != "logit_space":
        control = replace(options, norm="logit_space", layers=None, projections=None)
        others.append(correlation_of(sampler, control, label="logit_space (control)"))
    for given in GIVEN:
        missing = ["token_id" if name == "log_frequency" else name for name in given if not columns.has(name)]
        if missing:
            notes.append(f"not given {', '.join(given)}: the run has no {', '.join(missing)}")
            continue
        label = "given " + ", ".join(name.removesuffix("_bits") for name in given)
        others.append(correlation_of(sampler, replace(options, given=given), label=label))
    shuffle = None
    if options.unit == "position" and not options.given:
        parts = parts_of(sampler, options)
        others += [parts.within, parts.between, parts.typical]
        notes += parts.simpson()
        shuffle = shuffle_of(sampler, replace(options, resamples=min(options.resamples, MOVES)))
    if columns.n_responses == 1:
        notes.append("a single response has no between part and no intervals")
    random = None
    if random_weights is not None:
        random = compare(random_weights, columns, **_as_choices(options))
    return Controls(main, tuple(others), shuffle, random, tuple(notes))


def _as_choices(options: Options) -> dict:
    return {field.name: getattr(options, field.name) for field in fields(options)}
