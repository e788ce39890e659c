"""Which column is read as what, and that it is said."""

import json
import logging
from pathlib import Path

import pytest

from inversion import InputError
from inversion.responses import read_problems, require_texts

# Beside the clone, or further up where the clone is a worktree.
DATA = next((p for parent in Path(__file__).parents if (p := parent / "shared" / "data").is_dir()), Path("shared/data"))


@pytest.fixture
def jsonl(tmp_path):
    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return str(path)

    return write


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING, "inversion")
    return lambda: [record.getMessage() for record in caplog.records]


def test_usual_names_are_found_and_announced_in_one_line(jsonl, said):
    (problem,) = read_problems(jsonl({"Problem": "p", "gt": 3, "level": 5, "completion": "c"}))
    assert (problem.prompt, problem.answer, problem.response) == ("p", "3", "c")
    (line,) = said()
    assert "prompt from 'Problem'" in line
    assert "answer from 'gt'" in line
    assert "not used: level" in line


def test_columns_can_be_named_joined_and_switched_off(jsonl, said):
    source = jsonl({"body": "Two apples.", "q": "How many?", "n": 2.0, "response": "none"})
    (problem,) = read_problems(source, columns={"prompt": "body+q", "answer": "n", "response": ""})
    assert (problem.prompt, problem.answer, problem.response) == ("Two apples. How many?", "2", None)
    assert said() == [f"{source}: not used: response"]


def test_our_own_names_need_no_announcement(jsonl, said):
    read_problems(jsonl({"prompt": "p", "response": "r", "answer": "a", "task": "t"}))
    assert said() == []


def test_a_solution_is_a_response_where_it_is_a_reasoning_trace_and_is_said_to_be_unused_elsewhere(jsonl, said):
    (trace,) = read_problems(jsonl({"prompt": "p\n<think>\n", "solution": "hm </think> 4"}))
    assert trace.response == "hm </think> 4"
    (worked,) = read_problems(jsonl({"prompt": "p", "solution": "two and two is 4"}))
    assert worked.response is None
    assert "response from 'solution'" in said()[0]
    assert "not used: solution" in said()[1]


@pytest.mark.parametrize(
    ("value", "text"), [(3, "3"), (51.0, "51"), (0.5, "0.5"), ("007", "007"), (None, None), ("", None)]
)
def test_answers_may_be_numbers(jsonl, value, text):
    assert read_problems(jsonl({"prompt": "p", "answer": value}))[0].answer == text


def test_a_list_of_responses_and_samples_of_one_prompt(jsonl):
    given = jsonl({"prompt": "p", "response": ["a", "b", "c"]}, {"prompt": "q", "response": ["d", "e", "f"]})
    assert [p.response for p in read_problems(given)] == list("abcdef")
    assert [p.response for p in read_problems(given, samples=2)] == list("abde")
    assert [p.response for p in read_problems(given, limit=1)] == list("abc")
    with pytest.raises(InputError, match="fewer than the 4 samples"):
        read_problems(given, samples=4)
    assert [p.prompt for p in read_problems(jsonl({"prompt": "p"}, {"prompt": "q"}), samples=2)] == list("ppqq")


