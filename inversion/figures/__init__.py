"""Paper figures from saved runs: each as PDF and PNG, with a caption that its numbers were written into.

``inversion figures`` makes them all; the scripts in the repository's folder ``figures`` make one each. Reading the
folders, computing what to draw and drawing are apart: :mod:`inversion.figures.sources`, then the functions named
``..._bands``, ``..._bars`` or ``..._rows``, then :mod:`inversion.plots`.
"""

from inversion.figures.make import FIGURES, Recipe, make_figures, script
from inversion.figures.panels import Drawn
from inversion.figures.sources import Sources, read_sources

__all__ = ["FIGURES", "Drawn", "Recipe", "Sources", "make_figures", "read_sources", "script"]
