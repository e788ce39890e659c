"""Known benchmarks: where they are, how their columns are read, and how a response is scored."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from inversion.errors import InputError
from inversion.names import nearest


@dataclass(frozen=True)
class Benchmark:
    """A data set of problems with known answers.

    hub: Its name on the hub, with the subset and split that are evaluated.
    columns: Parts of a problem -> columns; ``a+b`` joins two.
    scorer: Kind of scorer, see :func:`inversion.scoring.scorer_for`.
    gold: Returns the known answer from the text of its column; None where there is none.
    examples: Split to take worked examples from, None where the hub has none.
    """

    hub: str
    subset: str | None
    split: str
    columns: Mapping[str, str]
    scorer: str
    gold: Callable[[str], str | None] = str.strip
    examples: str | None = None


def after_marks(answer: str) -> str | None:
    """Return what follows the last ``####`` of a worked GSM8K solution, without commas between thousands.

    An answer without the marks is the answer itself, as some copies of the data set have it.
    """
    return answer.rpartition("####")[2].strip().replace(",", "") or None


def without_leading_zeros(answer: str) -> str | None:
    """Return an AIME answer, 000 to 999, as a plain whole number; some copies have it in LaTeX, with its degrees."""
    found = re.fullmatch(r"0*(\d+)(?:\.0+)?", re.sub(r"\^\{?\\circ\}?|[°$]", "", answer).strip())
    return found[1] if found else None


_WORKED = {"prompt": "question", "answer": "answer", "solution": "answer"}
_PROBLEM = {"prompt": "problem", "answer": "answer"}

BENCHMARKS: Mapping[str, Benchmark] = {
    "gsm8k": Benchmark("openai/gsm8k", "main", "test", _WORKED, "number", after_marks, "train"),
    "math500": Benchmark("HuggingFaceH4/MATH-500", None, "test", {**_PROBLEM, "solution": "solution"}, "math"),
    "aime24": Benchmark(
        "HuggingFaceH4/aime_2024", None, "train", {**_PROBLEM, "solution": "solution"}, "number", without_leading_zeros
    ),
    "aime25": Benchmark("math-ai/aime25", None, "test", _PROBLEM, "number", without_leading_zeros),
    "svamp": Benchmark(
        "ChilleD/SVAMP",
        None,
        "test",
        {"prompt": "Body+Question", "answer": "Answer", "solution": "Equation"},
        "number",
        examples="train",
    ),
}
"""The benchmarks that are known by name."""

_OTHER_NAMES = {"math-500": "math500", "aime-2024": "aime24", "aime-2025": "aime25", "aime2024": "aime24"}
_OTHER_NAMES |= {"aime2025": "aime25", "aime_2024": "aime24", "aime_2025": "aime25"}


def find_benchmark(name: str) -> Benchmark | None:
    """Return the benchmark of that name, in any case, or None."""
    lower = name.lower()
    return BENCHMARKS.get(_OTHER_NAMES.get(lower, lower))


def benchmark(name: str) -> Benchmark:
    """Return the benchmark of that name.

    Raises:
        InputError: There is none.
    """
    found = find_benchmark(name)
    if found is None:
        raise InputError(f"there is no benchmark {name!r}; choose among {nearest(name, BENCHMARKS, len(BENCHMARKS))}.")
    return found
