"""An answer's text read as content and calls, however it is cut into pieces."""

from __future__ import annotations

import json
import random

import pytest

from nodes.gateway.calls import CallReader

ONE = '{"name": "weather", "arguments": {"city": "K\\"}{", "days": [1, {"a": "]"}]}}'
PRETTY = json.dumps(json.loads(ONE), indent=2).replace(": {", ":  \n {")
TWO = '{"name": "mail", "arguments": {}}'


def read(style: str, *pieces: str, is_last: bool = True) -> tuple[str, list[tuple[str, str]]]:
    """The content, and name and arguments of each call."""
    reader, content = CallReader(style, {"weather", "mail"}), ""
    calls: list[tuple[str, str]] = []
    for index, piece in enumerate(pieces):
        for part in reader.read(piece, is_last=is_last and index == len(pieces) - 1):
            content += part.content
            if part.name:
                assert part.number == len(calls)
                calls.append((part.name, ""))
            elif part.arguments:
                assert part.number == len(calls) - 1
                calls[-1] = (calls[-1][0], calls[-1][1] + part.arguments)
    assert reader.num_calls == len(calls)
    return content, calls


def tagged(*objects: str) -> str:
    return "\n".join(f"<tool_call>\n{each}\n</tool_call>" for each in objects)


CASES = [
    ("hermes", "Plain text, <tool_cal", "Plain text, <tool_cal", []),
    ("hermes", tagged(ONE), "", [ONE]),
    ("hermes", "I see.\n" + tagged(ONE, TWO), "I see.\n", [ONE, TWO]),
    ("llama3", ONE.replace("arguments", "parameters"), "", [ONE]),
    ("llama3", 'No {"name"', 'No {"name"', []),
    ("mistral", f"[{ONE}, {TWO}]", "", [ONE, TWO]),
    ("mistral", "No [", "No [", []),
    ("hermes", "```json\n" + PRETTY + "\n```", "", [ONE]),
    ("hermes", PRETTY, "", [ONE]),
    ("hermes", '```json\n{"name": "Ann"}\n```', '```json\n{"name": "Ann"}\n```', []),
    ("hermes", '{"name"', '{"name"', []),
    ("hermes", "", "", []),
]


@pytest.mark.parametrize(("style", "text", "content", "objects"), CASES)
def test_any_pieces_give_the_same(style: str, text: str, content: str, objects: list[str]) -> None:
    expected = [json.loads(each) for each in objects]
    source = random.Random(1)
    for _ in range(200):
        cuts = sorted(source.sample(range(len(text) + 1), source.randint(0, min(8, len(text)))))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        found_content, calls = read(style, *pieces)
        assert found_content == content
        assert [name for name, _ in calls] == [each["name"] for each in expected]
        assert [json.loads(text) for _, text in calls] == [each["arguments"] for each in expected]


@pytest.mark.parametrize(("style", "text", "content", "objects"), CASES)
def test_a_text_that_is_cut_off_gives_the_beginning_of_what_the_whole_gives(
    style: str, text: str, content: str, objects: list[str]
) -> None:
    whole = read(style, text)[1]
    assert len(whole) == len(objects)
    for end in range(len(text) + 1):
        cut = text[:end]
        found_content, calls = read(style, cut)
        # What might have become a call is content where nothing follows.
        rest = cut.removeprefix(content)
        assert content.startswith(found_content) or found_content == content + rest
        for (name, arguments), (whole_name, whole_arguments) in zip(calls, whole, strict=False):
            assert name == whole_name
            assert whole_arguments.startswith(arguments)
        assert len(calls) <= len(whole)


def test_arguments_are_told_as_they_come_and_what_may_begin_a_call_when_it_is_known() -> None:
    reader = CallReader("hermes")
    pieces = ("<tool_call>\n{", '"name": "f", ', '"arguments": {"a"', ": 1", "}}\n</tool")
    told = [[(p.name, p.arguments) for p in reader.read(piece)] for piece in pieces]
    assert told == [[], [], [("f", ""), ("", '{"a"')], [("", ": 1")], [("", "}")]]
    reader = CallReader("hermes")
    assert [p.content for p in reader.read("a <tool")] == ["a "]
    assert [p.content for p in reader.read("kit>")] == ["<toolkit>"]
