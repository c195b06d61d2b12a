"""/v1/messages: what the mesh is asked for, and what Anthropic's clients are told."""

import json
from typing import Any

import pytest

from airdraft.nodes.gateway.anthropic import MESSAGES
from airdraft.nodes.gateway.config import GatewayLimits
from airdraft.nodes.gateway.fields import Job
from tests.nodes.gateway.calls import ask, named_events
from tests.nodes.gateway.fake_mesh import THINKING, FakeMesh, finished, started, text_answer, tokens
from tests.nodes.gateway.jobs import Jobs

PATH = "/v1/messages"
USER = {"role": "user", "content": "Is it warm?"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "Of a city", "input_schema": SCHEMA}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'

DELTAS = {"thinking": "thinking_delta", "text": "text_delta", "tool_use": "input_json_delta"}


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "toy-1", "max_tokens": 50, "messages": [USER], **changes}


def job(**changes: Any) -> Job:
    return Jobs(MESSAGES).job(body(**changes))


def test_a_conversation_is_that_of_a_chat() -> None:
    thoughts = {"type": "thinking", "thinking": "hm", "signature": "x"}
    call = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Köln"}}
    results = [{"type": "text", "text": "21 "}, {"type": "text", "text": "degrees"}]
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": results, "is_error": True}
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
    (prompt,) = found.prompts
    assert [(message.role, message.content) for message in prompt] == [
        *(("system", "Be brief."), ("user", "Is it warm?"), ("assistant", "So")),
        *(("tool", "21 degrees"), ("user", "And now?")),
    ]
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
        "messages[2].content[0].is_error",
        "system[0].cache_control",
    ]


