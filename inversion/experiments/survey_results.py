"""What a survey found: a table with intervals, comparisons of models, the fingerprint figure and the report."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from inversion.errors import InputError
from inversion.experiments.survey import Cell, Survey, is_done
from inversion.figures import Sources, make_figures
from inversion.files import put, put_table
from inversion.findings import Findings, findings_of, number, read_runs
from inversion.report import write_report
from inversion.runs import load_run, mean_entropy
from inversion.scoring import accuracy
from inversion.statistics import Difference, compare
from inversion.statistics.core.adjust import q_values
from inversion.statistics.options import Unit
from inversion.statistics.results import p_text
from inversion.tables import markdown_table, text_table

TABLE = ("run", "right", "responses", "tokens", "bits", "rho, positions", "rho, token types", "|e - p|, positions")
PAIRS = ("first", "second", "difference of rho", "p", "q", "compared by")
UNITS: tuple[Unit, ...] = ("position", "token_type")


def write_results(survey: Survey, out: Path, *, resamples: int = 2000, tell: Callable[[str], None] = print) -> None:
    """Write what the complete runs of a survey say, and print the tables.

    ``survey.csv`` and ``pairs.csv`` hold the numbers, ``survey.md`` both as tables to read, ``figures`` the fingerprint
    and ``report.html`` the page with a reader for single responses.

    Raises:
        InputError: No run is complete.
    """
    cells = [cell for cell in survey.cells() if is_done(cell, out)]
    if not cells:
        raise InputError(f"no run of this survey is complete in {out}, so there is nothing to show yet.")
    found = {cell.name: _findings(cell, out, resamples) for cell in cells}
    pairs = list(_pairs(survey, cells, out, resamples))
    table = [_table_row(cell.name, found[cell.name]) for cell in cells]
    # Every pair is a test: q is p adjusted for all of them, after Benjamini and Hochberg.
    adjusted = q_values(np.array([difference.p_value for _, _, difference in pairs]))
    compared = [_pair_row(a, b, difference, q) for (a, b, difference), q in zip(pairs, adjusted, strict=True)]
    put_table(out / "survey.csv", pd.DataFrame([_numbers(cell, found[cell.name]) for cell in cells]))
    numbers = [_pair_numbers(a, b, difference, q) for (a, b, difference), q in zip(pairs, adjusted, strict=True)]
    put_table(out / "pairs.csv", pd.DataFrame(numbers))
    text = _page(table, compared)
    put(out / "survey.md", lambda path: path.write_text(text, encoding="utf-8"))
    folders = [cell.folder(out) for cell in cells]
    for norm, runs in _by_norm(cells, out).items():
        place = out / "figures" if norm == _norm(cells[0]) else out / "figures" / norm
        make_figures(Sources(runs, {}, norm, resamples, survey.seed), place, only=["fingerprint"])
    if len({_norm(cell) for cell in cells}) == 1:
        write_report(folders, out / "report.html", _norm(cells[0]), resamples=resamples, seed=survey.seed)
    else:
        for norm, runs in _by_norm(cells, out).items():
            write_report(list(runs.values()), out / f"report-{norm}.html", norm, resamples=resamples, seed=survey.seed)
    tell(text_table(TABLE, table))
    if compared:
        tell("\n" + text_table(PAIRS, compared))
    tell(f"\nTables, figure and report are in {out}.")


def _norm(cell: Cell) -> str:
    """The norm that a cell's strength is told by: the first that it measures."""
    return cell.parts[2].norms[0]


def _by_norm(cells: list[Cell], out: Path) -> dict[str, dict[str, Path]]:
    found: dict[str, dict[str, Path]] = {}
    for cell in cells:
        found.setdefault(_norm(cell), {})[cell.name] = cell.folder(out)
    return found


def _findings(cell: Cell, out: Path, resamples: int) -> Findings:
    (run,) = read_runs([cell.folder(out)])
    return findings_of(run, _norm(cell), resamples=resamples, seed=cell.survey.seed)


def _pairs(survey: Survey, cells: list[Cell], out: Path, resamples: int) -> Iterator[tuple[str, str, Difference]]:
    """Yield names and difference of every two models that are compared, within each benchmark and measurement."""
    by_place = {(cell.model, cell.benchmark, cell.measurement): cell for cell in cells}
    for first, second in survey.compared():
        for benchmark in survey.benchmarks:
            for measurement in survey.measurements:
                pair = [by_place.get((model, benchmark, measurement)) for model in (first, second)]
                if pair[0] is None or pair[1] is None:
                    continue
                a, b = (load_run(cell.folder(out)) for cell in pair if cell is not None)
                for unit in UNITS:
                    norm, seed = _norm(pair[0]), survey.seed
                    difference = compare(a, b, norm, unit=unit, resamples=resamples, seed=seed)
                    yield pair[0].name, pair[1].name, difference


def _table_row(name: str, found: Findings) -> tuple[str, ...]:
    run, control = found.run, found.control
    return (
        name,
        str(accuracy(run.responses.score)),
        str(found.positions.n_responses),
        str(found.positions.n_tokens),
        f"{mean_entropy(run.tokens):.2f}",
        number(found.positions),
        number(found.types),
        number(control) if control is not None else "not measured",
    )


def _pair_row(first: str, second: str, difference: Difference, q: float) -> tuple[str, ...]:
    unit = {"position": "positions", "token_type": "token types"}[difference.unit]
    by = "paired by prompt" if difference.paired else "independent"
    return first, second, number(difference), p_text(difference.p_value), f"{q:.2g}", f"{unit}, {by}"


def _numbers(cell: Cell, found: Findings) -> Mapping[str, Any]:
    model = cell.parts[0]
    counted = accuracy(found.run.responses.score)
    row: dict[str, Any] = {
        "run": cell.name,
        "model": cell.model,
        "source": model.model,
        "family": model.family,
        "kind": model.kind,
        "benchmark": cell.benchmark,
        "measurement": cell.measurement,
        "norm": _norm(cell),
        "accuracy": counted.share,
        "n_scored": counted.scored,
        "n_responses": found.positions.n_responses,
        "n_tokens": found.positions.n_tokens,
        "entropy_bits": mean_entropy(found.run.tokens),
    }
    for name, result in (("position", found.positions), ("token_type", found.types), ("logit_space", found.control)):
        if result is not None:
            row |= {f"rho_{name}": result.estimate, f"low_{name}": result.low, f"high_{name}": result.high}
    return row


def _pair_numbers(first: str, second: str, difference: Difference, q: float) -> Mapping[str, Any]:
    kept = ("unit", "estimate", "low", "high", "p_value", "paired")
    return {"first": first, "second": second, **{name: getattr(difference, name) for name in kept}, "q_value": q}


def _page(table: list[tuple[str, ...]], compared: list[tuple[str, ...]]) -> str:
    parts = [
        "# Survey",
        "rho is the Spearman correlation of token entropy and logit-gradient strength, with its interval over "
        "responses.\n|e - p| is the control that follows entropy almost by construction.",
        markdown_table(TABLE, table),
    ]
    if compared:
        parts += [
            "Differences are the second minus the first; q is p adjusted for all of them (Benjamini and Hochberg).",
            markdown_table(PAIRS, compared),
        ]
    return "\n\n".join(parts) + "\n"
