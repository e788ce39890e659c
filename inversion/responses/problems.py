"""Problems: a prompt, and what is known about its response."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from inversion.errors import InputError
from inversion.responses.benchmarks import Benchmark, benchmark, find_benchmark
from inversion.responses.columns import choose_columns, ids_of, joined_text, messages_of, text_of
from inversion.responses.sources import SCORER, is_run, is_source, read_rows
from inversion.responses.thinking import opens_thinking
from inversion.scoring import THINK_TAGS, Score, score_of, scorer_for
from inversion.shipped import PROBLEMS

DEMO = "demo"
"""Name of the shipped held-out problems."""

Message = Mapping[str, str]


@dataclass(frozen=True)
class Problem:
    """A prompt and what is known about it.

    prompt: The text given to the model; empty where only its token ids are known.
    response: The text to measure, or None to let the model write one.
    answer: The known answer, or None.
    task: Name of the task it belongs to, empty where there is none.
    scorer: Gives a response text its score, 1.0 for a right answer; None where there is nothing to score against.
    question: What the prompt asks, without a chat template or examples around it, by which runs of several models are
        paired; None where that is the prompt itself.
    messages: The prompt as a conversation, for the chat template; None where it is a text.
    prompt_token_ids: The prompt as token ids, which are then used as they are.
    response_token_ids: The response as token ids, likewise.
    finished: Whether the response came to its end; None where that is not known.
    solution: A worked solution, for problems that serve as examples.
    """

    prompt: str
    response: str | None = None
    answer: str | None = None
    task: str = ""
    scorer: Callable[[str], float] | None = None
    question: str | None = None
    messages: tuple[Message, ...] | None = None
    prompt_token_ids: tuple[int, ...] | None = None
    response_token_ids: tuple[int, ...] | None = None
    finished: bool | None = None
    solution: str | None = None

    @property
    def written(self) -> bool:
        """Whether there is a response to measure."""
        return self.response is not None or self.response_token_ids is not None

    def score(self, text: str, finished: bool = True, tags: tuple[str, str] = THINK_TAGS) -> Score:
        """Score a text as a response to this problem; see :func:`inversion.scoring.score_of`."""
        return score_of(self.scorer, text, finished, tags, opens_thinking(self.prompt, tags))


@dataclass(frozen=True)
class Source:
    """Where problems come from and how they are read; equal sources give equal problems.

    name: A JSON Lines, JSON, CSV, TSV or Parquet file; a folder saved by Hugging Face ``datasets`` or laid out as on
        the hub; a hub data set such as ``openai/gsm8k``; a run, whose responses are measured again; a benchmark of
        ``inversion.responses.BENCHMARKS``; a reasoning-gym task; or ``demo``, the shipped held-out problems.
    limit: Most prompts to read; None for all of a data set, and 100 of a task.
    seed: Seed of a task's generator.
    options: Settings of a task's generator, such as ``max_terms``.
    columns: Part of a problem (``prompt``, ``response``, ``answer``, ...) -> its column; usual names are found.
    benchmark: Read a file of problems as this benchmark.
    subset: Configuration of a data set that has several.
    split: Split of a data set that has several.
    revision: Branch, tag or commit of a hub data set.
    samples: Responses to write for each prompt; of given lists of responses, how many to take. None: one, or all.
    scorer: ``math``, ``number``, ``tags``, ``choice``, ``exact`` or ``none``; by default that of the benchmark or
        task, else ``tags``. The responses of a run have their scores by default.
    """

    name: str
    limit: int | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    benchmark: str | None = None
    subset: str | None = None
    split: str | None = None
    revision: str | None = None
    samples: int | None = None
    scorer: str | None = None

    def __post_init__(self) -> None:
        for name in ("limit", "samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; give at least 1.")
        scorer_for(self.scorer or "none", "0")  # an unknown one, or one that is not installed, is refused here

    def record(self) -> dict[str, Any]:
        """Return what was asked for, without what was left open, for a run's manifest."""
        record = {name: value for name, value in asdict(self).items() if value not in (None, {}) and name != "name"}
        return {**record, "scores": "kept"} if self._keeps_scores else record

    @property
    def _keeps_scores(self) -> bool:
        """Whether responses come with their scores: those of a run, unless a scorer was named."""
        return is_run(self.name) and not (self.scorer or self.benchmark)

    def read(self) -> list[Problem]:
        """Read the problems, all samples of one prompt beside each other.

        Raises:
            InputError: The source is missing, empty or malformed.
        """
        known = benchmark(self.benchmark) if self.benchmark else None
        if self.name == DEMO and not is_source(DEMO):
            return self._sampled(shipped_problems(self.limit))
        if is_source(self.name):
            if self.options:
                raise InputError("task options apply to reasoning-gym tasks only; leave them out for a data set.")
            rows = read_rows(self.name, self.subset, self.split, self.revision, self.limit)
            return self._from_rows(rows, known)
        if known is None and (found := find_benchmark(self.name)):
            rows = read_rows(
                found.hub, self.subset or found.subset, self.split or found.split, self.revision, self.limit
            )
            return self._from_rows(rows, found)
        from inversion.responses.tasks import task_problems

        if self.columns or known or self.subset or self.split or self.revision:
            raise InputError(
                f"{self.name} is a task's name, without columns, benchmark, subset, split or revision; leave those out."
            )
        return self._sampled(task_problems(self.name, self.limit or 100, self.seed, dict(self.options), self.scorer))

    def _from_rows(self, rows: Sequence[Any], known: Benchmark | None) -> list[Problem]:
        if not len(rows):
            raise InputError(f"{self.name} is empty; give at least one row with a prompt.")
        chosen: list[Mapping[str, Any]] = []
        for number, row in zip(range(self.limit or len(rows)), rows, strict=False):
            if not isinstance(row, Mapping):
                raise InputError(f"{self.name}, row {number + 1} has no prompt; write it as an object with a prompt.")
            chosen.append(row)
        usual = known.columns if known else {}
        usual = {part: name for part, name in usual.items() if set(name.split("+")) <= set().union(*chosen)}
        scorers: list[Any] = [None] * len(chosen)
        if is_run(self.name):
            scorers = [row[SCORER] if self._keeps_scores else None for row in chosen]
            chosen = [{name: cell for name, cell in row.items() if name != SCORER} for row in chosen]
        columns = choose_columns(chosen, {**usual, **self.columns}, self.name)
        problems: list[Problem] = []
        for number, (row, scorer) in enumerate(zip(chosen, scorers, strict=True), 1):
            read = self._of_row(row, columns, known, f"{self.name}, row {number}")
            # Where the model is to write others, they are scored as those of any file.
            problems += [replace(p, scorer=scorer) if scorer and p.written else p for p in read]
        return problems

    def _of_row(
        self, row: Mapping[str, Any], columns: Mapping[str, str], known: Benchmark | None, where: str
    ) -> list[Problem]:
        cells = {part: row.get(name) for part, name in columns.items()}
        messages = messages_of(cells.get("prompt"), f"{where}: {columns.get('prompt')}")
        ids = ids_of(cells.get("prompt_token_ids"), f"{where}: prompt_token_ids")
        texts = {
            part: joined_text(row, columns[part], where, numbers=part == "answer")
            for part in ("answer", "task", "question", "solution", *(() if messages else ("prompt",)))
            if part in columns
        }
        if messages is None and texts.get("prompt") is None and not ids:
            raise InputError(f"{where} has no prompt; give every row a prompt.")
        answer = texts.get("answer")
        if known and answer is not None:
            answer = known.gold(answer)
        kind = self.scorer or (known.scorer if known else "tags")
        problem = Problem(
            prompt=texts.get("prompt") or "",
            answer=answer,
            task=texts.get("task") or (self.benchmark or self.name if known else ""),
            scorer=scorer_for(kind, answer),
            question=texts.get("question"),
            messages=messages,
            prompt_token_ids=ids,
            solution=texts.get("solution"),
        )
        if messages and len(messages) > 1 and messages[-1]["role"] == "assistant" and not _given(cells):
            # A conversation that ends with the model's turn holds the response to measure.
            return [replace(problem, messages=messages[:-1], response=messages[-1]["content"])]
        return self._with_responses(problem, cells, columns, where)

    def _with_responses(
        self, problem: Problem, cells: Mapping[str, Any], columns: Mapping[str, str], where: str
    ) -> list[Problem]:
        """Return the problem once for every response that its row holds."""
        if not _given(cells):
            return self._sampled([problem])
        texts, several = _listed(cells.get("response"))
        ids = cells.get("response_token_ids")
        if isinstance(ids, list) and ids and isinstance(ids[0], list):
            several, ids = True, ids
        else:
            ids = [ids]
        texts, ids = texts * (len(ids) if texts == [None] else 1), ids * (len(texts) if ids == [None] else 1)
        ends, _ = _listed(cells.get("finished"))
        ends = ends * (len(texts) if len(ends) == 1 else 1)
        if not len(texts) == len(ids) == len(ends):
            raise InputError(f"{where} has lists of responses of different lengths; give them one entry per response.")
        if self.samples and several and self.samples > len(texts):
            raise InputError(f"{where} has {len(texts)} responses, fewer than the {self.samples} samples asked for.")
        found = []
        for text, tokens, end in list(zip(texts, ids, ends, strict=True))[: self.samples]:
            read = replace(
                problem,
                response=_response_text(text, f"{where}: {columns.get('response')}"),
                response_token_ids=ids_of(tokens, f"{where}: response_token_ids"),
                finished=_finished(end, where),
            )
            if read.response is None and not read.response_token_ids:
                raise InputError(
                    f"{where} has an empty response; fill it in, or leave the column out to let the model write one."
                )
            found.append(read)
        return found

    def _sampled(self, problems: list[Problem]) -> list[Problem]:
        return [problem for problem in problems for _ in range(self.samples or 1)]


