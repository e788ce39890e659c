"""One self-contained HTML page about one or several runs: what they say, and a reader for single responses.

The page loads nothing, and runs nothing but its own script: a content-security policy in its head names that script and
the style sheet by their hashes. What models wrote is hostile input; it stands in a JSON block and reaches the page as
text.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inversion.errors import InputError
from inversion.findings import findings_of, read_runs, sample_of
from inversion.report.data import MOST_VALUES, run_payload
from inversion.report.page import page
from inversion.report.studies import runs_and_studies, study_of
from inversion.report.summary import summarise

__all__ = ["report_html", "write_report"]

MOST_TOKENS = 1_000_000
"""Tokens that a page holds over all its runs."""


def report_html(
    folders: Sequence[str | os.PathLike[str]],
    norm: str = "nuclear",
    *,
    most_values: int = MOST_VALUES,
    most_tokens: int = MOST_TOKENS,
    **options: Any,
) -> str:
    """Return the page as text; the same runs and options give the same text.

    Args:
        folders: Run folders; the reader shows two of them side by side. A folder of ``inversion critique`` stands for
            its two runs, and has a section of its own; so has the study that a run belongs to.
        norm: Norm of the strength in summary and figures; the reader offers all that were measured.
        most_values: Norms of single layers and projections that the page may hold; beyond, it holds
            the means over either.
        most_tokens: Tokens that the page may hold; of larger runs it holds a sample of whole responses, and says so.
        options: As for ``correlate``: method, level, resamples, seed, interval.

    Raises:
        InputError: There is no run in a folder, or it lacks the norm.
    """
    seed = options.get("seed", 0)
    places, studies = runs_and_studies(folders)
    runs = [sample_of(run, most_tokens // len(places), seed) for run in read_runs(places)]
    found = [findings_of(run, norm, **options) for run in runs]
    names = ", ".join(run.name for run in runs)
    data = {"norm": norm, "runs": [run_payload(run, most_values // len(runs)) for run in runs]}
    shown = [study_of(study) for study in studies]
    return page(f"Entropy-gradient inversion: {names}", summarise(found, norm, **options), data, shown)


def write_report(
    folders: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], norm: str = "nuclear", **options: Any
) -> Path:
    """Write the page to ``out`` and return its path; arguments as for :func:`report_html`.

    Raises:
        InputError: As :func:`report_html`, or ``out`` is a folder or lies in none.
    """
    path = Path(out).expanduser()
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{path} cannot be written; name a file in a folder that is there, such as report.html.")
    path.write_text(report_html(folders, norm, **options), encoding="utf-8")
    return path
