"""Probes: what one forward pass, and the vector-Jacobian products through it, say about each token."""

from inversion.probes.memory import DoesNotFit
from inversion.probes.probe import probe

__all__ = ["DoesNotFit", "probe"]
