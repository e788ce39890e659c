"""One wrong result in the chain of thought of a demo problem, and what such a chain concludes."""

import random
import re
import string

from inversion.critique.cases import Case
from inversion.demo.tasks import EQUALS, LEAVING, DemoProblem, chain_of_thought, mixed_problems
from inversion.scoring import scorer_for

_TOTAL = re.compile("(?:" + "|".join(map(re.escape, EQUALS)) + r")(-?\d+)")
_CHOSEN = re.compile(r"(?:take|pick) (\S+)")
_LEFT = re.compile(re.escape(LEAVING) + "(.+)")


def inject_error(problem: DemoProblem, rng: random.Random) -> Case:
    """Work a problem out up to some step and make the result of that step wrong.

    A sum's running total is off by 1 to 3; of a sorting step the number chosen, or one of those left, is; of a spelling
    step the letter chosen, or one of those left, is another one. The result is drawn among all of the chain, and the
    opening ends with it.

    Args:
        problem: Of the demo's three tasks.
        rng: Draws the step, the error and the free words.
    """
    chain = chain_of_thought(problem, rng)
    results = (_TOTAL,) if problem.task == "chain_sum" else (_CHOSEN, _LEFT)
    start, stop = rng.choice([match.span(1) for pattern in results for match in pattern.finditer(chain)])
    wrong = _WRONG[problem.task](chain[start:stop], rng)
    opening = f"<think>{chain[:start]}{wrong}"
    score = scorer_for("tags", problem.answer, form_required=True)
    assert score is not None
    first = len(opening) - len(wrong)
    return Case(
        problem.prompt,
        opening,
        (first, len(opening)),
        problem.answer,
        score,
        _CONCLUSIONS[problem.task],
        problem.task,
    )


def demo_cases(count: int, seed: int = 0) -> list[Case]:
    """Return distinct held-out problems of the demo's three tasks, taking turns, each with an error.

    Args:
        count: How many.
        seed: Of the problems, steps, errors and free words.
    """
    rng = random.Random(f"mistakes/{seed}")
    return [inject_error(problem, rng) for problem in mixed_problems("held_out", count, f"mistakes/{seed}")]


def _wrong_number(right: str, rng: random.Random) -> str:
    return str(int(right) + rng.choice([-3, -2, -1, 1, 2, 3]))


def _wrong_list(right: str, rng: random.Random) -> str:
    numbers = right.split()
    chosen = rng.randrange(len(numbers))
    numbers[chosen] = _wrong_number(numbers[chosen], rng)
    return " ".join(numbers)


def _wrong_word(right: str, rng: random.Random) -> str:
    chosen = rng.randrange(len(right))
    letter = rng.choice([c for c in string.ascii_lowercase if c != right[chosen].lower()])
    return right[:chosen] + letter + right[chosen + 1 :]


def _total(thinking: str) -> str:
    """The last running total."""
    totals = _TOTAL.findall(thinking)
    return f"<answer>{totals[-1] if totals else ''}</answer>"


def _sorted(thinking: str) -> str:
    """The numbers in the order in which they were chosen."""
    return f"<answer>{[f'{number}.0' for number in _CHOSEN.findall(thinking)]}</answer>"


def _spelt(thinking: str) -> str:
    """The letters in the order in which they were chosen."""
    return f"<answer>{''.join(_CHOSEN.findall(thinking))}</answer>"


_WRONG = {"chain_sum": _wrong_number, "number_sorting": _wrong_list, "spell_backward": _wrong_word}
_CONCLUSIONS = {"chain_sum": _total, "number_sorting": _sorted, "spell_backward": _spelt}
