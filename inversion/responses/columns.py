"""Which column of a data set is the prompt, which the response and which the answer."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from inversion.errors import InputError
from inversion.names import nearest

logger = logging.getLogger(__name__)

SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "problem", "query", "instruction", "messages", "conversations"),
    "response": ("response", "responses", "completion", "completions", "generation", "generations", "output"),
    "answer": ("answer", "gt", "gold", "ground_truth", "target", "final_answer", "expected_answer", "reference"),
    "task": ("task",),
    "finished": ("finished", "finish_reason"),
    # The second names are those of TRL's trainers, the third those of vLLM's and SGLang's servers.
    "prompt_token_ids": ("prompt_token_ids", "prompt_ids"),
    "response_token_ids": ("response_token_ids", "completion_ids", "token_ids", "output_ids"),
    "question": ("question",),
    "solution": (),
}
"""What a problem is made of -> the names that columns have for it, the most usual first; case does not matter."""

REASONING_TAG = "</think>"


def choose_columns(rows: Sequence[Mapping[str, Any]], wanted: Mapping[str, str], source: str) -> dict[str, str]:
    """Return which column, or columns joined by ``+``, each part of a problem is read from, and say so in one line.

    Args:
        rows: The rows of a source.
        wanted: What was asked for; an empty name reads that part from nowhere.
        source: Name for messages.

    Raises:
        InputError: A part or a column that was asked for does not exist, or there is no prompt.
    """
    there = list(dict.fromkeys(name for row in rows for name in row))
    for part, name in wanted.items():
        if part not in SYNONYMS:
            raise InputError(f"there is no part {part!r} of a problem; choose {nearest(part, SYNONYMS)}.")
        for column in name.split("+") if name else []:
            if column not in there:
                raise InputError(f"{source} has no column {column!r}; it has {', '.join(map(repr, there))}.")
    lower = {name.lower(): name for name in reversed(there)}
    chosen = dict(wanted)
    for part, names in SYNONYMS.items():
        found = [lower[name] for name in names if name in lower]
        if part not in chosen and found and found[0] not in chosen.values():
            chosen[part] = found[0]
    chosen = {part: column for part, column in chosen.items() if column}
    if "response" not in wanted and "response" not in chosen and _is_trace(rows, lower.get("solution")):
        chosen["response"] = lower["solution"]
    if not {"prompt", "prompt_token_ids"} & set(chosen):
        raise InputError(
            f"{source} has no prompt; give it a column of that name, or name yours with --columns prompt=NAME "
            f"(it has {', '.join(map(repr, there))})."
        )
    _announce(chosen, wanted, there, source)
    return chosen


def _is_trace(rows: Sequence[Mapping[str, Any]], column: str | None) -> bool:
    """Whether a column ``solution`` is what a model wrote: data sets use that name for worked answers as well."""
    return column is not None and any(REASONING_TAG in str(row.get(column)) for row in rows)


def _announce(chosen: Mapping[str, str], wanted: Mapping[str, str], there: Sequence[str], source: str) -> None:
    renamed = [f"{part} from {name!r}" for part, name in chosen.items() if part not in wanted and name != part]
    used = {column for name in chosen.values() for column in name.split("+")}
    unused = [name for name in there if name not in used]
    told = [", ".join(renamed)] if renamed else []
    told += ["not used: " + ", ".join(unused)] if unused else []
    if told:
        logger.warning("%s: %s", source, "; ".join(told))


def text_of(value: Any, where: str, numbers: bool = False) -> str | None:
    """Return a cell as text, with ``numbers`` also one that is a number; an empty or missing cell as None.

    Raises:
        InputError: It is something else, is not finite, or holds half a surrogate pair, which no tokenizer can read.
    """
    if value is None or value == "":
        return None
    if numbers and isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where} is {value}, which is no number; correct it or leave it out.")
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        return str(int(value)) if value == int(value) else repr(value)
    if not isinstance(value, str):
        raise InputError(f"{where} is not text; write it as a string.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where} holds half a surrogate pair, which is no character; correct it.") from error
    return value


def joined_text(row: Mapping[str, Any], columns: str, where: str, numbers: bool = False) -> str | None:
    """Return the text of a column, or of several named ``a+b``, joined by a space."""
    texts = [text_of(row.get(name), f"{where}: {name}", numbers) for name in columns.split("+")]
    return " ".join(text.strip() for text in texts if text) or None if len(texts) > 1 else texts[0]


def ids_of(value: Any, where: str) -> tuple[int, ...] | None:
    """Return a cell of token ids; a CSV file holds them as JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise InputError(f"{where} is not a list of token ids; write it as one.") from error
    if value is None:
        return None
    ids = list(value) if isinstance(value, Sequence) else None
    if ids is None or not all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in ids):
        raise InputError(f"{where} is not a list of token ids; write whole numbers from 0 up.")
    return tuple(ids)


def messages_of(value: Any, where: str) -> tuple[dict[str, str], ...] | None:
    """Return a cell that is a conversation as messages with ``role`` and ``content``; None if it is not a list."""
    if not isinstance(value, list):
        return None
    messages = []
    for message in value:
        # ShareGPT's names are read too: {"from": "human", "value": ...}.
        role = message.get("role") or message.get("from") if isinstance(message, dict) else None
        content = message.get("content", message.get("value")) if isinstance(message, dict) else None
        text = text_of(content, f"{where}, content of a message")
        if not isinstance(role, str) or text is None:
            raise InputError(f"{where} is not a list of messages; give each a role and a content of text.")
        messages.append({"role": {"human": "user", "gpt": "assistant"}.get(role, role), "content": text})
    if not messages:
        raise InputError(f"{where} is an empty list of messages; give at least one.")
    return tuple(messages)
