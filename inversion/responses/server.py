"""Responses written by an OpenAI-compatible server: vLLM, SGLang, ``transformers serve``.

Every response is kept in a file as soon as it arrives, so that what was interrupted goes on where it stopped.
"""

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from inversion.errors import InputError
from inversion.progress import bar
from inversion.responses.columns import ids_of
from inversion.responses.generation import Generation

logger = logging.getLogger(__name__)

TAKES_IDS = ("vllm", "sglang")
"""Servers, as their list of models names them, that take prompts as token ids and settings beyond OpenAI's."""
OVERRULING = ("top_k", "min_p", "repetition_penalty", "repeat_penalty", "generation_config")
"""Fields beyond OpenAI's that keep other servers from sampling by settings of their own, where they know them.

The last is that of transformers, which then uses nothing of what is stored with the model.
"""
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""HTTP states that a second try may mend."""
LONGEST_PAUSE = 30.0  # seconds between two tries


@dataclass(frozen=True)
class Server:
    """A server and how it is asked.

    url: Its address, with or without ``/v1``. A key, where it wants one, is read from ``OPENAI_API_KEY``.
    model: Name of the model there; None takes the only one it lists.
    concurrency: Requests under way at the same time.
    timeout: Seconds that one response may take.
    retries: Tries after the first, with growing pauses.
    """

    url: str
    model: str | None = None
    concurrency: int = 16
    timeout: float = 600.0
    retries: int = 5

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise InputError(f"the server's address {self.url!r} must begin with http:// or https://.")
        for name in ("concurrency", "timeout"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} of the server is {getattr(self, name)}; give more than 0.")
        if self.retries < 0:
            raise InputError(f"retries of the server is {self.retries}; give 0 or more.")

    @property
    def base(self) -> str:
        """The address that paths are added to."""
        return self.url.rstrip("/").removesuffix("/v1") + "/v1"


@dataclass(frozen=True)
class Request:
    """One response to be written.

    prompt_ids: Token ids of the prompt.
    text: A text that the tokenizer reads as these ids, special tokens added by it included; None where there is none.
    max_tokens: Tokens that the response may have.
    seed: Seed of its sampling.
    """

    prompt_ids: tuple[int, ...]
    text: str | None
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class Reply:
    """What a server wrote.

    text: The response.
    token_ids: Its tokens, its end token included; None where the server gives none.
    finished: Whether it came to an end by itself.
    """

    text: str
    token_ids: tuple[int, ...] | None
    finished: bool


@dataclass(frozen=True)
class Asked:
    """What a server was asked for and wrote.

    model: Name of the model that wrote it, as the server lists it.
    replies: What it wrote, in the order of the requests.
    refused: Fields of ``OVERRULING`` that the server refused, so that settings of its own may have applied.
    unconfirmed: Those that it was sent, and may have ignored for all that it shows.
    """

    model: str
    replies: list[Reply]
    refused: list[str]
    unconfirmed: list[str]

    def record(self) -> dict[str, Any]:
        """Return what a run's manifest says of it; not its address, so that a run may go on with it elsewhere."""
        fields = {"refused": self.refused, "unconfirmed": self.unconfirmed}
        return {"model": self.model, **{name: value for name, value in fields.items() if value}}


class _Gone(InputError):
    """A server that does not answer."""


def ask(
    server: Server,
    requests: Sequence[Request],
    generation: Generation,
    keep: Path,
    measured: Mapping[str, Any],
    *,
    fresh: bool = False,
) -> Asked:
    """Have every response written; those that ``keep`` holds are not asked for again.

    Args:
        server: Where.
        requests: What for.
        generation: Sampling settings, sent with every request. Settings stored with the model are overruled where the
            server has a way to.
        keep: JSON Lines file of what has arrived. It can be given to ``inversion probe --prompts`` as well.
        measured: What tells the model that will be measured from others: a served model may have any name.
        fresh: Drop what ``keep`` holds, as soon as the server has answered.

    Raises:
        InputError: The server cannot be reached, refuses a request, or reads a prompt as other tokens; or ``keep`` is
            damaged.
    """
    import httpx

    kept = {} if fresh else _read_kept(keep)
    api_key = os.environ.get("OPENAI_API_KEY")
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    limits = httpx.Limits(max_connections=server.concurrency)
    with httpx.Client(timeout=server.timeout, headers=headers, limits=limits) as client:
        asker = _Asker(server, generation, client, keep)
        if fresh:
            asker.require()
            keep.unlink(missing_ok=True)
        model = asker.find_model(kept)
        keys = [_key(model, request, generation, measured) for request in requests]
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in kept}
        if len(missing) < len(requests):
            there = len(requests) - len(missing)
            logger.warning("%d of %d responses are kept in %s from before", there, len(requests), keep)
        if missing:
            kept |= asker.ask(missing)
    rows = [kept[key] for key in keys]
    asked = Asked(model, [_reply(row) for row in rows], *_overruled([row["settings"] for row in rows]))
    if asked.refused or asked.unconfirmed:
        parts = {"it refused": asked.refused, "and may have ignored": asked.unconfirmed}
        logger.warning(
            "%s may have sampled by settings of its own, such as a top-k: %s; run.json says so, and vLLM and SGLang "
            "do as they are told",
            server.url,
            " ".join(f"{what} {', '.join(fields)}" for what, fields in parts.items() if fields).removeprefix("and "),
        )
    return asked


