"""What stands around a question, against transformers' own rendering of a chat."""

import logging

import pytest
from tokenizers_tiny import byte_level, sentencepiece_like

import inversion
from inversion import InputError
from inversion.preparation import Preparation, prepare
from inversion.responses import Frame, Problem, Source
from inversion.responses.chat import read_examples

THINKING = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}[{{ messages[0].content }}]{% endif %}"
    "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if enable_thinking %}<think>\n{% endif %}{% endif %}"
)
USER, MODEL = {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "world"}


def tokenizer(template=THINKING):
    made = sentencepiece_like()
    made.chat_template = template
    return made


def rendered(messages, **options):
    return tokenizer().apply_chat_template(messages, add_generation_prompt=True, return_dict=True, **options)[
        "input_ids"
    ]


def test_a_text_and_a_conversation_give_the_ids_that_transformers_gives():
    (text,) = Frame(chat=True).apply([Problem("Hello")], tokenizer())
    (talk,) = Frame(chat=True).apply([Problem("", messages=(USER,))], tokenizer())
    assert list(text.prompt_token_ids) == rendered([USER])
    assert text.prompt_token_ids.count(tokenizer().bos_token_id) == 1
    assert text == talk  # question included, so that runs of both are paired
    assert (text.question, text.prompt) == ("Hello", "<s><user>Hello<assistant>")


def test_system_message_template_options_and_examples():
    frame = Frame("Q: {prompt}", (("1?", "one"),), chat=True, system="Be brief.", options={"enable_thinking": True})
    (problem,) = frame.apply([Problem("Hello")], tokenizer())
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Q: 1?"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "Q: Hello"},
    ]
    assert list(problem.prompt_token_ids) == rendered(messages, enable_thinking=True)
    assert problem.prompt.endswith("<assistant><think>\n")
    assert problem.question == "Hello"
    assert frame.record() == {
        "template": "Q: {prompt}",
        "examples": (("1?", "one"),),
        "chat": True,
        "system": "Be brief.",
        "options": {"enable_thinking": True},
    }
    assert Frame().record() == {}
    assert Frame("qa").record() == {
        "template": "Question: {prompt}\nAnswer:"
    }  # the text, whatever the name comes to mean


def test_a_conversation_that_ends_with_the_models_turn_is_continued():
    (problem,) = Frame(chat=True).apply([Problem("", messages=(USER, MODEL))], tokenizer())
    assert problem.prompt == "<s><user>Hello<assistant>world"


def test_examples_before_a_text_stand_as_lm_evaluation_harness_writes_them():
    frame = Frame("qa", (("1 + 1?", "It is 2\n#### 2"), ("2 + 2?", "4")))
    (problem,) = frame.apply([Problem("3 + 3?")], None)
    assert problem.prompt == (
        "Question: 1 + 1?\nAnswer: It is 2\n#### 2\n\nQuestion: 2 + 2?\nAnswer: 4\n\nQuestion: 3 + 3?\nAnswer:"
    )
    assert (problem.question, problem.prompt_token_ids) == ("3 + 3?", None)
    assert Frame().apply([Problem("3 + 3?")], None) == [Problem("3 + 3?")]


def test_braces_in_a_question_stay():
    (problem,) = Frame("boxed").apply([Problem("Solve {x}.")], None)
    assert problem.prompt.startswith("Solve {x}.\nPlease reason")
    assert problem.prompt.endswith("\\boxed{}.")


def test_worked_examples_are_read_with_their_solutions(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"question": "a?", "answer": "so\\n#### 1"}\n{"question": "b?", "answer": "#### 2"}')
    source = Source(str(path), benchmark="gsm8k")
    assert read_examples(source, 2) == (("a?", "so\n#### 1"), ("b?", "#### 2"))
    with pytest.raises(InputError, match="2 examples, fewer than the 3"):
        read_examples(source, 3)
    path.write_text(
        '{"question": "a?", "responses": ["one", "two"]}\n{"question": "b?", "responses": ["three", "four"]}'
    )
    assert read_examples(Source(str(path)), 1) == (("a?", "one"),)
    assert read_examples(Source(str(path)), 2) == (("a?", "one"), ("b?", "three"))
    path.write_text('{"question": "a?"}')
    with pytest.raises(InputError, match="example 1 .* no solution"):
        read_examples(Source(str(path)), 1)


@pytest.mark.parametrize(
    ("frame", "problem", "match"),
    [
        (Frame(), Problem("", messages=(USER,)), "problem 1 is a conversation; add --chat"),
        (Frame(chat=True, system="s"), Problem("", messages=({**USER, "role": "system"}, USER)), "of its own"),
        (Frame("qa", chat=True), Problem("", messages=(USER,)), "leave --template out"),
        (Frame(chat=True), Problem("a", prompt_token_ids=(1,)), "given as token ids"),
        (Frame("qa"), Problem("a", prompt_token_ids=(1,)), "given as token ids"),
        (
            Frame(chat=True, options={"enable_thinkin": 1}),
            Problem("a"),
            "enable_thinkin; .* enable_thinking",
        ),
        (Frame("qa", (("a", "1"),)), Problem("a"), "among its own worked examples"),
    ],
)
def test_what_cannot_be_framed_is_one_sentence(frame, problem, match):
    with pytest.raises(InputError, match=match):
        frame.apply([problem], tokenizer())


def test_chat_templates_that_are_missing_or_refuse_are_one_sentence():
    with pytest.raises(InputError, match="tiny has no chat template.*--template qa"):
        Frame(chat=True).apply([Problem("a")], byte_level(), "tiny")
    refusing = tokenizer("{{ raise_exception('System role not supported') }}")
    with pytest.raises(InputError, match="tiny refuses problem 1: System role not supported"):
        Frame(chat=True, system="s").apply([Problem("a")], refusing, "tiny")
    with pytest.raises(InputError, match="no place for the question"):
        Frame("Answer:")
    with pytest.raises(InputError, match="belong to a chat"):
        Frame(system="s")


def test_a_template_that_writes_the_date_is_said(caplog):
    caplog.set_level(logging.WARNING, "inversion")
    dated = "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}{{ messages[0].content }}"
    Frame(chat=True).apply([Problem("a")], tokenizer(dated))
    assert "today's date" in caplog.text
    caplog.clear()
    Frame(chat=True, options={"date_string": "1 Jan 2026"}).apply([Problem("a")], tokenizer(dated))
    assert caplog.text == ""


def test_thinking_is_opened_once(checkpoint, caplog):
    bridge = inversion.load_model(checkpoint())

    def prepared(**given):
        (problem,) = prepare(bridge, [Problem("1 + 2 =<think>\n", **given)], Preparation()).problems
        return problem.response

    assert prepared(response="<think>\n3 4</think>3") == "3 4</think>3"
    assert "1 of 1 responses begin with the <think> that their prompt ends with" in caplog.text
    caplog.clear()
    assert prepared(response="3 4</think>3") == "3 4</think>3"
    assert caplog.text == ""
    ids = bridge.tokenizer("<think>3 4", add_special_tokens=False)["input_ids"]
    with pytest.raises(InputError, match="problem 1: its prompt ends with <think> and its response_token_ids begin"):
        prepared(response_token_ids=tuple(ids))
    # What a model wrote behind these very tokens stays.
    prompt = tuple(bridge.tokenizer("1<think>")["input_ids"])
    (problem,) = prepare(
        bridge, [Problem("1<think>", prompt_token_ids=prompt, response_token_ids=tuple(ids))], Preparation()
    ).problems
    assert problem.response_token_ids == tuple(ids)
