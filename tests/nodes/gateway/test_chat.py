from __future__ import annotations

import json
from typing import Any

import pytest

from nodes.gateway.answers import Delta, ScoredToken
from nodes.gateway.chat import CHAT
from nodes.gateway.config import GatewayLimits
from nodes.gateway.fields import Job
from nodes.gateway.shape import Head
from nodes.messages import ChatMessage
from tests.nodes.gateway.fake_mesh import scored
from tests.nodes.gateway.jobs import Jobs

FIELDS = Jobs(CHAT, GatewayLimits(max_prompt_chars=50, max_messages=4, max_tokens=99))
HEAD = Head("chatcmpl-1", 5, "toy", "fp_a_b")
USER = {"role": "user", "content": "hi"}
CALL = {"function": {"name": "f", "arguments": "{}"}}


def job(*messages: Any, **body: Any) -> Job:
    return FIELDS.job({"messages": list(messages), **body})


def test_a_conversation_is_one_prompt() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    answer = {"role": "assistant", "content": "yes", "refusal": None, "tool_calls": None}
    found = job(
        {"role": "developer", "content": "be brief"},
        USER,
        answer,
        {"role": "user", "content": parts},
    )
    assert found.prompts == (
        (
            ChatMessage("system", "be brief"),
            ChatMessage("user", "hi"),
            ChatMessage("assistant", "yes"),
            ChatMessage("user", "ab"),
        ),
    )


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "robot"}, "messages[0].role"),
        ({"role": None}, "messages[0].role"),
        ({"content": None}, "messages[0].content"),
        ({"content": 1}, "messages[0].content"),
        ({"content": []}, "messages[0].content"),
        ({"content": ["x"]}, "messages[0].content[0]"),
        ({"content": [{"type": "image_url"}]}, "messages[0].content[0].type"),
        ({"content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"content": "x" * 51}, "messages[0].content"),
        ({"name": "bob"}, "messages[0].name"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages[0].tool_calls[0].function"),
        ({"tool_calls": [CALL]}, "messages[0].tool_calls"),
        ({"other": 1}, "messages[0].other"),
    ],
)
def test_messages_that_are_refused(message: dict[str, Any], param: str) -> None:
    assert FIELDS.refused({"messages": [{**USER, **message}]}) == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [USER] * 5}, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 30}] * 2}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 100}, "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": 2}, "logprobs"),
        ({"prompt": "x"}, "prompt"),
    ],
)
def test_what_is_refused_is_named(body: dict[str, Any], param: str) -> None:
    assert FIELDS.refused({"messages": [USER], **body}) == param


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, (99, True, None)),
        ({"max_tokens": 5}, (5, False, None)),
        ({"max_completion_tokens": 6, "logprobs": False}, (6, False, None)),
        ({"logprobs": True}, (99, True, 0)),
        ({"logprobs": True, "top_logprobs": 3}, (99, True, 3)),
    ],
)
def test_how_many_tokens_and_logprobs(body: dict[str, Any], expected: tuple[Any, ...]) -> None:
    options = job(USER, **body).options
    assert (options.max_tokens, options.fits, options.num_logprobs) == expected


def events(data: bytes) -> list[Any]:
    return [json.loads(part.removeprefix(b"data: ")) for part in data.split(b"\n\n")[:-1]]


def test_the_role_comes_first_and_the_reason_last() -> None:
    shape = FIELDS.shape(job(USER, stream=True))
    first = events(shape.chunks(HEAD, Delta(0, "a", (), True)))
    assert [e["choices"][0]["delta"] for e in first] == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
    ]
    assert {e["object"] for e in first} == {"chat.completion.chunk"}
    assert "usage" not in first[0]
    (last,) = events(shape.chunks(HEAD, Delta(0, "", (), False, "length")))
    assert last["choices"][0] == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "length",
    }
    empty = events(shape.chunks(HEAD, Delta(1, "", (), True, "stop")))
    assert [e["choices"][0]["finish_reason"] for e in empty] == [None, "stop"]


def test_logprobs_come_with_their_tokens() -> None:
    shape = FIELDS.shape(job(USER, logprobs=True, top_logprobs=1))
    token = ScoredToken(scored("a", -0.5, ("a", -0.5)))
    (found,) = events(shape.chunks(HEAD, Delta(0, "", (token,), False)))
    (entry,) = found["choices"][0]["logprobs"]["content"]
    assert (entry["token"], entry["logprob"], entry["bytes"]) == ("a", -0.5, [97])
    assert entry["top_logprobs"] == [{"token": "a", "logprob": -0.5, "bytes": [97]}]
