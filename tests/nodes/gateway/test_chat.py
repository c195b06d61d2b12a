"""Bodies of /v1/chat/completions as jobs, with what all bodies have in common, and chunks."""

import json
from typing import Any

import pytest

from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.engine.rules import Grammar, LogitBias
from airdraft.nodes.gateway.answers import Delta, ScoredToken
from airdraft.nodes.gateway.bodies import Hint, parse_json
from airdraft.nodes.gateway.chat import CHAT
from airdraft.nodes.gateway.config import GatewayLimits
from airdraft.nodes.gateway.errors import ApiError
from airdraft.nodes.gateway.fields import Job
from airdraft.nodes.messages import ChatMessage
from tests.nodes.gateway.fake_mesh import scored
from tests.nodes.gateway.jobs import Jobs

LIMITS = GatewayLimits(max_prompt_chars=50, max_messages=4, max_tokens=99)
FIELDS, LENIENT = Jobs(CHAT, LIMITS), Jobs(CHAT, LIMITS, strict_fields=False)
USER = {"role": "user", "content": "hi"}
ANSWER = "response_format"


def job(*messages: Any, **body: Any) -> Job:
    return FIELDS.job({"messages": list(messages) or [USER], **body})


def options(**body: Any) -> GenerateOptions:
    return job(**body).options


def test_a_conversation_is_one_prompt() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    answer = {"role": "assistant", "content": "yes", "refusal": None, "tool_calls": None}
    found = job(
        {"role": "developer", "content": "be brief"}, USER, answer, {**USER, "content": parts}
    )
    (prompt,) = found.prompts
    assert [(message.role, message.content) for message in prompt] == [
        *(("system", "be brief"), ("user", "hi"), ("assistant", "yes"), ("user", "ab"))
    ]


def test_defaults_are_those_of_openai() -> None:
    found = options(temperature=None)
    assert (found.temperature, found.top_p, found.num_choices, found.stops) == (1.0, 1.0, 1, ())
    assert found.rules.grammar == Grammar()
    seeds = {options().seed for _ in range(4)}
    assert len(seeds) == 4
    assert all(seed is not None and 0 <= seed < 2**53 for seed in seeds)


OFF, ON = (dict.fromkeys(("enable_thinking", "thinking"), thinks) for thinks in (False, True))


@pytest.mark.parametrize(
    ("body", "variables", "thinks"),
    [
        ({"reasoning_effort": "none"}, {"reasoning_effort": "low", **OFF}, False),
        ({"reasoning_effort": "minimal"}, {"reasoning_effort": "low", **OFF}, False),
        ({"reasoning_effort": "medium"}, {"reasoning_effort": "medium", **ON}, True),
        ({"reasoning_effort": "xhigh"}, {"reasoning_effort": "high", **ON}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}}, OFF, False),
        ({"chat_template_kwargs": {"thinking": True, "x": "y"}}, {**ON, "x": "y"}, True),
        ({"chat_template_kwargs": {"thinking": None, "x": 1}}, {"x": 1}, None),
        (
            {"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": False}},
            {"reasoning_effort": "high", **OFF},
            False,
        ),
    ],
)
def test_thinking_is_switched_by_variables_of_the_template(
    body: dict[str, Any], variables: dict[str, Any], thinks: bool | None
) -> None:
    found = Jobs(CHAT).job({"messages": [USER], **body})
    assert json.loads(found.options.tools)["variables"] == variables
    assert found.thinks is thinks


def test_without_variables_the_template_is_told_nothing() -> None:
    for body in ({}, {"chat_template_kwargs": {}}, {"reasoning_effort": None}):
        assert (job(**body).options.tools, job(**body).thinks) == ("", None)


def test_every_field_reaches_the_mesh() -> None:
    found = options(
        n=3,
        seed=5,
        stop=["a", "b"],
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        min_p=0.1,
        presence_penalty=-1,
        frequency_penalty=2,
        logit_bias={"7": -100, "3": 1.5},
        ignore_eos=True,
        priority=9,
        model="m",
    )
    assert (found.num_choices, found.seed, found.stops) == (3, 5, ("a", "b"))
    assert (found.temperature, found.top_p, found.top_k, found.min_p) == (0.5, 0.9, 4, 0.1)
    assert (found.rules.presence_penalty, found.rules.frequency_penalty) == (-1.0, 2.0)
    assert found.rules.logit_bias == (LogitBias(3, 1.5), LogitBias(7, -100.0))
    assert (found.ignore_eog, found.priority, found.model) == (True, 9, "m")
    found.rules.check()


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
    found = options(**body)
    assert (found.max_tokens, found.fits, found.num_logprobs) == expected