def _overruled(settings: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Return which fields of ``OVERRULING`` a server refused and which it may have ignored, from what it was sent."""
    others = [sent for sent in settings if "return_token_ids" not in sent]  # to servers that are not known to obey
    refused = [name for name in OVERRULING if any(name not in sent for sent in others)]
    # Who refuses what it does not know, and takes transformers' configuration, samples by that alone.
    obeys = not others or (refused and OVERRULING[-1] not in refused)
    return ([], []) if obeys else (refused, [name for name in OVERRULING if name not in refused])


class _Asker:
    def __init__(self, server: Server, generation: Generation, client: Any, keep: Path) -> None:
        self.server, self.generation, self.client, self.keep = server, generation, client, keep
        self.writing = threading.Lock()
        self.model = server.model or ""
        self.refused: set[str] = set()

    def require(self) -> None:
        """Raise InputError unless the server answers."""
        _ = self.listed

    def find_model(self, kept: Mapping[str, Mapping[str, Any]]) -> str:
        """Return the name of the model there; of a server that is gone, the one that wrote what is kept."""
        if not self.model:
            names = {row["settings"]["model"] for row in kept.values()}
            try:
                self.model = self._only(self.listed)
            except _Gone as error:
                if len(names) != 1:
                    raise
                self.model = names.pop()
                logger.warning("%s; going by what %s wrote before", str(error).partition(";")[0], self.model)
        return self.model

    @cached_property
    def takes_ids(self) -> bool:
        """Whether the server takes token ids."""
        return any(entry.get("owned_by") in TAKES_IDS for entry in self.listed)

    def ask(self, missing: dict[str, Request]) -> dict[str, dict[str, Any]]:
        """Ask for all, several at a time, and keep each reply as it comes."""
        self.require()
        found: dict[str, dict[str, Any]] = {}
        with ThreadPoolExecutor(self.server.concurrency) as pool:
            futures = {pool.submit(self._one, key, request): key for key, request in missing.items()}
            try:
                for future in bar(as_completed(futures), desc="server", total=len(futures), unit="response"):
                    found[futures[future]] = future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return found

    def _one(self, key: str, request: Request) -> dict[str, Any]:
        body, answer = self._answer(request)
        row = self._row(key, request, body, answer)
        with self.writing:
            self.keep.parent.mkdir(parents=True, exist_ok=True)
            with self.keep.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        return row

    def _answer(self, request: Request) -> tuple[dict[str, Any], dict[str, Any]]:
        fields = [] if self.takes_ids else [name for name in OVERRULING if name not in self.refused]
        while True:
            body = self._body(request, fields)
            response = self._try("post", "/completions", body)
            if response.status_code not in (400, 422) or not fields:
                return body, self._json(response)
            # The one that it names, else the one that fewest servers know.
            refused = [name for name in fields if name in response.text][-1:] or fields[-1:]
            fields = [name for name in fields if name not in refused]
            self.refused.update(refused)

    def _body(self, request: Request, fields: Sequence[str]) -> dict[str, Any]:
        settings = self.generation
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": request.max_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "seed": request.seed,
        }
        if settings.stop:
            body["stop"] = list(settings.stop)
        if self.takes_ids:
            # vLLM names no top-k 0 or -1, depending on its version; leaving all else at its neutral value overrules
            # the generation_config.json that it would apply.
            body |= {"top_k": settings.top_k or -1, "min_p": 0.0, "repetition_penalty": 1.0}
            body |= {"prompt": list(request.prompt_ids), "return_token_ids": True, "skip_special_tokens": False}
            if settings.stop:
                body["include_stop_str_in_output"] = True
            return body
        if request.text is None:
            raise InputError(
                f"{self.server.url} takes prompts as text only, and no text gives a prompt's tokens; use a server that "
                "takes token ids, such as vLLM."
            )
        if settings.top_k and not {"top_k", "generation_config"} & set(fields):
            raise InputError(f"{self.server.url} does not take top_k; leave it out.")
        sampling = {"do_sample": settings.temperature > 0, "top_k": settings.top_k, "top_p": settings.top_p}
        neutral = {
            "top_k": settings.top_k or -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "repeat_penalty": 1.0,
            "generation_config": json.dumps({**sampling, "max_new_tokens": request.max_tokens}),
        }
        return body | {name: neutral[name] for name in fields} | {"prompt": request.text}

    def _row(self, key: str, request: Request, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        try:
            choice = answer["choices"][0]
            text, reason = choice["text"], choice.get("finish_reason")
        except (KeyError, IndexError, TypeError) as error:
            raise InputError(f"{self.server.url} does not answer as an OpenAI-compatible server would.") from error
        read = choice.get("prompt_token_ids") or answer.get("prompt_token_ids")
        count = len(read) if read else (answer.get("usage") or {}).get("prompt_tokens")
        if (read and tuple(read) != request.prompt_ids) or count not in (None, len(request.prompt_ids)):
            raise InputError(
                f"{self.server.url} reads a prompt of {len(request.prompt_ids)} tokens as {count} others; it serves "
                "another model, or adds tokens of its own."
            )
        return {
            "key": key,
            "prompt_token_ids": list(request.prompt_ids),
            "response": text,
            "response_token_ids": choice.get("token_ids") or None,
            "finish_reason": reason,
            "settings": {name: value for name, value in body.items() if name != "prompt"},
        }

    @cached_property
    def listed(self) -> list[dict[str, Any]]:
        """The models that the server lists; where ours is named, it need not be able to."""
        response = self._try("get", "/models", passing=frozenset() if self.server.model else PASSING)
        if self.server.model and response.status_code >= 400:
            return []
        found = self._json(response)
        return [entry for entry in found.get("data", []) if isinstance(entry, dict)]

    def _only(self, listed: list[dict[str, Any]]) -> str:
        names = [str(entry.get("id")) for entry in listed]
        if len(names) != 1:
            some = f"lists {len(names)} models ({', '.join(names[:5])})" if names else "lists no model"
            raise InputError(f"{self.server.url} {some}; name the one to ask with --server-model.")
        return names[0]

    def _try(self, how: str, path: str, body: dict[str, Any] | None = None, passing: frozenset[int] = PASSING) -> Any:
        """Send a request until it succeeds, or fails in a way that another try cannot mend."""
        import httpx

        failure = ""
        for number in range(self.server.retries + 1):
            if number:
                time.sleep(min(2.0 ** (number - 1), LONGEST_PAUSE))
            try:
                response = self.client.request(how, self.server.base + path, json=body)
            except httpx.TransportError as error:
                failure = f"{type(error).__name__} {error}".strip()
                continue
            if response.status_code not in passing:
                return response
            failure = f"state {response.status_code}"
        raise _Gone(
            f"{self.server.url} did not answer in {self.server.retries + 1} tries ({failure}); what it wrote so far is "
            "kept, so the same command goes on once it does."
        )

    def _json(self, response: Any) -> dict[str, Any]:
        if response.status_code >= 400:
            raise InputError(f"{self.server.url} refuses a request ({response.status_code}): {response.text[:300]}")
        try:
            return response.json()
        except ValueError as error:
            raise InputError(f"{self.server.url} does not answer as an OpenAI-compatible server would.") from error


def _key(model: str, request: Request, generation: Generation, measured: Mapping[str, Any]) -> str:
    """Return what names a request: both models, the prompt, the sampling settings and the seed."""
    parts = [model, dict(measured), request.prompt_ids, request.max_tokens, request.seed]
    settings = [generation.temperature, generation.top_p, generation.top_k, generation.stop]
    return hashlib.sha256(json.dumps([parts, settings]).encode()).hexdigest()[:24]


def _read_kept(keep: Path) -> dict[str, dict[str, Any]]:
    """Return what has arrived, by key; a line that was cut off by a kill is taken out of the file.

    Raises:
        InputError: Another line is damaged.
    """
    if not keep.is_file():
        return {}
    content = keep.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        keep.write_bytes(whole)
    rows = {}
    for number, line in enumerate(whole.split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
            texts = [row["key"], row["response"], row["settings"]["model"]]
            ids_of(row["response_token_ids"], "response_token_ids")
            if not all(isinstance(text, str) for text in texts):
                raise TypeError(f"{texts} are not all texts")
            rows[row["key"]] = {"finish_reason": None, **row}
        except (ValueError, KeyError, TypeError) as error:  # an InputError is a ValueError
            raise InputError(
                f"{keep}, line {number} is damaged; remove it, and what it held is asked for again."
            ) from error
    return rows


def _reply(row: dict[str, Any]) -> Reply:
    ids = row["response_token_ids"]
    return Reply(row["response"], tuple(ids) if ids else None, row["finish_reason"] == "stop")