def test_the_line_that_is_another_in_each_request_is_left_out_and_told() -> None:
    blocks = [
        {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1; cch={n};"}
        for n in (1, 2)
    ]
    rest = {"type": "text", "text": "Be brief."}
    first, second = (job(system=[block, rest]) for block in blocks)
    assert first.prompts == second.prompts
    assert [message.content for message in first.prompts[0]] == ["Be brief.", "Is it warm?"]
    assert [hint.path for hint in first.ignored] == ["system[0]"]
    # What people write is theirs.
    quoted = job(system=[{"type": "text", "text": f"About {blocks[0]['text']}"}])
    assert quoted.prompts[0][0].content == f"About {blocks[0]['text']}"
    assert quoted.ignored == ()


async def test_what_was_left_out_is_told_in_a_header() -> None:
    mesh = FakeMesh(text_answer("So"))
    system = [{"type": "text", "text": "x-anthropic-billing-header: cch=1;"}]
    found = await ask(mesh, PATH, body(system=system, metadata={"user_id": "x"}))
    assert found.headers["warning"] == '299 airdraft "ignored: system[0], metadata"'


def test_system_messages_may_stand_among_others() -> None:
    told = {"role": "system", "content": [{"type": "text", "text": "Now in French."}]}
    (prompt,) = job(messages=[USER, told, USER]).prompts
    assert [message.role for message in prompt] == ["user", "system", "user"]


def test_an_answer_may_have_to_follow_a_schema() -> None:
    config = {"effort": "high", "format": {"type": "json_schema", "schema": SCHEMA}}
    found = Jobs(MESSAGES, strict_fields=False).job(body(output_config=config))
    assert json.loads(found.options.rules.grammar.text) == SCHEMA
    assert [hint.path for hint in found.ignored] == ["output_config.effort"]
    huge = {"format": {"type": "json_schema", "schema": {"description": "x" * 10**6}}}
    assert Jobs(MESSAGES).refused(body(output_config=huge)) == "output_config.format.schema"


def test_options_reach_the_mesh() -> None:
    found = job(stop_sequences=["a", "b"], temperature=0.5, top_k=3, seed=7, stream=True)
    assert (found.options.stops, found.options.temperature) == (("a", "b"), 0.5)
    assert (found.options.top_k, found.options.seed, found.stream) == (3, 7, True)
    # Clients have to name a number of tokens: it is a wish.
    assert (found.options.max_tokens, found.options.fits) == (50, True)
    assert job(max_tokens=10**9).options.max_tokens == GatewayLimits().max_tokens


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
    tools = job(tools=[WEATHER], tool_choice=choice).tools
    assert tools is not None
    assert (tools.is_required, tools.name, tools.parallel) == (required, name, parallel)
    assert job(tools=[WEATHER], tool_choice={"type": "none"}).tools is None


@pytest.mark.parametrize(
    ("asked", "thinks"), [("enabled", True), ("disabled", False), ("adaptive", None)]
)
def test_thinking_may_be_switched(asked: str, thinks: bool | None) -> None:
    found = job(thinking={"type": asked})
    assert found.thinks is thinks
    assert bool(found.options.tools) == (thinks is not None)


async def test_an_answer_is_told_whole_or_in_pieces() -> None:
    pieces = ("<think>", "hm", "</think>", "So", ": ", CALL[:30], CALL[30:50], CALL[50:])
    mesh = FakeMesh(text_answer(*pieces, cached=2), traits=THINKING)
    found = (await ask(mesh, PATH, body(tools=[WEATHER]))).json
    thoughts, text, call = found["content"]
    assert thoughts == {"type": "thinking", "thinking": "hm", "signature": ""}
    assert text == {"type": "text", "text": "So: "}
    assert (call["type"], call["name"], call["input"]) == ("tool_use", "weather", {"city": "Köln"})
    assert (found["type"], found["role"], found["model"]) == ("message", "assistant", "toy-1")
    assert (found["stop_reason"], found["stop_sequence"]) == ("tool_use", None)
    # Of the prompt's three tokens two were cached.
    usage = {"input_tokens": 1, "cache_read_input_tokens": 2, "cache_creation_input_tokens": 0}
    assert found["usage"] == {**usage, "output_tokens": 8}
    assert found["id"].startswith("msg-")
    events = named_events(await ask(mesh, PATH, body(tools=[WEATHER], stream=True)))
    assert all(name == event["type"] for name, event in events)
    names = [name for name, _ in events]
    assert (names[0], names[-2:]) == ("message_start", ["message_delta", "message_stop"])
    assert events[0][1]["message"]["usage"]["input_tokens"] == 3
    blocks: list[Any] = []
    for name, event in events:
        if name == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append({**event["content_block"], "told": ""})
        elif name == "content_block_delta":
            kind, part = event["delta"].values()
            block = blocks[event["index"]]
            assert kind == DELTAS[block["type"]]
            block["told"] += part
    assert names.count("content_block_stop") == len(blocks) == 3
    assert [block["told"] for block in blocks[:2]] == ["hm", "So: "]
    assert (blocks[2]["name"], json.loads(blocks[2]["told"])) == ("weather", {"city": "Köln"})
    last = events[-2][1]
    assert last["delta"]["stop_reason"] == "tool_use"
    assert last["usage"] == {**usage, "output_tokens": 8}


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_short_or_empty(stream: bool) -> None:
    call = await ask(FakeMesh(text_answer("a", reason="length")), PATH, body(stream=stream))
    told = named_events(call)[-2][1]["delta"] if stream else call.json
    assert told["stop_reason"] == "max_tokens"
    call = await ask(FakeMesh([started(), finished(0)]), PATH, body(stream=stream))
    if stream:
        names = [name for name, _ in named_events(call)]
        assert names == ["message_start", "message_delta", "message_stop"]
    else:
        assert (call.json["content"], call.json["stop_reason"]) == ([], "end_turn")


async def test_a_stream_that_breaks_ends_with_an_error() -> None:
    broken = FakeMesh([started(), tokens("a", 0), RuntimeError("x")])
    name, event = named_events(await ask(broken, PATH, body(stream=True)))[-1]
    assert (name, event["type"], bool(event["error"]["message"])) == ("error", "error", True)
