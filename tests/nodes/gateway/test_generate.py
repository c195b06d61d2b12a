"""Requests with an Idempotency-Key, streams that go on after an event: through the whole API."""

import asyncio
import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from tests.nodes.gateway.calls import (
    ASK,
    CHAT,
    COMPLETIONS,
    KEY,
    STREAM,
    TALK,
    Call,
    app_of,
    ask,
    keyed_app,
    post,
)
from tests.nodes.gateway.fake_mesh import (
    Eventually,
    FakeMesh,
    Step,
    finished,
    scored,
    started,
    text_answer,
    tokens,
)


def _untimed(mark: tuple[str, Any]) -> tuple[str, Any]:
    """An event with its id, without the second in which it was made."""
    event_id, event = mark
    return event_id, event if event == "[DONE]" else {**event, "created": 0}


class AskingAgain(Call):
    """A client that sends the next request as soon as it has the whole answer."""

    next: Call
    asking: asyncio.Task[None]

    async def _send(self, message: Message) -> None:
        await super()._send(message)
        if self.is_complete:
            self.asking = self.next.start()
            # The gateway reads that request before it has ended this one.
            for _ in range(20):
                await asyncio.sleep(0)


@pytest.mark.parametrize("stream", [False, True])
async def test_who_has_the_whole_answer_may_ask_again_at_once(stream: bool) -> None:
    app = app_of(FakeMesh(text_answer("a", "b")))
    body = {**ASK, "stream": stream}
    known = await post(app, COMPLETIONS, body, **KEY)
    first = AskingAgain(app, "POST", COMPLETIONS, body, KEY)
    last = {"last-event-id": known.marked_events[0][0]} if stream else {}
    first.next = Call(app, "POST", COMPLETIONS, body, {**KEY, **last})
    await first.run()
    await first.asking
    assert (first.next.status, first.next.is_complete) == (200, True)
    # They may have the same connection.
    assert not first.is_aborted


@pytest.mark.parametrize(("path", "body"), [(COMPLETIONS, ASK), (CHAT, TALK)])
@pytest.mark.parametrize("stream", [False, True])
async def test_any_gateway_gives_the_same_answer_again(
    path: str, body: dict[str, Any], stream: bool
) -> None:
    mesh = FakeMesh(text_answer("a", "b"))
    body = {**body, "stream": stream}
    calls = [await ask(mesh, path, body, **KEY) for _ in range(2)]
    plain = await ask(mesh, path, body)
    await ask(mesh, path, {**body, "seed": 4}, **KEY)
    *seeds, given = (options.seed for _, options in mesh.asked)
    assert given == 4
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


async def test_keys_are_those_of_their_owner(tmp_path: Path) -> None:
    mesh = FakeMesh(text_answer("a"))
    app = keyed_app(mesh, tmp_path)
    ids = []
    for name, size in (("boss", 3), ("guest", 4)):
        body = {**ASK, "max_tokens": size}
        call = await post(app, COMPLETIONS, body, **KEY, authorization=f"Bearer ad-{name}")
        ids.append(call.json["id"])
    assert len({options.seed for _, options in mesh.asked}) == 2
    assert ids[0] != ids[1]


async def test_a_key_that_is_none_or_was_used_otherwise_is_refused() -> None:
    mesh = FakeMesh(text_answer("a"))
    app = app_of(mesh)
    # A body that was refused uses up nothing.
    for key, body, status, code in (
        ("a b", ASK, 400, "invalid_value"),
        ("k-1", {"prompt": ""}, 400, "invalid_value"),
        ("k-1", ASK, 200, None),
        ("k-1", {**ASK, "max_tokens": 3}, 422, "key_reused"),
    ):
        call = await post(app, COMPLETIONS, body, **{"idempotency-key": key})
        assert (call.status, call.json.get("error", {}).get("code")) == (status, code)
    assert len(mesh.asked) == 1


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
    path: str, body: dict[str, Any]
) -> None:
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    first = await ask(FakeMesh(pieces(1, 4, 2, 1, 4)), path, body, **KEY)
    expected = told_by(path, first.events)
    assert expected[0] == "abcdef€xyz"
    marked = first.marked_events
    usage = next(event["usage"] for _, event in marked if event != "[DONE]" and event.get("usage"))
    for number, (event_id, event) in enumerate(marked):
        if event == "[DONE]":
            continue
        # By another gateway, and in other pieces.
        headers = {**KEY, "last-event-id": event_id}
        cuts = [0, *sorted(random.Random(number).sample(range(1, 12), 3)), 12]
        others = pieces(*(high - low for low, high in itertools.pairwise(cuts)))
        second = await ask(FakeMesh(others), path, body, **headers)
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


async def test_nothing_is_sent_before_there_is_something_new(eventually: Eventually) -> None:
    first = await ask(FakeMesh(text_answer("a", "b")), COMPLETIONS, STREAM, **KEY)
    headers = {**KEY, "last-event-id": first.marked_events[1][0]}
    gate = asyncio.Event()
    mesh = FakeMesh([started(), tokens("ab", 0, num_tokens=2), gate, finished(2)])
    call = Call(app_of(mesh), "POST", COMPLETIONS, STREAM, headers)
    running = call.start()
    await eventually(lambda: mesh.num_open == 1)
    for _ in range(10):
        await asyncio.sleep(0)
    # What fails until then has a status.
    assert call.status == 0
    gate.set()
    await running
    assert [e["choices"][0]["finish_reason"] for e in call.events[:-1]] == ["stop"]


@pytest.mark.parametrize(
    ("changes", "headers"),
    [
        ({}, {"last-event-id": "7", **KEY}),
        ({}, {"last-event-id": "7"}),
        ({"stream": False}, {"last-event-id": "7", **KEY}),
        ({"max_tokens": 9}, KEY),
        ({"prompt": ["hi"] * 65}, KEY),
        ({}, {"idempotency-key": "k-2"}),
    ],
    ids=["no id", "no key", "no stream", "another body", "many choices", "another key"],
)
async def test_an_id_that_is_not_of_this_request_is_a_400(
    changes: dict[str, Any], headers: dict[str, str]
) -> None:
    mesh = FakeMesh(text_answer("a", "b"))
    first = await ask(mesh, COMPLETIONS, STREAM, **KEY)
    mesh.asked.clear()
    given = {"last-event-id": first.marked_events[0][0], **headers}
    app = app_of(mesh, max_prompts=65)
    call = await post(app, COMPLETIONS, {**STREAM, **changes}, **given)
    assert (call.status, call.json["error"]["param"]) == (400, "Last-Event-ID")
    assert mesh.asked == []
