"""Calls of functions are valid by construction, in every style, and free text stays free."""

import json
import re
from typing import Any

import pytest

from airdraft.nodes.engine.grammar import GrammarError, Grammars
from airdraft.nodes.engine.rules import Grammar

# An end token, all bytes, and a token that begins a call and one that ends in the middle of one.
PIECES = [b"", *(bytes([b]) for b in range(1, 256)), b"<tool_call>", b'{"', b"ol_call>x"]
WEATHER = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer", "maximum": 7}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
WHOLE_NUMBER = {"type": "integer"}
ODD = {"name": 'a"b', "parameters": {"type": "object", "properties": {}}}


GRAMMARS = Grammars(PIECES.__getitem__, len(PIECES), frozenset({0}))


def grammar(style: str, choice: str = "auto", *, parallel: bool = True, **changes: Any) -> Grammar:
    told = {"style": style, "choice": choice, "parallel": parallel, "tools": [WEATHER, ODD]}
    return Grammar("tools", json.dumps({**told, **changes}))


def accepted(rules: Grammar, text: str) -> tuple[bool, bool]:
    """Whether a text may be written byte by byte, and whether it may end then."""
    state = GRAMMARS.begin(rules)
    for byte in text.encode():
        if not state.allowed()[byte]:
            return False, False
        state.push(byte)
    return True, bool(state.allowed()[0])


def call(arguments: str = '{"city": "Köln"}', key: str = "arguments") -> str:
    return f'{{"name": "weather", "{key}": {arguments}}}'


TAGGED = f"<tool_call>\n{call()}\n</tool_call>"
PLAIN = call(key="parameters")
WHOLE, OPEN, NOT = (True, True), (True, False), (False, False)


