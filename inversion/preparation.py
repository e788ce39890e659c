"""Before anything is measured: prompts as the model sees them, token ids, and what cannot be measured left out."""

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from transformer_lens.model_bridge import TransformerBridge

from inversion.errors import InputError
from inversion.models import context_length, decode, retokenizes, token_ids, token_texts
from inversion.responses import Frame, Generation, Problem, Written, end_tokens
from inversion.responses.chat import question_of
from inversion.responses.server import Request, Server, ask
from inversion.responses.thinking import THINK_TAGS, check_tags, opens_thinking, token_parts
from inversion.scoring import KeptScore, kept_score

logger = logging.getLogger(__name__)

TooLong = Literal["skip", "cut", "refuse"]
NAMED = 3  # problems that a message names; a run's manifest names all

Encoded = tuple[list[int], list[int] | None]
"""Token ids of a prompt, and of its response where that is given."""


@dataclass(frozen=True)
class Preparation:
    """How problems become token ids.

    frame: What stands around each question.
    too_long: What becomes of a problem that cannot be measured, because prompt and response exceed the context or
        because the response is a single token: ``skip`` leaves it out, counts and names it; ``cut`` shortens a
        response to what fits, where anything does; ``refuse`` stops before anything is measured.
    think_tags: What opens and what closes a model's thinking.
    server: What writes missing responses; None lets the measured model do it.
    """

    frame: Frame = field(default_factory=Frame)
    too_long: TooLong = "skip"
    think_tags: tuple[str, str] = THINK_TAGS
    server: Server | None = None

    def __post_init__(self) -> None:
        check_tags(self.think_tags)
        if self.too_long not in ("skip", "cut", "refuse"):
            raise InputError(f"too_long is {self.too_long!r}; choose skip, cut or refuse.")

    def record(self) -> dict[str, Any]:
        """Return what a run's manifest says of it."""
        return {**self.frame.record(), "too_long": self.too_long, "think_tags": list(self.think_tags)}


@dataclass(frozen=True)
class Prepared:
    """Problems that can be measured.

    problems: Framed, with the text of prompts that came as token ids.
    encoded: Token ids of each, in the same order.
    skipped: What is left out: number of the problem, from 1, and the reason.
    server: What a run's manifest says of the server that wrote responses; None where none did.
    """

    problems: list[Problem]
    encoded: list[Encoded]
    skipped: list[dict[str, Any]]
    server: dict[str, Any] | None = None


def prepare(model: TransformerBridge, problems: Sequence[Problem], preparation: Preparation) -> Prepared:
    """Tokenize everything, so that bad input is found before any work is done.

    Raises:
        InputError: A problem cannot be used, or nothing is left to measure.
    """
    name = model.cfg.model_name or "the model"
    prepared = Prepared([], [], [])
    respelt = reopened = 0
    framed = preparation.frame.apply(problems, model.tokenizer, name)
    for number, (problem, given) in enumerate(zip(framed, problems, strict=True), 1):
        try:
            # Whose tokens are known, a prompt was written with its response.
            if given.prompt_token_ids is None and _reopens(model, problem, preparation.think_tags):
                problem = _opened_once(problem, preparation.think_tags)
                reopened += 1
            prompt, response = _ids(model, problem)
            response, problem, reason = _fit(model, problem, prompt, response, preparation.too_long == "cut")
        except InputError as error:
            raise InputError(f"problem {number}: {error}") from error
        if reason:
            if preparation.too_long == "refuse":
                raise InputError(f"problem {number}: {reason}; remove it, or pass --too-long skip.")
            prepared.skipped.append({"problem": number, "reason": reason})
            continue
        respelt += problem.response_token_ids is None and response is not None and _is_respelt(model, problem, response)
        if not problem.prompt:
            problem = replace(problem, prompt=decode(model.tokenizer, prompt) if model.tokenizer else "")
        prepared.problems.append(problem)
        prepared.encoded.append((prompt, response))
    _tell(prepared, len(problems), respelt, name)
    if reopened:
        logger.warning(
            "%d of %d responses begin with the %s that their prompt ends with; it is left out of them",
            reopened,
            len(problems),
            preparation.think_tags[0],
        )
    return prepared


def _reopens(model: TransformerBridge, problem: Problem, tags: tuple[str, str]) -> bool:
    """Whether a response opens the thinking once more that its prompt has opened."""
    if not problem.written or not opens_thinking(problem.prompt, tags):
        return False
    ids = problem.response_token_ids
    text = problem.response if ids is None else decode(model.tokenizer, ids) if model.tokenizer else ""
    return (text or "").lstrip().startswith(tags[0])


