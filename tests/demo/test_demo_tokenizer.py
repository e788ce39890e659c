"""The tokenizer: lossless on any text, single tokens where they are promised."""

import itertools
import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from inversion.demo import MODELS
from inversion.demo.tasks import CONNECTORS, TASKS, problem_stream, response_for
from inversion.demo.tokenizer import EOS_ID, INSTRUCTIONS, PAD_ID, TAGS, build_tokenizer

TOKENIZER = build_tokenizer()


# No deadline: a busy machine is not a wrong answer.
@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_any_text_survives(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@settings(deadline=None)
@given(st.lists(st.sampled_from([*TAGS, *CONNECTORS, *INSTRUCTIONS, "So ", "\n", " ", "12", "é", " leaving"])))
def test_phrases_survive_in_any_order(parts):
    text = "".join(parts)
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@pytest.mark.parametrize("task", TASKS)
def test_task_texts_survive_and_prompts_are_short(task):
    pytest.importorskip("reasoning_gym")
    rng = random.Random(0)
    for problem in itertools.islice(problem_stream(task, "train", 0), 100):
        text = problem.prompt + response_for(problem, "chain", rng)
        assert TOKENIZER.decode(TOKENIZER.encode(text)) == text
        # The instruction sentence is one token, so what is left is the problem itself.
        assert len(TOKENIZER.encode(problem.prompt)) <= 32
        # A prompt and its response tokenise apart as they do together: the model sees what it was trained on.
        response = text.removeprefix(problem.prompt)
        assert TOKENIZER.encode(problem.prompt) + TOKENIZER.encode(response) == TOKENIZER.encode(text)


def test_digits_and_letters_are_single_tokens():
    text = string.digits + string.ascii_letters
    assert TOKENIZER.convert_ids_to_tokens(TOKENIZER.encode(text)) == list(text)
    # Connecting words are tokens only as the opening of a line, never inside a word that is to be spelled.
    assert len(TOKENIZER.encode("soThennextNow")) == len("soThennextNow")


def test_special_tokens():
    assert (TOKENIZER.pad_token_id, TOKENIZER.eos_token_id, TOKENIZER.bos_token_id) == (PAD_ID, EOS_ID, None)
    assert TOKENIZER.encode("7") == [TOKENIZER.convert_tokens_to_ids("7")]
    ids = [*TOKENIZER.encode("<think>1</think><answer>2</answer>"), EOS_ID, PAD_ID]
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == "<think>1</think><answer>2</answer>"


@pytest.mark.parametrize("name", MODELS)
def test_shipped_files_are_this_tokenizer(name):
    shipped = AutoTokenizer.from_pretrained(MODELS[name])
    assert shipped.get_vocab() == TOKENIZER.get_vocab()
    assert (shipped.pad_token_id, shipped.eos_token_id, shipped.padding_side) == (PAD_ID, EOS_ID, "left")
    text = f"{INSTRUCTIONS[0]} 4 - 17 =<think>\nSo 4 - 17 is -13</think>☃"
    assert shipped.encode(text) == TOKENIZER.encode(text)
    assert shipped.decode(shipped.encode(text)) == text