# Some models write JSON only. With the name of a tool it is held to its schema.
PRETTY = '{\n  "name": "weather",\n  "arguments": {\n    "city": "Köln"\n  }\n}'
ODD_CALL = '<tool_call>\n{"name": "a\\"b", "arguments": {}}\n</tool_call>'
QWEN = (
    "<tool_call>\n<function=weather>\n<parameter=city>\nKöln\n</parameter>\n"
    "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>"
)
# Without its mark.
LOOSE = QWEN.removeprefix("<tool_call>\n")
GLM = (
    "<tool_call>weather<arg_key>city</arg_key><arg_value>Köln</arg_value>"
    "<arg_key>days</arg_key><arg_value>3</arg_value></tool_call>"
)
# As gpt-oss writes messages in channels; it may name the function before the channel, too.
THOUGHT = "<|channel|>analysis<|message|>Use to=functions.f?<|end|><|start|>assistant"
SAID = "<|channel|>{}<|message|>It is warm."
TO_WEATHER = (
    '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Köln"}'
)
EARLY = ' to=functions.weather<|channel|>commentary json<|message|>{"city": "Köln"}'
# By style, choice, and whether there may be several calls.
TEXTS = {
    ("hermes", "auto", True): [
        ("", WHOLE),
        ("Any text. {} <tool_cal", WHOLE),
        (TAGGED, WHOLE),
        (f"Let me see.\n{TAGGED}", WHOLE),
        (f"{TAGGED}\n{TAGGED}", WHOLE),
        (TAGGED[:-1], OPEN),
        (f"{TAGGED} And?", NOT),
        ("So <tool_call> is it", NOT),
        (TAGGED.replace("weather", "whether"), NOT),
        (TAGGED.replace("city", "town"), NOT),
        (TAGGED.replace('"Köln"', "3"), NOT),
        (ODD_CALL, WHOLE),
        (PRETTY, WHOLE),
        (f"```json\n{PRETTY}\n```", WHOLE),
        (f"```json\n{PRETTY}", WHOLE),
        (PRETTY + " And?", NOT),
        (PRETTY.replace('"Köln"', "1"), NOT),
        (PRETTY.replace("weather", "somebody") + " as an example", WHOLE),
        ('```json\n{"name": "Ann"}\n```', WHOLE),
        (f"So: {PRETTY}, and more", WHOLE),
        (PRETTY.replace("  ", "\t", 2), WHOLE),
        ('\t{"name": "weather", "arguments": 3}', NOT),
        # With more or other white space it is free text, also for the gateway (test_reading.py).
        (" " * 21 + '{"name": "weather", "arguments": 3}', WHOLE),
        ('\u00a0{"name": "weather", "arguments": 3}', WHOLE),
    ],
    ("hermes", "required", True): [("", OPEN), ("Let", NOT), (TAGGED, WHOLE), (PRETTY, NOT)],
    ("hermes", "auto", False): [(TAGGED, WHOLE), (f"{TAGGED}\n<tool", NOT)],
    ("hermes", "required", False): [(TAGGED, WHOLE), (f"{TAGGED}\n<tool", NOT)],
    ("llama3", "auto", True): [
        *(("", WHOLE), ("Any text {", WHOLE), ('{"a"', NOT)),
        *((PLAIN, WHOLE), (PLAIN + " ", NOT)),
    ],
    ("llama3", "required", True): [
        *(("", OPEN), ("Any text {", NOT), ('{"a"', NOT), (PLAIN, WHOLE))
    ],
    ("mistral", "auto", True): [
        *(("Any text [", WHOLE), (f"[{call()}, {call()}]", WHOLE)),
        *((f"[{call()}", OPEN), ("[1", NOT)),
    ],
    ("mistral", "required", False): [(f"[{call()}]", WHOLE), (f"[{call()},", NOT)],
    ("qwen3-coder", "auto", True): [
        ("Any text. <function=f> <tool_cal", WHOLE),
        *((QWEN, WHOLE), (f"Let me see.\n\n{QWEN}\n{QWEN}{QWEN}", WHOLE), (QWEN[:-1], OPEN)),
        *((LOOSE, WHOLE), (f"Let me see.\n{LOOSE}", WHOLE), (f"Let me see. {LOOSE}", WHOLE)),
        *((f"{QWEN} And?", NOT), ("So <tool_call> is it", NOT), ("So\n<function=f>", NOT)),
        *(("So\n<function=weather>", OPEN), (QWEN + "\n", WHOLE), (LOOSE + "\n", WHOLE)),
        (QWEN.replace("weather", "whether"), NOT),
        (QWEN.replace("city", "town"), NOT),
        (QWEN.replace("Köln", 'any\n<tool_call> "text"'), WHOLE),
        (QWEN.replace("3", "8"), NOT),
        (QWEN.replace("3", '"3"'), NOT),
        (QWEN.replace("\n", ""), WHOLE),
        # Without what is optional, and without what is required.
        (QWEN.replace("<parameter=days>\n3\n</parameter>\n", ""), WHOLE),
        (QWEN.replace("<parameter=city>\nKöln\n</parameter>\n", ""), NOT),
        ('<tool_call>\n<function=a"b>\n</function>\n</tool_call>', WHOLE),
        ('<tool_call>\n<function=a"b>\n<parameter=any>\nthing\n</parameter>\n', OPEN),
    ],
    ("qwen3-coder", "required", False): [(QWEN, WHOLE), (f"{QWEN}\n<tool", NOT), (LOOSE, NOT)],
    ("channels", "auto", True): [
        *(("Any text", WHOLE), (THOUGHT + SAID.format("final"), WHOLE)),
        *((TO_WEATHER, WHOLE), (THOUGHT + TO_WEATHER, WHOLE), (EARLY, WHOLE)),
        *((THOUGHT + EARLY, WHOLE), (TO_WEATHER + "<|end|>", NOT)),
        *((f"<|start|>assistant{EARLY}", WHOLE), (f"<|start|>assistant{EARLY[:-1]}", OPEN)),
        (f"{SAID.format('commentary')}<|end|><|start|>assistant{TO_WEATHER}", WHOLE),
        *((f"Hm{THOUGHT}{EARLY}", WHOLE), (f"\n{TO_WEATHER}", WHOLE)),
        (THOUGHT + TO_WEATHER.replace("weather ", "weather"), WHOLE),
        (THOUGHT + TO_WEATHER.replace("weather ", "weatherjson"), NOT),
        (THOUGHT + TO_WEATHER.replace("weather", "whether"), NOT),
        (THOUGHT + TO_WEATHER.replace("city", "town"), NOT),
    ],
    ("channels", "required", True): [(TO_WEATHER, WHOLE), ("Any", NOT), (THOUGHT, NOT)],
    ("glm", "auto", True): [
        *((GLM, WHOLE), (f"Let me see.\n{GLM}{GLM}", WHOLE), ("So <tool_call> is it", NOT)),
        *((GLM.replace("><", ">\n<"), WHOLE), (GLM + "\n", WHOLE)),
        (GLM.replace("weather", "weather\n"), WHOLE),
        *((GLM.replace("city", "town"), NOT), (GLM.replace("3", "x"), NOT)),
        ('<tool_call>a"b</tool_call>', WHOLE),
    ],
}


