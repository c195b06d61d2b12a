"""What chat templates may use and how they fail, tools in conversations, and quoted contents."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.nodes.engine.chat.quoting import ControlTexts, Quotes, check_role
from airdraft.nodes.engine.chat.template import ChatTemplate
from airdraft.nodes.engine.chat.tools import (
    CHANNELS,
    HERMES,
    LLAMA3,
    MISTRAL,
    for_style,
    parse_tools,
    style_of,
)
from airdraft.nodes.engine.protocol import InvalidInputError, Message

USER = [("user", "hi")]
DAY = "2026-02-01"


def text_of(template: str, messages: list[Message] = USER, day: str = DAY, **more: str) -> str:
    told = [{"role": role, "content": content} for role, content in messages]
    return ChatTemplate(template, more).render(told, day)


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
    assert text_of(template, day="") == "-"


def test_after_a_failure_the_next_conversation_is_rendered() -> None:
    template = ChatTemplate("{% if messages %}{{ raise_exception('') }}{% endif %}ok", {})
    with pytest.raises(InvalidInputError, match="refuses the conversation: RefusalError"):
        template.render(TALK[:1], DAY)
    assert template.render([], DAY) == "ok"


def test_what_a_template_writes_that_is_no_text_is_made_one() -> None:
    assert text_of(r"""{{ "a\udc00" }}""") == "a?"
    with pytest.raises(InvalidInputError, match=r"refuses the conversation: [?]$"):
        text_of(r"""{{ raise_exception("\ud800") }}""")


PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ '\n' }}{% endfor %}"
KNOWS = (
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}[{{ m.role }}]"
    "{{ m.content }}{% for c in m.tool_calls or [] %}"
    '{{ \'<tool_call>{"name": "\' + c.function.name }}", {{ c.function.arguments | tojson }}'
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
        ("{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS][{{ c | tojson }}]", MISTRAL),
        ('{% if tools %}{"name": "{{ c.name }}", "parameters": {{ c.arguments }}}', LLAMA3),
        # Their tools are told as text, since nobody here can read their calls.
        ("{% if tools %}<|tool▁calls▁begin|>{% endif %}", HERMES),
        ("{% if tools %}<tool_call>\n<function={{ c.name }}>{% endif %}", HERMES),
        ("{% if tools %}<tool_call>\n<function={{ c.name }}>\n<parameter=x>", "qwen3-coder"),
        ("{% if tools %}<|start|>assistant to={{ c.name }}<|channel|>commentary json", "channels"),
        ("{% if tools %}<tool_call>{{ c.name }}<arg_key>{{ key }}</arg_key>", "glm"),
        ("{% if tools %}[TOOL_CALLS]{{ c.name }}[ARGS]{{ c.arguments }}{% endif %}", HERMES),
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
        '[assistant]<tool_call>{"name": "weather", {"city": "ö"}\n[tool]21 degrees\n'
    )


@pytest.mark.parametrize(
    "template",
    [
        "{% if tools %}<tool_call>\n<function={{ c.name }}>{% endif %}",
        "{% if tools %}[TOOL_CALLS]{{ c.name }}[ARGS]{{ c.arguments }}{% endif %}",
        '{% if tools %}{"tool_name": "{{ c.name }}", "parameters": {{ c.arguments }}}{% endif %}',
    ],
)
def test_a_template_that_writes_calls_in_another_form_gets_tools_as_text(template: str) -> None:
    """Devstral and Command R among others: the grammar of calls would contradict their prompts."""
    text = ChatTemplate(template + PLAIN, {}).render(TALK, DAY, [WEATHER])
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "ö"}}\n</tool_call>' in text


def test_variables_of_a_request_are_told_and_replace_none_of_the_others() -> None:
    text = "{{ effort }} {{ bos_token }} {{ messages | length }} {{ range(1) | list }}"
    told = {"effort": "high", "bos_token": "x", "messages": [], "range": 1, "self": 1}
    assert ChatTemplate(text, {"bos_token": "b"}).render(TALK, DAY, (), told) == "high b 3 [0]"


def test_a_template_that_needs_descriptions_gets_empty_ones() -> None:
    """As gpt-oss' does."""
    text = "{% for t in tools %}{{ t.function.name + t.function.description }}{% endfor %}"
    calls = "{# <|channel|>commentary #}"
    assert ChatTemplate(text + calls, {}).render([], DAY, [WEATHER]) == "weather"