def read_problems(
    source: str, limit: int | None = None, seed: int = 0, options: Mapping[str, Any] | None = None, **more: Any
) -> list[Problem]:
    """Read problems from wherever ``source`` points; the arguments are those of :class:`Source`.

    Which columns are read, where their names differ from ours or some are left over, is logged in one line.

    Raises:
        InputError: The source is missing, empty or malformed.
    """
    return Source(source, limit, seed, options or {}, **more).read()


def require_texts(problems: Sequence[Problem], what: str) -> list[Problem]:
    """Return problems whose prompts are texts.

    Raises:
        InputError: One is a conversation or is token ids only, which ``what`` does not read.
    """
    for number, problem in enumerate(problems, 1):
        if not problem.prompt:
            raise InputError(
                f"problem {number} is a conversation or token ids, and {what} reads texts; write its prompt as a text."
            )
    return list(problems)


def shipped_problems(limit: int | None = None) -> list[Problem]:
    """Return the shipped held-out problems, for models that answer between tags: a response without tags is wrong."""
    problems = read_problems(str(PROBLEMS), limit)
    return [replace(p, scorer=scorer_for("tags", p.answer, form_required=True)) for p in problems]


def _given(cells: Mapping[str, Any]) -> bool:
    """Whether a row holds a response, if only an empty one."""
    return any(cells.get(part) is not None for part in ("response", "response_token_ids"))


def _listed(value: Any) -> tuple[list[Any], bool]:
    """Return a cell as a list, and whether it was one of several responses rather than one conversation."""
    if isinstance(value, list) and value and not isinstance(value[0], Mapping):
        return value, True
    return [value], False


def _response_text(value: Any, where: str) -> str | None:
    """Return a response as text, also where it is written as a conversation of one message."""
    messages = messages_of(value, where) if value and isinstance(value, list) else None
    return messages[-1]["content"] if messages else text_of(None if value == [] else value, where)


def _finished(value: Any, where: str) -> bool | None:
    """Read whether a response came to its end from a truth value or a server's ``finish_reason``."""
    if value is None or isinstance(value, bool):
        return value
    known = {"stop": True, "eos": True, "true": True, "length": False, "false": False}
    if str(value).lower() not in known:
        raise InputError(f"{where} has a finish reason {value!r}; write stop, length, true or false.")
    return known[str(value).lower()]