@pytest.mark.parametrize(
    ("asked", "text", "found"), [(asked, *row) for asked, rows in TEXTS.items() for row in rows]
)
def test_calls_are_valid_and_free_text_stays_free(
    asked: tuple[str, str, bool], text: str, found: tuple[bool, bool]
) -> None:
    style, choice, parallel = asked
    assert accepted(grammar(style, choice, parallel=parallel), text) == found


IN_THOUGHTS = 'I could write <tool_call>, {"name": "weather" or ['
BARE_BAD = '{"name": "weather", "arguments": 3}'
# By style and how the model thinks.
BEHIND_THOUGHTS = {
    ("hermes", "opened"): [
        ("", WHOLE),
        (IN_THOUGHTS, WHOLE),
        (f"{IN_THOUGHTS}</think>", WHOLE),
        (f"{IN_THOUGHTS}</think>\n\n{TAGGED}\n{TAGGED}", WHOLE),
        (f"{IN_THOUGHTS}</think>Let me see.\n{TAGGED}", WHOLE),
        (f"hm</think>{TAGGED} And?", NOT),
        (f"hm</think>{TAGGED.replace('city', 'town')}", NOT),
        (f"hm</think>\n\n```json\n{PRETTY}\n```", WHOLE),
        (f"hm</think>\n\n{BARE_BAD}", NOT),
        (f"hm</think>So: </think> {BARE_BAD}", WHOLE),
        (BARE_BAD, WHOLE),
    ],
    ("hermes", "marked"): [
        (f"\n<think>{IN_THOUGHTS}", WHOLE),
        (f"<think>{IN_THOUGHTS}</think>\n\n{TAGGED}", WHOLE),
        (f"<think>hm</think>\n\n{BARE_BAD}", NOT),
        ("<think>hm</think>So <tool_call> is it", NOT),
        (f"<thin {TAGGED}", WHOLE),
        (TAGGED, WHOLE),
        (PRETTY, WHOLE),
        (BARE_BAD, NOT),
        ("So <tool_call> is it", NOT),
        ("It begins with <think>, so", WHOLE),
    ],
    ("llama3", "marked"): [
        ("", WHOLE),
        (f'<think>{IN_THOUGHTS}</think>\n{{"a"', NOT),
        (f"<think>{IN_THOUGHTS}</think>\n{PLAIN}", WHOLE),
        ("<think>hm</think>\nSo: {", WHOLE),
        ("<think>hm</think>\n", WHOLE),
        (PLAIN, WHOLE),
        ('{"a"', NOT),
        ("So: {", WHOLE),
    ],
    ("qwen3-coder", "opened"): [
        (IN_THOUGHTS, WHOLE),
        (f"{IN_THOUGHTS}</think>\n\nLet me see.\n{QWEN}", WHOLE),
        (f"{IN_THOUGHTS}</think>\n\n{LOOSE}", WHOLE),
        (f"hm</think>\n\n{LOOSE.replace('city', 'town')}", NOT),
    ],
    ("mistral", "opened"): [
        ("[1] is a source", WHOLE),
        ("hm</think>[1] is a source", NOT),
        ("hm</think>See [1]", WHOLE),
        (f"hm</think> [{call()}, {call()}]", WHOLE),
    ],
}


