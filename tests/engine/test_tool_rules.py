"""Calls of functions are valid by construction, in every style, and free text stays free."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from nodes.engine.grammar import GrammarError, Grammars
from nodes.engine.rules import Grammar
from nodes.engine.toy import ToyConfig, ToyModel

# An end token, all bytes, and a token that begins a call and one that ends in the middle of one.
PIECES = [b"", *(bytes([b]) for b in range(1, 256)), b"<tool_call>", b'{"', b"ol_call>x"]
INFO = replace(ToyModel(ToyConfig()).info, num_vocab=len(PIECES), eog_token_ids=frozenset({0}))
WEATHER = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer", "maximum": 7}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
ODD = {"name": 'a"b', "parameters": {"type": "object", "properties": {}}}


class Pieces:
    def piece(self, token_id: int) -> bytes:
        return PIECES[token_id]


GRAMMARS = Grammars(Pieces(), INFO)


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
WHOLE, OPEN, NOT = (True, True), (True, False), (False, False)


@pytest.mark.parametrize(
    ("text", "found"),
    [
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
    ],
)
def test_hermes(text: str, found: tuple[bool, bool]) -> None:
    assert accepted(grammar("hermes"), text) == found


def test_hermes_with_a_call_that_must_come_or_only_one() -> None:
    must = grammar("hermes", "required")
    assert accepted(must, "") == OPEN
    assert accepted(must, "Let") == NOT
    assert accepted(must, TAGGED) == WHOLE
    for choice in ("auto", "required"):
        alone = grammar("hermes", choice, parallel=False)
        assert accepted(alone, TAGGED) == WHOLE
        assert accepted(alone, f"{TAGGED}\n<tool") == NOT


def test_an_answer_without_calls_may_have_a_schema_of_its_own() -> None:
    answer = {"type": "object", "properties": {"warm": {"type": "boolean"}}, "required": ["warm"]}
    for style, text in (("hermes", TAGGED), ("mistral", f"[{call()}]")):
        rules = grammar(style, answer=answer)
        assert accepted(rules, '{"warm": true}') == WHOLE
        assert accepted(rules, text) == WHOLE
        assert accepted(rules, "It is") == NOT
        assert accepted(grammar(style, "required", answer=answer), '{"warm') == NOT


def test_names_are_quoted() -> None:
    odd = '<tool_call>\n{"name": "a\\"b", "arguments": {}}\n</tool_call>'
    assert accepted(grammar("hermes"), odd) == WHOLE


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", WHOLE),
        ("Any text {", WHOLE),
        (call(key="parameters"), WHOLE),
        (call(key="parameters") + " ", NOT),
        ('{"a"', NOT),
    ],
)
def test_llama3(text: str, found: tuple[bool, bool]) -> None:
    assert accepted(grammar("llama3"), text) == found
    must = found if text.startswith("{") else (OPEN if not text else NOT)
    assert accepted(grammar("llama3", "required"), text) == must


def test_mistral() -> None:
    rules = grammar("mistral")
    assert accepted(rules, "Any text [") == WHOLE
    assert accepted(rules, f"[{call()}, {call()}]") == WHOLE
    assert accepted(rules, f"[{call()}") == OPEN
    assert accepted(rules, "[1") == NOT
    alone = grammar("mistral", "required", parallel=False)
    assert accepted(alone, f"[{call()}]") == WHOLE
    assert accepted(alone, f"[{call()},") == NOT


def test_a_token_that_holds_the_end_of_a_mark_and_more_is_held_to_what_may_follow() -> None:
    state = GRAMMARS.begin(grammar("hermes"))
    for byte in b"<to":
        state.push(byte)
    assert not state.allowed()[PIECES.index(b"ol_call>x")]
    state.push(ord("o"))


@pytest.mark.parametrize(
    "changes",
    [
        {"style": "other"},
        {"tools": []},
        {"tools": [{"name": "x"}]},
        {"tools": [{"name": "x", "parameters": 1}]},
        {"tools": 1},
        {"tools": [{"name": "x", "parameters": {"type": "nothing"}}]},
    ],
)
def test_what_describes_no_tools_is_refused_in_a_line(changes: dict[str, Any]) -> None:
    with pytest.raises(GrammarError) as caught:
        GRAMMARS.begin(grammar(**{"style": "hermes", **changes}))
    assert "\n" not in str(caught.value)
    assert caught.value.is_request_bad


@pytest.mark.parametrize("text", ["", "x", "[]", "null", "[" * 100_000])
def test_a_text_that_is_no_description_is_refused(text: str) -> None:
    with pytest.raises(GrammarError):
        GRAMMARS.begin(Grammar("tools", text))


PRETTY = '{\n  "name": "weather",\n  "arguments": {\n    "city": "Köln"\n  }\n}'


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (PRETTY, WHOLE),
        (f"```json\n{PRETTY}\n```", WHOLE),
        (f"```json\n{PRETTY}", WHOLE),
        (PRETTY + " And?", NOT),
        (PRETTY.replace('"Köln"', "1"), NOT),
        (PRETTY.replace("weather", "somebody") + " as an example", WHOLE),
        ('```json\n{"name": "Ann"}\n```', WHOLE),
        (f"So: {PRETTY}, and more", WHOLE),
    ],
)
def test_hermes_without_its_marks(text: str, found: tuple[bool, bool]) -> None:
    """Some models write JSON only. With the name of a tool it is held to its schema."""
    assert accepted(grammar("hermes"), text) == found
    assert accepted(grammar("hermes", "required"), text) == NOT
