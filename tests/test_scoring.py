"""Scores: right, wrong, or not scored for a reason; hostile mathematics; what share is right."""

import math
import pickle
import threading
import time

import pytest

from inversion import mathematics, scoring
from inversion.errors import InputError
from inversion.scoring import Score, accuracy, score_of, scorer_for, tagged_answer, without_thinking

UNSCORED = "unscored"


def outcome(kind, answer, response, **options):
    score = scorer_for(kind, answer)(response, **options)
    return UNSCORED if math.isnan(score) else float(score)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("<answer>12</answer>", "12"),
        ("<think>\nSo 3</think><answer>\n 12 </answer> done", "12"),
        ("<answer>1</answer> no, <answer>2</answer>", "2"),
        ("<answer>1<answer>2</answer>", "2"),
        ("<answer>a\nb</answer>", "a\nb"),
        ("<answer></answer>", ""),
        ("<answer>12", None),
        ("12", None),
        ("", None),
    ],
)
def test_what_stands_between_answer_tags(response, expected):
    assert tagged_answer(response) == expected


def test_thinking_is_no_part_of_an_answer():
    assert without_thinking("<think>7</think> 8") == " 8"
    assert without_thinking("7</think>8") == "8"  # a template may have opened it
    assert without_thinking("<think>7, so") == ""
    assert without_thinking("8") == "8"
    assert without_thinking("7, so", opened=True) == ""
    assert without_thinking("7</think>8", opened=True) == "8"
    assert without_thinking("<think>7</think>8<think>9") == "8"
    assert without_thinking("<t>7, so", ("<t>", "</t>")) == ""
    assert without_thinking("<t>7</t>8", ("<t>", "</t>")) == "8"


@pytest.mark.parametrize(
    ("kind", "thought"), [("number", "so 72"), ("exact", "72"), ("tags", "<answer>72</answer>"), ("choice", "(C)")]
)
def test_thinking_that_was_cut_gives_no_answer(kind, thought):
    answer = "C" if kind == "choice" else "72"
    assert outcome(kind, answer, thought) == 1
    assert outcome(kind, answer, thought, finished=False, opened=True) == 0
    assert outcome(kind, answer, f"<think>{thought}", finished=False) == 0
    assert outcome(kind, answer, f"<t>{thought}", finished=False, tags=("<t>", "</t>")) == 0
    assert score_of(scorer_for(kind, answer), thought, False, opened=True) == 0


def test_tags_are_compared_up_to_white_space():
    assert outcome("tags", "['1.0', '2.0']", "<answer> ['1.0',\n '2.0'] </answer>") == 1
    assert outcome("tags", "12", "<answer>1 2</answer>") == 0
    assert outcome("tags", 3, "<answer>3</answer>") == 1


def test_a_response_without_the_form_is_unscored_unless_the_form_is_required():
    natural = "The answer is 72."
    score = scorer_for("tags", "72")(natural)
    assert math.isnan(score)
    assert score.reason == "it has no answer tags"
    assert outcome("number", "72", natural) == 1
    required = scorer_for("tags", "72", form_required=True)(natural)
    assert (required, required.reason) == (0, "it has no answer tags")
    cut = scorer_for("tags", "72")("<think>First,", finished=False)
    assert (cut, cut.reason) == (0, "cut before it gave an answer")


@pytest.mark.parametrize(
    ("answer", "response", "expected"),
    [
        ("72", "The answer is 72.", 1),
        ("72", "5 and 67 make 72", 1),
        ("72", "The answer is 72, not 73.", 1),
        ("72", "Out of 73, the answer is 71.", 0),
        ("72", r"We get $\boxed{72}$ after 3 steps.", 1),
        ("72", "<think>72</think> It is 71.", 0),
        ("72", "<answer>72</answer> 73", 1),
        ("72", "#### 72", 1),
        ("1234", "It costs $1,234.00", 1),
        ("1,234", "1234", 1),
        ("1234", r"1{,}234 \$", 1),
        ("-5", "it is -5", 1),
        ("-5", "it is −5", 1),
        ("-5", "-$5", 1),
        ("5", "10-5", 1),
        ("3/4", "0.75", 1),
        ("3", "3/4", 0),
        (".5", "0.5", 1),
        ("18.0", "18", 1),
        ("$18", "18%", 1),
        (72, "72", 1),
        (0.5, ".5", 1),
        ("72", "The result is 24 for May. Adding April, she sold 48 + 24 = 72 clips in total.", 1),
        ("72", "**Answer:** Natalia sold 48 clips in April and 24 in May, so 72 clips altogether.", 1),
        ("42", "The answer is 12 + 30 = 42.", 1),
        ("12", "The answer is 12 + 30 = 42.", 0),
        ("18", "The answer is 30 - 12 = 18, which is 3 x 6.", 1),
        ("15", "**Answer**: 5 x 3 apples = $15 in 2 days", 1),
        ("12", "The answer is 12 = 6 + 6.", 1),
        ("72", "The answer is 72 because 3 = 216 / 72.", 1),
        ("72", "The answer is:\n- 72 clips", 1),
        ("72", "The answer is about $72$ of 100.", 1),
        ("5", "The answer is x = 5 in 7 steps", 1),
        ("-72", "The answer is:\n-72", 1),
        ("-5", r"\boxed{- 5}", 1),
        ("12", r"\boxed{12\text{ cm}^2}", 1),
        ("12", r"\boxed{12 \mathrm{cm}^{2}}", 1),
        ("72", r"\boxed{\text{72 clips}}", 1),
        ("8", r"\boxed{\frac{25}{8}}", 0),
        ("25/8", r"\boxed{\frac{25}{8}}", 1),
        ("-0.5", r"\boxed{-\dfrac{1}{2}}", 1),
        ("3/4", r"The answer is $\frac{3}{4}$ of 8.", 1),
        ("1000", r"\boxed{1\,000}", 1),
        ("1e999999999", "2", 0),
        ("2", "1e999999999", 0),
        ("2", "9" * 6000, 0),
        ("2", "1/0", 0),
        ("72", "I do not know.", UNSCORED),
        ("72", "", UNSCORED),
        ("Paris", "Paris", UNSCORED),
        ("nan", "nan", UNSCORED),
    ],
)
def test_numbers(answer, response, expected):
    assert outcome("number", answer, response) == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("C", 1),
        ("(c)", 1),
        ("C. Because it is", 1),
        ("The answer is (C).", 1),
        ("Answer: C", 1),
        ("The answer is B, not C.", 0),
        ("A) is wrong because plants do not eat. C) fits. The answer is (C).", 1),
        ("A: this is false.\nC: this is true.\nThe answer is C.", 1),
        ("The answer is: I believe C", 1),
        ("The answer is I think (C)", 1),
        ("The correct option is C.", 1),
        ("**Answer:**\n\nC", 1),
        ("The answer is unclear. A plant would know.", UNSCORED),
        (r"so \boxed{\text{C}}", 1),
        ("<think>(B)</think><answer>C</answer>", 1),
        ("I would take (C) over (B), so (C)", 1),
        ("I think A is a letter", UNSCORED),
        ("", UNSCORED),
    ],
)
def test_choices(response, expected):
    assert outcome("choice", "C", response) == expected
    assert outcome("choice", "(C)", response) == expected
    assert outcome("choice", "cat", response) == UNSCORED


