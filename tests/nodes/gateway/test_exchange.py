"""Answers while they are made: what is sent when, faults, and readers that leave or are slow."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from airdraft.nodes.client.client import RequestFailedError
from airdraft.nodes.client.generation import GenerateOptions, Prompt
from airdraft.nodes.gateway.answers import Answers
from airdraft.nodes.messages import PromptLogprobsNotice
from tests.nodes.gateway.calls import ASK, CHAT, COMPLETIONS, STREAM, TALK, Call, app_of, ask, call
from tests.nodes.gateway.fake_mesh import (
    FINGERPRINT,
    MODEL_HASH,
    NUMERICS,
    Eventually,
    FakeMesh,
    Step,
    finished,
    scored,
    started,
    text_answer,
    tokens,
)

WITH_USAGE = {**STREAM, "stream_options": {"include_usage": True}}
BEGUN: list[Step] = [started(), tokens("a", 0)]


async def test_every_batch_of_tokens_is_sent_when_it_comes(eventually: Eventually) -> None:
    gates = [asyncio.Event() for _ in range(3)]
    batches = [tokens("a", 0), tokens("bc", 1, num_tokens=2), finished(3)]
    steps: list[Step] = [started()]
    for gate, batch in zip(gates, batches, strict=True):
        steps += [gate, batch]
    mesh = FakeMesh(steps)
    found = Call(app_of(mesh), "POST", COMPLETIONS, WITH_USAGE)
    running = found.start()
    await eventually(lambda: mesh.num_open)
    # Until there is something, it may still become an error with a status of its own.
    assert found.status == 0
    for count, gate in enumerate(gates[:2], 1):
        gate.set()
        await eventually(lambda count=count: len(found.parts) == count)
    assert [e["choices"][0]["text"] for e in found.events] == ["a", "bc"]
    gates[2].set()
    await running
    assert found.headers["content-type"].startswith("text/event-stream")
    *_, last, usage, done = found.events
    assert last["choices"][0]["finish_reason"] == "stop"
    assert (usage["usage"]["completion_tokens"], done) == (3, "[DONE]")
    assert found.is_complete


async def test_a_list_of_prompts_is_one_answer_of_the_class_of_the_first() -> None:
    mesh = FakeMesh(lambda prompt, _options: text_answer(f"to {prompt}"))
    found = await ask(mesh, COMPLETIONS, {"prompt": ["a", "b", "c"]})
    texts = [choice["text"] for choice in found.json["choices"]]
    assert texts == ["to a", "to b", "to c"]
    assert found.json["usage"]["prompt_tokens"] == 9
    assert len({options.seed for _, options in mesh.asked}) == 1
    assert found.json["system_fingerprint"] == FINGERPRINT
    asked = {str(p): (o.model_hash, o.numerics_class) for p, o in mesh.asked}
    assert asked == {"a": ("", ""), "b": (MODEL_HASH, NUMERICS), "c": (MODEL_HASH, NUMERICS)}


async def test_a_body_whose_prompts_cannot_have_one_class_fails() -> None:
    """The target of the first one is lost before its first token, and another class takes it."""
    again = asyncio.Event()

    def script(prompt: Prompt, _options: GenerateOptions) -> Sequence[Step]:
        if prompt != "a":
            again.set()
            return text_answer("x")
        other = replace(started(), numerics_class="other")
        return [started(), again, other, tokens("a", 0), finished(1)]

    found = await ask(FakeMesh(script), COMPLETIONS, {"prompt": ["a", "b"]})
    assert (found.status, found.json["error"]["code"]) == (503, "unavailable")
    assert "has left: try again" in found.json["error"]["message"]


async def test_the_last_class_that_takes_a_request_is_told() -> None:
    other = replace(started(5), numerics_class="abcdef0123456789", exact=False)
    mesh = FakeMesh([started(5), other, tokens("a", 0), finished(1)])
    whole = (await ask(mesh, COMPLETIONS, ASK)).json
    *chunks, _done = (await ask(mesh, COMPLETIONS, WITH_USAGE)).events
    for told in (whole, *chunks):
        assert told["system_fingerprint"] == "fp_01234567_abcdef01"
    for usage in (whole["usage"], chunks[-1]["usage"]):
        assert usage["prompt_tokens"] == 5
        found = {name: usage["airdraft"][name] for name in ("model_hash", "numerics_class")}
        assert found == {"model_hash": MODEL_HASH, "numerics_class": "abcdef0123456789"}
        assert usage["airdraft"]["exact"] is False


@pytest.mark.parametrize(("path", "body"), [(COMPLETIONS, ASK), (CHAT, TALK)])
async def test_who_names_a_fingerprint_asks_for_that_class(path: str, body: Any) -> None:
    mesh = FakeMesh(text_answer("x"))
    found = await ask(mesh, path, {**body, "system_fingerprint": FINGERPRINT})
    assert found.status == 200
    _, options = mesh.asked[-1]
    assert (options.model_hash, options.numerics_class) == ("01234567", "fedcba98")
    for wrong in ("fp_44709d6fcb", "", "x" * 1000, 7, ["fp_a_b"]):
        found = await ask(mesh, path, {**body, "system_fingerprint": wrong})
        assert (found.status, found.json["error"]["param"]) == (400, "system_fingerprint")
    assert (await ask(mesh, path, {**body, "system_fingerprint": None})).status == 200


async def test_a_prompt_is_scored_without_a_new_token() -> None:
    scores = PromptLogprobsNotice(1, 1, (scored("b", -1.0, ("b", -1.0)), scored("c", -3.0)))
    mesh = FakeMesh([started(), scores, finished(0, "length")])
    body = {"prompt": [7, 8, 9], "echo": True, "logprobs": 1, "max_tokens": 0, "temperature": 0}
    found = (await ask(mesh, COMPLETIONS, body)).json["choices"][0]["logprobs"]
    assert found["token_logprobs"] == [None, -1.0, -3.0]
    assert found["tokens"][1:] == ["b", "c"]
    assert mesh.asked[0][0] == (7, 8, 9)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("has_begun", [False, True])
@pytest.mark.parametrize(
    ("code", "status", "retry"),
    [
        ("bad_request", 400, None),
        ("overloaded", 429, "1"),
        ("unavailable", 503, "2"),
        ("deadline", 504, None),
        ("internal", 500, None),
        ("of another version", 500, None),
    ],
)
async def test_an_answer_that_breaks_never_looks_whole(
    stream: bool, has_begun: bool, code: str, status: int, retry: str | None
) -> None:
    """Choices of two prompts; all of it is there but for the end of one."""

    def script(prompt: Prompt, _options: GenerateOptions) -> Sequence[Step]:
        if prompt == "whole":
            return text_answer("a", "b")
        begun = [tokens("a", 0), tokens("b", 1)] if has_begun else []
        return [started(), *begun, RequestFailedError(code, "why")]

    mesh = FakeMesh(script)
    body = {"prompt": ["broken", "whole"] if has_begun else "broken", "stream": stream}
    found = await ask(mesh, COMPLETIONS, body)
    assert mesh.num_open == 0
    if stream and has_begun:
        assert found.status == 200
        assert found.events[-1]["error"]["message"] == "why"
        assert "[DONE]" not in found.events
        ended = [e["choices"][0] for e in found.events[:-1] if e["choices"][0]["finish_reason"]]
        assert all(choice["index"] == 1 for choice in ended)
        assert (found.is_complete, found.is_last) == (True, True)
    else:
        assert (found.status, found.headers.get("retry-after")) == (status, retry)
        error = found.json["error"]
        # The shape of OpenAI's errors and of Anthropic's.
        assert (found.json["type"], error["message"]) == ("error", "why")
        assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), [(COMPLETIONS, ASK), (CHAT, TALK)])
async def test_a_fault_of_ours_is_told_and_logged(
    path: str, body: Any, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    mesh = FakeMesh([*BEGUN, ValueError("CANARY")])
    with caplog.at_level(logging.DEBUG):
        found = await ask(mesh, path, {**body, "stream": stream})
    assert "CANARY" not in caplog.text + found.body.decode()
    assert "ValueError" in caplog.text
    if stream:
        assert "status 500, 1 tokens" in caplog.text
        assert found.events[-1]["error"]["type"] == "server_error"
    else:
        assert found.status == 500


@pytest.mark.parametrize("stream", [False, True])
async def test_a_choice_without_its_end_is_no_answer(stream: bool) -> None:
    found = await ask(FakeMesh(text_answer("a")), COMPLETIONS, {**ASK, "n": 2, "stream": stream})
    if stream:
        assert "did not send the end" in found.events[-1]["error"]["message"]
        assert "[DONE]" not in found.events
    else:
        assert found.status == 503


async def test_a_fault_after_the_last_token_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_answers: Answers) -> dict[str, object]:
        raise ValueError

    monkeypatch.setattr(Answers, "usage", broken)
    found = await ask(FakeMesh(text_answer("a")), COMPLETIONS, WITH_USAGE)
    assert "[DONE]" not in found.body.decode()
    assert (found.is_complete, found.is_aborted) == (False, True)


@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "k-1"}])
async def test_a_request_is_cancelled_by_the_id_it_shows(
    eventually: Eventually, headers: dict[str, str]
) -> None:
    mesh = FakeMesh([*BEGUN, asyncio.Event()])
    app = app_of(mesh)
    stream = Call(app, "POST", COMPLETIONS, STREAM, headers)
    running = stream.start()
    await eventually(lambda: stream.events)
    request_id = stream.events[0]["id"]
    cancelling = await call(app, "DELETE", f"{COMPLETIONS}/{request_id}")
    assert cancelling.json == {"id": request_id, "object": "request", "cancelled": True}
    await running
    assert mesh.num_cancelled == 1
    assert stream.events[-1]["error"]["code"] == "cancelled"
    assert "[DONE]" not in stream.events
    assert stream.is_last
    assert (await call(app, "DELETE", f"{COMPLETIONS}/{request_id}")).status == 404


@pytest.mark.parametrize(("path", "body"), [(COMPLETIONS, ASK), (CHAT, TALK)])
async def test_tokens_are_told_to_who_asks(path: str, body: Any) -> None:
    made = tokens(
        "abc", 0, 0, 2, (scored("ab", -0.123456), scored(b"\xe2\x82", -1.5)), drafted=3, accepted=1
    )
    mesh = FakeMesh([started(), made, finished(2, drafted=3, accepted=1)])
    asked = {**body, "airdraft": {"tokens": True}}
    found = await ask(mesh, path, {**asked, "stream": True})
    told = [event["airdraft"] for event in found.events[:-1] if "airdraft" in event]
    assert told == [{"tokens": [["ab", "accepted", -0.1235], [[0xE2, 0x82], "corrected", -1.5]]}]
    # For the pieces alone: log-probabilities in OpenAI's shape were not asked for.
    assert mesh.asked[0][1].num_logprobs == 0
    choices = [event["choices"][0] for event in found.events[:-1]]
    assert all(choice["logprobs"] is None for choice in choices)
    refused = await ask(mesh, path, asked)
    assert (refused.status, refused.json["error"]["param"]) == (400, "airdraft.tokens")
    unknown = await ask(mesh, path, {**body, "airdraft": {"token": True}})
    assert unknown.headers["warning"] == '299 airdraft "ignored: airdraft.token"'
    plain = await ask(mesh, path, {**body, "stream": True, "airdraft": {"tokens": False}})
    assert b"airdraft" not in plain.body


async def test_a_long_echo_comes_in_parts_that_make_the_whole(eventually: Eventually) -> None:
    """And others have their turns between them."""
    ids, top = list(range(4000)), [(letter, -2.0) for letter in "abcdefghi"]
    scores = PromptLogprobsNotice(1, 1, tuple(scored("é", -1.0, *top) for _ in ids[1:]))
    mesh = FakeMesh([started(len(ids)), scores, tokens("z", 0), finished(1)])
    body = {"prompt": ids, "echo": True, "logprobs": 9, "max_tokens": 1}
    whole = (await ask(mesh, COMPLETIONS, body)).json["choices"][0]
    asked = Call(app_of(mesh), "POST", COMPLETIONS, {**body, "stream": True})
    running, num_turns = asked.start(), 0
    await eventually(lambda: len(asked.parts) > 1)
    while not running.done():
        num_turns += 1
        await asyncio.sleep(0)
    parts = [event["choices"][0] for event in asked.events[:-1]]
    assert num_turns > 5
    assert max(len(part["logprobs"]["tokens"]) for part in parts if part["logprobs"]) < 1000
    assert "".join(part["text"] for part in parts) == whole["text"] == "é" * 3999 + "z"
    assert [part["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + ["stop"]
    for name, values in whole["logprobs"].items():
        told = [value for part in parts if part["logprobs"] for value in part["logprobs"][name]]
        assert told == values


async def test_each_choice_has_the_whole_echo() -> None:
    scores = PromptLogprobsNotice(1, 1, (scored("b", -1.0), scored("c", -3.0)))
    ends = [
        event
        for choice in (0, 1)
        for event in (tokens("x", 0, choice), finished(1, "stop", choice))
    ]
    mesh = FakeMesh([started(), scores, *ends])
    body = {"prompt": [7, 8, 9], "echo": True, "logprobs": 0, "max_tokens": 1, "n": 2}
    choices = (await ask(mesh, COMPLETIONS, body)).json["choices"]
    assert [choice["text"] for choice in choices] == ["bcx", "bcx"]
    assert [choice["logprobs"]["tokens"][1:] for choice in choices] == [["b", "c"], ["b", "c"]]


async def test_a_text_whose_scores_turn_out_too_many_is_refused() -> None:
    mesh = FakeMesh([started(9000), asyncio.Event()])
    body = {"prompt": "hi", "echo": True, "logprobs": 20, "max_tokens": 1000}
    found = await ask(mesh, COMPLETIONS, body)
    assert (found.status, found.json["error"]["param"]) == (400, "logprobs")
    assert mesh.num_open == 0
    # It is not counted as one that is under way.
    mesh.script = text_answer("a")
    for _ in range(20):
        assert (await ask(mesh, COMPLETIONS, {**ASK, "logprobs": 0})).status == 200
