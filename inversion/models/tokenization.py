"""Text to token ids and back, in one place for measuring and for training."""

from collections.abc import Sequence
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from inversion.errors import InputError
from inversion.models.context import context_length

Text = str | Sequence[int]
BROKEN = "\N{REPLACEMENT CHARACTER}"
LONGEST_CHARACTER = 4
"""Bytes, and so at most tokens, that UTF-8 spends on one character."""


def prompt_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of a prompt as the tokenizer gives them, with its special tokens, but those only once.

    A text that already opens with the special tokens that the tokenizer would put before it, as chat templates write
    it, does not get them again.
    """
    ids, own = tokenizer(text)["input_ids"], response_ids(tokenizer, text)
    before = next((n for n in range(len(ids) - len(own) + 1) if ids[n : n + len(own)] == own), 0)
    return ids[before:] if own[:before] == ids[:before] else ids


def response_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of a text with no special tokens added."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def encode(model: TransformerBridge, prompt: Text, response: Text) -> tuple[list[int], list[int]]:
    """Return the token ids of prompt and response, checked against the model's vocabulary and context.

    Args:
        model: A bridge; texts need its tokenizer.
        prompt: Text, read by :func:`prompt_ids`, or token ids, taken as they are.
        response: Text, read by :func:`response_ids`, or token ids.

    Raises:
        InputError: Either is empty, an id is outside the embedding, or both together exceed the context.
    """
    prompt_tokens, response_tokens = token_ids(model, prompt, response)
    total, limit = len(prompt_tokens) + len(response_tokens), context_length(model)
    if limit is not None and total > limit:
        raise InputError(
            f"prompt and response have {total} tokens but the context of {model.cfg.model_name} is {limit}; "
            "shorten them."
        )
    return prompt_tokens, response_tokens


def token_ids(model: TransformerBridge, prompt: Text, response: Text) -> tuple[list[int], list[int]]:
    """Return the token ids of prompt and response as :func:`encode` does, of any length."""
    prompt_tokens = _ids(model, prompt, "prompt", prompt_ids)
    response_tokens = _ids(model, response, "response", response_ids)
    if not prompt_tokens:
        raise InputError("the prompt is empty; give at least one token, for instance the model's start token.")
    if not response_tokens:
        raise InputError("the response is empty; give at least one response token to measure.")
    return prompt_tokens, response_tokens


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of ids, special tokens included and nothing tidied."""
    return tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Return what each token adds to the text of all of them, so that together they are ``decode``'s text.

    A token is decoded behind those before it, since many tokenizers drop the space that opens a text. Where several
    tokens make one character, it belongs to the last of them and the others are empty.
    """
    texts = [""] * len(ids)
    shown = ready = 0  # Tokens from `shown` to `ready` are known text, the context of those that follow.
    for last in range(len(ids)):
        known, grown = decode(tokenizer, ids[shown:ready]), decode(tokenizer, ids[shown : last + 1])
        waiting = last + 1 - ready
        if grown.endswith(BROKEN) and waiting < LONGEST_CHARACTER and last + 1 < len(ids):
            continue
        texts[last] = grown[len(known) :]
        shown, ready = ready, last + 1
    return texts


def retokenizes(model: TransformerBridge, ids: Sequence[int]) -> bool:
    """Whether the text of a response's ids is tokenized as these very ids again.

    Where it is not, a response that was stored as text is measured on other tokens than were sampled.
    """
    return response_ids(model.tokenizer, decode(model.tokenizer, ids)) == list(ids)


def _ids(model: TransformerBridge, text: Text, what: str, read: Any) -> list[int]:
    if isinstance(text, str):
        if model.tokenizer is None:
            raise InputError(
                f"{model.cfg.model_name} came without a tokenizer; pass the {what} as token ids, or a tokenizer to "
                "load_model."
            )
        text = read(model.tokenizer, text)
    ids = [int(token) for token in text]
    size = model.original_model.get_input_embeddings().num_embeddings  # pyright: ignore
    if any(not 0 <= token < size for token in ids):
        raise InputError(
            f"the {what} has token ids outside 0..{size - 1}, which the model's embedding lacks; use this model's own "
            "tokenizer, or resize the embedding to it."
        )
    return ids
