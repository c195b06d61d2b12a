from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nodes.client.client import RequestFailedError
from nodes.client.generation import GenerateOptions, Prompt
from nodes.gateway.answers import Usage
from nodes.messages import PromptLogprobsNotice
from tests.nodes.gateway.calls import Call, gateway_of, open_app, post
from tests.nodes.gateway.fake_mesh import (
    FINGERPRINT,
    MODEL_HASH,
    NUMERICS,
    FakeMesh,
    Step,
    finished,
    scored,
    started,
    text_answer,
    tokens,
)

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
ASK = {"prompt": "hi", "seed": 4}
STREAM = {**ASK, "stream": True}
Eventually = Callable[..., "asyncio.Future[None]"]


def app_of(mesh: FakeMesh, tmp_path: Path, **limits: Any) -> Any:
    return open_app(gateway_of(mesh, **limits), tmp_path)


async def test_a_whole_answer(tmp_path: Path) -> None:
    mesh = FakeMesh(text_answer("one ", "two", reason="length"))
    call = await post(app_of(mesh, tmp_path), COMPLETIONS, ASK)
    assert call.status == 200
    assert call.json["choices"][0]["text"] == "one two"
    assert call.json["choices"][0]["finish_reason"] == "length"
    assert call.json["usage"]["total_tokens"] == 5
    assert call.json["usage"]["airdraft"]["seed"] == 4
    assert call.headers["x-airdraft-seed"] == "4"
    assert call.headers["x-request-id"] == call.json["id"]
    assert (mesh.num_open, mesh.num_cancelled) == (0, 0)


async def test_every_batch_of_tokens_is_sent_when_it_comes(
    tmp_path: Path, eventually: Eventually
) -> None:
    gates = [asyncio.Event() for _ in range(3)]
    script: list[Step] = [
        started(),
        gates[0],
        tokens("a", 0),
        gates[1],
        tokens("bc", 1, num_tokens=2),
        gates[2],
        finished(3),
    ]
    body = {**STREAM, "stream_options": {"include_usage": True}}
    call = Call(app_of(FakeMesh(script), tmp_path), "POST", COMPLETIONS, body)
    running = call.start()
    await asyncio.sleep(0.01)
    # Until there is something, it may still become an error with a status of its own.
    assert call.status == 0
    for count, gate in enumerate(gates[:2], 1):
        gate.set()
        await eventually(lambda count=count: len(call.parts) == count)
    assert [e["choices"][0]["text"] for e in call.events] == ["a", "bc"]
    gates[2].set()
    await running
    assert call.headers["content-type"].startswith("text/event-stream")
    assert call.events[-1] == "[DONE]"
    assert call.events[-2]["usage"]["completion_tokens"] == 3
    assert call.events[-3]["choices"][0]["finish_reason"] == "stop"
    assert call.is_complete


async def test_all_prompts_of_a_body_go_to_the_class_of_the_first(tmp_path: Path) -> None:
    mesh = FakeMesh(text_answer("x"))
    call = await post(app_of(mesh, tmp_path), COMPLETIONS, {"prompt": ["a", "b", "c"]})
    assert call.json["system_fingerprint"] == FINGERPRINT
    asked = {str(p): (o.model_hash, o.numerics_class) for p, o in mesh.asked}
    assert asked == {"a": ("", ""), "b": (MODEL_HASH, NUMERICS), "c": (MODEL_HASH, NUMERICS)}


async def test_a_body_whose_prompts_cannot_have_one_class_fails(tmp_path: Path) -> None:
    """The target of the first one is lost before its first token, and another class takes it."""
    again = asyncio.Event()

    def script(prompt: Prompt, _options: GenerateOptions) -> Sequence[Step]:
        if prompt != "a":
            again.set()
            return text_answer("x")
        other = replace(started(), numerics_class="other")
        return [started(), again, other, tokens("a", 0), finished(1)]

    call = await post(app_of(FakeMesh(script), tmp_path), COMPLETIONS, {"prompt": ["a", "b"]})
    assert (call.status, call.json["error"]["code"]) == (503, "unavailable")
    assert "has left: try again" in call.json["error"]["message"]


