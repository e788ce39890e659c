"""How often do the intervals hold the truth, and how often do the tests cry wolf?

    python benchmarks/statistics_calibration.py            # 2,000 data sets a case; rewrites the table in docs/
    python benchmarks/statistics_calibration.py --case "token types"  # only the rows whose name contains this
    python benchmarks/statistics_calibration.py --sets 200 # a quick look, printed only
    python benchmarks/statistics_calibration.py --others   # the other tests, simultaneous intervals; printed only
    python benchmarks/statistics_calibration.py --halves runs/demo/slow  # errors of a real run, from its halves

Every data set has responses of uneven length whose tokens depend on one another: a response-wide level (40 % of the
variance) plus an autoregressive series (0.9 from token to token). All variables are jointly Gaussian before a monotone
map, so that the population correlation is known in closed form.
"""

import argparse
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import xarray as xr
from scipy import stats
from scipy.signal import lfilter

from inversion.runs import load_run
from inversion.statistics import compare, correlate, layer_map, trajectory, within_between, within_response_shuffle
from inversion.statistics.core.inference import Resampling, infer
from inversion.statistics.options import Options
from inversion.statistics.samples import Sampler

DOCS = Path(__file__).resolve().parent.parent / "docs"
BEGIN, END = "<!-- calibration:begin -->", "<!-- calibration:end -->"
SHARE, PHI = 0.4, 0.9  # variance between responses; autocorrelation inside them
LEVEL = 0.95


@dataclass(frozen=True)
class Case:
    """One row of the table. ``within`` and ``between`` are the correlations inside and between responses.

    Over token types, ``within`` is that of the types' own levels.
    """

    name: str
    responses: tuple[int, int]
    within: float
    between: float
    kind: str = "correlate"  # correlate, partial, token_type, independent, paired
    method: str = "spearman"
    bootstrap: bool = False  # also try the percentile and BCa intervals
    types: int = 300  # token types in the vocabulary


MANY, SOME, FEW = (30, 200), (100, 100), (30, 30)
CASES = (
    Case("no correlation", MANY, 0.0, 0.0),
    Case("moderate", MANY, -0.5, 0.0, bootstrap=True),
    Case("strong", MANY, -0.8, -0.6),
    Case("parts cancel", MANY, 0.5, -0.75),
    Case("no correlation, 30 responses", FEW, 0.0, 0.0),
    Case("moderate, 30 responses", FEW, -0.5, 0.0, bootstrap=True),
    Case("strong, 30 responses", FEW, -0.8, -0.6),
    Case("Pearson, moderate", MANY, -0.5, 0.0, method="pearson"),
    Case("Kendall, moderate", MANY, -0.5, 0.0, method="kendall"),
    Case("partial, none left", MANY, 0.0, 0.0, "partial"),
    Case("token types, no correlation", MANY, 0.0, 0.0, "token_type"),
    Case("token types, no correlation, 30 responses", FEW, 0.0, 0.0, "token_type"),
    Case("token types, moderate", SOME, -0.5, 0.0, "token_type"),
    Case("token types, few types", SOME, -0.5, 0.0, "token_type", types=60),
    Case("compare independent, equal", MANY, -0.5, 0.0, "independent"),
    Case("compare independent, 30 responses", FEW, -0.5, 0.0, "independent"),
    Case("compare paired, equal", MANY, -0.5, 0.0, "paired"),
    Case("compare paired, 30 responses", FEW, -0.5, 0.0, "paired"),
)


def gaussian_truth(r: float, method: str) -> float:
    """Population value of a correlation for two Gaussian variables of Pearson correlation r."""
    return {"pearson": r, "spearman": 6 / np.pi * np.arcsin(r / 2), "kendall": 2 / np.pi * np.arcsin(r)}[method]


def series(rng: np.random.Generator, lengths: np.ndarray, columns: int) -> np.ndarray:
    """Stationary AR(1) noise of variance 1 in each response, (n, columns)."""
    parts = []
    for length in lengths:
        noise = rng.normal(size=(length, columns))
        noise[0] /= np.sqrt(1 - PHI**2)
        parts.append(np.sqrt(1 - PHI**2) * lfilter([1.0], [1.0, -PHI], noise, axis=0))
    return np.concatenate(parts)


def draw(rng: np.random.Generator, lengths: np.ndarray, within: np.ndarray, between: np.ndarray) -> np.ndarray:
    """Tokens with correlation matrices ``within`` and ``between`` (p, p) inside and between responses, (n, p)."""
    p = len(within)
    inside = series(rng, lengths, p) @ np.linalg.cholesky(within).T
    level = rng.normal(size=(len(lengths), p)) @ np.linalg.cholesky(between).T
    return np.sqrt(1 - SHARE) * inside + np.sqrt(SHARE) * np.repeat(level, lengths, axis=0)


