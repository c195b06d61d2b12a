"""A text is read as thoughts, content and calls, wherever it is cut into pieces."""

import itertools
import json
import random
from typing import Any

import pytest

from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.engine.chat.tagged import Arguments, arguments_of
from airdraft.nodes.engine.traits import ModelTraits, SamplingDefaults
from airdraft.nodes.gateway.answers import Delta
from airdraft.nodes.gateway.app import Gateway
from airdraft.nodes.gateway.config import GatewayConfig
from airdraft.nodes.gateway.fields import Job
from airdraft.nodes.gateway.items import items_of
from airdraft.nodes.gateway.reading import CALL, CONTENT, REASONING, TextReader
from airdraft.nodes.gateway.tools import Tools, tool_json
from tests.nodes.gateway.calls import CHAT, TALK, ask, open_app, post
from tests.nodes.gateway.fake_mesh import (
    THINKING,
    FakeMesh,
    finished,
    scored,
    started,
    text_answer,
    tokens,
)

# As libllama shows the messages of gpt-oss, with or without the mark that ends one.
THOUGHT = "<|channel|>analysis<|message|>"
ANSWER = "<|start|>assistant<|channel|>final<|message|>"
TO_WEATHER = "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"


@pytest.mark.parametrize(
    ("kind", "text", "reasoning", "content"),
    [
        ("marked", "<think>\nhm\n</think>\n\nYes.", "hm\n", "Yes."),
        ("marked", "\n<think>a</think>b", "a", "b"),
        ("marked", "Yes. <think>", "", "Yes. <think>"),
        ("marked", " Yes.", "", " Yes."),
        ("marked", "<thin", "", "<thin"),
        ("marked", "<think>cut off </thi", "cut off </thi", ""),
        ("marked", "<think></think>Yes.", "", "Yes."),
        ("marked", "", "", ""),
        ("opened", "\nhm</think>Yes. </think>", "hm", "Yes. </think>"),
        ("opened", "cut off", "cut off", ""),
        ("harmony", f"{THOUGHT}hm{ANSWER}Yes.", "hm", "Yes."),
        ("harmony", f"{THOUGHT}a{ANSWER.replace('final', 'analysis')}b{ANSWER}c", "ab", "c"),
        ("harmony", f"{THOUGHT}hm<|end|>{ANSWER}Yes.", "hm", "Yes."),
        ("harmony", "<|channel|>final<|message|>Yes.", "", "Yes."),
        ("harmony", f"{THOUGHT}cut off <|st", "cut off <|st", ""),
        ("harmony", f"{THOUGHT}hm<|start|>assistant<|ch", "hm", ""),
        ("harmony", "Yes.", "", "Yes."),
    ],
)
def test_thoughts_are_told_apart_wherever_the_text_is_cut(
    kind: str, text: str, reasoning: str, content: str
) -> None:
    for cuts in itertools.combinations(range(len(text) + 1), min(2, len(text))):
        reader, found = TextReader(thinking=kind), {REASONING: "", CONTENT: ""}
        edges = [0, *cuts, len(text)]
        for place, (start, end) in enumerate(itertools.pairwise(edges)):
            for part in reader.read(text[start:end], is_last=place == len(edges) - 2):
                found[part.kind] += part.text
        assert list(found.values()) == [reasoning, content], cuts


async def message(mesh: FakeMesh, **body: Any) -> dict[str, Any]:
    found: dict[str, Any] = (await ask(mesh, CHAT, {**TALK, **body})).json["choices"][0]["message"]
    return found


async def test_what_a_grammar_holds_does_not_think() -> None:
    mesh = FakeMesh(text_answer('{"a": 1}'), traits=ModelTraits("hermes", "opened"))
    wanted = {"response_format": {"type": "json_object"}}
    tool = {"type": "function", "function": {"name": "f"}}
    for body in (wanted, {**wanted, "tools": [tool]}, {"grammar": 'root ::= "x"'}):
        found = await message(mesh, **body)
        assert found["content"] == '{"a": 1}'
        assert "reasoning_content" not in found


async def test_chats_have_thoughts_in_a_field_of_their_own() -> None:
    pieces = ["<think>", "hm", "</think>", "\n\nYes", "."]
    batches = [tokens(p, n, scores=(scored(p, -0.5),)) for n, p in enumerate(pieces)]
    mesh = FakeMesh([started(), *batches, finished(len(pieces))], traits=THINKING)
    found = await message(mesh)
    assert (found["reasoning_content"], found["content"]) == ("hm", "Yes.")
    call = await ask(mesh, CHAT, {**TALK, "stream": True, "logprobs": True})
    choices = [event["choices"][0] for event in call.events[:-1]]
    deltas = [choice["delta"] for choice in choices]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "hm"
    assert "".join(delta.get("content") or "" for delta in deltas) == "Yes."
    # Tokens of thoughts are told, too.
    scores = [(choice["logprobs"] or {"content": []})["content"] for choice in choices]
    assert [entry["token"] for each in scores for entry in each] == pieces
    whole = (await ask(mesh, CHAT, {**TALK, "logprobs": True})).json["choices"][0]["logprobs"]
    assert [entry["token"] for entry in whole["content"]] == pieces