def test_conversations_are_prompts_and_may_hold_the_response(jsonl):
    user, model = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}
    (asked,) = read_problems(jsonl({"messages": [user]}))
    assert asked.messages == (user,)
    assert asked.response is None
    (told,) = read_problems(jsonl({"messages": [user, model]}))
    assert (told.messages, told.response) == ((user,), "4")
    (shared,) = read_problems(
        jsonl({"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]})
    )
    assert (shared.messages, shared.response) == ((user,), "4")
    (trl,) = read_problems(jsonl({"prompt": [user], "completion": [model]}))
    assert (trl.messages, trl.response) == ((user,), "4")


def test_token_ids_are_taken_as_they_are(jsonl):
    (vllm,) = read_problems(jsonl({"prompt_token_ids": [1, 2], "token_ids": [3, 4], "finish_reason": "length"}))
    assert (vllm.prompt_token_ids, vllm.response_token_ids, vllm.finished) == ((1, 2), (3, 4), False)
    two = read_problems(jsonl({"prompt": "p", "prompt_ids": [1], "completion_ids": [[2], [3, 4]]}))
    assert [p.response_token_ids for p in two] == [(2,), (3, 4)]


@pytest.mark.parametrize(
    ("row", "more", "match"),
    [
        ({"text": "a"}, {}, "has no prompt; give it a column of that name, .*--columns prompt=NAME"),
        ({"prompt": None, "task": "t"}, {}, "row 1 has no prompt"),
        ({"prompt": True}, {}, "not text"),
        ({"prompt": "p", "response": ["a", {}]}, {}, "not text"),
        ({"prompt": "p", "response": ""}, {}, "empty response"),
        ({"prompt": "p", "response": []}, {}, "empty response"),
        ({"prompt": [{"role": "user"}]}, {}, "not a list of messages"),
        ({"prompt": []}, {}, "empty list of messages"),
        ({"prompt": "p"}, {"columns": {"promt": "x"}}, "no part 'promt' of a problem; choose prompt"),
        ({"prompt": "p"}, {"columns": {"answer": "x"}}, "no column 'x'; it has 'prompt'"),
        ({"prompt": "p"}, {"samples": 0}, "samples is 0"),
        ({"prompt": "p"}, {"scorer": "mathh"}, "no scorer 'mathh'"),
        ({"prompt": "p"}, {"benchmark": "gsm"}, "no benchmark 'gsm'; choose among gsm8k"),
        ({"prompt": "p", "completion_ids": [1.5]}, {}, "not a list of token ids"),
        ({"prompt": "p", "response": "r", "finish_reason": "tool"}, {}, "finish reason 'tool'"),
        ({"prompt": "p"}, {"subset": "main"}, "single file"),
    ],
)
def test_bad_rows_are_one_sentence(jsonl, row, more, match):
    with pytest.raises(InputError, match=match) as caught:
        read_problems(jsonl(row), **more)
    assert "\n" not in str(caught.value)


REAL = [
    # file, how it is read, number of problems, answer and beginning of the response of the first
    ("gsm8k-test-200.jsonl", {"benchmark": "gsm8k"}, 200, "18", None),
    ("gsm8k-train-3000.jsonl", {"benchmark": "gsm8k"}, 3000, "72", None),
    (
        "gsm8k-injected-errors-200.jsonl",
        {"columns": {"response": "search"}, "scorer": "number"},
        200,
        "18",
        "First, I want to find",
    ),
    (
        "math500-injected-errors-100.jsonl",
        {"columns": {"response": "search"}, "scorer": "none"},
        100,
        r"\left( 3, \frac{\pi}{2} \right)",
        "First, identify",
    ),
    ("r1-distill-traces-40.jsonl", {"scorer": "none"}, 40, None, "Okay, so I have this problem"),
    ("svamp-50.json", {"benchmark": "svamp"}, 50, "51", None),
    ("math-8-samples-10.jsonl", {"scorer": "none"}, 80, "420", None),
    ("reasoning-gym-geometry-before-after-rl.jsonl", {}, 40, "17.10°", "<think> To find"),
]


@pytest.mark.parametrize(("name", "how", "count", "answer", "begins"), REAL)
def test_real_files_are_read(name, how, count, answer, begins):
    if not (DATA / name).is_file():
        pytest.skip("shared/data is not here")
    problems = read_problems(str(DATA / name), **how)
    assert len(problems) == count
    first = problems[0]
    assert first.prompt
    if answer is not None:
        assert first.answer == answer
    if begins is not None:
        assert first.response.startswith(begins)
    if name.startswith("gsm8k") and "benchmark" in how:
        assert first.scorer(f"She makes ${answer} every day.") == 1.0
        assert "####" in first.solution
    if name == "svamp-50.json":
        assert first.prompt.startswith("Each pack of dvds costs 76 dollars.")
        assert first.prompt.endswith("How much do you have to pay to buy each pack?")
    if name == "math-8-samples-10.jsonl":
        assert len({p.prompt for p in problems}) == 10
        assert first.response is not None


@pytest.mark.parametrize(
    ("gold", "answer"), [(r"336^\circ", "336"), (r"$336^{\circ}$", "336"), ("036°", "36"), ("n", None)]
)
def test_an_aime_answer_may_stand_in_degrees(jsonl, gold, answer):
    (problem,) = read_problems(jsonl({"problem": "p", "answer": gold}), benchmark="aime24")
    assert problem.answer == answer


def test_conversations_are_refused_where_texts_are_needed(jsonl):
    problems = read_problems(jsonl({"prompt": "p"}, {"prompt": [{"role": "user", "content": "q"}]}))
    assert require_texts(problems[:1], "training") == problems[:1]
    with pytest.raises(InputError, match="problem 2 is a conversation or token ids, and training reads texts"):
        require_texts(problems, "training")
