"""The demo: fast and slow answer the same held-out problems and are measured and compared."""

from pathlib import Path

import xarray as xr

from inversion.measure import measure_run
from inversion.models import load_model
from inversion.plots import PAGE_INCHES, entropy_strength, save_figure, style
from inversion.responses import Generation, shipped_problems
from inversion.runs import load_responses, load_run, mean_entropy
from inversion.scoring import accuracy
from inversion.statistics import Correlation, correlate
from inversion.statistics.results import with_interval
from inversion.tables import text_table

MAX_NEW_TOKENS = 200
HEADINGS = ("model", "right", "tokens", "bits", "rho, positions", "rho, token types", "|e - p|, positions")


def tour(out: str, *, overwrite: bool = False, seed: int = 0) -> None:
    """Measure both models into ``out``, print the table and draw the figure."""
    folder = Path(out).expanduser()
    problems = shipped_problems()
    rows, runs, results = [], {}, {}
    for name in ("fast", "slow"):
        path = measure_run(
            load_model(name),
            problems,
            folder / name,
            source="demo problems",
            generation=Generation(max_new_tokens=MAX_NEW_TOKENS),
            seed=seed,
            overwrite=overwrite,
        )
        runs[name] = load_run(path)
        results[name] = correlate(runs[name])
        rows.append(_table_row(name, path, runs[name], results[name]))
    print(text_table(HEADINGS, rows))
    print(
        "rho: Spearman correlation of token entropy with the nuclear norm of the logit's gradient, mean over layers\n"
        "and projections, with its 95 % interval over responses. |e - p| is the control that follows entropy almost\n"
        "by construction. bits: mean token entropy."
    )
    _figure(runs, results, folder / "entropy-strength")
    print(f"Runs and figure are in {folder}. Next: inversion stats {folder / 'slow'}")


def _table_row(name: str, path: Path, run: xr.Dataset, positions: Correlation) -> tuple[str, ...]:
    responses = load_responses(path)
    return (
        name,
        str(accuracy(responses.score)),
        f"{responses.n_tokens.mean():.1f}",
        f"{mean_entropy(run):.2f}",
        with_interval(positions),
        with_interval(correlate(run, unit="token_type")),
        with_interval(correlate(run, norm="logit_space")),
    )


def _figure(runs: dict[str, xr.Dataset], results: dict[str, Correlation], stem: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(PAGE_INCHES, 2.6))
        FigureCanvasAgg(figure)
        for ax, (name, run) in zip(figure.subplots(1, len(runs), sharey=True), runs.items(), strict=True):
            entropy_strength(run, ax, result=results[name], title=f"{name}: {run.sizes['token']} tokens")
        figure.axes[1].set_ylabel("")
        save_figure(figure, str(stem))
