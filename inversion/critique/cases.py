"""Problems with an error put into the beginning of their chain of thought."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from inversion.errors import InputError
from inversion.models.tokenization import prompt_ids, response_ids
from inversion.responses import Frame, Problem
from inversion.responses.sources import read_rows
from inversion.responses.thinking import THINK_TAGS, opens_thinking
from inversion.scoring import scorer_for

COLUMNS = ("question", "ground_truth", "search")
NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")


def whole(thinking: str) -> str:
    """Let thinking speak for itself: the scorer looks for the number or formula that it ends on."""
    return thinking


@dataclass(frozen=True)
class Case:
    """A problem, and a beginning of a response that holds one wrong result.

    prompt: As the model sees it.
    opening: The response's beginning, from the opening of thinking to the error.
    error: First and last-but-one character of the wrong result in ``opening``.
    answer: The right answer.
    score: Gives a text 1.0 if it ends in the right answer.
    conclude: Puts what a chain of thought concludes into the form that ``score`` reads.
    task: Name of the task.
    prompt_token_ids: The prompt as ids, where a chat template wrote it; else None.
    plain: The model does not think: no tag is in ``opening``, and responses are judged whole.
    """

    prompt: str
    opening: str
    error: tuple[int, int]
    answer: str
    score: Callable[[str], float]
    conclude: Callable[[str], str] = whole
    task: str = ""
    prompt_token_ids: tuple[int, ...] | None = None
    plain: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.error[0] < self.error[1] <= len(self.opening):
            raise ValueError(f"the error {self.error} does not lie in an opening of {len(self.opening)} characters")

    def encode(self, tokenizer: Any) -> tuple[list[int], list[int]]:
        """Return the token ids of the prompt and of the opening, each by itself."""
        prompt = self.prompt_token_ids or prompt_ids(tokenizer, self.prompt)
        return list(prompt), response_ids(tokenizer, self.opening)


def read_cases(
    source: str,
    tokenizer: Any,
    *,
    limit: int | None = None,
    scorer: str = "number",
    tags: tuple[str, str] = THINK_TAGS,
    plain: bool = False,
    model: str = "the model",
) -> list[Case]:
    """Read cases from a file with the columns ``question``, ``ground_truth`` and ``search``.

    That is the format of the paper's authors: ``search`` is a short chain of thought that stops right after a wrong
    step. The error is taken to be the last number in it. Where the tokenizer has a chat template the question goes
    through it; where that does not open the thinking, the opening does.

    Args:
        source: JSON Lines, JSON, CSV or Parquet.
        tokenizer: The model's.
        limit: Most cases to read.
        scorer: ``number`` or ``math``, of thinking and of the final answer.
        tags: What opens and what closes the model's thinking.
        plain: The model does not think: open no thinking, and judge responses whole.
        model: Its name for messages.

    Raises:
        InputError: A column is missing, or no row has a number in ``search``.
    """
    rows = [dict(row) for row in read_rows(source)]
    missing = [name for name in COLUMNS if not rows or name not in rows[0]]
    if missing:
        raise InputError(
            f"{source} has no column {' or '.join(missing)}; give rows with question, ground_truth and search."
        )
    usable = [row for row in rows if NUMBER.search(str(row["search"]))][:limit]
    if not usable:
        raise InputError(f"no row of {source} has a number in its search, so none can hold a wrong result.")
    frame = Frame(chat=getattr(tokenizer, "chat_template", None) is not None)
    framed = frame.apply([Problem(str(row["question"])) for row in usable], tokenizer, model)
    return [_case(problem, row, scorer, tags, plain) for problem, row in zip(framed, usable, strict=True)]


def _case(problem: Problem, row: dict[str, Any], scorer: str, tags: tuple[str, str], plain: bool) -> Case:
    trace, answer = str(row["search"]), str(row["ground_truth"])
    opening = trace if plain or opens_thinking(problem.prompt, tags) else f"{tags[0]}\n{trace}"
    last = list(NUMBER.finditer(opening))[-1]
    score = scorer_for(scorer, answer)
    if score is None:
        raise InputError(f"scorer {scorer!r} scores nothing; choose number or math.")
    ids = problem.prompt_token_ids
    return Case(problem.prompt, opening, last.span(), answer, score, prompt_token_ids=ids, plain=plain)
