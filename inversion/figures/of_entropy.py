"""Figures of what becomes of entropy in training: the law, what moves entropy, and the methods' curves."""

from collections.abc import Iterator

import numpy as np

from inversion.figures.panels import ACCURACY, Drawn, band_table, legend_of_figure, looks_of, signed, spread
from inversion.figures.sources import Sources
from inversion.plots import PAGE_INCHES, curves, new_figure, style, table_bands
from inversion.plots.style import GREY, look
from inversion.statistics.entropy_law import (
    NATS_A_BIT,
    EntropyLaw,
    accuracy_at,
    change_correlations,
    entropy_changes,
    fit_entropy_law,
    long_enough,
)
from inversion.statistics.seeds import seed_interval
from inversion.tables import markdown_table

ENTROPY = "entropy of held-out answers, bits"
COLUMNS = 3
CURVES = {"entropy_bits": "entropy, bits", "tokens": "tokens a response", "accuracy": f"{ACCURACY}, held-out"}
DIGITS = {"entropy_bits": 3, "tokens": 1, "accuracy": 2}


def law_rows(laws: list[EntropyLaw]) -> list[list[str]]:
    """Return the cells of the table of laws: means over seeds with t intervals."""
    rows = []
    for law in laws:
        values = (law.a, law.b, law.ceiling, law.error, law.last_value, law.error - law.last_value)
        rows.append([law.method, str(len(law.a)), *(_over_seeds(v, signs=i in (0, 5)) for i, v in enumerate(values))])
    return rows


def _over_seeds(values: np.ndarray, *, signs: bool) -> str:
    mean, low, high = seed_interval(values)

    def say(value: float) -> str:
        return signed(value, 3) if signs or value < 0 else f"{value:.3f}"

    return say(mean) + (f" [{say(low)}, {say(high)}]" if np.isfinite(low) else "")


def law_figure(sources: Sources) -> Iterator[Drawn]:
    """Accuracy against entropy, with the law fitted to the first half of each curve."""
    table = sources.table("entropy")
    if table is None or not long_enough(table):
        return
    laws = fit_entropy_law(table)
    columns = min(COLUMNS, len(laws))
    rows = -(-len(laws) // columns)
    figure, axes = new_figure(PAGE_INCHES, 0.5 + 2.1 * rows, columns, rows, sharex=True, sharey=True)
    with style():
        for ax, law in zip(axes.flat, laws, strict=False):
            seeds = [seed.sort_values("step") for _, seed in table[table["method"] == law.method].groupby("seed")]
            for i, seed in enumerate(seeds):
                colour, cut = look(i)["color"], int(law.fitted[i])
                kind = {**look(i), "linestyle": "none", "markersize": 3}
                for part, face, name in ((seed[:cut], colour, "fitted"), (seed[cut:], "white", "predicted")):
                    ax.plot(part["entropy_bits"], part["accuracy"], **kind, markerfacecolor=face, label=name)
                bits = np.linspace(seed["entropy_bits"].min(), seed["entropy_bits"].max(), 50)
                ax.plot(bits, accuracy_at(bits * NATS_A_BIT, law.a[i], law.b[i]), color=colour, linewidth=1)
            ax.set_title(law.method)
        for ax in axes.flat[len(laws) :]:
            ax.set_visible(False)
        for ax in axes[-1]:
            ax.set_xlabel(ENTROPY if len(laws) < 3 else "entropy, bits")
        for ax in axes[:, 0]:
            ax.set_ylabel(f"{ACCURACY}, held-out")
        legend_of_figure(figure, 2)
    head = ["method", "seeds", "a", "b", "b − a", "error of the law", "error of the last value", "difference"]
    yield Drawn(
        "entropy-law",
        figure,
        "**Accuracy against entropy.** Of the same answers to held-out problems; a colour a seed. Lines: "
        "R = −a exp(H) + b, H in nats, fitted to the first half of each curve (filled) to predict the rest (hollow). "
        "Errors: root mean squares over the rest, of the law and of the mean of the last four points that were "
        "fitted. Means over seeds with 95 % t intervals.\n\n" + markdown_table(head, law_rows(laws)),
    )


def covariance_figure(sources: Sources) -> Iterator[Drawn]:
    """The covariance of log-probability and advantage along training, and against what entropy did."""
    table = sources.table("entropy")
    if table is None:
        return
    changes = entropy_changes(table)
    if not len(changes):
        return
    bands = table_bands(changes, "method", "covariance")
    figure, axes = new_figure(PAGE_INCHES, 2.7, 2)
    with style():
        left, right = axes[0]
        curves(bands, left, seeds=False, ylabel="covariance, nats")
        for i, band in enumerate(bands):
            points = changes[changes["method"] == band.label]
            kind = {**look(i), "linestyle": "none", "markersize": 2.5}
            right.plot(points["covariance"], 1000 * points["change"], **kind)
        for ax in (left, right):
            ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
        right.axvline(0, color=GREY, linewidth=0.6, zorder=0)
        right.set(xlabel="covariance, nats", ylabel="change of entropy, 0.001 nats")
        legend_of_figure(figure, 6)
    lines = []
    for method, values in change_correlations(changes).items():
        mine = changes[changes["method"] == method]
        totals = mine.groupby("seed")[["change", "predicted"]].mean()
        positive = (mine["covariance"] > 0).groupby(mine["seed"]).mean().to_numpy()
        cells = [_over_seeds(positive, signs=False), _over_seeds(values, signs=True)]
        cells += [_over_seeds(1000 * totals[name].to_numpy(), signs=True) for name in ("change", "predicted")]
        lines.append([method, str(len(values)), *cells])
    head = ["method", "seeds", "share above 0", "Spearman with the change", "change", "predicted to first order"]
    yield Drawn(
        "entropy-covariance",
        figure,
        "**What moves entropy.** Covariance over tokens of log-probability and advantage, means over the updates "
        "between two measurements of held-out entropy. To first order an update changes entropy by minus the learning "
        f"rate times it. Left: along training. {spread(bands)} Right: against the change that was measured. In the "
        "table changes are in 0.001 nats an update; means over seeds with 95 % t intervals.\n\n"
        + markdown_table(head, lines),
    )


def entropy_curves_figure(sources: Sources) -> Iterator[Drawn]:
    """Entropy, length and held-out accuracy of every method along training."""
    table = sources.table("entropy")
    if table is None:
        return
    found = {measure: bands for measure in CURVES if (bands := table_bands(table, "method", measure))}
    if not found:
        return
    looks = looks_of(found.values())
    figure, axes = new_figure(PAGE_INCHES, 2.5, len(found), sharex=True)
    with style():
        for ax, (measure, bands) in zip(axes[0], found.items(), strict=True):
            curves(bands, ax, seeds=False, looks=[looks[band.label] for band in bands], ylabel=CURVES[measure])
        legend_of_figure(figure, 6)
    tables = "\n\n".join(
        f"{CURVES[m]}:\n\n{band_table(bands, signs=False, digits=DIGITS[m])}" for m, bands in found.items()
    )
    yield Drawn(
        "entropy-curves",
        figure,
        "**Entropy, length and accuracy along training.** Entropy and accuracy of answers to held-out problems; length "
        f"of the responses trained on. {spread([band for bands in found.values() for band in bands])}\n\n{tables}",
    )
