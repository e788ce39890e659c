"""The figure of a critique study, and its numbers as text."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from inversion.errors import InputError
from inversion.figures.panels import Drawn, legend_above, signed
from inversion.plots import PAGE_INCHES, new_figure, style
from inversion.plots.style import GREY, look
from inversion.tables import markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RECORD = "critique.json"
TABLES = ("rates", "probe", "steering", "strength", "matched", "rho")
INTRODUCTION = "Shares and accuracies have Wilson's 95 % intervals over problems."
DIFFERENCE = "correction minus answer"


@dataclass(frozen=True)
class Captioned:
    """A table of a study as text: what it shows, its headings, and rows of as many cells."""

    caption: str
    head: list[str]
    rows: list[list[str]]


def read_tables(folder: Path) -> dict[str, Any]:
    """Read the tables of a study; stages that were left out have none.

    Raises:
        InputError: The folder holds no study.
    """
    found = {name: pd.read_csv(folder / f"{name}.csv") for name in TABLES if (folder / f"{name}.csv").is_file()}
    if "rates" not in found:
        raise InputError(f"{folder} holds no finished critique study; make one with inversion critique.")
    return found


def write_page(folder: Path) -> str:
    """Write critique.pdf, critique.png and critique.md into a study's folder, and return the text of the latter."""
    drawn = critique_figure(read_tables(folder))
    drawn.save(folder)
    return drawn.caption


def critique_figure(tables: dict[str, Any]) -> Drawn:
    """Draw what a study found; its caption is a section in Markdown that holds every number drawn."""
    panels = {"rates": _draw_rates, "probe": _draw_probe, "steering": _draw_steering, "strength": _draw_places}
    shown = [name for name in panels if name in tables]
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = new_figure(PAGE_INCHES, 2.7 * rows, columns, rows)
    with style():
        for ax, name in zip(axes.flat, shown, strict=False):
            panels[name](tables[name], ax)
        for ax in axes.flat[len(shown) :]:
            ax.set_visible(False)
    return Drawn("critique", figure, section(tables))


def section(tables: dict[str, Any]) -> str:
    """Return a section in Markdown with the tables of a study."""
    parts = [f"**Recovery from an injected error.** {INTRODUCTION}"]
    for part in captioned(tables):
        parts += [part.caption, markdown_table(part.head, part.rows)]
    return "\n\n".join(parts)


def captioned(tables: dict[str, Any]) -> list[Captioned]:
    """Return the tables of a study as text."""
    rates = tables["rates"]
    chosen = rates[rates.outcome.isin(["both right", "hidden critique", "both wrong", "answer right"])]
    share = {"share": _interval("share", "{:.0%}")}
    found = [_part("How often each outcome occurs.", chosen, ("condition", "task", "outcome", "problems"), share)]
    if "probe" in tables:
        caption = (
            "Classifier of recovered against undisturbed answers, by layer, on test problems; paired: share of "
            "problems whose recovered answer scores higher than its own undisturbed one; unrecovered: AUROC of "
            "answers that stayed wrong; length: of the critique vector over that of the residual stream."
        )
        cells = {
            "AUROC": _interval("auroc", "{:.2f}"),
            "paired": lambda row: f"{row.paired:.0%} [{row.paired_low:.0%}, {row.paired_high:.0%}]",
            "unrecovered": lambda row: f"{row.unrecovered:.2f}",
            "length": lambda row: f"{row.length:.3f}",
        }
        found.append(_part(caption, tables["probe"], ("layer",), cells))
    if "steering" in tables:
        steering = tables["steering"]
        caption = f"Steering at layer {steering.layer.iloc[0]}: accuracy; gained and lost answers against no steering."
        cells = {
            "alpha": lambda row: signed(row.alpha, 1),
            "accuracy": _interval("accuracy", "{:.0%}"),
            "gained": lambda row: str(row.gained),
            "lost": lambda row: str(row.lost),
        }
        found.append(_part(caption, steering, ("direction", "condition", "problems"), cells))
    if "strength" in tables:
        strength = tables["strength"][tables["strength"].problems > 0]
        caption = "Mean percentile within the response, 0 to 1, with bootstrap intervals over problems."
        mean = {"mean": _interval("mean", "{:.2f}")}
        found.append(_part(caption, strength, ("group", "measure", "place", "problems"), mean))
        caption = "The corrected token against the same token of the same answer without an error."
        mean = {"mean": _interval("mean", "{:+.3f}")}
        found.append(_part(caption, tables["matched"], ("injected minus original", "problems"), mean))
        rho = {"rho": _interval("rho", "{:+.2f}")}
        caption = "Rho of strength and entropy over positions: all, of each outcome, and of the tokens of each place."
        found.append(_part(caption, tables["rho"], ("condition", "group", "responses", "tokens"), rho))
    return found