TWO_CALLS: list[dict[str, Any]] = [
    {
        "role": "assistant",
        "content": "Let me see.",
        "tool_calls": [
            {"id": number, "function": {"name": "f", "arguments": {"n": number}}} for number in "12"
        ],
    },
    {"role": "tool", "content": "two", "tool_call_id": "2"},
    {"role": "tool", "content": "one", "tool_call_id": "1"},
    {"role": "user", "content": "So?"},
]


def test_where_a_message_has_one_call_each_call_is_followed_by_its_result() -> None:
    for style in (CHANNELS, LLAMA3):
        told = [
            (m["content"], [call["id"] for call in m.get("tool_calls", ())])
            for m in for_style(style, TWO_CALLS)
        ]
        assert told == [
            *(("Let me see.", ["1"]), ("one", []), ("", ["2"]), ("two", []), ("So?", []))
        ]
    told = [m["content"] for m in for_style(HERMES, TWO_CALLS)]
    assert told == ["Let me see.", "one", "two", "So?"]


def test_results_without_ids_are_those_of_the_calls_in_their_order() -> None:
    talk = [{key: value for key, value in m.items() if key != "tool_call_id"} for m in TWO_CALLS]
    told = [m["content"] for m in for_style(CHANNELS, talk)]
    assert told == ["Let me see.", "two", "", "one", "So?"]


def test_ids_of_a_later_turn_may_be_those_of_an_earlier_one() -> None:
    told = [m["content"] for m in for_style(LLAMA3, [*TWO_CALLS, *TWO_CALLS])]
    assert told == ["Let me see.", "one", "", "two", "So?"] * 2


def test_ids_for_mistral_have_nine_letters_and_digits() -> None:
    asked, one, two = for_style(MISTRAL, TWO_CALLS[:3])
    ids = [call["id"] for call in asked["tool_calls"]]
    assert all(len(each) == 9 and each.isalnum() for each in ids)
    assert ids[0] != ids[1]
    assert [one["tool_call_id"], two["tool_call_id"]] == ids
    assert [one["content"], two["content"]] == ["one", "two"]


def test_with_tags_arguments_that_were_cut_off_are_left_out() -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": '{"a": '}}
    talk = [{"role": "assistant", "content": "", "tool_calls": [call, CALL]}]
    told = for_style("glm", talk)[0]["tool_calls"]
    assert [each["function"]["arguments"] for each in told] == [{}, {"city": "ö"}]


# As Gemma 2's: no system, and user and assistant in turns.
STRICT = (
    "{% for m in messages %}{% if m.role not in ('user', 'assistant') "
    "or (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('no such turn') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{{ '\n' }}{% endfor %}"
)


@pytest.mark.parametrize(
    ("talk", "text"),
    [
        ("system be brief;user hi", "[user]be brief\n\nhi\n"),
        (
            "user hi;user there;assistant yes;user go",
            "[user]hi\n\nthere\n[assistant]yes\n[user]go\n",
        ),
        ("system be brief", "[user]be brief\n"),
    ],
)
def test_a_conversation_that_a_template_refuses_has_users_and_assistants_in_turns(
    talk: str, text: str
) -> None:
    messages = [
        dict(zip(("role", "content"), m.split(" ", 1), strict=True)) for m in talk.split(";")
    ]
    assert ChatTemplate(STRICT, {}).render(messages, DAY) == text


def test_tools_are_told_to_a_model_without_system_messages() -> None:
    text = ChatTemplate(STRICT, {}).render(TALK, DAY, [WEATHER])
    assert text.startswith("[user]You may call functions.")
    assert "21 degrees" in text


