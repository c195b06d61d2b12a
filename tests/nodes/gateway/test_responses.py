"""/v1/responses: what the mesh is asked for, and what OpenAI's newer clients are told."""

import json
from typing import Any

import pytest

from airdraft.nodes.engine.rules import Grammar
from airdraft.nodes.gateway.fields import Job
from airdraft.nodes.gateway.responses import RESPONSES
from airdraft.nodes.messages import ChatMessage
from tests.nodes.gateway.calls import Call, ask, named_events
from tests.nodes.gateway.fake_mesh import THINKING, FakeMesh, started, text_answer, tokens
from tests.nodes.gateway.jobs import Jobs

PATH = "/v1/responses"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "name": "weather", "description": "Of a city", "parameters": SCHEMA}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'


def said(role: str, **part: str) -> dict[str, Any]:
    """A message of one part."""
    return {"role": role, "content": [part]}


def job(**body: Any) -> Job:
    return Jobs(RESPONSES).job({"input": "hi", **body})


async def asked(mesh: FakeMesh, **body: Any) -> Call:
    return await ask(mesh, PATH, {"input": "hi", **body})


async def answer(mesh: FakeMesh, **body: Any) -> dict[str, Any]:
    """A whole answer, streamed or not."""
    call = await asked(mesh, **body)
    found: dict[str, Any] = named_events(call)[-1][1]["response"] if "stream" in body else call.json
    return found


def test_a_text_is_a_message_of_the_user() -> None:
    found = job(instructions="Be brief.", max_output_tokens=7, temperature=0.5)
    assert found.prompts == ((ChatMessage("system", "Be brief."), ChatMessage("user", "hi")),)
    assert (found.options.max_tokens, found.options.temperature) == (7, 0.5)
    # A named tool is the only one.
    tools = job(tools=[WEATHER], tool_choice={"type": "function", "name": "weather"}).tools
    assert tools is not None
    assert (tools.name, tools.is_required) == ("weather", True)


def test_items_are_those_of_a_chat() -> None:
    items = [
        said("user", type="input_text", text="Is it warm?"),
        {"type": "reasoning", "id": "rs-1", "summary": []},
        {"type": "function_call", "call_id": "a", "name": "weather", "arguments": '{"city": "X"}'},
        {"type": "function_call", "call_id": "b", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "21"},
        {"type": "function_call_output", "call_id": "b", "output": "22"},
        {**said("assistant", type="output_text", text="Yes."), "type": "message"},
        {"role": "developer", "content": "Be brief."},
    ]
    found = Jobs(RESPONSES, strict_fields=False).job({"input": items, "tools": [WEATHER]})
    (prompt,) = found.prompts
    assert [(message.role, message.content) for message in prompt] == [
        *(("user", "Is it warm?"), ("assistant", ""), ("tool", "21"), ("tool", "22")),
        *(("assistant", "Yes."), ("system", "Be brief.")),
    ]
    told = json.loads(found.options.tools)
    assert [call["id"] for call in told["messages"]["1"]["tool_calls"]] == ["a", "b"]
    assert told["messages"]["3"] == {"tool_call_id": "b"}
    assert [hint.path for hint in found.ignored] == ["input[1].id", "input[1].summary"]


def test_formats_become_grammars() -> None:
    wanted = {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}
    grammar = job(text={"format": wanted}).options.rules.grammar
    assert (grammar.kind, json.loads(grammar.text)) == ("json_schema", SCHEMA)
    found = job(text={"format": {"type": "json_object"}}).options.rules.grammar
    assert found == Grammar("json_schema", '{"type":"object"}')
    assert job(text={"format": {"type": "text"}}).options.rules.grammar == Grammar()


async def test_an_answer_goes_back_as_it_came() -> None:
    """Thoughts, text and a call: the next turn is read as it was, but for the thoughts."""
    mesh = FakeMesh(text_answer("<think>hm</think>So: ", CALL), traits=THINKING)
    first = await answer(mesh, tools=[WEATHER])
    result = {"type": "function_call_output", "call_id": "x", "output": "21"}
    told = [{"role": "user", "content": "hi"}, *first["output"], result]
    job_ = Jobs(RESPONSES, strict_fields=False).job({"input": told, "tools": [WEATHER]})
    assert job_.prompts[0] == (
        ChatMessage("user", "hi"),
        ChatMessage("assistant", "So: "),
        ChatMessage("tool", "21"),
    )
    assert len(json.loads(job_.options.tools)["messages"]["1"]["tool_calls"]) == 1