def _opened_once(problem: Problem, tags: tuple[str, str]) -> Problem:
    """Return a problem whose prompt alone opens the thinking."""
    if problem.response is None or problem.response_token_ids is not None:
        raise InputError(
            f"its prompt ends with {tags[0]} and its response_token_ids begin with it; leave it out of one of them, or "
            "give prompt_token_ids."
        )
    text = problem.response.lstrip().removeprefix(tags[0])
    # The line break behind the tag, too, stands in one of them only.
    return replace(problem, response=text.lstrip("\n") if problem.prompt.endswith("\n") else text)


def _ids(model: TransformerBridge, problem: Problem) -> tuple[list[int], list[int] | None]:
    # Without a response, a stand-in for the first token of the one to come.
    response = problem.response_token_ids or problem.response or [0]
    prompt, ids = token_ids(model, problem.prompt_token_ids or problem.prompt, response)
    return prompt, ids if problem.written else None


def _fit(
    model: TransformerBridge, problem: Problem, prompt: list[int], response: list[int] | None, cut: bool
) -> tuple[list[int] | None, Problem, str]:
    """Return the response, shortened if it may be, and the reason why it cannot be measured, empty where it can."""
    limit = context_length(model)
    if response is not None and len(response) < 2:
        return response, problem, "it has a response of one token, which cannot show a correlation"
    if limit is not None and len(prompt) + 1 > limit:
        return response, problem, f"the prompt has {len(prompt)} tokens and the context is {limit}"
    if response is not None and limit is not None and len(prompt) + len(response) > limit:
        room = limit - len(prompt)
        if not cut or room < 2:
            total = len(prompt) + len(response)
            return response, problem, f"prompt and response have {total} tokens and the context is {limit}"
        text = decode(model.tokenizer, response[:room]) if model.tokenizer else None
        scorer = problem.scorer
        if isinstance(scorer, KeptScore):
            scorer = kept_score(math.nan, "its score was that of the whole response; name a scorer to score it again")
        return response[:room], replace(problem, response=text, finished=False, scorer=scorer), ""
    return response, problem, ""


def _is_respelt(model: TransformerBridge, problem: Problem, response: list[int]) -> bool:
    """Whether a response's tokens spell another text than was given, as where a tokenizer rewrites white space."""
    return problem.response is not None and decode(model.tokenizer, response) != problem.response


def _tell(prepared: Prepared, count: int, respelt: int, name: str) -> None:
    skipped = prepared.skipped
    if not prepared.problems and count:
        raise InputError(f"nothing is left to measure: problem {skipped[0]['problem']}: {skipped[0]['reason']}.")
    if skipped:
        named = "; ".join(f"problem {entry['problem']}: {entry['reason']}" for entry in skipped[:NAMED])
        more = f"; and {len(skipped) - NAMED} more, all named in run.json" if len(skipped) > NAMED else ""
        logger.warning("%d of %d problems are left out: %s%s", len(skipped), count, named, more)
    if respelt:
        logger.warning(
            "%d of %d responses are text that the tokenizer of %s spells otherwise, so they are measured on other "
            "tokens than were written; give response_token_ids to measure those",
            respelt,
            len(prepared.problems),
            name,
        )


def have_written(
    server: Server,
    model: TransformerBridge,
    prepared: Prepared,
    generation: Generation,
    seed: int,
    keep: Path,
    measured: Mapping[str, Any],
    *,
    fresh: bool = False,
) -> Prepared:
    """Return the problems with the responses that a server writes to those without one.

    Args:
        server: Where.
        model: The model that will be measured on them; its tokenizer reads responses that come as text.
        prepared: Problems with and without responses.
        generation: Sampling settings.
        seed: With a problem's place the seed of its response.
        keep: File in which responses are kept as they arrive.
        measured: Fingerprint of the model.
        fresh: Have all of them written, whatever is kept.
    """
    missing = [number for number, (_, response) in enumerate(prepared.encoded) if response is None]
    if not missing:
        return prepared
    requests = [_request(model, prepared, number, generation, seed) for number in missing]
    problems, encoded, skipped = dict(enumerate(prepared.problems)), dict(enumerate(prepared.encoded)), []
    as_text = 0
    asked = ask(server, requests, generation, keep, measured, fresh=fresh)
    for number, reply in zip(missing, asked.replies, strict=True):
        if not reply.text and not reply.token_ids:
            skipped.append({"response": number, "reason": "the server wrote nothing"})
            del problems[number], encoded[number]
            continue
        text = None if reply.token_ids else reply.text
        as_text += text is not None
        problem = replace(problems[number], response=text, response_token_ids=reply.token_ids, finished=reply.finished)
        problems[number], encoded[number] = problem, _ids(model, problem)
    if not problems:
        raise InputError(f"{server.url} wrote nothing for any of {len(missing)} prompts; look at the server's own log.")
    if as_text:
        logger.warning(
            "%d of %d responses came without token ids, so they are tokenized again from their text and end tokens are "
            "not measured; a server that returns token ids, such as vLLM, avoids both",
            as_text,
            len(missing),
        )
    return Prepared(list(problems.values()), list(encoded.values()), prepared.skipped + skipped, asked.record())


