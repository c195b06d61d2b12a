"""Tools in bodies and answers: what the mesh is asked for, and what a client is told."""

import json
from typing import Any

import pytest

from airdraft.nodes.engine.traits import ModelTraits
from airdraft.nodes.gateway.chat import CHAT
from airdraft.nodes.gateway.errors import ApiError
from airdraft.nodes.gateway.tools import in_style
from tests.nodes.gateway.calls import CHAT as PATH
from tests.nodes.gateway.calls import KEY, ask, named_events
from tests.nodes.gateway.fake_mesh import THINKING, FakeMesh, text_answer
from tests.nodes.gateway.jobs import Jobs

USER = {"role": "user", "content": "Is it warm in Köln?"}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "description": "Of a city", "parameters": PARAMETERS},
}
MAIL = {"type": "function", "function": {"name": "mail"}}
CALL = '{"name": "weather", "arguments": {"city": "Köln"}}'
TEXT = ("One mo", "ment.", "\n<tool_c", "all>\n", CALL[:40], CALL[40:], "\n</tool_call>")


def body(**changes: Any) -> dict[str, Any]:
    return {"messages": [USER], "tools": [WEATHER, MAIL], **changes}


def grammar_of(**changes: Any) -> dict[str, Any]:
    job = Jobs(CHAT).job(body(**changes))
    assert job.tools is not None
    rules = in_style(job.options, job.tools, "hermes").rules
    assert rules.grammar.kind == "tools"
    found: dict[str, Any] = json.loads(rules.grammar.text)
    return found


def tool(**function: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "x", **function}}]}


def test_the_answer_is_held_to_the_schemas_of_its_tools() -> None:
    found = grammar_of()
    assert (found["style"], found["choice"], found["parallel"]) == ("hermes", "auto", True)
    weather, mail = found["tools"]
    # Arguments that nobody has declared help nobody.
    assert weather == {
        "name": "weather",
        "parameters": {"additionalProperties": False, **PARAMETERS},
    }
    assert mail["parameters"]["properties"] == {}
    assert grammar_of(tool_choice="required")["choice"] == "required"
    assert not grammar_of(parallel_tool_calls=False)["parallel"]
    # A named tool is the only one.
    named = {"type": "function", "function": {"name": "mail"}}
    found = grammar_of(tool_choice=named)
    assert [tool["name"] for tool in found["tools"]] == ["mail"]
    assert (found["choice"], found["parallel"]) == ("required", False)