@pytest.mark.parametrize("talk", [["assistant"], ["assistant", "user"], ["user", "bystander"]])
def test_what_is_refused_in_both_forms_is_refused(talk: list[str]) -> None:
    with pytest.raises(InvalidInputError, match="no such turn"):
        ChatTemplate(STRICT, {}).render([{"role": r, "content": "hi"} for r in talk], DAY)


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
    # Results of several calls are one message of the user.
    two = [*TALK, {"role": "tool", "content": "3 degrees", "tool_call_id": "2"}]
    text = ChatTemplate(PLAIN, {}).render(two, DAY)
    assert (text.count("[user]"), text.count("[system]")) == (2, 0)
    # So is what the user says with them: user and assistant have to alternate.
    text = ChatTemplate(PLAIN, {}).render([*two, {"role": "user", "content": "Warm?"}], DAY)
    assert text.endswith("3 degrees\n</tool_response>\nWarm?\n")
    assert text.count("[user]") == 2


def test_without_tools_a_conversation_is_what_it_was() -> None:
    for template in (PLAIN, KNOWS):
        assert ChatTemplate(template, {}).render(TALK[:1], DAY) == "[user]And in Köln?\n"


@pytest.mark.parametrize(
    "text",
    [
        *("x", "[]", "[" * 100_000, '{"tools": []}'),
        *('{"tools": [1], "messages": {}}', '{"tools": [{}], "messages": {}}'),
        '{"tools": [], "messages": {"x": {}}}',
        '{"tools": [], "messages": {"0": {"tool_calls": [{}]}}}',
        '{"tools": [], "messages": {"0": {"tool_calls": 1}}}',
        '{"tools": [], "messages": {}, "variables": 1}',
    ],
)
def test_what_no_gateway_sends_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="tools: an object"):
        parse_tools(text)


TEXTS = ("<|end|>", "<|end", "<s>", "[X]", "")
CONTROLS = ControlTexts(TEXTS)
contents = st.lists(
    st.sampled_from(["<", "|", "end", "<|end", "|>", "<s>", "s", ">", "[", "X]", " ", "\n", "a"]),
    max_size=12,
).map("".join)


def test_a_content_without_control_texts_is_not_altered() -> None:
    for text in ("", "Where is Lyon?", "a < b > c", "<S>", "> [quoted]"):
        assert Quotes(CONTROLS).quote(text) == text


def test_the_longest_text_is_found_and_stands_apart() -> None:
    quotes = Quotes(CONTROLS)
    pieces = quotes.split("<s>" + quotes.quote("a<|end|><s> b") + "<|end|>")
    assert pieces == [("<s>a", False), ("<|end|>", True), ("<s>", True), (" b<|end|>", False)]


@pytest.mark.parametrize("tail", ["<|en", "<", "[", "<|en \n"])
def test_what_the_template_puts_behind_a_content_completes_nothing(tail: str) -> None:
    quotes = Quotes(CONTROLS)
    pieces = quotes.split(quotes.quote("a" + tail).rstrip() + "d|>")
    assert pieces == [("a", False), (tail.rstrip(), True), ("d|>", False)]


def test_marks_of_one_conversation_mean_nothing_in_another() -> None:
    mark = Quotes(CONTROLS).quote("<s>")
    assert Quotes(CONTROLS).split(mark) == [(mark, False)]
    # There may be no control texts.
    assert Quotes(ControlTexts([])).quote("<s> a") == "<s> a"


@given(st.lists(contents, min_size=1, max_size=4), st.sampled_from(["", "\n", "!"]))
def test_contents_come_through_whole_and_form_no_control_text(
    texts: list[str], between: str
) -> None:
    quotes = Quotes(CONTROLS)
    pieces = quotes.split(between.join(quotes.quote(text) for text in texts))
    assert "".join(part for part, _ in pieces) == between.join(texts)
    parsed = [part for part, is_plain in pieces if not is_plain]
    assert not [t for t in TEXTS if t and any(t in text for text in parsed)]


def test_roles_have_letters_digits_and_some_marks() -> None:
    for role in ("system", "user", "assistant", "tool", "ipython", "model-2", "developer"):
        check_role(role)
    for role in ("", "a b", "user<s>", "x" * 65, "rôle", "user\n"):
        with pytest.raises(InvalidInputError, match="letters, digits"):
            check_role(role)