async def test_what_is_left_open_is_as_the_model_has_it() -> None:
    traits = ModelTraits(sampling=SamplingDefaults(0.25, 7, 0.5, 0.125))
    mesh = FakeMesh(text_answer("Yes."), traits=traits)
    app = open_app(Gateway(mesh, GatewayConfig()))
    found = (await post(app, CHAT, {**TALK, "top_k": 9})).json
    options = mesh.asked[0][1]
    assert (options.temperature, options.top_k, options.top_p) == (0.25, 9, 0.5)
    assert found["usage"]["airdraft"]["sampling"]["min_p"] == 0.125
    await ask(mesh, CHAT, TALK)
    assert (mesh.asked[1][1].temperature, mesh.asked[1][1].top_k) == (1.0, 0)


async def test_an_answer_is_read_as_thinking_is_switched() -> None:
    traits = ModelTraits("hermes", "opened", thinking_off="marked", thinking_on="opened")
    mesh = FakeMesh(text_answer("Yes."), traits=traits)
    assert (await message(mesh))["reasoning_content"] == "Yes."
    found = await message(mesh, reasoning_effort="none")
    assert (found["content"], found.get("reasoning_content")) == ("Yes.", None)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [('[{"name": "weather", "arguments": {}}]', [CONTENT]), (f"{TO_WEATHER}{{}}", [CALL, CALL])],
)
def test_an_answer_in_a_format_is_no_call_in_a_channel(text: str, kinds: list[str]) -> None:
    reader = TextReader(style="channels", tools=tools(weather={}), has_format=True)
    assert [part.kind for part in reader.read(text, is_last=True)] == kinds


def test_without_tools_no_message_in_a_channel_is_a_call() -> None:
    reader = TextReader(thinking="harmony")
    found = list(reader.read(f"{TO_WEATHER}{{}}", is_last=True))
    assert [part.kind for part in found] == [CONTENT]


@pytest.mark.parametrize("style", ["hermes", "channels"])
async def test_a_model_with_channels_thinks_and_calls(style: str) -> None:
    tool = {"type": "function", "function": {"name": "weather"}}
    call = f"{ANSWER}<tool_call>\n{ONE}\n</tool_call>"
    if style == "channels":
        said = "<|channel|>commentary<|message|>I will look."
        call = f"<|end|><|start|>assistant{said}<|end|><|start|>assistant{TO_WEATHER}{{}}"
    mesh = FakeMesh(text_answer(f"{THOUGHT}hm{call}"), traits=ModelTraits(style, "harmony"))
    found = await message(mesh, tools=[tool])
    assert found["reasoning_content"] == "hm"
    assert found["content"] == ("I will look." if style == "channels" else None)
    assert [call["function"]["name"] for call in found["tool_calls"]] == ["weather"]
    assert "thinking" not in mesh.asked[0][1].rules.grammar.text


# -- calls -----------------------------------------------------------------------------------------

ONE = '{"name": "weather", "arguments": {"city": "K\\"}{", "days": [1, {"a": "]"}]}}'
PRETTY = json.dumps(json.loads(ONE), indent=2).replace(": {", ":  \n {")
TWO = '{"name": "mail", "arguments": {}}'


WEATHER = {
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "array"},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    }
}


def tools(**parameters: dict[str, Any]) -> Tools:
    return Tools(tuple(tool_json(name, None, schema) for name, schema in parameters.items()))


def read(style: str, *pieces: str) -> tuple[str, list[tuple[str, str]]]:
    """The content, and name and arguments of each call."""
    reader, content = TextReader(style=style, tools=tools(weather=WEATHER, mail={})), ""
    calls: list[tuple[str, str]] = []
    for index, piece in enumerate(pieces):
        for part in reader.read(piece, is_last=index == len(pieces) - 1):
            if part.kind == CONTENT:
                content += part.text
            elif part.name:
                calls.append((part.name, ""))
            else:
                calls[-1] = (calls[-1][0], calls[-1][1] + part.text)
    return content, calls


def tagged(*objects: str) -> str:
    return "\n".join(f"<tool_call>\n{each}\n</tool_call>" for each in objects)