def test_an_answer_without_calls_follows_the_format() -> None:
    schema = {"type": "object", "properties": {"warm": {"type": "boolean"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert grammar_of(response_format=wanted)["answer"] == schema
    assert "answer" not in grammar_of(response_format=wanted, tool_choice="required")
    job = Jobs(CHAT, strict_fields=False).job(body(response_format=wanted))
    assert job.tools is not None
    with pytest.raises(ApiError, match="look like JSON") as caught:
        in_style(job.options, job.tools, "llama3")
    # All APIs have this field; the format has a name of its own in each.
    assert caught.value.param == "tools"


@pytest.mark.parametrize(
    "arguments", ['{"a": "\\ud800"}', '{"a": ' * 200 + "1" + "}" * 200, "[1]", "x", '{"a": 1e999}']
)
def test_arguments_that_are_not_to_be_read_stay_a_text(arguments: str) -> None:
    calls = [{"function": {"name": "weather", "arguments": arguments}}]
    messages = [USER, {"role": "assistant", "tool_calls": calls}]
    told = json.loads(Jobs(CHAT).job(body(messages=messages)).options.tools)
    assert told["messages"]["1"]["tool_calls"][0]["function"]["arguments"] == arguments


def test_only_what_a_model_is_to_hear_of_tools_is_told() -> None:
    job = Jobs(CHAT, strict_fields=False).job(body(**tool(name="mail", strict=True, note="x")))
    assert json.loads(job.options.tools)["tools"] == [MAIL]
    assert [hint.path for hint in job.ignored] == ["tools[0].function.note"]
    deep: Any = {}
    for _ in range(100):
        deep = {"type": "object", "properties": {"a": deep}}
    with pytest.raises(ApiError, match="levels"):
        Jobs(CHAT).job(body(**tool(parameters=deep)))
    # Where nothing may be called it hears of none.
    for changes in ({"tool_choice": "none"}, {"tools": []}, {"tools": None}):
        job = Jobs(CHAT).job(body(**changes))
        assert (job.tools, job.options.tools) == (None, "")


NONE = {"type": "object", "properties": {}, "additionalProperties": False}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}


@pytest.mark.parametrize(
    ("parameters", "closed"),
    [
        (None, NONE),
        ({}, NONE),
        # As servers of the Model Context Protocol describe a function without arguments.
        ({"type": "object"}, NONE),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}, NONE),
        ({"type": "object", "additionalProperties": True}, None),
        ({"type": "object", "anyOf": [PARAMETERS]}, None),
        ({"$ref": "#/$defs/A", "$defs": {"A": PARAMETERS}}, None),
        *(
            ({**CITY, **more}, {"additionalProperties": False, **CITY, **more})
            for more in (
                {"anyOf": [{"required": ["city"]}, {"minProperties": 1}]},
                {"allOf": [{"properties": {"city": {"maxLength": 9}}}]},
                # No schemas at all are for the target to refuse.
                {"required": 1, "allOf": [1], "anyOf": 2, "oneOf": [{"properties": [{}]}]},
            )
        ),
        # Arguments that a schema names elsewhere are not ruled out.
        ({**CITY, "allOf": [{"properties": {"days": {"type": "integer"}}}]}, None),
        ({**CITY, "oneOf": [{"allOf": [{"properties": {"days": {}}}]}]}, None),
        ({**CITY, "anyOf": [{"required": ["days"]}]}, None),
        ({**CITY, "anyOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": {}}}, None),
        ({**CITY, "required": ["days"]}, None),
    ],
)
def test_only_arguments_that_a_schema_names_are_made(parameters: Any, closed: Any) -> None:
    """closed: what the grammar has; None for the same as was sent."""
    (found,) = grammar_of(**tool(parameters=parameters))["tools"]
    assert found["parameters"] == (parameters if closed is None else closed)