def test_exactly_the_answer_after_thinking():
    assert outcome("exact", "New York", "<think>hm</think>\nNew  York\n") == 1
    assert outcome("exact", "New York", "It is New York") == 0


def test_nothing_to_score_against_is_said():
    assert scorer_for("none", "72") is None
    assert scorer_for("tags", None) is None
    score = score_of(None, "72")
    assert math.isnan(score)
    assert score.reason == "its problem has no known answer"
    assert score_of(len, "abc") == 3
    assert score_of(lambda text: math.nan, "abc").reason
    assert score_of(lambda text: 1 / 0, "abc").reason == "its scorer failed (ZeroDivisionError: division by zero)"
    with pytest.raises(InputError, match="no scorer 'maths'; choose among math, number"):
        scorer_for("maths", "72")


def test_a_score_without_a_number_needs_a_reason_and_keeps_it():
    with pytest.raises(ValueError, match="needs a reason"):
        Score(math.nan)
    assert pickle.loads(pickle.dumps(Score(math.nan, "why"))).reason == "why"


def test_accuracy_leaves_out_what_is_not_scored_and_says_so():
    found = accuracy([1.0, 0.5, 1.0, 0.0, math.nan])
    assert (found.right, found.scored, found.unscored, found.share) == (2, 4, 1, 0.5)
    assert str(found) == "50% (1 not scored)"
    assert str(accuracy([1.0])) == "100%"
    nothing = accuracy([math.nan])
    assert math.isnan(nothing.share)
    assert str(nothing) == "not scored"


class TestMathematics:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("math_verify")

    @pytest.mark.parametrize(
        ("answer", "response", "expected"),
        [
            ("1/2", r"so $\frac{1}{2}$", 1),
            ("1/2", "that makes 0.5", 1),
            ("1/2", r"\boxed{3}", 0),
            ("1/2", "", UNSCORED),
            ("1/2", "I cannot say", UNSCORED),
            (72, "<think>7</think>The answer is 72.", 1),
            (r"\text{Evelyn}", r"\boxed{\text{Evelyn}}", 1),
            (r"\sin(x)", r"$\sin x$", 1),
            ("Paris", r"\boxed{Paris}", UNSCORED),
            ("Paris", "It is 3", UNSCORED),
            ("", "It is 3", UNSCORED),
        ],
    )
    def test_is_compared_as_mathematics(self, answer, response, expected):
        assert outcome("math", answer, response) == expected

    def test_a_cut_response_without_any_is_wrong(self):
        assert outcome("math", "1/2", "First we", finished=False) == 0

    def test_a_tower_of_powers_runs_out_of_time_from_any_thread(self, monkeypatch):
        monkeypatch.setattr(scoring, "SECONDS", 0.5)
        assert outcome("math", "1/2", "$1/2$") == 1
        scores = []
        started = time.monotonic()
        hostile = threading.Thread(target=lambda: scores.append(scorer_for("math", "1")(r"\boxed{9^{9^{9^{9}}}}")))
        hostile.start()
        hostile.join(60)
        assert not hostile.is_alive()
        assert time.monotonic() - started < 30
        assert math.isnan(scores[0])
        assert scores[0].reason == "comparing it as mathematics took more than 0.5 s"
        # The next comparison gets a process of its own.
        assert outcome("math", "1/2", "$1/2$") == 1

    def test_what_is_missing_is_named(self, monkeypatch):
        monkeypatch.setattr(mathematics, "find_spec", lambda name: None)
        with pytest.raises(InputError, match=r"install inversion\[train\]"):
            scorer_for("math", "1")
