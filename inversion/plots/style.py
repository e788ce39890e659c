"""The house style of figures: sizes, colours that colour-blind readers can tell apart, and files that repeat."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "font.family": "DejaVu Sans",  # ships with matplotlib, so that every machine draws the same bytes
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "figure.dpi": 200,
    "savefig.dpi": "figure",
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,  # TrueType, which journals ask for
    "ps.fonttype": 42,
    "svg.hashsalt": "inversion",
}
COLUMN_INCHES, PAGE_INCHES = 3.25, 6.75
WIDTHS = {  # inches: one column, the whole page
    "icml": (3.25, 6.75),
    "aistats": (3.25, 6.75),
    "acl": (3.03, 6.30),
    "neurips": (2.75, 5.50),
    "iclr": (2.75, 5.50),
}
"""Widths of the usual venues. NeurIPS and ICLR set one column; half of it is given for pairs of panels."""

# Okabe and Ito's colours in an order whose neighbours also differ in lightness; markers and dashes repeat what colour
# says, for print in grey.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (4, 1, 1, 1)), "-", (0, (5, 1.5)), (0, (1.5, 1)))
GREY = "#767676"
NEGATIVE, NEUTRAL, POSITIVE = "#0072B2", "#F7F7F7", "#D55E00"


@contextmanager
def style() -> Iterator[None]:
    """Draw inside this context for figures at column width that print well."""
    import matplotlib as mpl

    before = {name: mpl.rcParams[name] for name in STYLE}
    try:
        # Only these come back afterwards. A context of matplotlib's own would also undo what a notebook sets when its
        # first figure is made, and it would show none of the later ones.
        mpl.rcParams.update(STYLE)
        yield
    finally:
        mpl.rcParams.update(before)


def save_figure(figure: "Figure", stem: str) -> None:
    """Write ``stem.pdf`` and ``stem.png``; the same figure gives the same bytes."""
    with style():  # fonts are embedded at this point, not when they are drawn
        figure.savefig(f"{stem}.pdf", metadata={"CreationDate": None, "Producer": None, "Creator": "inversion"})
        figure.savefig(f"{stem}.png", metadata={"Software": "inversion"})


def new_figure(width: float = COLUMN_INCHES, height: float = 2.4, columns: int = 1, rows: int = 1, **options: Any):
    """Return a figure in the house style that pyplot does not know, and its array of Axes, (rows, columns)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        return figure, figure.subplots(rows, columns, squeeze=False, **options)


def house_style_alone(plot: Callable[P, R]) -> Callable[P, R]:
    """Draw in the house style where a plot makes its own figure; given Axes keep the style of their owner."""

    @wraps(plot)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        if (args[1] if len(args) > 1 else kwargs.get("ax")) is not None:
            return plot(*args, **kwargs)
        with style():
            return plot(*args, **kwargs)

    return drawn


def axes_or_new(ax: "Axes | None", width: float = COLUMN_INCHES, height: float = 2.4) -> "Axes":
    """Return ``ax``, or the Axes of a new pyplot figure, which notebooks show by themselves."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height))[1]


def look(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of the ``index``-th line."""
    i = index % len(COLOURS)
    return {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": DASHES[i]}


def diverging() -> "Colormap":
    """Blue for negative, near white for 0, vermilion for positive: told apart with any colour vision."""
    from matplotlib.colors import LinearSegmentedColormap

    colours = ["#00456B", NEGATIVE, "#8FC3E0", NEUTRAL, "#F2B48C", POSITIVE, "#7F3800"]
    return LinearSegmentedColormap.from_list("inversion", colours).with_extremes(bad="#D9D9D9")


def ink_on(colour: Any) -> str:
    """Black or white, whichever reads better on a matplotlib colour."""
    from matplotlib.colors import to_rgb

    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # Where the contrast ratio with black, (L + 0.05) / 0.05, equals that with white, 1.05 / (L + 0.05).
    return "black" if luminance > 0.179 else "white"