def _request(model: TransformerBridge, prepared: Prepared, number: int, generation: Generation, seed: int) -> Request:
    ids, limit = prepared.encoded[number][0], context_length(model)
    room = generation.max_new_tokens if limit is None else min(generation.max_new_tokens, limit - len(ids))
    draw = np.random.SeedSequence([seed % 2**64, number]).generate_state(1)[0]
    # Servers keep a seed in 32 bits, some with a sign.
    return Request(
        tuple(ids), _text_read_as(model.tokenizer, prepared.problems[number].prompt, ids), room, int(draw >> 1)
    )


def _text_read_as(tokenizer: Any, prompt: str, ids: list[int]) -> str | None:
    """Return a text that the tokenizer, with the special tokens that it adds, reads as these ids; None without one."""
    if tokenizer is None:
        return None
    start = tokenizer.bos_token or ""
    for text in (prompt, prompt.removeprefix(start)):
        if list(tokenizer(text)["input_ids"]) == ids:
            return text
    return None


def response_parts(
    model: TransformerBridge, problem: Problem, response: Sequence[int], tags: tuple[str, str]
) -> list[str] | None:
    """Return whether each token of a whole response is ``think``, ``answer`` or ``tag``; None without a tokenizer."""
    if model.tokenizer is None:
        return None
    return token_parts(token_texts(model.tokenizer, response), tags, opens_thinking(problem.prompt, tags))


def response_row(
    model: TransformerBridge,
    number: int,
    problem: Problem,
    prompt: list[int],
    response: Written,
    tags: tuple[str, str] = THINK_TAGS,
    stop: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what a run says of one response: a row of :data:`inversion.runs.RESPONSE_SCHEMA`."""
    text = _text(model, response) if problem.response is None else problem.response
    finished = response.finished if problem.finished is None else problem.finished
    scored = _before_stop(model, text, response, stop)
    score = problem.score(scored, finished, tags)
    return {
        "response": number,
        "prompt_id": hashlib.sha256(question_of(problem).encode()).hexdigest()[:12],
        "task": problem.task,
        "prompt": problem.prompt,
        "question": problem.question,
        "text": text,
        "answer": problem.answer,
        "score": float(score),
        "score_reason": score.reason,
        "finished": finished,
        "ended": response.ended,
        "n_tokens": len(response.ids),
        "prompt_token_ids": prompt,
        "response_token_ids": response.ids,
        "retokenizes": None if problem.response is not None else _retokenizes(model, response),
        "error": None,
    }


def _text(model: TransformerBridge, response: Written) -> str:
    """Return a response's text; an end token belongs to the measurement, not to the text."""
    return "" if model.tokenizer is None else decode(model.tokenizer, _spelt(model, response))


def _before_stop(model: TransformerBridge, text: str, response: Written, stop: Sequence[str]) -> str:
    """Return a text without the stop text that ended it, which is measured but is no part of an answer."""
    places = [place for one in stop if (place := text.find(one)) >= 0]
    if not places:
        return text
    # One that was given, as by a server, ended there if its last token completes a stop text.
    before = decode(model.tokenizer, response.ids[:-1]) if response.ended == "given" and model.tokenizer else ""
    ended = response.ended == "stop" or (before and not any(one in before for one in stop))
    return text[: min(places)] if ended else text


def _retokenizes(model: TransformerBridge, response: Written) -> bool | None:
    return None if model.tokenizer is None else retokenizes(model, _spelt(model, response))


def _spelt(model: TransformerBridge, response: Written) -> list[int]:
    """Return the tokens that a response's text is made of."""
    ids = response.ids
    ended = response.ended == "end" or (response.ended == "given" and ids[-1:] and ids[-1] in end_tokens(model))
    return ids[:-1] if ended else ids
