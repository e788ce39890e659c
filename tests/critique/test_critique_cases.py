"""Errors put into chains of thought, and how thinking and answers are judged."""

import json
import random
from pathlib import Path

import pytest
from scipy.stats import norm

from inversion import InputError
from inversion.critique import Case, correction, judge, rates, read_cases
from inversion.critique.judging import Verdict, interval
from inversion.critique.mistakes import inject_error
from inversion.demo.tasks import DemoProblem, chain_of_thought
from inversion.demo.tokenizer import build_tokenizer
from inversion.scoring import scorer_for

DATA = next((p for parent in Path(__file__).parents if (p := parent / "shared" / "data").is_dir()), Path("shared/data"))
PROBLEMS = {
    "chain_sum": DemoProblem(
        "chain_sum", "State the final answer to the following arithmetic problem: 12 - 37 + 5 =", "-20"
    ),
    "number_sorting": DemoProblem(
        "number_sorting",
        "Sort these numbers in descending order: 14.0, -49.0, 3.0\nPlease follow the instruction below:",
        "['14.0', '3.0', '-49.0']",
    ),
    "spell_backward": DemoProblem("spell_backward", "Spell this word backward (example: sun -> nus): Cat", "taC"),
}
SUM = PROBLEMS["chain_sum"]


def one(task, seed):
    return inject_error(PROBLEMS[task], random.Random(seed))


@pytest.mark.parametrize("task", PROBLEMS)
def test_one_result_is_wrong_and_everything_before_it_right(task):
    seen = set()
    for seed in range(40):
        case = one(task, seed)
        wrong = case.opening[slice(*case.error)]
        assert case.opening.endswith(wrong)
        # The same draws of free words up to the error: the right chain from the same seed.
        right = "<think>" + chain_of_thought(PROBLEMS[task], random.Random(seed))
        start = case.error[0]
        assert right[:start] == case.opening[:start]
        assert not right[start:].startswith(wrong + "\n")
        seen.add(case.opening[:start])
    assert len(seen) > 5


def test_a_sum_by_hand():
    case = one("chain_sum", 0)
    openings = ["12 - 30", "-18 - 7", "-25 + 5"]
    totals = ["-18", "-25", "-20"]
    step = next(i for i, text in enumerate(openings) if case.opening[: case.error[0]].rstrip("= is").endswith(text))
    assert 1 <= abs(int(case.opening[slice(*case.error)]) - int(totals[step])) <= 3


@pytest.mark.parametrize("task", PROBLEMS)
def test_right_thinking_is_judged_right_and_a_wrong_end_wrong(task):
    problem = PROBLEMS[task]
    chain = chain_of_thought(problem, random.Random(1))
    case = one(task, 1)
    good = f"<think>{chain}</think><answer>{problem.answer}</answer>"
    assert judge(case, good) == Verdict(True, True)
    assert judge(case, f"<think>{chain}</think><answer>something</answer>") == Verdict(True, False)
    assert judge(case, f"<think>{chain}") == Verdict(True, False)
    assert judge(case, case.opening + f"</think><answer>{problem.answer}</answer>").outcome == "hidden critique"
    assert judge(case, "") == Verdict(False, False)


def test_shares_and_intervals_by_hand():
    found = {
        "original": [Verdict(True, True)] * 4,
        "injected": [Verdict(True, True), Verdict(False, True), Verdict(False, False), Verdict(False, False)],
    }
    table = rates(found, ["a", "a", "b", "b"]).set_index(["condition", "task", "outcome"])
    assert table.loc[("injected", "all", "hidden critique"), "count"] == 1
    assert set(rates(found, [""] * 4).task) == {"all"}
    assert table.loc[("injected", "a", "answer right"), "share"] == 1
    assert table.loc[("injected", "b", "both wrong"), "count"] == 2
    row = table.loc[("injected", "all", "answer right")]
    z = norm.ppf(0.975)
    centre = (2 + z**2 / 2) / (4 + z**2)
    half = z / (4 + z**2) * (2 * 2 / 4 + z**2 / 4) ** 0.5
    assert (row.low, row.high) == pytest.approx((centre - half, centre + half))
    assert interval(0, 5)[0] == 0


@pytest.fixture
def rows(tmp_path):
    def write(*rows):
        path = tmp_path / "cases.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return str(path)

    return write


ROW = {"question": "What is 3 + 4 * 2?", "ground_truth": "11", "search": "First, 4 * 2 = 8.\n\nSo 3 + 8 = 12.\n\n"}


def test_cases_of_a_file(rows):
    (case,) = read_cases(rows(ROW), build_tokenizer())
    assert case.prompt == ROW["question"]
    assert case.opening == "<think>\n" + ROW["search"]
    assert case.opening[slice(*case.error)] == "12"
    assert judge(case, case.opening + "Wait, that is 11.</think>The answer is 11.") == Verdict(True, True)
    assert judge(case, case.opening + "So 12.</think>The answer is 11.") == Verdict(False, True)
    assert judge(case, case.opening + "So 12.</think>The answer is 12.") == Verdict(False, False)


def test_a_chat_template_that_opens_the_thinking_is_not_followed_by_another_opening(rows):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}\n<think>\n"
    (case,) = read_cases(rows(ROW), tokenizer)
    assert case.opening == ROW["search"]
    assert case.prompt.endswith("<think>")
    assert case.prompt_token_ids is not None


def test_a_model_that_does_not_think_is_judged_by_the_whole_response(rows):
    (case,) = read_cases(rows(ROW), build_tokenizer(), plain=True)
    assert case.opening == ROW["search"]
    assert case.opening[slice(*case.error)] == "12"
    right = case.opening + "Wait, 3 + 8 = 11."
    assert judge(case, right) == Verdict(True, True)
    assert judge(case, case.opening + "So 12.") == Verdict(False, False)
    assert correction(case, right) is None
    # A model that thinks and never stops has given no answer.
    (thinking,) = read_cases(rows(ROW), build_tokenizer())
    assert judge(thinking, "<think>" + right) == Verdict(True, False)


def test_files_that_cannot_be_used_are_refused(rows):
    with pytest.raises(InputError, match="no column search"):
        read_cases(rows({"question": "?", "ground_truth": "1"}), build_tokenizer())
    with pytest.raises(InputError, match="no row of"):
        read_cases(rows({**ROW, "search": "Nothing."}), build_tokenizer())
    with pytest.raises(InputError, match="scores nothing"):
        read_cases(rows(ROW), build_tokenizer(), scorer="none")


@pytest.mark.skipif(not DATA.is_dir(), reason="the folder of shared real data is not here")
@pytest.mark.parametrize("name", ["gsm8k-injected-errors-200", "math500-injected-errors-100"])
def test_published_cases_are_read_whole(name):
    cases = read_cases(str(DATA / f"{name}.jsonl"), build_tokenizer())
    with open(DATA / f"{name}.jsonl", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    assert len(cases) >= 0.9 * len(rows)
    assert all(case.opening[slice(*case.error)][-1].isdigit() for case in cases)


def test_an_error_lies_in_its_opening():
    score = scorer_for("number", "1")
    with pytest.raises(ValueError, match="does not lie"):
        Case("?", "abc", (2, 9), "1", score)