@pytest.mark.parametrize(
    ("asked", "text", "found"),
    [(asked, *row) for asked, rows in BEHIND_THOUGHTS.items() for row in rows],
)
def test_thoughts_are_free_and_what_follows_them_is_an_answer(
    asked: tuple[str, str], text: str, found: tuple[bool, bool]
) -> None:
    style, thinking = asked
    assert accepted(grammar(style, thinking=thinking), text) == found


def test_an_answer_without_calls_may_have_a_schema_of_its_own() -> None:
    answer = {"type": "object", "properties": {"warm": {"type": "boolean"}}, "required": ["warm"]}
    for style, text in (
        ("hermes", TAGGED),
        ("mistral", f"[{call()}]"),
        ("glm", GLM),
        ("channels", TO_WEATHER),
    ):
        rules = grammar(style, answer=answer)
        assert accepted(rules, '{"warm": true}') == WHOLE
        assert accepted(rules, text) == WHOLE
        assert accepted(rules, "It is") == NOT
        assert accepted(grammar(style, "required", answer=answer), '{"warm') == NOT


# Schemas of an argument, and what its value may be between tags.
@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string"}, "any, 1\n2", None),
        ({}, "any", None),
        ({"type": ["string", "null"]}, "any", None),
        ({"enum": ["a", "b"]}, "b", "c"),
        ({"enum": ["a", 1, None]}, "null", "c"),
        ({"const": "a"}, "a", '"a"'),
        ({"$ref": "#/$defs/unit"}, "C", "K"),
        ({"allOf": [{"$ref": "#/$defs/unit"}]}, "F", "K"),
        ({"anyOf": [{"$ref": "#/$defs/unit"}, {"type": "null"}]}, "F", "K"),
        ({"type": "array", "items": {"$ref": "#/$defs/unit"}}, '["F", "C"]', '["K"]'),
        ({"type": "boolean"}, "true", "True"),
        ({"$ref": "#/$defs/nowhere"}, "any", None),
        ({"$ref": "#/$defs/a~1b"}, "1", "one"),
        ({"$ref": "#/$defs/loop"}, "any", None),
        ({"type": "object", "anyOf": [{"required": ["a"]}, {}]}, '{"a": 1}', "any"),
        ({"allOf": [{"type": ["string", "null"]}, {"type": "null"}]}, "null", "any"),
        ({"enum": [0.5, 1.0]}, "0.5", "0.7"),
        (
            {
                "type": "array",
                "items": {"$ref": "#/properties/x/$defs/y"},
                "$defs": {"y": WHOLE_NUMBER},
            },
            "[1]",
            '["x"]',
        ),
    ],
)
def test_values_between_tags_follow_their_schemas(
    schema: dict[str, Any], good: str, bad: str | None
) -> None:
    parameters = {
        "properties": {"x": schema},
        "required": ["x"],
        "additionalProperties": False,
        "$defs": {
            "unit": {"enum": ["C", "F"]},
            "a/b": {"type": "integer"},
            "loop": {"anyOf": [{"$ref": "#/$defs/loop"}] * 9},
        },
    }
    rules = grammar("glm", tools=[{"name": "f", "parameters": parameters}])
    written = "<tool_call>f<arg_key>x</arg_key><arg_value>{}</arg_value></tool_call>"
    assert accepted(rules, written.format(good)) == WHOLE
    if bad is not None:
        assert accepted(rules, written.format(bad)) == NOT


A = "<arg_key>{}</arg_key><arg_value>{}</arg_value>"