async def test_a_whole_answer_has_content_and_calls() -> None:
    mesh = FakeMesh(text_answer(*TEXT))
    choice = (await ask(mesh, PATH, body(), **KEY)).json["choices"][0]
    (made,) = choice["message"]["tool_calls"]
    assert choice["message"]["content"] == "One moment.\n"
    assert choice["finish_reason"] == "tool_calls"
    assert made["function"]["name"] == "weather"
    assert json.loads(made["function"]["arguments"]) == {"city": "Köln"}
    assert (made["type"], made["id"][:5]) == ("function", "call_")
    assert "index" not in made
    assert mesh.asked[0][1].rules.grammar.kind == "tools"
    # Ids are the same when an answer is made again.
    assert (await ask(mesh, PATH, body(), **KEY)).json["choices"][0] == choice
    # An answer without a call is as any other.
    choice = (await ask(FakeMesh(text_answer("Yes", ".")), PATH, body())).json["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "Yes.", "refusal": None}
    assert choice["finish_reason"] == "stop"


async def test_a_streamed_answer_tells_calls_as_they_come() -> None:
    call = await ask(FakeMesh(text_answer(*TEXT)), PATH, body(stream=True))
    deltas = [event["choices"][0]["delta"] for event in call.events[:-1]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "One moment.\n"
    first, *others = (part for delta in deltas for part in delta.get("tool_calls", ()))
    assert (first["function"]["name"], first["function"]["arguments"]) == ("weather", "")
    assert all(part["index"] == 0 and "id" not in part for part in others)
    assert len(others) > 1
    arguments = "".join(part["function"]["arguments"] for part in others)
    assert json.loads(arguments) == {"city": "Köln"}
    assert call.events[-2]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_is_cut_off_ends_for_length(stream: bool) -> None:
    mesh = FakeMesh(text_answer(*TEXT[:5], reason="length"))
    call = await ask(mesh, PATH, body(stream=stream))
    last = call.events[-2] if stream else call.json
    assert last["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_a_stop_text_cuts_off_is_not_to_be_carried_out(stream: bool) -> None:
    """Its arguments are missing or no JSON, so no API says that it waits for a result."""
    mesh = FakeMesh(text_answer("<tool_call>\n", CALL[:40]))
    asked = {"tools": [WEATHER], "stop": "ln", "stream": stream, "messages": [USER]}
    chat = await ask(mesh, PATH, asked)
    last = chat.events[-2] if stream else chat.json
    assert last["choices"][0]["finish_reason"] == "stop"

    of_tool = WEATHER["function"]
    theirs = [{"name": "weather", "input_schema": PARAMETERS}]
    asked = {"tools": theirs, "stop_sequences": ["ln"], "stream": stream, "messages": [USER]}
    messages = await ask(mesh, "/v1/messages", {**asked, "max_tokens": 50})
    end = named_events(messages)[-2][1]["delta"] if stream else messages.json
    assert end["stop_reason"] == "end_turn"

    asked = {"tools": [{"type": "function", **of_tool}], "stream": stream, "input": "warm?"}
    responses = await ask(mesh, "/v1/responses", asked)
    answer = named_events(responses)[-1][1]["response"] if stream else responses.json
    assert answer["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("style", "text"),
    [
        # The name of a tool, the mark of a call and a list begin or are in a call elsewhere.
        ("hermes", '{"name": "weather", "reason": "asked"}'),
        ("hermes", '{"reason": "<tool_call> begins a call"}'),
        ("mistral", '[{"name": "weather", "reason": "asked"}, 1]'),
        ("mistral", "[1, 2]"),
    ],
)
async def test_an_answer_by_a_schema_is_not_read_as_a_call(
    style: str, text: str, stream: bool
) -> None:
    mesh = FakeMesh(text_answer(*text), traits=ModelTraits(style))
    wanted = {"type": "json_schema", "json_schema": {"schema": {"type": ["object", "array"]}}}
    asked = body(response_format=wanted, stream=stream)
    call = await ask(mesh, PATH, asked)
    parts = call.events[:-1] if stream else [call.json]
    said = [part["choices"][0].get("delta") or part["choices"][0].get("message") for part in parts]
    assert "".join(each["content"] for each in said if each) == text
    assert not any("tool_calls" in each for each in said if each)
    # A call is read as one, in whatever pieces it comes.
    called = f"<tool_call>\n{CALL}\n</tool_call>" if style == "hermes" else f"[{CALL}]"
    mesh.script = text_answer(*called)
    call = await ask(mesh, PATH, asked)
    last = call.events[-2] if stream else call.json
    assert last["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_call_begins_behind_thoughts() -> None:
    """What a model thinks of calls is no call, so the grammar has to know of thoughts."""
    thoughts = "<think>I may write <tool_call>.</think>\n\n"
    mesh = FakeMesh(text_answer(thoughts, *TEXT), traits=THINKING)
    message = (await ask(mesh, PATH, body())).json["choices"][0]["message"]
    assert message["reasoning_content"] == "I may write <tool_call>."
    assert [made["function"]["name"] for made in message["tool_calls"]] == ["weather"]
    assert json.loads(mesh.asked[0][1].rules.grammar.text)["thinking"] == "marked"
    # An answer that must be a call has no thoughts.
    await ask(mesh, PATH, body(tool_choice="required"))
    assert "thinking" not in json.loads(mesh.asked[1][1].rules.grammar.text)


async def test_the_style_is_that_of_the_model() -> None:
    mesh = FakeMesh(text_answer(f"[{CALL}]"), traits=ModelTraits("mistral"))
    call = await ask(mesh, PATH, body())
    assert call.json["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "weather"
    mesh.traits = ModelTraits()
    call = await ask(mesh, PATH, body())
    assert (call.status, call.json["error"]["param"]) == (400, "tools")


@pytest.mark.parametrize("other", [ModelTraits("llama3"), ModelTraits("hermes", "opened")])
async def test_models_that_call_or_think_in_several_forms_have_to_be_named(
    other: ModelTraits,
) -> None:
    # The answer is that of the second one, whose hash is the one of all answers here.
    others, hashes = {"target-1": other}, {"target-0": "ff" * 8}
    mesh = FakeMesh(text_answer("Yes"), models=["a", "b"], others=others, hashes=hashes)
    call = await ask(mesh, PATH, body())
    assert (call.status, call.json["error"]["param"]) == (400, "model")
    assert (await ask(mesh, PATH, body(model="b"))).status == 200
    for prompt in ("hi", [1, 2]):
        assert (await ask(mesh, "/v1/completions", {"prompt": prompt})).status == 200