async def test_the_last_class_that_takes_a_request_is_told(tmp_path: Path) -> None:
    other = replace(started(5), numerics_class="abcdef0123456789", exact=False)
    script = [started(5), other, tokens("a", 0), finished(1)]
    body = {**STREAM, "stream_options": {"include_usage": True}}
    whole = (await post(app_of(FakeMesh(script), tmp_path), COMPLETIONS, ASK)).json
    call = await post(app_of(FakeMesh(script), tmp_path), COMPLETIONS, body)
    chunks = [event for event in call.events if event != "[DONE]"]
    for told in (whole, *chunks):
        assert told["system_fingerprint"] == "fp_01234567_abcdef01"
    for usage in (whole["usage"], chunks[-1]["usage"]):
        assert usage["prompt_tokens"] == 5
        found = {name: usage["airdraft"][name] for name in ("model_hash", "numerics_class")}
        assert found == {"model_hash": MODEL_HASH, "numerics_class": "abcdef0123456789"}
        assert usage["airdraft"]["exact"] is False


async def test_who_names_a_fingerprint_asks_for_that_class(tmp_path: Path) -> None:
    mesh = FakeMesh(text_answer("x"))
    app = app_of(mesh, tmp_path)
    told = (await post(app, COMPLETIONS, ASK)).json["system_fingerprint"]
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    for path, body in ((COMPLETIONS, ASK), (CHAT, chat)):
        call = await post(app, path, {**body, "system_fingerprint": told})
        assert call.status == 200
        _, options = mesh.asked[-1]
        assert (options.model_hash, options.numerics_class) == ("01234567", "fedcba98")
        for wrong in ("fp_44709d6fcb", "", "x" * 1000, 7, ["fp_a_b"]):
            call = await post(app, path, {**body, "system_fingerprint": wrong})
            assert (call.status, call.json["error"]["param"]) == (400, "system_fingerprint")
        assert (await post(app, path, {**body, "system_fingerprint": None})).status == 200


async def test_a_list_of_prompts_is_one_answer(tmp_path: Path) -> None:
    def script(prompt: Prompt, _options: GenerateOptions) -> Sequence[Step]:
        return text_answer(f"to {prompt}")

    mesh = FakeMesh(script)
    body = {"prompt": ["a", "b", "c"]}
    call = await post(app_of(mesh, tmp_path), COMPLETIONS, body)
    texts = [choice["text"] for choice in call.json["choices"]]
    assert texts == ["to a", "to b", "to c"]
    assert call.json["usage"]["prompt_tokens"] == 9
    assert len({options.seed for _, options in mesh.asked}) == 1


async def test_scoring(tmp_path: Path) -> None:
    scores = PromptLogprobsNotice(1, 1, (scored("b", -1.0, ("b", -1.0)), scored("c", -3.0)))
    mesh = FakeMesh([started(), scores, finished(0, "length")])
    body = {"prompt": [7, 8, 9], "echo": True, "logprobs": 1, "max_tokens": 0, "temperature": 0}
    call = await post(app_of(mesh, tmp_path), COMPLETIONS, body)
    found = call.json["choices"][0]["logprobs"]
    assert found["token_logprobs"] == [None, -1.0, -3.0]
    assert found["tokens"][1:] == ["b", "c"]
    assert mesh.asked[0][0] == (7, 8, 9)


