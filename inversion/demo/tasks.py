"""Problems of the demo: prompts and answers from reasoning-gym, worked responses written here.

Three tasks are small enough for a model of under a million parameters and still need several steps: adding
up, sorting and spelling backwards. A hash of the prompt makes a problem either a *training* or a *held-out*
one, so no seed can bring a held-out prompt into training. reasoning-gym is imported only where problems are
made.
"""

import hashlib
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from inversion.errors import InputError

Split = Literal["train", "held_out"]
Style = Literal["direct", "chain"]

TASKS: Mapping[str, Mapping[str, int]] = {
    "chain_sum": {"min_terms": 3, "max_terms": 5, "min_digits": 1, "max_digits": 2},
    "number_sorting": {"min_numbers": 2, "max_numbers": 4, "min_decimals": 0, "max_decimals": 0},
    "spell_backward": {"min_word_len": 3, "max_word_len": 6},
}
"""reasoning-gym task name -> the configuration the demo uses."""

CONNECTORS = ("\nSo ", "\nThen ", "\nNow ", "\nNext ")
"""Openings of a step, interchangeable by design: their choice carries no information about the problem."""
EQUALS = (" = ", " is ")
"""Interchangeable ways to state a running total."""
TAKES = ("take ", "pick ")
"""Interchangeable ways to choose the next number or letter."""
LEAVING = " leaving "
"""Introduces what is left after a choice."""

_HELD_OUT_ONE_IN = 10
_DATASETS: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class DemoProblem:
    """One prompt with its right answer, both in reasoning-gym's own words."""

    task: str
    prompt: str
    answer: str


def is_held_out(prompt: str) -> bool:
    """Say whether a prompt is reserved for testing: a fixed tenth of all prompts, chosen by hash.

    Case is ignored, so that a word and its capitalised twin fall on the same side.
    """
    digest = hashlib.sha256(prompt.casefold().encode()).digest()
    return int.from_bytes(digest[:8], "big") % _HELD_OUT_ONE_IN == 0


def problem_stream(task: str, split: Split, seed: int | str) -> Iterator[DemoProblem]:
    """Yield problems of one task and split without end; prompts may repeat.

    The stream depends on ``task``, ``split`` and ``seed`` alone.
    """
    dataset = _dataset(task)
    # reasoning-gym seeds item i with seed + i: random indices keep streams with neighbouring seeds apart.
    indices = random.Random(f"{task}/{split}/{seed}")
    while True:
        item = dataset[indices.getrandbits(48)]
        if is_held_out(item["question"]) == (split == "held_out"):
            yield DemoProblem(task, item["question"], item["answer"])


def distinct_problems(task: str, split: Split, n: int, seed: int | str) -> list[DemoProblem]:
    """Return ``n`` problems of one task and split whose prompts all differ."""
    found: dict[str, DemoProblem] = {}
    for problem in problem_stream(task, split, seed):
        found.setdefault(problem.prompt, problem)
        if len(found) == n:
            break
    return list(found.values())


def mixed_problems(split: Split, n: int, seed: int | str) -> list[DemoProblem]:
    """Return ``n`` distinct problems that take turns between the tasks."""
    per_task = [distinct_problems(task, split, -(-n // len(TASKS)), seed) for task in TASKS]
    return [problem for turn in zip(*per_task, strict=True) for problem in turn][:n]


def _dataset(task: str) -> Any:
    """Return the reasoning-gym generator of a demo task."""
    if task not in TASKS:
        raise InputError(f"There is no demo task {task!r}; choose one of {', '.join(TASKS)}.")
    try:
        import reasoning_gym
    except ImportError as error:
        raise InputError(
            "Making new problems needs reasoning-gym, which is not installed; install inversion[tasks]."
        ) from error
    # Made once: the spelling task reads its list of 150,000 words anew each time.
    if task not in _DATASETS:
        _DATASETS[task] = reasoning_gym.create_dataset(task, seed=0, **TASKS[task])
    return _DATASETS[task]


def response_for(problem: DemoProblem, style: Style, rng: random.Random) -> str:
    """Write the response a model is trained on: the bare answer, or the answer after a chain of thought."""
    answer = f"<answer>{problem.answer}</answer>"
    if style == "direct":
        return answer
    return f"<think>{chain_of_thought(problem, rng)}</think>{answer}"


def chain_of_thought(problem: DemoProblem, rng: random.Random) -> str:
    """Work a problem out step by step, one line a step.

    ``rng`` picks the words that are free to vary; every other token follows from the prompt.
    """
    steps = _STEPS[problem.task](problem.prompt, rng)
    return "".join(rng.choice(CONNECTORS) + step for step in steps)


def _sum_steps(prompt: str, rng: random.Random) -> list[str]:
    """Running totals, tens before units: ``12 - 30 = -18``, ``-18 - 7 = -25``, ..."""
    terms = re.findall(r"([+-]?) ?(\d+)", prompt)
    total = int(terms[0][1])
    steps = []
    for sign, term in terms[1:]:
        tens, units = divmod(int(term), 10)
        # A carry and a second digit at once is what a model this small gets wrong most.
        for part in [10 * tens] * (tens > 0) + [units] * (units > 0 or tens == 0):
            before, total = total, total + int(f"{sign}{part}")
            steps.append(f"{before} {sign} {part}{rng.choice(EQUALS)}{total}")
    return steps


def _sorting_steps(prompt: str, rng: random.Random) -> list[str]:
    """Selection sort on whole numbers: ``take -49 leaving 14 3``, ``pick 3 leaving 14``, ``take 14``."""
    numbers = prompt.split(": ", 1)[1].split("\n", 1)[0].split(", ")
    left = [number.removesuffix(".0") for number in numbers]
    choose = max if "descending" in prompt.split(":", 1)[0] else min
    steps = []
    while left:
        chosen = choose(left, key=int)
        left.remove(chosen)
        steps.append(_choice(chosen, " ".join(left), rng))
    return steps


def _spelling_steps(prompt: str, rng: random.Random) -> list[str]:
    """Letters off the end, one by one: ``take n leaving su``, ``pick u leaving s``, ``take s``."""
    word = prompt.rsplit(" ", 1)[1]
    return [_choice(word[i], word[:i], rng) for i in reversed(range(len(word)))]


def _choice(chosen: str, left: str, rng: random.Random) -> str:
    """State what is chosen and what is left, if anything is."""
    return rng.choice(TAKES) + chosen + (LEAVING + left if left else "")


_STEPS: Mapping[str, Callable[[str, random.Random], list[str]]] = {
    "chain_sum": _sum_steps,
    "number_sorting": _sorting_steps,
    "spell_backward": _spelling_steps,
}