def lengths_of(rng: np.random.Generator, responses: tuple[int, int]) -> np.ndarray:
    """Uneven response lengths: log-normal around a mean of 30 tokens, at least 3."""
    k = int(rng.integers(responses[0], responses[1] + 1))
    return np.maximum(3, rng.lognormal(np.log(30) - 0.32, 0.8, k)).astype(int)


def dataset(lengths: np.ndarray, strength: np.ndarray, entropy: np.ndarray, **extra: np.ndarray) -> xr.Dataset:
    """A run of one layer and projection with the given columns."""
    response = np.repeat(np.arange(len(lengths)), lengths)
    columns = {"entropy_bits": entropy, **extra}
    return xr.Dataset(
        {"nuclear": (("token", "layer", "projection"), strength[:, None, None])}
        | {name: ("token", values) for name, values in columns.items()},
        coords={"layer": [0], "projection": ["q"], "response": ("token", response)}
        | {"prompt_id": ("token", response.astype(str))},
    )


def pair_matrix(r: float) -> np.ndarray:
    """Correlation matrix of two variables."""
    return np.array([[1.0, r], [r, 1.0]])


def simulate(case: Case, rng: np.random.Generator) -> tuple[list[xr.Dataset], float, dict]:
    """The run or runs of one data set, the true value, and the options of the call."""
    lengths = lengths_of(rng, case.responses)
    total = (1 - SHARE) * case.within + SHARE * case.between
    if case.kind == "partial":
        return _simulate_partial(lengths, rng)
    if case.kind == "token_type":
        return [types_run(case, lengths, rng)], types_truth(case), {"unit": "token_type"}
    if case.kind == "paired":
        # Two checkpoints answer the same prompts: their tokens are strongly alike.
        block = np.kron(pair_matrix(0.6), np.ones((2, 2)))
        parts = [block * np.kron(np.ones((2, 2)), pair_matrix(r)) for r in (case.within, case.between)]
        x, y, x2, y2 = draw(rng, lengths, *parts).T
        return [dataset(lengths, np.exp(x), y), dataset(lengths, np.exp(x2), y2)], 0.0, {}
    runs = []
    for _ in range(2 if case.kind == "independent" else 1):
        x, y = draw(rng, lengths, pair_matrix(case.within), pair_matrix(case.between)).T
        runs.append(dataset(lengths, x if case.method == "pearson" else np.exp(x), y))
        lengths = lengths_of(rng, case.responses)
    if case.kind == "independent":
        return runs, 0.0, {"pairing": "independent"}
    return runs, gaussian_truth(total, case.method), {"method": case.method}


def _simulate_partial(lengths: np.ndarray, rng: np.random.Generator):
    """Both columns follow a third; nothing is left once its ranks are held fixed."""
    third = 0.6
    r = 2 * np.sin(np.pi / 6 * gaussian_truth(third, "spearman") ** 2)
    matrix = np.array([[1, r, third], [r, 1, third], [third, third, 1]])
    x, y, z = draw(rng, lengths, matrix, matrix).T
    return [dataset(lengths, np.exp(x), y, surprisal_bits=z)], 0.0, {"given": ("surprisal_bits",)}


def types_run(case: Case, lengths: np.ndarray, rng: np.random.Generator) -> xr.Dataset:
    """Token types with Zipf-like frequencies, whose entropy has a level of its own.

    Where there is a correlation, their strength has one too, and both are the same in all data sets: the interval
    speaks of new responses over the same vocabulary.
    """
    x, y = draw(rng, lengths, np.eye(2), np.eye(2)).T
    weights = 1 / np.arange(1, case.types + 1)
    types = rng.choice(case.types, size=x.size, p=weights / weights.sum())
    if case.within:
        levels = np.random.default_rng(case.types).multivariate_normal([0, 0], pair_matrix(case.within), case.types)
        return dataset(lengths, x + levels[types, 0], y + levels[types, 1], token_id=types)
    return dataset(lengths, x, y + rng.normal(size=case.types)[types], token_id=types)


@lru_cache
def types_truth(case: Case, sets: int = 4000) -> float:
    """What the estimate is on average over many data sets of this size: it shrinks towards 0 where types are rare."""
    if not case.within:
        return 0.0
    rng, chosen = np.random.default_rng([1, case.types]), Options(unit="token_type")
    found = [
        Sampler.of(types_run(case, lengths_of(rng, case.responses), rng), chosen).draw(chosen).sample.statistic.estimate
        for _ in range(sets)
    ]
    return float(np.tanh(np.mean(np.arctanh(found))))


