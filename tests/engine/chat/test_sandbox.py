"""What templates may use, in this process; limits are those of the process itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nodes.engine.chat import sandbox

USER = [["user", "hi"]]


@pytest.fixture(autouse=True)
def no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits are for the process of a sandbox, not for that of its tests."""
    monkeypatch.setattr(sandbox, "_limit", lambda _kind, _value: None)


def answers(template: str, *conversations: list[list[str]], **variables: str) -> list[Any]:
    first = {"template": template, "variables": variables}
    lines = [first, *({"messages": messages} for messages in conversations)]
    return list(sandbox.answers(json.dumps(line).encode() for line in lines))


def answer(template: str, messages: list[list[str]] = USER, **variables: str) -> Any:
    return answers(template, messages, **variables)[-1]


def test_a_conversation_with_roles_and_variables() -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}\n  [{{ m.role }}] {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}>{% endif %}"
    )
    conversation = [["system", "Be brief."], ["user", "hi"], ["assistant", "yes"], ["user", "so"]]
    text = "<s>  [system] Be brief.\n  [user] hi\n  [assistant] yes\n  [user] so\n>"
    assert answer(template, conversation, bos_token="<s>") == {"text": text}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% set n = namespace(x=1) %}{% for m in messages %}{% set n.x = 2 %}{% endfor %}"
         "{{ n.x }}", "2"),
        ("{{ {'b': '<é>', 'a': 1} | tojson }}", '{"b": "<é>", "a": 1}'),
        ("{{ [1] | tojson(indent=1) }}", "[\n 1\n]"),
        ("{{ strftime_now('%%') }}", "%"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "hi"),
        ("{{ tools is none }} {{ documents is none }} {{ none_such is defined }}",
         "True True False"),
        ("{{ messages[0].content.strip() | trim }}", "hi"),
    ],
)  # fmt: skip
def test_what_templates_expect(template: str, text: str) -> None:
    assert answer(template) == {"text": text}


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{{ raise_exception('roles must\nalternate') }}",
         "the model's chat template refuses the conversation: roles must alternate"),
        ("{{ messages.append(1) }}", "fails: "),
        ("{{ ''.__class__.__mro__ }}", "fails: "),
        ("{{ cycler.__init__.__globals__ }}", "fails: "),
        ("{{ messages[7].content }}", "fails: "),
        ("{{ 1 // (messages | length - 1) }}", "fails: "),
        ("{{ range(10 ** 9) | list }}", "fails: Range too big"),
        ("{% include 'x' %}", "fails: "),
        ("{% for _ in range(99) %}{{ messages[0].content * 20000 }}{% endfor %}",
         "its text is longer than 1048576 characters"),
    ],
)  # fmt: skip
def test_what_a_template_objects_to_and_how_it_fails_is_one_line(template: str, error: str) -> None:
    found = answer(template)
    assert list(found) == ["error"]
    assert error in found["error"]
    assert len(found["error"].splitlines()) == 1


def test_after_a_failure_the_next_conversation_is_rendered() -> None:
    template = "{% if messages | length > 1 %}{{ raise_exception('') }}{% endif %}ok"
    _ready, refused, fine = answers(template, USER * 2, USER)
    assert refused == {"error": "the model's chat template refuses the conversation: RefusalError"}
    assert fine == {"text": "ok"}


def test_a_template_that_cannot_be_compiled_ends_it() -> None:
    (only,) = answers("{% for %}", USER)
    assert "fails" in only["error"]
