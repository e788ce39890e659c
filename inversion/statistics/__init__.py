"""Statistics over tokens that are not independent: estimates, intervals and tests that resample whole responses.

numpy and scipy only. Modules whose name starts with an underscore take and return plain arrays; the others know runs.
"""

from inversion.statistics.correlation import correlate, partial
from inversion.statistics.difference import compare
from inversion.statistics.maps import layer_map
from inversion.statistics.results import Correlation, Difference

__all__ = ["Correlation", "Difference", "compare", "correlate", "layer_map", "partial"]
