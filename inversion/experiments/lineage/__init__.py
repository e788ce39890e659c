"""The lineage laboratory: base model, fine-tuning and reinforcement learning from nothing, measured on the way.

``inversion reproduce`` runs it. Data flows one way: specification -> training -> probing -> tables -> figures.
"""

from inversion.experiments.lineage.laboratory import reproduce
from inversion.experiments.lineage.spec import PROFILES, LineageSpec, schedule

__all__ = ["PROFILES", "LineageSpec", "reproduce", "schedule"]
