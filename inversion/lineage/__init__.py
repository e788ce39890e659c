"""The lineage laboratory: base model, fine-tuning and reinforcement learning from nothing, measured on the way.

``inversion reproduce`` runs it. Data flows one way: settings -> training -> probing -> tables -> figures.
"""

from inversion.lineage.laboratory import reproduce
from inversion.lineage.settings import PROFILES, Settings, schedule

__all__ = ["PROFILES", "Settings", "reproduce", "schedule"]
