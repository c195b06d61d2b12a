"""Requests with an Idempotency-Key, streams that go on after an event: through the whole API."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from nodes.client.generation import GenerateOptions, Prompt
from nodes.gateway.apikeys import ApiKey, ApiKeys, digest
from tests.nodes.gateway.calls import Call, gateway_of, open_app, post
from tests.nodes.gateway.fake_mesh import (
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
ASK: dict[str, Any] = {"prompt": "hi"}
TALK: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
KEY = {"idempotency-key": "k-1"}
Eventually = Callable[..., "asyncio.Future[None]"]


def app_of(mesh: FakeMesh, tmp_path: Path, **limits: Any) -> Any:
    return open_app(gateway_of(mesh, **limits), tmp_path)


def _untimed(mark: tuple[str, Any]) -> tuple[str, Any]:
    """An event with its id, without the second in which it was made."""
    event_id, event = mark
    return event_id, event if event == "[DONE]" else {**event, "created": 0}


@pytest.mark.parametrize(("path", "body"), [(COMPLETIONS, ASK), (CHAT, TALK)])
@pytest.mark.parametrize("stream", [False, True])
async def test_any_gateway_gives_the_same_answer_again(
    tmp_path: Path, path: str, body: dict[str, Any], stream: bool
) -> None:
    mesh = FakeMesh(text_answer("a", "b"))
    body = {**body, "stream": stream}
    calls = [await post(app_of(mesh, tmp_path), path, body, **KEY) for _ in range(2)]
    plain = await post(app_of(mesh, tmp_path), path, body)
    seeds = [options.seed for _, options in mesh.asked]
    assert seeds[0] == seeds[1] != seeds[2]
    ids = [call.headers["x-request-id"] for call in (*calls, plain)]
    assert ids[0] == ids[1] != ids[2]
    assert calls[0].headers["x-airdraft-seed"] == str(seeds[0])
    if stream:
        assert calls[0].events[0]["id"] == ids[0]
        first, second = ([_untimed(mark) for mark in call.marked_events] for call in calls)
        assert first == second
        assert all(event_id for event_id, event in calls[0].marked_events if event != "[DONE]")
        assert not any(event_id for event_id, _ in plain.marked_events)
    else:
        assert calls[0].json["id"] == ids[0]


async def test_a_seed_that_was_given_stays(tmp_path: Path) -> None:
    mesh = FakeMesh(text_answer("a"))
    for seed in (4, None):
        await post(app_of(mesh, tmp_path), COMPLETIONS, {**ASK, "seed": seed}, **KEY)
    given, derived = (options.seed for _, options in mesh.asked)
    assert given == 4
    assert derived not in (4, None)


async def test_keys_are_those_of_their_owner(tmp_path: Path) -> None:
    mesh = FakeMesh(text_answer("a"))
    app = open_app(gateway_of(mesh), tmp_path, is_open=False)
    keys = ApiKeys(tmp_path / "apikeys.toml")
    for name in ("ann", "bob"):
        keys.add(ApiKey(name=name, sha256=digest(f"ad-{name}")))
    calls = [
        await post(
            app, COMPLETIONS, {**ASK, "max_tokens": size}, **KEY, authorization=f"Bearer {k}"
        )
        for k, size in (("ad-ann", 3), ("ad-bob", 4))
    ]
    assert [call.status for call in calls] == [200, 200]
    assert len({options.seed for _, options in mesh.asked}) == 2
    assert calls[0].json["id"] != calls[1].json["id"]


async def test_a_key_that_is_none_is_a_400(tmp_path: Path) -> None:
    mesh = FakeMesh(text_answer("a"))
    call = await post(app_of(mesh, tmp_path), COMPLETIONS, ASK, **{"idempotency-key": "a b"})
    error = call.json["error"]
    assert (call.status, error["param"], error["code"]) == (400, "Idempotency-Key", "invalid_value")
    assert mesh.asked == []


async def test_another_body_under_the_same_key_is_a_422(tmp_path: Path) -> None:
    mesh = FakeMesh(text_answer("a"))
    app = app_of(mesh, tmp_path)
    assert (await post(app, COMPLETIONS, ASK, **KEY)).status == 200
    call = await post(app, COMPLETIONS, {**ASK, "max_tokens": 3}, **KEY)
    assert (call.status, call.json["error"]["code"]) == (422, "key_reused")
    assert len(mesh.asked) == 1
    # A body that was refused uses up nothing.
    wrong = {"idempotency-key": "k-2"}
    assert (await post(app, COMPLETIONS, {"prompt": ""}, **wrong)).status == 400
    assert (await post(app, COMPLETIONS, ASK, **wrong)).status == 200


async def test_while_it_is_under_way_it_is_a_409_until_the_client_hangs_up(
    tmp_path: Path, eventually: Eventually
) -> None:
    gate = asyncio.Event()
    mesh = FakeMesh([started(), gate, *text_answer("a")[1:]])
    gateway = gateway_of(mesh)
    app = open_app(gateway, tmp_path)
    first = Call(app, "POST", COMPLETIONS, ASK, KEY)
    running = first.start()
    await eventually(lambda: mesh.num_open == 1)
    second = await post(app, COMPLETIONS, ASK, **KEY)
    assert (second.status, second.headers["retry-after"]) == (409, "1")
    assert second.json["error"]["code"] == "request_in_progress"
    first.leave()
    # Whoever hangs up and asks at once need not wait until the gateway has noticed.
    third = Call(app, "POST", COMPLETIONS, ASK, KEY)
    again = third.start()
    await running
    await eventually(lambda: len(mesh.asked) == 2)
    gate.set()
    await again
    assert third.status == 200
    assert len(gateway.running) == 0


async def test_a_keyed_request_is_cancelled_by_the_id_it_shows(
    tmp_path: Path, eventually: Eventually
) -> None:
    app = app_of(FakeMesh([started(), tokens("a", 0), asyncio.Event()]), tmp_path)
    call = Call(app, "POST", COMPLETIONS, {**ASK, "stream": True}, KEY)
    running = call.start()
    await eventually(lambda: call.events)
    cancelling = Call(app, "DELETE", f"{COMPLETIONS}/{call.events[0]['id']}")
    await cancelling.run()
    assert cancelling.status == 200
    await running


def pieces(*sizes: int) -> Sequence[Step]:
    """One text of 12 tokens, of a byte each but for one character of three, cut as told."""
    whole = "abcdef€xyz".encode()
    steps: list[Step] = [started()]
    at = 0
    for size in sizes:
        piece = whole[at : at + size]
        scores = tuple(scored(piece[i : i + 1], -0.5 * (at + i)) for i in range(size))
        steps.append(tokens(piece, at, num_tokens=size, scores=scores))
        at += size
    assert at == len(whole)
    return [*steps, finished(at)]


def told_by(path: str, events: list[Any]) -> tuple[str, list[Any], list[Any]]:
    """Text, log-probabilities and reasons of a stream's events."""
    text, scores, reasons = "", [], []
    for event in events:
        if event == "[DONE]" or not event["choices"]:
            continue
        (choice,) = event["choices"]
        text += choice["text"] if path == COMPLETIONS else choice["delta"].get("content", "")
        found = choice["logprobs"]
        if found and path == COMPLETIONS:
            scores += zip(
                found["tokens"], found["token_logprobs"], found["text_offset"], strict=True
            )
        elif found:
            scores += [(entry["token"], entry["logprob"]) for entry in found["content"]]
        reasons += [choice["finish_reason"]] if choice["finish_reason"] else []
    return text, scores, reasons


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, {**ASK, "logprobs": 0}),
        (CHAT, {**TALK, "logprobs": True}),
        (COMPLETIONS, ASK),
        (CHAT, TALK),
    ],
)
async def test_after_every_event_a_stream_goes_on_to_the_same_end(
    tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    first = await post(app_of(FakeMesh(pieces(1, 4, 2, 1, 4)), tmp_path), path, body, **KEY)
    expected = told_by(path, first.events)
    assert expected[0] == "abcdef€xyz"
    marked = first.marked_events
    usage = next(event["usage"] for _, event in marked if event != "[DONE]" and event.get("usage"))
    for number, (event_id, event) in enumerate(marked):
        if event == "[DONE]":
            continue
        # By another gateway, and in other pieces.
        app = app_of(FakeMesh(pieces(3, 3, 6)), tmp_path)
        headers = {**KEY, "last-event-id": event_id}
        second = await post(app, path, body, **headers)
        assert second.status == 200
        known = [event for _, event in marked[: number + 1]]
        assert told_by(path, [*known, *second.events]) == expected
        assert second.events[-1] == "[DONE]"
        has_usage = any(e.get("usage") for e in known)
        later = [e["usage"] for e in second.events[:-1] if e.get("usage")]
        assert later == ([] if has_usage else [usage])
        roles = [e for e in [*known, *second.events[:-1]] if _has_role(e)]
        assert len(roles) == (1 if path == CHAT else 0)
        # And again after the last event of the second.
        if ids := [found for found, _ in second.marked_events if found]:
            assert ids[-1] == marked[-2][0]


def _has_role(event: Any) -> bool:
    return any("role" in choice.get("delta", {}) for choice in event["choices"])


async def test_choices_go_on_each_from_where_it_was(tmp_path: Path) -> None:
    def script(prompt: Prompt, _options: GenerateOptions) -> Sequence[Step]:
        both = [tokens(f"{prompt}{c}-{i} ", i, c) for i in range(4) for c in (0, 1)]
        return [started(), *both, finished(4, choice=1), finished(4, choice=0)]

    body = {"prompt": ["p", "q"], "n": 2, "stream": True}
    call = await post(app_of(FakeMesh(script), tmp_path), COMPLETIONS, body, **KEY)
    whole = texts_of(call.events)
    assert len(whole) == 4
    marked = call.marked_events
    for number in range(0, len(marked) - 1, 3):
        headers = {**KEY, "last-event-id": marked[number][0]}
        again = await post(app_of(FakeMesh(script), tmp_path), COMPLETIONS, body, **headers)
        known = [event for _, event in marked[: number + 1]]
        assert texts_of([*known, *again.events]) == whole


def texts_of(events: list[Any]) -> dict[int, str]:
    found: dict[int, str] = {}
    for event in events:
        if event != "[DONE]":
            (choice,) = event["choices"]
            found[choice["index"]] = found.get(choice["index"], "") + choice["text"]
    return found


async def test_nothing_is_sent_before_there_is_something_new(
    tmp_path: Path, eventually: Eventually
) -> None:
    body = {**ASK, "stream": True}
    first = await post(app_of(FakeMesh(text_answer("a", "b")), tmp_path), COMPLETIONS, body, **KEY)
    headers = {**KEY, "last-event-id": first.marked_events[1][0]}
    gate = asyncio.Event()
    mesh = FakeMesh([started(), tokens("ab", 0, num_tokens=2), gate, finished(2)])
    call = Call(app_of(mesh, tmp_path), "POST", COMPLETIONS, body, headers)
    running = call.start()
    await eventually(lambda: mesh.num_open == 1)
    for _ in range(10):
        await asyncio.sleep(0)
    # What fails until then has a status.
    assert call.status == 0
    gate.set()
    await running
    assert [e["choices"][0]["finish_reason"] for e in call.events[:-1]] == ["stop"]


async def test_another_text_than_before_is_a_412(tmp_path: Path) -> None:
    body = {**ASK, "stream": True}
    first = await post(app_of(FakeMesh(text_answer("a", "b")), tmp_path), COMPLETIONS, body, **KEY)
    mesh = FakeMesh(text_answer("x", "b"))
    headers = {**KEY, "last-event-id": first.marked_events[0][0]}
    call = await post(app_of(mesh, tmp_path), COMPLETIONS, body, **headers)
    assert (call.status, call.json["error"]["code"]) == (412, "text_differs")
    assert mesh.num_cancelled == 1


@pytest.mark.parametrize(
    ("changes", "headers"),
    [
        ({}, {"last-event-id": "7", **KEY}),
        ({}, {"last-event-id": "7"}),
        ({"stream": False}, {"last-event-id": "7", **KEY}),
        ({"max_tokens": 9}, KEY),
        ({}, {"idempotency-key": "k-2"}),
    ],
)
async def test_an_id_that_is_not_of_this_request_is_a_400(
    tmp_path: Path, changes: dict[str, Any], headers: dict[str, str]
) -> None:
    mesh = FakeMesh(text_answer("a", "b"))
    body = {**ASK, "stream": True}
    first = await post(app_of(mesh, tmp_path), COMPLETIONS, body, **KEY)
    mesh.asked.clear()
    given = {"last-event-id": first.marked_events[0][0], **headers}
    call = await post(app_of(mesh, tmp_path), COMPLETIONS, {**body, **changes}, **given)
    assert (call.status, call.json["error"]["param"]) == (400, "Last-Event-ID")
    assert mesh.asked == []


async def test_streams_of_very_many_choices_have_no_ids(tmp_path: Path) -> None:
    mesh = FakeMesh(text_answer("a"))
    body = {"prompt": ["p"] * 65, "stream": True}
    call = await post(app_of(mesh, tmp_path, max_prompts=65), COMPLETIONS, body, **KEY)
    assert call.status == 200
    assert not any(event_id for event_id, _ in call.marked_events)
