"""What chat templates may use, and how they fail."""

from __future__ import annotations

import pytest

from nodes.engine.chat.template import ChatTemplate
from nodes.engine.protocol import InvalidInputError, Message

USER = [("user", "hi")]
DAY = "2026-02-01"


def text_of(template: str, messages: list[Message] = USER, **variables: str) -> str:
    return ChatTemplate(template, variables).render(dicts(messages), DAY)


def dicts(messages: list[Message]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in messages]


def test_a_conversation_with_roles_and_variables() -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}\n  [{{ m.role }}] {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}>{% endif %}"
    )
    conversation = [("system", "Be brief."), ("user", "hi"), ("assistant", "yes"), ("user", "so")]
    text = "<s>  [system] Be brief.\n  [user] hi\n  [assistant] yes\n  [user] so\n>"
    assert text_of(template, conversation, bos_token="<s>") == text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% set n = namespace(x=1) %}{% for m in messages %}{% set n.x = 2 %}{% endfor %}"
         "{{ n.x }}", "2"),
        ("{{ {'b': '<é>', 'a': 1} | tojson }}", '{"b": "<é>", "a": 1}'),
        ("{{ [1] | tojson(indent=1) }}", "[\n 1\n]"),
        ("{{ strftime_now('%d %b %Y') }}", "01 Feb 2026"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "hi"),
        ("{{ tools is none }} {{ documents is none }} {{ none_such is defined }}",
         "True True False"),
        ("{{ messages[0].content.strip() | trim }}", "hi"),
    ],
)  # fmt: skip
def test_what_templates_expect(template: str, text: str) -> None:
    assert text_of(template) == text


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
         "its output is longer than 1048576 characters"),
        ("{% for %}", "chat template fails"),
    ],
)  # fmt: skip
def test_what_a_template_objects_to_and_how_it_fails_is_one_line(template: str, error: str) -> None:
    with pytest.raises(InvalidInputError) as failed:
        text_of(template)
    assert error in str(failed.value)
    assert len(str(failed.value).splitlines()) == 1


def test_a_template_without_a_date_has_none_to_write() -> None:
    template = "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}-{% endif %}"
    assert ChatTemplate(template, {}).render(dicts(USER), "") == "-"


def test_after_a_failure_the_next_conversation_is_rendered() -> None:
    template = ChatTemplate(
        "{% if messages | length > 1 %}{{ raise_exception('') }}{% endif %}ok", {}
    )
    with pytest.raises(InvalidInputError, match="refuses the conversation: RefusalError"):
        template.render(dicts(USER * 2), DAY)
    assert template.render(dicts(USER), DAY) == "ok"


def test_what_a_template_writes_that_is_no_text_is_made_one() -> None:
    assert text_of(r"""{{ "a\udc00" }}""") == "a?"
    with pytest.raises(InvalidInputError, match=r"refuses the conversation: [?]$"):
        text_of(r"""{{ raise_exception("\ud800") }}""")
