"""What a client does while there is no coordinator; the rest is tested on a mesh."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import nodes.client.inbox
import nodes.client.retry
from mesh.messages import Bye, Hello, Welcome
from nodes.client.client import Client, RequestFailedError
from nodes.client.generation import GenerateOptions
from nodes.client.journal import Event
from nodes.messages import (
    CancelRequest,
    FinishedNotice,
    NodesReply,
    NodesRequest,
    RequestFailedNotice,
    StartedNotice,
    StreamFigures,
    SubmitRequest,
    TokensNotice,
)
from tests.harness.memory_transport import MemoryHub
from tests.nodes.worker.test_link import EPOCH, Desk

Eventually = Callable[..., "asyncio.Future[None]"]
FIGURES = StreamFigures(0, 0, 0, 0, 0, 0, "")
PROMPT = (5, 6)


@contextlib.asynccontextmanager
async def restarted(eventually: Eventually) -> AsyncIterator[tuple[Client, Desk]]:
    """A client that rejoins, whose coordinator has just said that it starts anew."""
    hub = MemoryHub()
    client, desk = Client(hub.client(), endpoint="memory", rejoins=True), Desk(hub.server())
    running = asyncio.create_task(client.run())
    try:
        await desk.hear(Hello)
        desk.welcome()
        await eventually(lambda: client.is_joined)
        desk.say(Bye("restart"))
        await eventually(lambda: not client.is_joined)
        yield client, desk
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_what_is_asked_while_there_is_no_coordinator_waits_for_the_next(
    eventually: Eventually,
) -> None:
    async with restarted(eventually) as (client, desk):
        asking = asyncio.create_task(client.nodes())
        await desk.hear(Hello)
        desk.say(Welcome("n", "test", 6, 0.02, 5.0, False))
        request = await desk.hear(NodesRequest)
        desk.say(NodesReply(request.request_id, ()), epoch=6)
        assert await asking == NodesReply(request.request_id, ())


async def test_others_have_their_turns_while_much_is_read_that_has_come_already(
    eventually: Eventually,
) -> None:
    hub = MemoryHub()
    client, desk = Client(hub.client(), endpoint="memory"), Desk(hub.server())
    running = asyncio.create_task(client.run())
    seen: list[int] = []
    turns: list[int] = []

    async def read() -> None:
        async for event in client.generate("hi", GenerateOptions()):
            match event:
                case TokensNotice(position=position):
                    seen.append(position)

    def turn() -> None:
        turns.append(len(seen))
        if len(seen) < 50:
            loop.call_soon(turn)

    loop = asyncio.get_running_loop()
    reading = asyncio.create_task(read())
    try:
        await desk.hear(Hello)
        desk.welcome()
        submit = await desk.hear(SubmitRequest)
        client.on_message(StartedNotice(submit.request_id, 1, 1, True, "t", "", False))
        for position in range(50):
            client.on_message(TokensNotice(submit.request_id, 0, position, b"x", (7,)))
        loop.call_soon(turn)
        await eventually(lambda: len(seen) == 50)
        assert len(set(turns)) > 25
    finally:
        for task in (reading, running):
            task.cancel()
        await asyncio.gather(reading, running, return_exceptions=True)


# -- requests whose coordinator is lost ------------------------------------------------------------


class Scripted:
    """A client, and its coordinators by hand, one after the other."""

    def __init__(self, **changes: Any) -> None:
        hub = MemoryHub()
        self.num_waits = 0
        self.client = Client(
            hub.client(),
            endpoint="memory",
            on_waiting=self._waits,
            **{"rejoins": True, **changes},
        )
        self.desk = Desk(hub.server())
        self.epoch = EPOCH - 1
        self.events: list[Event] = []

    def _waits(self) -> None:
        self.num_waits += 1

    async def next_coordinator(self) -> None:
        await self.desk.hear(Hello)
        self.epoch += 1
        self.say(Welcome("n", "test", self.epoch, 0.02, 5.0, False))

    def say(self, *messages: Any) -> None:
        for message in messages:
            self.desk.say(message, epoch=self.epoch)

    def begin(self, submit: SubmitRequest, limit_s: float = 60.0) -> None:
        kind = "class", "model", "prompt"
        self.say(
            StartedNotice(submit.request_id, submit.seed, 2, True, "big", "", False, *kind, limit_s)
        )

    async def read(self, options: GenerateOptions) -> None:
        async for event in self.client.generate(PROMPT, options):
            self.events.append(event)

    @property
    def text(self) -> bytes:
        return b"".join(e.text for e in self.events if isinstance(e, TokensNotice))


@contextlib.asynccontextmanager
async def scripted(
    options: GenerateOptions | None = None, **changes: Any
) -> AsyncIterator[tuple[Scripted, asyncio.Task[None]]]:
    """A client that asks, and the task that reads the answer."""
    made = Scripted(**changes)
    running = asyncio.create_task(made.client.run())
    reading = asyncio.create_task(made.read(options or GenerateOptions(max_tokens=4)))
    try:
        await made.next_coordinator()
        yield made, reading
    finally:
        for task in (reading, running):
            task.cancel()
        await asyncio.gather(reading, running, return_exceptions=True)


async def test_a_request_goes_on_with_the_next_coordinator(eventually: Eventually) -> None:
    async with scripted() as (made, reading):
        first = await made.desk.hear(SubmitRequest)
        assert (first.resume_from, first.deadline_s) == ((), 0.0)
        made.begin(first)
        made.say(TokensNotice(first.request_id, 0, 0, b"a", (7,)))
        await eventually(lambda: made.text == b"a")
        made.say(Bye("restart"))
        await made.next_coordinator()
        second = await made.desk.hear(SubmitRequest)
        assert second.request_id != first.request_id
        # It drew a seed by itself: the text is the same.
        assert (second.seed, second.resume_from) == (first.seed, (1,))
        assert (second.prompt_token_ids, second.numerics_class) == ((*PROMPT, 7), "class")
        assert 59 < second.deadline_s <= 60
        made.begin(second)
        made.say(
            # Of the first one: nobody asks for it any more.
            TokensNotice(first.request_id, 0, 1, b"x", (9,)),
            TokensNotice(second.request_id, 0, 1, b"b", (8,), is_last=True),
            FinishedNotice(second.request_id, 0, 2, "stop", FIGURES),
        )
        await reading
        assert made.text == b"ab"
        assert [type(e).__name__ for e in made.events] == [
            "StartedNotice",
            "TokensNotice",
            "TokensNotice",
            "FinishedNotice",
        ]
        assert made.num_waits == 1


async def test_what_was_lost_on_the_way_is_asked_for_anew(eventually: Eventually) -> None:
    async with scripted() as (made, reading):
        first = await made.desk.hear(SubmitRequest)
        made.begin(first)
        made.say(TokensNotice(first.request_id, 0, 0, b"a", (7,)))
        made.say(TokensNotice(first.request_id, 0, 2, b"c", (9,)))
        cancelled = await made.desk.hear(CancelRequest)
        assert cancelled.request_id == first.request_id
        second = await made.desk.hear(SubmitRequest)
        assert second.resume_from == (1,)
        made.begin(second)
        made.say(
            TokensNotice(second.request_id, 0, 1, b"bc", (8, 9), is_last=True),
            FinishedNotice(second.request_id, 0, 3, "stop", FIGURES),
        )
        await reading
        assert made.text == b"abc"


async def test_a_coordinator_that_has_no_room_yet_is_asked_again(eventually: Eventually) -> None:
    async with scripted() as (made, reading):
        await made.desk.hear(SubmitRequest)
        made.say(Bye("restart"))
        await made.next_coordinator()
        for code in ("unavailable", "overloaded", "left"):
            again = await made.desk.hear(SubmitRequest)
            assert again.resume_from == (0,)
            made.say(RequestFailedNotice(again.request_id, code, "not yet"))
        last = await made.desk.hear(SubmitRequest)
        made.say(RequestFailedNotice(last.request_id, "bad_request", "never"))
        with pytest.raises(RequestFailedError, match="never"):
            await reading


@pytest.mark.parametrize("patience_s", [10.0, 0.0])
async def test_who_waited_for_a_coordinator_waits_for_its_nodes(
    eventually: Eventually, monkeypatch: pytest.MonkeyPatch, patience_s: float
) -> None:
    monkeypatch.setattr("nodes.client.client._PATIENCE_S", patience_s)

    async def read(client: Client) -> None:
        async for _ in client.generate(PROMPT, GenerateOptions(max_tokens=3)):
            pass

    async with restarted(eventually) as (client, desk):
        reading = asyncio.create_task(read(client))
        await desk.hear(Hello)
        desk.say(Welcome("n", "test", 6, 0.02, 5.0, False))
        first = await desk.hear(SubmitRequest)
        desk.say(RequestFailedNotice(first.request_id, "unavailable", "no target"), epoch=6)
        if patience_s:
            again = await desk.hear(SubmitRequest)
            assert again.resume_from == (0,)
            desk.say(RequestFailedNotice(again.request_id, "bad_request", "never"), epoch=6)
        with pytest.raises(RequestFailedError, match="never" if patience_s else "no target"):
            await reading


async def test_what_is_new_and_refused_ends_at_once() -> None:
    async with scripted() as (made, reading):
        submit = await made.desk.hear(SubmitRequest)
        made.say(RequestFailedNotice(submit.request_id, "unavailable", "no target"))
        with pytest.raises(RequestFailedError, match="no target") as caught:
            await reading
        assert caught.value.code == "unavailable"


async def test_another_text_ends_it() -> None:
    async with scripted(GenerateOptions(seed=3)) as (made, reading):
        submit = await made.desk.hear(SubmitRequest)
        assert submit.seed == 3
        made.begin(submit)
        made.say(Bye("restart"))
        await made.next_coordinator()
        again = await made.desk.hear(SubmitRequest)
        made.say(StartedNotice(again.request_id, 3, 9, True, "big", "", False))
        with pytest.raises(RequestFailedError, match="the prompt has changed since") as caught:
            await reading
        assert caught.value.code == "internal"


async def test_who_does_not_rejoin_is_told_of_the_loss() -> None:
    async with scripted(rejoins=False) as (made, reading):
        made.begin(await made.desk.hear(SubmitRequest))
        made.say(Bye("over"))
        with pytest.raises(RequestFailedError, match="the connection to the coordinator has ended"):
            await reading


async def test_who_is_taken_for_gone_and_does_not_rejoin_is_told_why() -> None:
    async with scripted(rejoins=False) as (made, reading):
        submit = await made.desk.hear(SubmitRequest)
        made.say(RequestFailedNotice(submit.request_id, "left", "the client was silent"))
        with pytest.raises(RequestFailedError, match="the client was silent") as caught:
            await reading
        assert caught.value.code == "unavailable"


async def test_a_request_ends_by_its_limit_whatever_its_coordinators_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nodes.client.retry, "GRACE_S", 0.0)
    options = GenerateOptions(timeout_s=1.0)
    async with scripted(options) as (made, reading):
        submit = await made.desk.hear(SubmitRequest)
        assert 0 < submit.deadline_s <= 1
        # It neither answers nor ends it.
        with pytest.raises(RequestFailedError, match=r"not done within its 1 s") as caught:
            await reading
        assert caught.value.code == "deadline"
        assert (await made.desk.hear(CancelRequest)).request_id == submit.request_id
    async with scripted(options) as (made, reading):
        made.begin(await made.desk.hear(SubmitRequest))
        # Nor is there another one.
        made.say(Bye("over"))
        with pytest.raises(RequestFailedError) as caught:
            await reading
        assert caught.value.code == "deadline"


async def test_the_coordinators_own_limit_holds_for_its_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nodes.client.retry, "GRACE_S", 0.0)
    async with scripted() as (made, reading):
        made.begin(await made.desk.hear(SubmitRequest), limit_s=0.05)
        with pytest.raises(RequestFailedError) as caught:
            await reading
        assert caught.value.code == "deadline"


async def test_a_question_that_is_not_answered_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes.client.inbox, "QUESTION_LIMIT_S", 0.05)
    async with scripted() as (made, _):
        with pytest.raises(RequestFailedError, match="gave no answer within"):
            await made.client.nodes()


async def test_waiting_for_a_coordinator_can_be_given_up(eventually: Eventually) -> None:
    async with scripted() as (made, reading):
        made.begin(await made.desk.hear(SubmitRequest))
        await eventually(lambda: made.events)
        made.say(Bye("over"))
        await eventually(lambda: made.num_waits == 1)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert made.client._inbox.queues == {}
