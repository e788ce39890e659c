import json

import pytest
import torch

import inversion
from inversion import InputError
from inversion.responses import Generation, generate, read_problems

ROWS = [
    {"prompt": "1 + 2 =", "response": "<answer>3</answer>", "answer": "3", "task": ""},
    {"prompt": "2 + 2 =", "response": "<answer>5</answer>", "answer": "4", "task": "sum"},
]


@pytest.fixture
def jsonl(tmp_path):
    def write(rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
        return str(path)

    return write


def test_rows_are_scored_between_answer_tags(jsonl):
    problems = read_problems(jsonl(ROWS))
    assert [p.task for p in problems] == ["", "sum"]
    assert [p.scorer(p.response) for p in problems] == [1.0, 0.0]
    assert len(read_problems(jsonl(ROWS), limit=1)) == 1


def test_a_task_is_generated_and_scored_by_its_library():
    pytest.importorskip("reasoning_gym", reason="the extra tasks is not installed")
    problems = read_problems("chain_sum", limit=5, seed=3, options={"min_terms": 2, "max_terms": 2})
    again = read_problems("chain_sum", limit=5, seed=3, options={"min_terms": 2, "max_terms": 2})
    assert [p.prompt for p in problems] == [p.prompt for p in again]
    for problem in problems:
        assert problem.prompt.count("+") + problem.prompt.count("-") >= 1
        assert problem.scorer(f"<think>hm</think><answer>{problem.answer}</answer>") == 1.0
        assert problem.scorer("<answer>no</answer>") < 1.0
        assert problem.scorer(f"<think><answer>{problem.answer}</answer>") < 1.0


def test_an_answer_on_which_a_task_fails_or_hangs_is_wrong(monkeypatch):
    pytest.importorskip("reasoning_gym", reason="the extra tasks is not installed")
    (problem,) = read_problems("prime_factorization", limit=1)
    score = problem.scorer("<answer>2 × 3 = 6</answer>")
    assert (score, score.reason) == (0, "its task's own rules fail on its answer (ValueError)")
    (problem,) = read_problems("countdown", limit=1)
    assert problem.scorer(f"<answer>{problem.answer}</answer>") == 1
    monkeypatch.setattr("inversion.scoring.SECONDS", 2.0)
    score = problem.scorer("<answer>9**9**9**9</answer>")
    assert score == 0
    assert "took more than 2 s" in score.reason or "fail" in score.reason  # where a power is refused
    monkeypatch.undo()
    assert problem.scorer(f"<answer>{problem.answer}</answer>") == 1


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([], "is empty"),
        ([{"text": "a"}], "has no prompt"),
        ([ROWS[0], ["a"]], "row 2 has no prompt"),
        ([{"prompt": 3}], "not text"),
        ([{"prompt": "a", "response": ""}], "empty response"),
        (['{"prompt": "a"', "x"], "line 1 is not valid JSON"),
    ],
)
def test_bad_rows_are_one_sentence(jsonl, rows, match):
    with pytest.raises(InputError, match=match):
        read_problems(jsonl(rows))


@pytest.mark.parametrize(
    ("source", "options", "match"),
    [
        ("missing.jsonl", {}, "no file missing.jsonl"),
        ("chain_sun", {}, "try chain_sum"),
        ("chain_sum", {"limit": 0}, "at least 1"),
        ("chain_sum", {"options": {"terms": 3}}, "does not take the options"),
    ],
)
def test_bad_sources_are_one_sentence(source, options, match):
    pytest.importorskip("reasoning_gym", reason="the extra tasks is not installed")
    with pytest.raises(InputError, match=match):
        read_problems(source, **options)


def test_sampling_follows_the_seed_and_leaves_the_random_state(checkpoint):
    bridge = inversion.load_model(checkpoint())
    state = torch.random.get_rng_state()
    first, again, other = (generate(bridge, [[5, 6]], Generation(1.0, 12), seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first == again
    assert first != other
