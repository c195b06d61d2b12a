"""Tools in conversations: by templates that know them, and as text by those that do not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nodes.engine.chat.template import ChatTemplate
from nodes.engine.chat.tools import HERMES, LLAMA3, MISTRAL, parse_tools, style_of
from nodes.engine.protocol import InvalidInputError

DAY = "2026-02-01"
PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ '\n' }}{% endfor %}"
KNOWS = (
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}[{{ m.role }}]"
    "{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.arguments | tojson }}"
    "{% endfor %}{{ '\n' }}{% endfor %}"
)
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "ö"}}}
TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "And in Köln?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "21 degrees", "tool_call_id": "1"},
]


@pytest.mark.parametrize(
    ("template", "style"),
    [
        ("", ""),
        (PLAIN, HERMES),
        (KNOWS, HERMES),
        ("{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]", MISTRAL),
        ('{% if tools %}{"name": function name, "parameters": dictionary}{% endif %}', LLAMA3),
        # Its tools are told as text, since nobody here can read its calls.
        ("{% if tools %}<|tool▁calls▁begin|>{% endif %}", HERMES),
        # It only says so.
        ("{# like <tool_call> #}{{ messages }}", HERMES),
    ],
)
def test_the_style_is_found_in_the_template(template: str, style: str) -> None:
    assert style_of(template) == style


def test_a_template_that_knows_tools_gets_them_as_they_are() -> None:
    text = ChatTemplate(KNOWS, {}).render(TALK, DAY, [WEATHER])
    assert text == (
        json.dumps(WEATHER) + "[user]And in Köln?\n"
        '[assistant]<tool_call>{"city": "ö"}\n[tool]21 degrees\n'
    )


def test_a_template_that_knows_none_gets_them_as_text() -> None:
    text = ChatTemplate(PLAIN, {}).render(
        [{"role": "system", "content": "Be brief."}, *TALK], DAY, [WEATHER]
    )
    system, rest = text.split("[user]", 1)
    assert system.startswith("[system]Be brief.\n")
    assert json.dumps(WEATHER["function"]) in system
    assert rest == (
        "And in Köln?\n[assistant]<tool_call>\n"
        '{"name": "weather", "arguments": {"city": "ö"}}\n</tool_call>\n'
        "[user]<tool_response>\n21 degrees\n</tool_response>\n"
    )


def test_results_of_several_calls_are_one_message_of_the_user() -> None:
    two = [*TALK, {"role": "tool", "content": "3 degrees", "tool_call_id": "2"}]
    text = ChatTemplate(PLAIN, {}).render(two, DAY)
    assert text.count("[user]") == 2
    assert "[system]" not in text


def test_without_tools_a_conversation_is_what_it_was() -> None:
    for template in (PLAIN, KNOWS):
        assert ChatTemplate(template, {}).render(TALK[:1], DAY) == "[user]And in Köln?\n"


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "[]",
        '{"tools": []}',
        '{"tools": [1], "messages": {}}',
        '{"tools": [{}], "messages": {}}',
        '{"tools": [], "messages": {"x": {}}}',
        '{"tools": [], "messages": {"0": {"tool_calls": [{}]}}}',
        '{"tools": [], "messages": {"0": {"tool_calls": 1}}}',
        "[" * 100_000,
    ],
)
def test_what_no_gateway_sends_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="tools: an object"):
        parse_tools(text)
