"""Which tokens are thinking, against an independent reading of the text character by character."""

import random
import re

import pytest

import inversion
from inversion import InputError
from inversion.measure import measure_run
from inversion.preparation import Preparation
from inversion.responses import Problem
from inversion.responses.thinking import check_tags, opens_thinking, token_parts
from inversion.scoring import scorer_for

TAGS = ("<think>", "</think>")


def dumb(pieces, tags, opened):
    """Label every character by splitting the text at tags, then read each token off its characters."""
    text = "".join(pieces)
    chunks = re.split(f"({re.escape(tags[0])}|{re.escape(tags[1])})", text)
    found = [chunk for chunk in chunks if chunk in tags]
    state = "think" if opened or found[:1] == [tags[1]] else "answer"
    labels = []
    for chunk in chunks:
        if chunk in tags:
            labels += ["tag"] * len(chunk)
            state = "think" if chunk == tags[0] else "answer"
        else:
            labels += [state] * len(chunk)
    at, parts = 0, []
    for piece in pieces:
        own = set(labels[at : at + len(piece)])
        parts.append("tag" if "tag" in own else own.pop())
        at += len(piece)
    return parts


@pytest.mark.parametrize("seed", range(30))
def test_parts_agree_with_labels_of_characters(seed):
    draw = random.Random(seed)
    text = "".join(draw.choice(["a ", "b\n", "<", "think", *TAGS]) for _ in range(draw.randint(1, 12)))
    pieces = []
    while text:
        size = draw.randint(1, 5)
        pieces.append(text[:size])
        text = text[size:]
    for opened in (False, True):
        assert token_parts(pieces, TAGS, opened) == dumb(pieces, TAGS, opened)


@pytest.mark.parametrize(
    ("pieces", "opened", "parts"),
    [
        (["so", " 4"], False, ["answer", "answer"]),
        (["so", " 4"], True, ["think", "think"]),  # opened by the prompt and cut before its end
        (["so", "</think>", " 4"], False, ["think", "tag", "answer"]),
        (["<think>", "so"], False, ["tag", "think"]),
        (
            ["<th", "ink>", "so", "</", "", "think>", "4", ""],
            True,
            ["tag", "tag", "think", *["tag"] * 3, "answer", "answer"],
        ),
        ([], True, []),
    ],
)
def test_parts_of_short_responses(pieces, opened, parts):
    assert token_parts(pieces, TAGS, opened) == parts


def test_only_a_tag_at_its_end_makes_a_prompt_open_thinking():
    assert opens_thinking("<|Assistant|><think>\n")
    assert not opens_thinking("Think between <think> and </think>. 2 + 2?")
    assert not opens_thinking("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert opens_thinking("<|start|><seed:think>", ("<seed:think>", "</seed:think>"))


@pytest.mark.parametrize("tags", [("<think>",), ("", "x"), ("x", "x"), ("<a>", 3)])
def test_tags_are_two_texts(tags):
    with pytest.raises(InputError, match="two different texts"):
        check_tags(tags)


@pytest.mark.parametrize("tags", [("<think>", "</think>"), ("<seed:think>", "</seed:think>")])
def test_a_response_that_was_cut_while_thinking_is_wrong_in_its_run(checkpoint, tmp_path, tags):
    opened = {"answer": "72", "scorer": scorer_for("number", "72"), "finished": False}
    problems = [
        Problem(f"48 + 24?{tags[0]}\n", "so 72", **opened),
        Problem("48 + 24?", f"{tags[0]}so 72", **opened),
        Problem(f"48 + 24?{tags[0]}", f"so{tags[1]}72", **opened),
    ]
    folder = measure_run(
        inversion.load_model(checkpoint()), problems, tmp_path / "run", preparation=Preparation(think_tags=tags)
    )
    rows = inversion.load_responses(folder)
    assert rows.score.tolist() == [0, 0, 1]
    assert rows.score_reason.tolist() == ["cut before it gave an answer"] * 2 + [""]
