"""The table of a comparison: means over seeds with t-intervals, and differences to GRPO paired by seed."""

import numpy as np
import pandas as pd

from inversion.statistics.seeds import seed_interval
from inversion.tables import markdown_table

REFERENCE = "grpo"
SHOWN = {
    "pass_at_1": ("pass@1", "{:.1%}"),
    "PASS": ("{}", "{:.1%}"),
    "rho_position": ("rho, positions", "{:+.3f}"),
    "rho_token_type": ("rho, token types", "{:+.3f}"),
    "tokens": ("tokens", "{:.1f}"),
    "entropy_bits": ("bits", "{:.3f}"),
    "distinct_tokens": ("distinct", "{:.3f}"),
    "repeated_4grams": ("repeated 4-grams", "{:.3f}"),
    "filler_words": ("fillers", "{:.3f}"),
    "kl_nats": ("KL, nats/token", "{:.3f}"),
}
"""Column of ``comparison.csv`` -> heading and format in the table, where there is such a column."""
DIFFERENCES = ("pass_at_1", "PASS", "rho_position", "rho_token_type", "tokens")


def paired_differences(rows: pd.DataFrame, column: str, method: str, reference: str = REFERENCE) -> np.ndarray:
    """Return method minus reference after training, one a seed that both have, (s,)."""
    after = rows[rows.when == "after"].pivot(index="seed", columns="method", values=column)
    if not {method, reference} <= set(after):
        return np.empty(0)
    return (after[method] - after[reference]).dropna().to_numpy()


def comparison_table(rows: pd.DataFrame, largest: str) -> str:
    """Return the table in Markdown.

    Args:
        rows: ``comparison.csv``.
        largest: Its column with pass@K for the largest K.
    """
    columns = {largest if c == "PASS" else c: shown for c, shown in SHOWN.items()}
    columns = {c: shown for c, shown in columns.items() if c in rows}
    headings = {c: heading.format(largest.replace("pass_at_", "pass@")) for c, (heading, _) in columns.items()}
    formats = {c: form for c, (_, form) in columns.items()}
    after = rows[rows.when == "after"]
    # The start is the same for all methods: one row a seed.
    before = rows[rows.when == "before"].groupby("seed", as_index=False).first()
    lines = []
    for name, group in [("before", before), *((m, after[after.method == m]) for m in after.method.unique())]:
        cells = [_cell(group[column].to_numpy(), formats[column]) for column in headings]
        lines.append([name, str(len(group)), *cells])
    text = "Means over seeds with 95 % t-intervals over seeds.\n\n"
    text += markdown_table(["method", "seeds", *headings.values()], lines) + "\n"
    if REFERENCE not in set(after.method) or after.method.nunique() < 2:
        return text
    chosen = [largest if c == "PASS" else c for c in DIFFERENCES]
    lines = []
    for method in after.method.unique():
        if method != REFERENCE:
            pairs = {column: paired_differences(rows, column, method) for column in chosen}
            cells = [_cell(pairs[column], _signed(formats[column])) for column in chosen]
            lines.append([method, str(len(pairs[chosen[0]])), *cells])
    title = "Differences after training, paired by seed, with 95 % t-intervals over seeds."
    differences = markdown_table(["method minus grpo", "seeds", *(headings[c] for c in chosen)], lines)
    return f"{text}\n{title}\n\n{differences}\n"


def _signed(form: str) -> str:
    return form if "+" in form else form.replace("{:", "{:+")


def _cell(values: np.ndarray, form: str) -> str:
    if not len(values):
        return "-"
    mean, low, high = (form.format(value) for value in seed_interval(values))
    return f"{mean} [{low}, {high}]" if len(values) > 1 else mean
