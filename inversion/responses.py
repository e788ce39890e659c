"""Prompts and responses: read them from a file, a data set or a task generator, or let a model write them."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inversion.errors import InputError


@dataclass(frozen=True)
class Problem:
    """A prompt and what is known about it.

    prompt: The text given to the model.
    response: The text to measure, or None to let the model write one.
    answer: The reference answer, or None.
    task: Name of the task it belongs to, empty where there is none.
    scorer: Gives a response text its score, 1.0 for a right answer; None where there is nothing to score against.
    """

    prompt: str
    response: str | None = None
    answer: str | None = None
    task: str = ""
    scorer: Callable[[str], float] | None = None


@dataclass(frozen=True)
class Generation:
    """How responses are sampled.

    temperature: 0 takes the most probable token; 1 samples from the model's own distribution.
    max_new_tokens: Length at which an unfinished response is cut.
    """

    temperature: float = 1.0
    max_new_tokens: int = 512

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise InputError(f"temperature is {self.temperature}; give 0 or more.")
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {self.max_new_tokens}; give at least 1.")


def read_problems(
    source: str, limit: int | None = None, seed: int = 0, options: dict[str, Any] | None = None
) -> list[Problem]:
    """Read problems from wherever ``source`` points.

    Args:
        source: A ``.jsonl`` or ``.parquet`` file or a folder saved by Hugging Face ``datasets``, with a ``prompt``
            column and optionally ``response``, ``answer`` and ``task``; or the name of a reasoning-gym task.
        limit: Most problems to read; None for all of a file, and 100 of a task.
        seed: Seed of a task's generator.
        options: Settings of a task's generator, such as ``max_terms``.

    Raises:
        InputError: The source is missing, empty or malformed.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; give at least 1.")
    path = Path(source).expanduser()
    if not path.exists():
        if path.suffix or "/" in source:
            raise InputError(f"there is no file {source}; give a JSONL or Parquet file or a reasoning-gym task name.")
        return _task_problems(source, limit or 100, seed, options or {})
    if options:
        raise InputError("task options apply to reasoning-gym tasks only; drop them or name a task instead of a file.")
    problems = [_problem(row, f"{source}, row {number}") for number, row in enumerate(_rows(path), 1)]
    if not problems:
        raise InputError(f"{source} is empty; give at least one row with a prompt.")
    return problems[:limit]


def generate(
    model: Any, prompts: Sequence[Sequence[int]], generation: Generation, seed: int
) -> list[tuple[list[int], bool]]:
    """Let the model write one response to each prompt, as one batch.

    Args:
        model: A bridge with a tokenizer.
        prompts: Token ids of each prompt.
        generation: Sampling settings. Settings stored with the model, such as top_p, are not used: the responses
            come from its plain distribution at this temperature.
        seed: Seed of the batch; global random state is left alone.

    Returns:
        For each prompt the token ids of its response, an end token included, and whether it came to that end.
    """
    import torch

    hf_model, tokenizer = model.original_model, model.tokenizer
    if tokenizer is None:
        raise InputError(f"{model.cfg.model_name} came without a tokenizer, so it cannot write responses; give them.")
    device = next(hf_model.parameters()).device
    longest = max(map(len, prompts))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    # Padding goes left, so that every response starts at the same place.
    ids = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    ends = _end_tokens(hf_model, tokenizer)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(seed)
        written = hf_model.generate(ids, attention_mask=mask, generation_config=_settings(generation, ends, pad))
    return [_until_end(row, ends) for row in written[:, longest:].tolist()]


def _settings(generation: Generation, ends: list[int], pad: int) -> Any:
    from transformers import GenerationConfig

    sampling = {"temperature": generation.temperature, "top_k": 0, "top_p": 1.0} if generation.temperature else {}
    return GenerationConfig(
        do_sample=generation.temperature > 0,
        max_new_tokens=generation.max_new_tokens,
        eos_token_id=ends,
        pad_token_id=pad,
        **sampling,
    )


def _end_tokens(hf_model: Any, tokenizer: Any) -> list[int]:
    """Return every token that ends a response: chat models often have several."""
    stored = hf_model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(stored if isinstance(stored, list) else [stored])}
    return sorted(ends - {None})


def _until_end(ids: list[int], ends: list[int]) -> tuple[list[int], bool]:
    for index, token in enumerate(ids):
        if token in ends:
            return ids[: index + 1], True
    return ids, False


def _rows(path: Path) -> Iterable[Any]:
    """Read a file's rows as dictionaries."""
    if path.is_dir():
        return _dataset_rows(path)
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.read_table(path).to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{path} is not a readable Parquet file; write it again.") from error
    if path.suffix not in (".jsonl", ".json"):
        raise InputError(f"{path} is neither JSONL nor Parquet; convert it to one of them.")
    return _json_rows(path)


def _dataset_rows(path: Path) -> Iterable[Any]:
    from datasets import Dataset, load_from_disk

    try:
        data = load_from_disk(str(path))
    except (FileNotFoundError, ValueError) as error:
        raise InputError(
            f"{path} is not a folder saved by Hugging Face datasets; save one with save_to_disk, or give a file."
        ) from error
    if not isinstance(data, Dataset):
        raise InputError(
            f"{path} holds several splits; give the folder of one, such as {path / str(next(iter(data)))}."
        )
    return data


def _json_rows(path: Path) -> Iterable[Any]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise InputError(f"{path}, line {number} is not valid JSON ({error.msg}); correct it.") from error
    return rows


def _problem(row: Any, where: str) -> Problem:
    if not isinstance(row, dict) or row.get("prompt") is None:
        raise InputError(f"{where} has no prompt; give every row a prompt.")
    texts = {name: row.get(name) for name in ("prompt", "response", "answer", "task")}
    for name, value in texts.items():
        if value is not None and not isinstance(value, str):
            raise InputError(f"{where}: {name} is not text; write it as a string.")
    if texts["response"] is not None and not texts["response"]:
        raise InputError(f"{where} has an empty response; fill it in, or leave the column out to generate one.")
    return Problem(**{**texts, "task": texts["task"] or "", "scorer": _exact_scorer(texts["answer"])})


def _exact_scorer(answer: str | None) -> Callable[[str], float] | None:
    """Score by exact match of what stands between answer tags."""
    from inversion.demo.tasks import score

    return None if answer is None else lambda response: score(answer, response)


def _task_problems(task: str, limit: int, seed: int, options: dict[str, Any]) -> list[Problem]:
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ModuleNotFoundError as error:
        raise InputError(
            f"there is no file {task}, and task names need reasoning-gym; install inversion[tasks]."
        ) from error
    from inversion.demo.tasks import extract_answer

    if task not in DATASETS:
        raise InputError(f"there is no file and no reasoning-gym task {task}; try {_nearest(task, DATASETS)}.")
    try:
        data = reasoning_gym.create_dataset(task, seed=seed, size=limit, **options)
    except (TypeError, AssertionError, ValueError) as error:
        raise InputError(f"task {task} does not take the options {options}: {error}; correct them.") from error

    def scorer(entry: dict[str, Any]) -> Callable[[str], float]:
        return lambda response: float(data.score_answer(extract_answer(response), entry))

    return [Problem(e["question"], None, e["answer"], task, scorer(e)) for e in data]


def _nearest(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    return ", ".join(get_close_matches(name, list(known), 3, 0) or ["chain_sum"])