def _part(caption: str, table: Any, plain: tuple[str, ...], cells: dict[str, Any]) -> Captioned:
    # By name, and each with its own type: a row as a Series would turn whole numbers into fractions.
    rows = [
        [*(_word(row[name]) for name in plain), *(cell(pd.Series(row, dtype=object)) for cell in cells.values())]
        for row in table.to_dict("records")
    ]
    return Captioned(caption, [*plain, *cells], rows)


def _word(value: Any) -> str:
    return "" if pd.isna(value) else str(value)


def _interval(name: str, form: str) -> Any:
    def cell(row: Any) -> str:
        if pd.isna(row[name]):
            return "undefined"
        bounds = "" if pd.isna(row.low) else f" [{form.format(row.low)}, {form.format(row.high)}]"
        return form.format(row[name]) + bounds

    return cell


def _draw_rates(rates: Any, ax: "Axes") -> None:
    """Share of right answers by task: undisturbed, injected, and the part that was never corrected in thinking."""
    tasks = list(dict.fromkeys(rates.task))
    lines = (("original", "answer right"), ("injected", "answer right"), ("injected", "hidden critique"))
    for i, (condition, outcome) in enumerate(lines):
        rows = rates[(rates.condition == condition) & (rates.outcome == outcome)].set_index("task").loc[tasks]
        name = f"{condition}, {outcome}"
        _bars(ax, [j + 0.2 * (i - 1) for j in range(len(tasks))], rows.share, rows, name, i, line=False)
    ax.set_xticks(range(len(tasks)), [str(task).replace("_", "\n") for task in tasks])
    ax.set_ylabel("share of problems")
    ax.set_ylim(-0.03, 1.03)
    legend_above(ax, 1)


def _draw_probe(probe: Any, ax: "Axes") -> None:
    _bars(ax, probe.layer, probe.auroc, probe, "recovered", 0)
    ax.plot(probe.layer, probe.unrecovered, label="stayed wrong", **look(1))
    ax.axhline(0.5, color=GREY, linewidth=0.6, zorder=0)
    ax.set_xticks(probe.layer)
    ax.set_xlabel("layer")
    ax.set_ylabel("AUROC against undisturbed")
    legend_above(ax, 2)


def _draw_steering(steering: Any, ax: "Axes") -> None:
    none = steering[steering.direction == "no steering"]
    for i, direction in enumerate(d for d in dict.fromkeys(steering.direction) if d != "no steering"):
        for condition in ("injected", "original"):
            both = pd.concat([steering[steering.direction == direction], none])
            chosen: Any = both[both.condition == condition]
            rows = chosen.sort_values("alpha")
            looks = {**look(i), "linestyle": "-" if condition == "injected" else ":"}
            label = direction if condition == "injected" else None
            ax.plot(rows.alpha, rows.accuracy, label=label, markersize=3, linewidth=1, **looks)
    ax.set_xlabel("coefficient of the vector (dotted: clean problems)")
    ax.set_ylabel("share right")
    ax.set_ylim(-0.03, 1.03)
    legend_above(ax, 2)


def _draw_places(strength: Any, ax: "Axes") -> None:
    groups = list(dict.fromkeys(strength.group))
    places = [place for place in dict.fromkeys(strength.place) if place != DIFFERENCE]
    for i, group in enumerate(groups):
        rows = strength[(strength.group == group) & (strength.measure == "strength")].set_index("place")
        rows = rows.loc[places]
        _bars(ax, [j + 0.15 * (i - 1) for j in range(len(places))], rows["mean"], rows, group, i, line=False)
    ax.set_xticks(range(len(places)), [place.replace(" ", "\n") for place in places])
    ax.set_ylabel("percentile of strength")
    legend_above(ax, 2)


def _bars(ax: "Axes", x: Any, y: Any, rows: Any, name: str, index: int, *, line: bool = True) -> None:
    looks = look(index)
    if not line:
        looks["linestyle"] = "none"
    errors = [(y - rows.low).clip(lower=0).fillna(0), (rows.high - y).clip(lower=0).fillna(0)]
    ax.errorbar(x, y, yerr=errors, label=name, markersize=4, linewidth=1, **looks)
