"""A pretrained model studied in parts: as it is, along supervised fine-tuning, and under reinforcement learning.

``inversion reproduce --model`` runs it. Data flows one way: specification -> texts -> the three parts -> tables.
"""

from inversion.experiments.pretrained.spec import PARTS, StudySpec, read_study
from inversion.experiments.pretrained.study import Study, run_study

__all__ = ["PARTS", "Study", "StudySpec", "read_study", "run_study"]