@pytest.mark.parametrize(
    ("code", "status", "retry"),
    [
        ("bad_request", 400, None),
        ("overloaded", 429, "1"),
        ("unavailable", 503, "2"),
        ("internal", 500, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["hi", ["hi", "ho"]])
async def test_a_fault_before_the_first_token_is_a_status(
    tmp_path: Path, code: str, status: int, retry: str | None, stream: bool, prompt: Any
) -> None:
    mesh = FakeMesh([started(), RequestFailedError(code, "why")])
    body = {"prompt": prompt, "stream": stream}
    call = await post(app_of(mesh, tmp_path), COMPLETIONS, body)
    assert (call.status, call.headers.get("retry-after")) == (status, retry)
    assert call.json["error"]["message"] == "why"
    assert mesh.num_open == 0


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_a_fault_after_it_is_an_event_and_no_end(
    tmp_path: Path, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    mesh = FakeMesh([started(), tokens("a", 0), RequestFailedError("unavailable", "why")])
    chat = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
    with caplog.at_level(logging.INFO):
        call = await post(app_of(mesh, tmp_path), path, STREAM if path == COMPLETIONS else chat)
    assert call.status == 200
    assert "status 503, 1 tokens" in caplog.text
    assert call.events[-1]["error"]["message"] == "why"
    assert "[DONE]" not in call.events
    assert all(e["choices"][0]["finish_reason"] is None for e in call.events[:-1])
    assert call.is_complete
    assert call.is_last


@pytest.mark.parametrize("stream", [False, True])
async def test_a_fault_of_ours_is_told_and_logged(
    tmp_path: Path, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    mesh = FakeMesh([started(), tokens("a", 0), ValueError("CANARY")])
    with caplog.at_level(logging.DEBUG):
        call = await post(app_of(mesh, tmp_path), COMPLETIONS, {**ASK, "stream": stream})
    assert "CANARY" not in caplog.text + call.body.decode()
    assert "ValueError" in caplog.text
    if stream:
        assert call.events[-1]["error"]["type"] == "server_error"
    else:
        assert call.status == 500


@pytest.mark.parametrize("stream", [False, True])
async def test_a_choice_without_its_end_is_no_answer(tmp_path: Path, stream: bool) -> None:
    mesh = FakeMesh(text_answer("a"))
    body = {**ASK, "n": 2, "stream": stream}
    call = await post(app_of(mesh, tmp_path), COMPLETIONS, body)
    if stream:
        assert "did not send the end" in call.events[-1]["error"]["message"]
        assert "[DONE]" not in call.events
    else:
        assert call.status == 503


async def test_a_fault_after_the_last_token_is_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_usage: Usage, _seed: int) -> dict[str, object]:
        raise ValueError

    monkeypatch.setattr(Usage, "as_json", broken)
    body = {**STREAM, "stream_options": {"include_usage": True}}
    call = await post(app_of(FakeMesh(text_answer("a")), tmp_path), COMPLETIONS, body)
    assert "[DONE]" not in call.body.decode()
    assert not call.is_complete
    assert call.is_aborted


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("has_begun", [False, True])
@pytest.mark.parametrize(
    ("code", "status"),
    [("bad_request", 400), ("overloaded", 429), ("unavailable", 503), ("internal", 500)],
)
async def test_an_answer_that_breaks_never_looks_whole(
    tmp_path: Path, stream: bool, has_begun: bool, code: str, status: int
) -> None:
    """Two choices of two prompts; all of it is there but for the end of one."""

    def script(prompt: Prompt, _options: GenerateOptions) -> Sequence[Step]:
        if prompt == "whole":
            return text_answer("a", "b")
        begun = [tokens("a", 0), tokens("b", 1)] if has_begun else []
        return [started(), *begun, RequestFailedError(code, "why")]

    body = {"prompt": ["broken", "whole"] if has_begun else "broken", "stream": stream}
    call = await post(app_of(FakeMesh(script), tmp_path), COMPLETIONS, body)
    if stream and has_begun:
        assert call.status == 200
        assert call.events[-1]["error"]["message"] == "why"
        assert "[DONE]" not in call.events
        ended = [e["choices"][0] for e in call.events[:-1] if e["choices"][0]["finish_reason"]]
        assert all(choice["index"] == 1 for choice in ended)
        assert call.is_last
    else:
        assert call.status == status
        assert set(call.json) == {"type", "error"}
        assert ("retry-after" in call.headers) is (status in (429, 503))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("has_begun", [False, True])
async def test_who_leaves_frees_the_request_at_once(
    tmp_path: Path, eventually: Eventually, stream: bool, has_begun: bool
) -> None:
    begun: list[Step] = [started(), tokens("a", 0)] if has_begun else []
    mesh = FakeMesh([*begun, asyncio.Event()])
    gateway = gateway_of(mesh)
    call = Call(open_app(gateway, tmp_path), "POST", COMPLETIONS, {**ASK, "stream": stream})
    running = call.start()
    await eventually(lambda: mesh.num_open == 1)
    call.leave()
    await running
    assert (mesh.num_open, mesh.num_cancelled) == (0, 1)
    assert len(gateway.running) == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_is_cancelled_by_its_id(
    tmp_path: Path, eventually: Eventually, stream: bool
) -> None:
    mesh = FakeMesh([started(), tokens("a", 0), asyncio.Event()])
    gateway = gateway_of(mesh)
    app = open_app(gateway, tmp_path)
    call = Call(app, "POST", COMPLETIONS, {**ASK, "stream": stream})
    running = call.start()
    await eventually(lambda: mesh.num_open == 1 and (call.events or not stream))
    (request_id,) = gateway.running._runs
    cancelling = Call(app, "DELETE", f"{COMPLETIONS}/{request_id}")
    await cancelling.run()
    assert cancelling.json == {"id": request_id, "object": "request", "cancelled": True}
    await running
    assert mesh.num_cancelled == 1
    if stream:
        assert call.events[-1]["error"]["code"] == "cancelled"
        assert "[DONE]" not in call.events
        assert call.is_last
    else:
        assert (call.status, call.json["error"]["code"]) == (410, "cancelled")
    again = Call(app, "DELETE", f"{COMPLETIONS}/{request_id}")
    await again.run()
    assert again.status == 404


async def test_a_slow_reader_costs_so_much_and_is_dropped(
    tmp_path: Path, eventually: Eventually
) -> None:
    gate = asyncio.Event()
    script = text_answer(*["x" * 500] * 1000)
    mesh = FakeMesh([*script[:3], gate, *script[3:]])
    gateway = gateway_of(mesh, max_unsent_bytes=32_768)
    call = Call(open_app(gateway, tmp_path), "POST", COMPLETIONS, STREAM)
    running = call.start()
    await eventually(lambda: len(call.events) == 2)
    call.reads.clear()
    gate.set()
    await eventually(lambda: call.is_aborted)
    await running
    assert (mesh.num_open, mesh.num_cancelled) == (0, 1)
    assert not call.is_complete
    assert "[DONE]" not in call.body.decode()
    assert len(gateway.running) == 0


async def test_a_reader_that_keeps_up_is_not_dropped(tmp_path: Path) -> None:
    mesh = FakeMesh(text_answer(*["x" * 500] * 1000))
    call = await post(app_of(mesh, tmp_path, max_unsent_bytes=8192), COMPLETIONS, STREAM)
    assert call.events[-1] == "[DONE]"
    assert sum(len(e["choices"][0]["text"]) for e in call.events[:-1]) == 500_000


async def test_a_reader_that_stops_at_the_end_has_some_seconds(
    tmp_path: Path, eventually: Eventually
) -> None:
    mesh = FakeMesh(text_answer("a", "b"))
    app = app_of(mesh, tmp_path, write_timeout_s=0.1)
    call = Call(app, "POST", COMPLETIONS, STREAM)
    call.reads.clear()
    running = call.start()
    await eventually(lambda: call.is_aborted)
    await running
    assert not call.is_complete


async def test_over_the_limit_of_requests_is_429(tmp_path: Path, eventually: Eventually) -> None:
    mesh = FakeMesh([started(), asyncio.Event()])
    app = app_of(mesh, tmp_path, max_concurrent_per_key=1)
    first = Call(app, "POST", COMPLETIONS, ASK)
    running = first.start()
    await eventually(lambda: mesh.num_open == 1)
    second = await post(app, COMPLETIONS, ASK)
    assert (second.status, second.headers["retry-after"]) == (429, "1")
    first.leave()
    await running


@pytest.mark.parametrize("has_begun", [False, True])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_stream_that_is_over_never_ends_its_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_begun: bool, fails: bool
) -> None:
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []
    call_later = loop.call_later

    def recorded(delay: float, *arguments: Any, **context: Any) -> asyncio.TimerHandle:
        timer = call_later(delay, *arguments, **context)
        if delay == 77.0:
            timers.append(timer)
        return timer

    monkeypatch.setattr(loop, "call_later", recorded)
    script: list[Step] = [started(), *([tokens("a", 0)] if has_begun else [])]
    script.append(RequestFailedError("bad_request", "why") if fails else finished(int(has_begun)))
    app = app_of(FakeMesh(script), tmp_path, write_timeout_s=77.0)
    call = await post(app, COMPLETIONS, STREAM)
    assert call.is_complete
    for _ in range(5):
        await asyncio.sleep(0)
    # The next request of the connection must not be cut off by it.
    assert all(timer.cancelled() for timer in timers)
    assert timers or fails


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_tokens_are_told_to_who_asks(tmp_path: Path, path: str) -> None:
    made = tokens("abc", 0, 0, 2, (scored("ab", -0.5), scored("c", -1.5)), drafted=3, accepted=1)
    mesh = FakeMesh([started(), made, finished(2, drafted=3, accepted=1)])
    app = app_of(mesh, tmp_path)
    body = {"messages": [{"role": "user", "content": "hi"}]} if path == CHAT else ASK
    body = {**body, "airdraft": {"tokens": True}}
    call = await post(app, path, {**body, "stream": True})
    told = [event["airdraft"] for event in call.events[:-1] if "airdraft" in event]
    assert told == [{"tokens": [["ab", "accepted", -0.5], ["c", "corrected", -1.5]]}]
    # For the pieces alone: log-probabilities in OpenAI's shape were not asked for.
    assert mesh.asked[0][1].num_logprobs == 0
    choices = [event["choices"][0] for event in call.events[:-1]]
    assert all(choice["logprobs"] is None for choice in choices)
    refused = await post(app, path, body)
    assert (refused.status, refused.json["error"]["param"]) == (400, "airdraft.tokens")
    unknown = await post(app, path, {**body, "airdraft": {"token": True}})
    assert unknown.headers["warning"] == '299 airdraft "ignored: airdraft.token"'
    plain = await post(app, path, {**body, "stream": True, "airdraft": {"tokens": False}})
    assert b"airdraft" not in plain.body
