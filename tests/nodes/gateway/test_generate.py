"""Requests with an Idempotency-Key through the whole API."""

import asyncio
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
from tests.nodes.gateway.fake_mesh import FakeMesh, text_answer


def _untimed(event: dict[str, Any]) -> dict[str, Any]:
    """An event without the second in which it was made."""
    return {**event, "created": 0}


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
    first = AskingAgain(app, "POST", COMPLETIONS, body, KEY)
    first.next = Call(app, "POST", COMPLETIONS, body, KEY)
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
        first, second = ([_untimed(event) for event in call.events[:-1]] for call in calls)
        assert first == second
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


async def test_to_go_on_after_an_event_is_refused() -> None:
    """Its client would take the whole answer for the rest of it."""
    mesh = FakeMesh(text_answer("a"))
    call = await ask(mesh, COMPLETIONS, STREAM, **KEY, **{"last-event-id": "x:1.0.06b9df6f"})
    assert (call.status, call.json["error"]["param"]) == (400, "Last-Event-ID")
    assert mesh.asked == []
