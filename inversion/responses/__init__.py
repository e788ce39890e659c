"""Prompts and responses: read them from a file, a data set or a task generator, or let a model write them."""

from inversion.responses.benchmarks import BENCHMARKS
from inversion.responses.chat import Frame, few_shot_source, read_examples
from inversion.responses.generation import Generation, Written, end_tokens, generate, write_responses
from inversion.responses.problems import Problem, Source, read_problems, require_texts, shipped_problems

__all__ = [
    "BENCHMARKS",
    "Frame",
    "Generation",
    "Problem",
    "Source",
    "Written",
    "end_tokens",
    "few_shot_source",
    "generate",
    "read_examples",
    "read_problems",
    "require_texts",
    "shipped_problems",
    "write_responses",
]
