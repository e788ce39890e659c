"""Statistics over tokens that are not independent: estimates, intervals and tests that resample whole responses.

numpy and scipy only. Modules whose name starts with an underscore take and return plain arrays; the others know runs.
"""

from inversion.statistics.controls import Controls, controls
from inversion.statistics.correlation import correlate, partial
from inversion.statistics.difference import compare
from inversion.statistics.maps import layer_map
from inversion.statistics.overview import overview
from inversion.statistics.parts import Parts, per_response, within_between
from inversion.statistics.planning import SamplePlan, plan_sample_size
from inversion.statistics.results import Correlation, Difference
from inversion.statistics.segments import Segments, segments
from inversion.statistics.shuffle import Shuffle, within_response_shuffle
from inversion.statistics.specifications import SpecificationCurve, specification_curve
from inversion.statistics.trajectory import Trajectory, trajectory

__all__ = [
    "Controls",
    "Correlation",
    "Difference",
    "Parts",
    "SamplePlan",
    "Segments",
    "Shuffle",
    "SpecificationCurve",
    "Trajectory",
    "compare",
    "controls",
    "correlate",
    "layer_map",
    "overview",
    "partial",
    "per_response",
    "plan_sample_size",
    "segments",
    "specification_curve",
    "trajectory",
    "within_between",
    "within_response_shuffle",
]