@pytest.mark.parametrize(
    ("parameters", "good", "bad"),
    [
        ({"$ref": "#/$defs/p", "$defs": {"p": {"properties": {"a": WHOLE_NUMBER}}}}, "1", "x"),
        ({"allOf": [{"properties": {"a": WHOLE_NUMBER}}, {"required": ["a"]}]}, "1", "x"),
        ({"properties": {"b": {}}, "additionalProperties": WHOLE_NUMBER}, "1", "x"),
        ({"properties": {"a": WHOLE_NUMBER}, "additionalProperties": True}, "1", "x"),
        ({"properties": {}, "required": ["a"]}, "x", None),
        ({"anyOf": [{"properties": {"a": WHOLE_NUMBER}}, {}]}, "x", None),
    ],
)
def test_arguments_with_tags_are_those_of_the_schema(
    parameters: dict[str, Any], good: str, bad: str | None
) -> None:
    rules = grammar("glm", tools=[{"name": "f", "parameters": parameters}])
    assert accepted(rules, f"<tool_call>f{A.format('a', good)}</tool_call>") == WHOLE
    if bad is not None:
        assert accepted(rules, f"<tool_call>f{A.format('a', bad)}</tool_call>") == NOT
    has_to = "required" in json.dumps(parameters)
    assert accepted(rules, "<tool_call>f</tool_call>") == (NOT if has_to else WHOLE)


MANY = re.findall(
    r"\w+",
    "execute_command read_file write_to_file replace_in_file search_files list_files finish "
    "list_code_definition_names browser_action use_mcp_tool access_mcp_resource ask_question",
)


@pytest.mark.parametrize("style", ["hermes", "qwen3-coder", "glm", "channels"])
@pytest.mark.parametrize("thinking", [None, "opened", "marked"])
@pytest.mark.parametrize("count", [5, 12, 128])
def test_as_many_tools_as_agents_have_are_no_burden(
    style: str, thinking: str | None, count: int
) -> None:
    names = [f"{name}_{number}" for number in range(11) for name in MANY][:count]
    tools = [{**WEATHER, "name": name} for name in names]
    told = {} if thinking is None else {"thinking": thinking}
    last = {"hermes": TAGGED, "qwen3-coder": QWEN, "glm": GLM, "channels": THOUGHT + TO_WEATHER}[
        style
    ].replace("weather", names[-1])
    thoughts = {"opened": "hm</think>\n", "marked": "<think>hm</think>\n"}.get(thinking or "", "")
    text = last if style == "channels" else f"{thoughts}So.\n{last}"
    assert accepted(grammar(style, tools=tools, **told), text) == WHOLE


@pytest.mark.parametrize(
    "parameters",
    [
        *({"properties": {name: {}}} for name in ("", "a<b", "a\nb")),
        {"properties": {"a": {"enum": ["</arg_value>"]}}},
        *({"required": 5}, {"properties": []}),
    ],
)
def test_schemas_that_tags_cannot_hold_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(GrammarError):
        GRAMMARS.begin(grammar("glm", tools=[{"name": "f", "parameters": parameters}]))


def test_a_token_that_holds_the_end_of_a_mark_and_more_is_held_to_what_may_follow() -> None:
    state = GRAMMARS.begin(grammar("hermes"))
    for byte in b"<to":
        state.push(byte)
    assert not state.allowed()[PIECES.index(b"ol_call>x")]
    state.push(ord("o"))


@pytest.mark.parametrize(
    "changes",
    [
        *("", "x", "[]", "null", "[" * 100_000),
        {"style": "other"},
        {"thinking": "loudly"},
        {"tools": []},
        {"tools": [{"name": "x"}]},
        {"tools": [{"name": "x", "parameters": 1}]},
        {"tools": 1},
        {"tools": [{"name": "x", "parameters": {"type": "nothing"}}]},
    ],
)
def test_what_describes_no_tools_is_refused_in_a_line(changes: str | dict[str, Any]) -> None:
    """changes: of a good description, or another text."""
    if isinstance(changes, str):
        wrong = Grammar("tools", changes)
    else:
        wrong = grammar(**{"style": "hermes", **changes})
    with pytest.raises(GrammarError) as caught:
        GRAMMARS.begin(wrong)
    assert "\n" not in str(caught.value)
    assert caught.value.is_request_bad
