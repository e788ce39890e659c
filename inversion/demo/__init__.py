"""The demo: its tasks, its tokenizer, the recipe that trained the shipped models, and the tour that measures them.

Importing this module loads neither torch nor reasoning-gym.
"""

from inversion.shipped import MODELS, PROBLEMS, load_problems

__all__ = ["MODELS", "PROBLEMS", "load_problems"]