# The first call, as Qwen3-Coder and GLM write it, and another whose values could be texts.
QWEN = (
    '<tool_call>\n<function=weather>\n<parameter=city>\nK"}{\n</parameter>\n'
    '<parameter=days>\n[1, {"a": "]"}]\n</parameter>\n</function>\n</tool_call>'
)
GLM = (
    '<tool_call>weather<arg_key>city</arg_key>\n<arg_value>K"}{</arg_value>\n'
    '<arg_key>days</arg_key><arg_value>[1, {"a": "]"}]</arg_value></tool_call>'
)
NOTE = "<tool_call>\nweather<arg_key>note</arg_key><arg_value>{}</arg_value></tool_call>"
NOTED = '{{"name": "weather", "arguments": {{"note": {}}}}}'
MAIL = "<tool_call>\n<function=mail>\n</function>\n</tool_call>"

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
    ("hermes", ONE.replace(" ", "\t\r\n"), "", [ONE]),
    # The grammar takes these for free text, so they are no calls (test_tool_rules.py).
    ("hermes", " " * 21 + TWO, " " * 21 + TWO, []),
    ("hermes", "\u00a0" + TWO, "\u00a0" + TWO, []),
    ("hermes", '```json\n{"name": "Ann"}\n```', '```json\n{"name": "Ann"}\n```', []),
    ("hermes", '{"name"', '{"name"', []),
    ("hermes", "", "", []),
    ("qwen3-coder", QWEN, "", [ONE]),
    ("qwen3-coder", f"I see.\n{QWEN}\n{MAIL}", "I see.\n", [ONE, TWO]),
    ("qwen3-coder", QWEN.replace("\n", ""), "", [ONE]),
    # Without the mark.
    ("qwen3-coder", QWEN[12:], "", [ONE]),
    ("qwen3-coder", f"I see.\n{QWEN[12:]}", "I see.", [ONE]),
    ("qwen3-coder", "Write <function=", "Write <function=", []),
    ("qwen3-coder", f"{MAIL}\n", "", [TWO]),
    ("channels", "Plain", "Plain", []),
    ("channels", TO_WEATHER + json.dumps(json.loads(ONE)["arguments"]), "", [ONE]),
    ("channels", " to=functions.mail<|channel|>commentary json<|message|>{}", "", [TWO]),
    ("channels", "<|start|>assistant to=functions.mail<|message|>{}", "", [TWO]),
    ("glm", GLM, "", [ONE]),
    ("glm", f"I see.\n{GLM}<tool_call>mail\n</tool_call>", "I see.\n", [ONE, TWO]),
    ("glm", NOTE.format("null"), "", [NOTED.format("null")]),
    (
        "qwen3-coder",
        MAIL.replace("mail>", "weather>\n<parameter=note>\nNone\n</parameter>"),
        "",
        [NOTED.format("null")],
    ),
    ("glm", NOTE.format("None"), "", [NOTED.format('"None"')]),
    ("glm", NOTE.format("5"), "", [NOTED.format('"5"')]),
    (
        "glm",
        NOTE.replace("note", "other").format("5"),
        "",
        [NOTED.replace("note", "other").format("5")],
    ),
    ("glm", "<function=mail>\n", "<function=mail>\n", []),
]


# The grammar takes these for free text. What is cut off in a mark of theirs is content.
NO_CALLS: list[tuple[str, str, str, list[str]]] = [
    ("channels", TO_WEATHER.replace("weather", "other") + "x", "x", []),
    ("channels", "<|channel|>final to=functions.mail<|message|>x", "x", []),
    ("channels", f"<|channel|>commentary<|message|>x<|end|>{TO_WEATHER}y", "xy", []),
    ("channels", "<|start|> to=functions.mail<|message|>x", "x", []),
]


@pytest.mark.parametrize(("style", "text", "content", "objects"), [*CASES, *NO_CALLS])
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
    reader = TextReader(style="hermes")
    pieces = ("<tool_call>\n{", '"name": "f", ', '"arguments": {"a"', ": 1", "}}\n</tool")
    told = [list(reader.read(piece)) for piece in pieces]
    assert told == [
        *([], [], [(CALL, "", "f"), (CALL, '{"a"', "")]),
        *([(CALL, ": 1", "")], [(CALL, "}", "")]),
    ]
    reader = TextReader(style="hermes")
    assert [list(reader.read(piece)) for piece in ("a <tool", "kit>")] == [
        [(CONTENT, "a ", "")],
        [(CONTENT, "<toolkit>", "")],
    ]


def test_the_schema_of_a_function_is_read_once_for_all_choices_and_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[dict[str, Any]] = []

    def counted(schema: dict[str, Any]) -> Arguments:
        read.append(schema)
        return arguments_of(schema)

    monkeypatch.setattr("airdraft.nodes.gateway.tools.arguments_of", counted)
    job = Job((), GenerateOptions(), tools=tools(weather=WEATHER, mail={}), tool_style="glm")
    for index in range(4):
        delta = Delta(index, f"{GLM}\n{GLM}", (), begins=True, finish_reason="stop")
        assert [item.name for item in items_of(job, delta)] == ["weather", "weather"]
    assert len(read) == 1