def naive(runs: list[xr.Dataset], case: Case, truth: float) -> bool:
    """Whether the textbook interval that takes tokens as independent (Fisher's z) holds the truth."""
    z, variance = 0.0, 0.0
    for sign, run in zip((-1, 1) if len(runs) == 2 else (1,), runs, strict=True):
        x, y = run["nuclear"].values.ravel(), run["entropy_bits"].values
        rho = getattr(stats, {"pearson": "pearsonr"}.get(case.method, "spearmanr"))(x, y).statistic
        z, variance = z + sign * np.arctanh(rho), variance + 1.06 / (x.size - 3)
    return bool(abs(z - np.arctanh(truth)) <= 1.96 * np.sqrt(variance))


def judge(runs: list[xr.Dataset], case: Case, options: dict, settings: list[Resampling]) -> list:
    """One result for each of the settings; what they have in common is computed once."""
    if len(runs) == 2:
        first = settings[0]
        return [compare(*runs, resamples=first.resamples, seed=first.seed, **options)]
    chosen = Options(**options)
    sample = Sampler.of(runs[0], chosen).draw(chosen).sample
    return [infer(sample, s) for s in settings]


def run_case(case: Case, sets: int, seed: int, resamples: int) -> dict[str, float]:
    """Share of data sets whose interval of each kind holds the truth, and whose p-value is at most 5 %."""
    rng = np.random.default_rng([seed, CASES.index(case) if case in CASES else 99])
    hits: dict[str, list[bool]] = {}
    kinds = ("signflip", "jackknife", "percentile", "bca") if case.bootstrap else ("signflip", "jackknife")
    for number in range(sets):
        runs, truth, options = simulate(case, rng)
        results = judge(runs, case, options, [Resampling(kind, LEVEL, resamples, number) for kind in kinds])
        for kind, result in zip(kinds, results, strict=False):
            hits.setdefault(kind, []).append(result.low <= truth <= result.high)
        if abs(truth) < 1e-9:
            hits.setdefault("rejected", []).append(results[0].p_value <= 1 - LEVEL)
        if case.kind in ("correlate", "independent", "paired") and case.method != "kendall":
            hits.setdefault("naive", []).append(naive(runs, case, truth))
    return {name: float(np.mean(values)) for name, values in hits.items()}


def run_others(sets: int, seed: int, resamples: int) -> dict[str, float]:
    """How often the other tests reject at 5 % a null that is true, and a map's simultaneous intervals miss a truth."""
    rng = np.random.default_rng([seed, 100])
    maps = 0.5 * np.eye(9) + 0.5  # eight strengths that resemble one another, and an entropy unrelated to them
    maps[8, :8] = maps[:8, 8] = 0
    alike = 0.4 * np.eye(4) + 0.6  # four checkpoints whose tokens resemble one another, all with the same correlation
    inside, between = np.kron(alike, pair_matrix(-0.5)), np.kron(alike, pair_matrix(0.0))
    hits: dict[str, list[bool]] = {}
    for number in range(sets):
        lengths, common = lengths_of(rng, (30, 60)), {"resamples": resamples, "seed": number}
        *strengths, entropy = draw(rng, lengths, maps, maps).T
        one = dataset(lengths, strengths[0], entropy)
        layers = np.stack(strengths, axis=1)[:, :, None]
        grid = one.drop_dims(["layer", "projection"]).assign(nuclear=(("token", "layer", "projection"), layers))
        found = layer_map(grid, **common)
        missed = (found.simultaneous_low > 0) | (found.simultaneous_high < 0)
        columns = draw(rng, lengths, inside, between).T
        runs = [dataset(lengths, columns[2 * i], columns[2 * i + 1]) for i in range(4)]
        parts = within_between(one, **common)
        p_values = {name: getattr(parts, name).p_value for name in ("within", "between", "typical")}
        p_values["trajectory, any change"] = trajectory(runs, **common).p_value
        for kind in ("shift", "permute"):
            moved = within_response_shuffle(one, kind=kind, resamples=99, seed=number)
            p_values[f"within-response {kind}"] = moved.p_value
        hits.setdefault("simultaneous intervals of 8 cells", []).append(bool(missed.any()))
        for name, p in p_values.items():
            hits.setdefault(name, []).append(p <= 1 - LEVEL)
    return {name: float(np.mean(values)) for name, values in hits.items()}


