"""Prompts and responses: read them from a file, a data set or a task generator, or let a model write them."""

from inversion.responses.generation import Generation, generate
from inversion.responses.problems import Problem, read_problems, shipped_problems

__all__ = ["Generation", "Problem", "generate", "read_problems", "shipped_problems"]
