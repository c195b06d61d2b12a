"""/v1/messages: what the mesh is asked for, and what Anthropic's clients are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nodes.gateway.anthropic import MESSAGES
from nodes.gateway.config import GatewayLimits
from nodes.gateway.errors import ApiError
from nodes.gateway.fields import Job
from nodes.messages import ChatMessage
from tests.nodes.gateway.calls import gateway_of, named_events, open_app, post
from tests.nodes.gateway.fake_mesh import FakeMesh, finished, started, text_answer, tokens
from tests.nodes.gateway.jobs import Jobs

PATH = "/v1/messages"
USER = {"role": "user", "content": "Is it warm?"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "Of a city", "input_schema": SCHEMA}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'


def job(*messages: Any, **body: Any) -> Job:
    asked = {"max_tokens": 9, "messages": list(messages), **body}
    return Jobs(MESSAGES).job(asked)


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "toy-1", "max_tokens": 50, "messages": [USER], **changes}


def test_a_conversation_is_that_of_a_chat() -> None:
    thoughts = {"type": "thinking", "thinking": "hm", "signature": "x"}
    call = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Köln"}}
    results = [{"type": "text", "text": "21 "}, {"type": "text", "text": "degrees"}]
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": results}
    found = Jobs(MESSAGES, strict_fields=False).job(
        body(
            system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            messages=[
                USER,
                {"role": "assistant", "content": [thoughts, {"type": "text", "text": "So"}, call]},
                {"role": "user", "content": [result, {"type": "text", "text": "And now?"}]},
            ],
            tools=[WEATHER],
        )
    )
    assert found.prompts == (
        (
            ChatMessage("system", "Be brief."),
            ChatMessage("user", "Is it warm?"),
            ChatMessage("assistant", "So"),
            ChatMessage("tool", "21 degrees"),
            ChatMessage("user", "And now?"),
        ),
    )
    told = json.loads(found.options.tools)
    assert told["tools"][0]["function"]["parameters"] == SCHEMA
    assert told["messages"]["2"]["tool_calls"][0]["function"] == {
        "name": "weather",
        "arguments": {"city": "Köln"},
    }
    assert told["messages"]["3"] == {"tool_call_id": "call_1"}
    assert found.options.max_tokens == 50
    assert [hint.path for hint in found.ignored] == [
        "messages[1].content[0].thinking",
        "messages[1].content[0].signature",
        "system[0].cache_control",
    ]


def test_options_reach_the_mesh() -> None:
    found = job(USER, stop_sequences=["a", "b"], temperature=0.5, top_k=3, seed=7, stream=True)
    assert (found.options.stops, found.options.temperature) == (("a", "b"), 0.5)
    assert (found.options.top_k, found.options.seed, found.stream) == (3, 7, True)
    # Clients have to name a number of tokens: it is a wish.
    assert (found.options.max_tokens, found.options.fits) == (9, True)
    assert job(USER, max_tokens=10**9).options.max_tokens == GatewayLimits().max_tokens


@pytest.mark.parametrize(
    ("choice", "required", "name", "parallel"),
    [
        ({"type": "auto"}, False, "", True),
        ({"type": "any"}, True, "", True),
        ({"type": "any", "disable_parallel_tool_use": True}, True, "", False),
        ({"type": "tool", "name": "weather"}, True, "weather", True),
    ],
)
def test_choices_of_tools(choice: Any, required: bool, name: str, parallel: bool) -> None:
    tools = job(USER, tools=[WEATHER], tool_choice=choice).tools
    assert tools is not None
    assert (tools.is_required, tools.name, tools.parallel) == (required, name, parallel)
    assert job(USER, tools=[WEATHER], tool_choice={"type": "none"}).tools is None


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "x"}]}]},
            "messages[0].content[0].name",
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "content": [{"type": "tool_result", "tool_use_id": "x"}]}
                ]
            },
            "messages[0].content[0].type",
        ),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"temperature": 3}, "temperature"),
        ({"stop_sequences": ["a", ""]}, "stop_sequences[1]"),
        ({"tools": [{**WEATHER, "name": "a b"}]}, "tools[0].name"),
        ({"system": "x" * (1 << 18), "messages": [USER]}, "messages"),
    ],
)
def test_what_is_refused_is_named(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        Jobs(MESSAGES, strict_fields=False).job(body(**changes))
    assert caught.value.param == param


async def test_a_whole_answer(tmp_path: Path) -> None:
    app = open_app(gateway_of(FakeMesh(text_answer("So: ", CALL))), tmp_path)
    found = (await post(app, PATH, body(tools=[WEATHER]))).json
    text, call = found["content"]
    assert text == {"type": "text", "text": "So: "}
    assert (call["type"], call["name"], call["input"]) == ("tool_use", "weather", {"city": "Köln"})
    assert (found["type"], found["role"], found["model"]) == ("message", "assistant", "toy-1")
    assert (found["stop_reason"], found["stop_sequence"]) == ("tool_use", None)
    assert found["usage"] == {"input_tokens": 3, "output_tokens": 2}
    assert found["id"].startswith("msg-")


async def test_a_streamed_answer_is_the_whole_one_in_pieces(tmp_path: Path) -> None:
    pieces = ["So", ": ", CALL[:30], CALL[30:50], CALL[50:]]
    app = open_app(gateway_of(FakeMesh(text_answer(*pieces))), tmp_path)
    call = await post(app, PATH, body(tools=[WEATHER], stream=True))
    events = named_events(call)
    assert all(name == event["type"] for name, event in events)
    names = [name for name, _ in events]
    assert (names[0], names[-2:]) == ("message_start", ["message_delta", "message_stop"])
    assert events[0][1]["message"]["usage"] == {"input_tokens": 3, "output_tokens": 0}
    blocks: list[Any] = []
    for name, event in events:
        if name == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append(event["content_block"])
        elif name == "content_block_delta":
            delta = event["delta"]
            if delta["type"] == "text_delta":
                blocks[event["index"]]["text"] += delta["text"]
            else:
                assert delta["type"] == "input_json_delta"
                blocks[event["index"]].setdefault("json", "")
                blocks[event["index"]]["json"] += delta["partial_json"]
    assert names.count("content_block_stop") == len(blocks) == 2
    assert blocks[0]["text"] == "So: "
    assert (blocks[1]["name"], json.loads(blocks[1]["json"])) == ("weather", {"city": "Köln"})
    last = events[-2][1]
    assert (last["delta"]["stop_reason"], last["usage"]["output_tokens"]) == ("tool_use", 5)


async def test_an_answer_that_ends_for_length(tmp_path: Path) -> None:
    for stream in (False, True):
        app = open_app(gateway_of(FakeMesh(text_answer("a", reason="length"))), tmp_path)
        call = await post(app, PATH, body(stream=stream))
        told = named_events(call)[-2][1]["delta"] if stream else call.json
        assert told["stop_reason"] == "max_tokens"


async def test_what_a_model_thinks_is_a_block_of_its_own(tmp_path: Path) -> None:
    mesh = FakeMesh(text_answer("<think>", "hm", "</think>\n\n", "Yes."))
    mesh.thinking = "marked"
    found = (await post(open_app(gateway_of(mesh), tmp_path), PATH, body())).json
    assert [block["type"] for block in found["content"]] == ["thinking", "text"]
    assert (found["content"][0]["thinking"], found["content"][1]["text"]) == ("hm", "Yes.")


async def test_errors_have_the_shape_that_its_clients_read(tmp_path: Path) -> None:
    app = open_app(gateway_of(FakeMesh()), tmp_path)
    call = await post(app, PATH, body(max_tokens=0))
    assert (call.status, call.json["type"]) == (400, "error")
    assert call.json["error"]["type"] == "invalid_request_error"
    broken = [started(), tokens("a", 0), RuntimeError("x")]
    call = await post(open_app(gateway_of(FakeMesh(broken)), tmp_path), PATH, body(stream=True))
    name, event = named_events(call)[-1]
    assert (name, event["type"], bool(event["error"]["message"])) == ("error", "error", True)


async def test_an_empty_answer_has_no_blocks(tmp_path: Path) -> None:
    for stream in (False, True):
        app = open_app(gateway_of(FakeMesh([started(), finished(0)])), tmp_path)
        call = await post(app, PATH, body(stream=stream))
        if stream:
            names = [name for name, _ in named_events(call)]
            assert names == ["message_start", "message_delta", "message_stop"]
        else:
            assert (call.json["content"], call.json["stop_reason"]) == ([], "end_turn")