def split_halves(run: xr.Dataset, unit: str, splits: int, seed: int) -> float:
    """The standard error of Fisher's z that the differences between random halves of the responses show.

    Two halves of k/2 responses are independent, so half the mean square of their difference is the variance at k/2
    responses, and a quarter of it that at k.
    """
    rng, response = np.random.default_rng(seed), run["response"].values
    numbers = np.unique(response)
    squares = []
    for _ in range(splits):
        half = np.isin(response, rng.permutation(numbers)[: numbers.size // 2])
        values = [correlate(run.isel(token=rows), unit=unit, resamples=1).estimate for rows in (half, ~half)]
        squares.append((np.arctanh(values[0]) - np.arctanh(values[1])) ** 2)
    return float(np.sqrt(np.mean(squares) / 4))


COLUMNS = ("signflip", "jackknife", "percentile", "bca", "naive", "rejected")


def markdown(rows: dict[str, dict[str, float]], sets: int) -> str:
    """The table as Markdown."""
    names = ("sign-flip (default)", "jackknife", "percentile", "BCa", "naive tokens", "false positives")
    head = "| case | " + " | ".join(names) + " |\n|---|" + "---:|" * len(names)
    body = [
        f"| {name} | " + " | ".join(f"{row[c]:.1%}" if c in row else "" for c in COLUMNS) + " |"
        for name, row in rows.items()
    ]
    error = 1.96 * np.sqrt(0.95 * 0.05 / sets)
    note = f"\n\n{sets:,} data sets a case; a true 95 % shows as 95 % +- {error:.1%}."
    return "\n".join([head, *body]) + note


def figure(rows: dict[str, dict[str, float]], path: Path) -> None:
    """Coverage of each kind of interval in each case, beside the band that is aimed at."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    fig, ax = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
    ax.axvspan(93.5, 96.5, color="#2a9d8f", alpha=0.18, lw=0, label="aimed at: 93.5 to 96.5 %")
    styles = {"signflip": "o", "jackknife": "s", "percentile": "^", "bca": "v", "naive": "x"}
    for kind, marker in styles.items():
        points = [(100 * row[kind], i) for i, row in enumerate(rows.values()) if kind in row]
        ax.plot(*np.array(points).T, marker, ms=6, label="tokens as independent" if kind == "naive" else kind)
    ax.set(yticks=range(len(rows)), yticklabels=list(rows), xlabel="intervals that hold the truth, % (nominal 95)")
    ax.invert_yaxis()
    ax.legend(fontsize=8, loc="center")
    fig.savefig(path, metadata={"Date": None})


def read_docs(page: Path) -> dict[str, dict[str, float]]:
    """The rows of the table that is in the page."""
    table = page.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    rows = {}
    for line in table.splitlines():
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        if any(cell.endswith("%") for cell in cells):
            found = zip(COLUMNS, cells, strict=True)
            rows[name] = {column: float(cell.rstrip("%")) / 100 for column, cell in found if cell}
    return rows


def write_docs(text: str, page: Path) -> None:
    """Put the table between its markers in the page."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    page.write_text(before + BEGIN + "\n" + text + "\n" + END + rest.split(END)[1], encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", default="", help="only the cases whose name contains this")
    parser.add_argument("--resamples", type=int, default=999)
    parser.add_argument("--others", action="store_true")
    parser.add_argument("--halves", help="a run")
    options = parser.parse_args()
    if options.halves:
        run = load_run(options.halves)
        for unit in ("position", "token_type"):
            found = correlate(run, unit=unit)
            error = found.standard_error / (1 - found.estimate**2)
            halves = split_halves(run, unit, min(options.sets, 200), options.seed)
            print(f"{unit:10s} standard error of z {error:.3f}, from the differences of halves {halves:.3f}")
        return
    if options.others:
        for name, share in run_others(options.sets, options.seed, options.resamples).items():
            print(f"{name:36s} {share:.3f}")
        return
    rows = {}
    for case in (c for c in CASES if options.case in c.name):
        start = time.perf_counter()
        rows[case.name] = run_case(case, options.sets, options.seed, options.resamples)
        shown = "  ".join(f"{k} {v:.3f}" for k, v in rows[case.name].items())
        print(f"{case.name:36s} {shown}  ({time.perf_counter() - start:.0f} s)", flush=True)
    print(markdown(rows, options.sets))
    if options.sets >= 2000:
        page = DOCS / "statistics.md"
        rows = {**read_docs(page), **rows}
        rows = {case.name: rows[case.name] for case in CASES if case.name in rows}
        figure(rows, DOCS / "statistics_calibration.svg")
        write_docs(markdown(rows, options.sets), page)


if __name__ == "__main__":
    main()
