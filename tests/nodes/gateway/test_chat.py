from __future__ import annotations

import json
from typing import Any

import pytest

from nodes.gateway.answers import Delta, ScoredToken
from nodes.gateway.chat import CHAT
from nodes.gateway.config import GatewayLimits
from nodes.gateway.errors import ApiError
from nodes.gateway.fields import Job
from nodes.gateway.shape import Head, Whole
from nodes.messages import ChatMessage
from tests.nodes.gateway.fake_mesh import scored
from tests.nodes.gateway.jobs import Jobs

FIELDS = Jobs(CHAT, GatewayLimits(max_prompt_chars=50, max_messages=4, max_tokens=99))
HEAD = Head("chatcmpl-1", 5, "toy", "fp_a_b")
USER = {"role": "user", "content": "hi"}


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
        ({"role": "robot", "content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"content": "x"}, "messages[0].role"),
        ({"role": "user", "content": 1}, "messages[0].content"),
        ({"role": "user", "content": []}, "messages[0].content"),
        ({"role": "user", "content": ["x"]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": "x" * 51}, "messages[0].content"),
        ({"role": "user", "content": "x", "name": "bob"}, "messages[0].name"),
        (
            {"role": "assistant", "content": "x", "tool_calls": [{}]},
            "messages[0].tool_calls[0].function",
        ),
        (
            {
                "role": "user",
                "content": "x",
                "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}],
            },
            "messages[0].tool_calls",
        ),
        ({"role": "user", "content": "x", "other": 1}, "messages[0].other"),
        ("hi", "messages[0]"),
    ],
)
def test_messages_that_are_refused(message: Any, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        job(message)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({}, "messages"),
        ({"messages": [USER] * 5}, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 30}] * 2}, "messages"),
        ({"messages": [USER], "max_tokens": 0}, "max_tokens"),
        ({"messages": [USER], "max_tokens": 100}, "max_tokens"),
        ({"messages": [USER], "max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
        ({"messages": [USER], "top_logprobs": 2}, "top_logprobs"),
        ({"messages": [USER], "logprobs": 2}, "logprobs"),
        ({"messages": [USER], "prompt": "x"}, "prompt"),
    ],
)
def test_what_is_refused_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        FIELDS.job(body)
    assert caught.value.param == param


def test_how_many_tokens() -> None:
    for body, expected in (
        ({}, (99, True)),
        ({"max_tokens": 5}, (5, False)),
        ({"max_completion_tokens": 6}, (6, False)),
    ):
        options = job(USER, **body).options
        assert (options.max_tokens, options.fits) == expected


def test_how_many_logprobs() -> None:
    assert job(USER).options.num_logprobs is None
    assert job(USER, logprobs=False).options.num_logprobs is None
    assert job(USER, logprobs=True).options.num_logprobs == 0
    assert job(USER, logprobs=True, top_logprobs=3).options.num_logprobs == 3


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


def test_a_whole_answer() -> None:
    choice = Whole()
    choice.add(Delta(0, "hi", (), True))
    choice.add(Delta(0, "", (), False, "stop"))
    found = json.loads(FIELDS.shape(job(USER)).whole(HEAD, [choice], {"total_tokens": 1}))
    assert found["choices"][0]["message"] == {"role": "assistant", "content": "hi", "refusal": None}
    assert (found["object"], found["model"]) == ("chat.completion", "toy")