def test_the_effort_switches_thinking() -> None:
    assert job(reasoning={"effort": "none"}).thinks is False
    assert job(reasoning={"effort": "high"}).thinks is True


async def test_only_what_is_declared_is_echoed() -> None:
    tool = {**WEATHER, "zz": "\ud800"}
    wanted = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "zz": "\ud800"}}
    found = await asked(FakeMesh(text_answer("{}")), tools=[tool], text=wanted)
    assert found.status == 200
    assert set(found.json["tools"][0]) == {"type", "name", "description", "parameters", "strict"}


@pytest.mark.parametrize("reasoning", [None, {}, {"effort": None, "summary": None}])
def test_null_is_no_value_in_what_would_be_refused_either(reasoning: Any) -> None:
    assert job(reasoning=reasoning).ignored == ()


async def test_an_answer_is_told_whole_or_in_pieces() -> None:
    pieces = ("<think>", "hm", "</think>", "So", ": ", CALL[:30], CALL[30:50], CALL[50:])
    mesh = FakeMesh(text_answer(*pieces, cached=2), traits=THINKING)
    found = await answer(mesh, tools=[WEATHER])
    thoughts, message, call = found["output"]
    assert (thoughts["type"], thoughts["content"][0]["text"]) == ("reasoning", "hm")
    assert message["content"][0]["text"] == "So: "
    assert (call["name"], json.loads(call["arguments"])) == ("weather", {"city": "Köln"})
    assert call["call_id"] != call["id"]
    assert (found["object"], found["status"], found["model"]) == ("response", "completed", "toy-1")
    assert found["usage"]["total_tokens"] == 11
    assert found["usage"]["input_tokens_details"] == {"cached_tokens": 2}
    assert found["tools"][0]["name"] == "weather"
    events = named_events(await asked(mesh, tools=[WEATHER], stream=True))
    assert all(name == event["type"] for name, event in events)
    assert [event["sequence_number"] for _, event in events] == list(range(len(events)))
    names = [name for name, _ in events]
    assert names[:2] == ["response.created", "response.in_progress"]
    assert names[-1] == "response.completed"
    by_name: dict[str, list[Any]] = {}
    for name, event in events:
        by_name.setdefault(name.removeprefix("response."), []).append(event)
    assert "".join(e["delta"] for e in by_name["output_text.delta"]) == "So: "
    assert by_name["output_text.done"][0]["text"] == "So: "
    assert by_name["reasoning_text.done"][0]["text"] == "hm"
    arguments = "".join(e["delta"] for e in by_name["function_call_arguments.delta"])
    assert json.loads(arguments) == {"city": "Köln"}
    assert by_name["function_call_arguments.done"][0]["arguments"] == arguments
    done = [event["item"] for event in by_name["output_item.done"]]
    assert done == events[-1][1]["response"]["output"]
    assert [e["item"]["id"] for e in by_name["output_item.added"]] == [d["id"] for d in done]


@pytest.mark.parametrize("body", [{}, {"stream": True}], ids=["whole", "streamed"])
async def test_an_answer_that_ends_for_length_is_incomplete(body: dict[str, Any]) -> None:
    found = await answer(FakeMesh(text_answer("a", reason="length")), **body)
    assert found["status"] == "incomplete"
    assert found["incomplete_details"] == {"reason": "max_output_tokens"}
    # So is a call that is cut off.
    mesh = FakeMesh(text_answer(CALL[:50], reason="length"))
    found = await answer(mesh, tools=[WEATHER], **body)
    assert [item["status"] for item in found["output"]] == ["incomplete"]


async def test_a_stream_that_breaks_ends_with_an_error() -> None:
    broken = FakeMesh([started(), tokens("a", 0), RuntimeError("x")])
    name, event = named_events(await asked(broken, stream=True))[-1]
    assert (name, event["code"]) == ("error", "internal")