def test_what_means_the_same_is_the_same() -> None:
    assert options(stop="\n").stops == ("\n",)
    assert options(temperature=1e-9).temperature == 0.0
    assert 0 < options(top_p=0).top_p < 1e-6
    # What asks for nothing is accepted.
    options(tools=[], tool_choice="none", modalities=["text"], functions=[])
    options(tools=None, audio=None, stream_options=None, unknown=None)


def test_formats_become_grammars() -> None:
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    text = '{"type":"object","properties":{"b":{},"a":{}}}'
    assert options(response_format=wanted).rules.grammar == Grammar("json_schema", text)
    found = options(response_format={"type": "json_object"}).rules.grammar
    assert found == Grammar("json_schema", '{"type":"object"}')
    # As clients of llama.cpp's server write it.
    wanted = {"type": "json_object", "schema": schema}
    assert options(response_format=wanted).rules.grammar == Grammar("json_schema", text)
    assert options(response_format={"type": "text"}).rules.grammar == Grammar()
    assert options(grammar='root ::= "x"').rules.grammar == Grammar("gbnf", 'root ::= "x"')


def said(**message: Any) -> dict[str, Any]:
    return {"messages": [{**USER, **message}]}


def test_hints_change_nothing_and_are_told() -> None:
    body = {"metadata": {"a": "b"}, "store": True, "prompt_cache_key": "x", "keep_alive": "5m"}
    harmless = {"continue_final_message": False, "json_schema": None}
    found = LENIENT.job({**said(name="nobody", cached=1), **body, **harmless})
    assert found.prompts == ((ChatMessage("user", "hi"),),)
    assert set(found.ignored) == {
        Hint("metadata", is_known=True),
        Hint("store", is_known=True),
        Hint("prompt_cache_key", is_known=True),
        Hint("keep_alive", is_known=False),
        Hint("messages[0].name", is_known=True),
        Hint("messages[0].cached", is_known=False),
    }
    # What a text would depend on is refused all the same.
    tool = {"tools": [{"type": "function"}]}
    assert LENIENT.refused({"messages": [USER], **tool}) == "tools[0].function"
    # Only the first hints are kept.
    found = LENIENT.job({"messages": [USER], **{f"x{number}": 1 for number in range(1000)}})
    assert len(found.ignored) == 16


def test_nothing_of_a_body_is_repeated_at_length() -> None:
    def told(body: dict[str, Any]) -> str:
        return FIELDS.error({"messages": [USER], **body}).message

    assert len(told({"\ud800" + "x" * 10_000: 1})) < 200
    for value in ("secret", ["secret"]):
        for name in ("n", ANSWER, "logit_bias", "logprobs"):
            assert "secret" not in told({name: value})


LONG = b'{"a":' + b"1" * 10_000 + b"}"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b"1", b'{"a":NaN}', b'{"a":Infinity}', b"\xff", b"[" * 100_000, LONG],
    ids=lambda body: repr(body[:20]),
)
def test_what_is_no_json_object_is_refused_without_being_repeated(body: bytes) -> None:
    with pytest.raises(ApiError, match="the body") as caught:
        parse_json(body)
    assert caught.value.status == 400


def events(data: bytes) -> list[Any]:
    return [json.loads(part.removeprefix(b"data: ")) for part in data.split(b"\n\n")[:-1]]


def test_the_role_comes_first_and_the_reason_last() -> None:
    shape = FIELDS.shape(job(stream=True), "chatcmpl-1")
    first = events(shape.chunks(Delta(0, "a", (), True)))
    assert [e["choices"][0]["delta"] for e in first] == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
    ]
    assert {e["object"] for e in first} == {"chat.completion.chunk"}
    assert "usage" not in first[0]
    (last,) = events(shape.chunks(Delta(0, "", (), False, "length")))
    choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
    assert last["choices"] == [choice]
    empty = events(shape.chunks(Delta(1, "", (), True, "stop")))
    assert [e["choices"][0]["finish_reason"] for e in empty] == [None, "stop"]


def test_logprobs_come_with_their_tokens() -> None:
    shape = FIELDS.shape(job(logprobs=True, top_logprobs=1), "chatcmpl-1")
    told = ScoredToken(scored("a", -0.5, ("a", -0.5))), ScoredToken(scored(b"\xe2\x82", -1.0))
    (found,) = events(shape.chunks(Delta(0, "", told, False)))
    whole, part = found["choices"][0]["logprobs"]["content"]
    assert (whole["token"], whole["logprob"], whole["bytes"]) == ("a", -0.5, [97])
    assert whole["top_logprobs"] == [{"token": "a", "logprob": -0.5, "bytes": [97]}]
    # A part of a character.
    assert (part["token"], part["bytes"]) == ("\ufffd", [0xE2, 0x82])
