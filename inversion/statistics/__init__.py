"""Statistics over tokens that are not independent: estimates, intervals and tests that resample whole responses.

numpy and scipy only. ``core`` knows plain arrays, ``layout`` says what a run looks like, and each of the others answers
one question about runs.
"""

from inversion.statistics.checkpoints import Trajectory, trajectory
from inversion.statistics.confounds import Controls, controls
from inversion.statistics.correlation import correlate, partial
from inversion.statistics.difference import compare
from inversion.statistics.layout import Columns
from inversion.statistics.maps import layer_map, map_text
from inversion.statistics.parts import Parts, per_response, within_between
from inversion.statistics.planning import SamplePlan, plan_sample_size
from inversion.statistics.results import Correlation, Difference, Estimate
from inversion.statistics.segmentation import Segments, segments
from inversion.statistics.shuffle import Shuffle, within_response_shuffle
from inversion.statistics.specifications import SpecificationCurve, specification_curve
from inversion.statistics.summary import overview

__all__ = [
    "Columns",
    "Controls",
    "Correlation",
    "Difference",
    "Estimate",
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
    "map_text",
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
