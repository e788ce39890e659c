import sys
import time

import pytest
from tokenizers_tiny import CHAT, sentencepiece_like

from inversion import InputError
from inversion.models import templates

MESSAGES = [{"role": "user", "content": "Hello"}]


def render(template, **options):
    tokenizer = sentencepiece_like()
    tokenizer.chat_template = template
    return templates.render_chat(tokenizer, MESSAGES, **options)


def test_a_template_writes_what_transformers_writes():
    expected = sentencepiece_like().apply_chat_template(MESSAGES, tokenize=False)
    assert render(CHAT) == expected == "<s><user>Hello<assistant>"
    assert render("{{ messages[0].content }}{{ mood }}", mood="!") == "Hello!"
    assert sys.gettrace() is None or "_deadline" not in repr(sys.gettrace())


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}x{% if j % 2 %}y{% endif %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% for i in range(99) %}{{ f(n - 1) if n else '' }}{% endfor %}{% endmacro %}{{ f(50) }}",
    ],
)
def test_a_template_that_does_not_end_is_stopped(template, monkeypatch):
    monkeypatch.setattr(templates, "SECONDS", 0.2)
    start = time.monotonic()
    with pytest.raises(InputError, match=r"still ran after 0\.2 seconds"):
        render(template)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.__class__.__base__.__subclasses__()[0] }}",
        "{{ raise_exception.__globals__['os'].system('true') }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{{ raise_exception('no system message') }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content.nothing.at.all }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for %}",
    ],
)
def test_what_a_template_must_not_or_cannot_do_is_one_sentence(template):
    with pytest.raises(InputError) as caught:
        render(template)
    assert "\n" not in str(caught.value)
