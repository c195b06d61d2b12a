"""What a client does while there is no coordinator; the rest is tested on a mesh."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import airdraft.nodes.client.inbox
from airdraft.mesh.codec import decode
from airdraft.mesh.errors import BackpressureError
from airdraft.mesh.messages import Bye, Hello, Welcome
from airdraft.mesh.transport import Frames
from airdraft.nodes.client.client import MeshClient, RequestFailedError
from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.client.journal import Event
from airdraft.nodes.messages import (
    CancelRequest,
    FinishedNotice,
    LinkFields,
    NodesReply,
    NodesRequest,
    RequestFailedNotice,
    StartedNotice,
    StreamFigures,
    SubmitRequest,
    TokensNotice,
    UploadGrant,
    UploadOffer,
    UploadPiece,
)
from tests.harness.desk import EPOCH, Desk
from tests.harness.memory_transport import MemoryHub

Eventually = Callable[..., "asyncio.Future[None]"]
FIGURES = StreamFigures(0, 0, 0, 0, 0, 0, "")
PROMPT = (5, 6)


class Scripted:
    """A client, and its coordinators by hand, one after the other."""

    def __init__(self, *, prompt: tuple[int, ...] = PROMPT, **changes: Any) -> None:
        self.hub = MemoryHub()
        self._prompt = prompt
        self.num_waits = 0
        changes = {"endpoint": "memory", "on_waiting": self._waits, "rejoins": True, **changes}
        self.client = MeshClient(self.hub.client(), **changes)
        self.desk = Desk(self.hub.server())
        self.epoch = EPOCH - 1
        self.events: list[Event] = []

    def _waits(self) -> None:
        self.num_waits += 1

    async def next_coordinator(self) -> None:
        await self.desk.hear(Hello)
        self.epoch += 1
        self.say(Welcome("n", "test", self.epoch, 0.02, 60.0, False))

    def say(self, *messages: Any) -> None:
        for message in messages:
            self.desk.say(message, epoch=self.epoch)

    def begin(self, submit: SubmitRequest, limit_s: float = 60.0) -> None:
        kind = "class", "model", "prompt"
        self.say(
            StartedNotice(submit.request_id, submit.seed, 2, True, "big", "", False, *kind, limit_s)
        )

    async def read(self, options: GenerateOptions) -> None:
        async for event in self.client.generate(self._prompt, options):
            self.events.append(event)

    @property
    def text(self) -> bytes:
        return b"".join(e.text for e in self.events if isinstance(e, TokensNotice))


@contextlib.asynccontextmanager
async def scripted(
    options: GenerateOptions | None = None, *, asks_later: bool = False, **changes: Any
) -> AsyncIterator[tuple[Scripted, asyncio.Task[None]]]:
    """A client that asks, and the task that reads the answer.

    asks_later: when it has just lost its first coordinator.
    """
    made = Scripted(**changes)
    running = asyncio.create_task(made.client.run())
    tasks = [running]
    try:
        if asks_later:
            await made.next_coordinator()
            while not made.client.is_joined:  # noqa: ASYNC110
                await asyncio.sleep(0)
            made.say(Bye("restart"))
            while made.client.is_joined:  # noqa: ASYNC110
                await asyncio.sleep(0)
        tasks.append(asyncio.create_task(made.read(options or GenerateOptions(max_tokens=4))))
        await made.next_coordinator()
        yield made, tasks[1]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def why_ended(reading: asyncio.Task[None]) -> tuple[str, str]:
    """The code and the reason with which a request has failed."""
    with pytest.raises(RequestFailedError) as caught:
        await reading
    return caught.value.code, str(caught.value)


async def test_others_have_their_turns_while_much_is_read_that_has_come_already(
    eventually: Eventually,
) -> None:
    turns: list[int] = []

    def turn() -> None:
        turns.append(len(made.text))
        if len(made.text) < 50:
            asyncio.get_running_loop().call_soon(turn)

    async with scripted() as (made, _):
        submit = await made.desk.hear(SubmitRequest)
        made.client.on_message(StartedNotice(submit.request_id, 1, 1, True, "t", "", False))
        for position in range(50):
            made.client.on_message(TokensNotice(submit.request_id, 0, position, b"x", (7,)))
        turn()
        await eventually(lambda: len(made.text) == 50)
        assert len(set(turns)) > 25


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
        kinds = [StartedNotice, TokensNotice, TokensNotice, FinishedNotice]
        assert [type(event) for event in made.events] == kinds
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


@pytest.mark.parametrize("asks_later", [False, True])
async def test_a_coordinator_that_has_no_room_yet_is_asked_again(asks_later: bool) -> None:
    """By who had asked the one before it, and by who waited for it."""
    async with scripted(asks_later=asks_later) as (made, reading):
        if not asks_later:
            await made.desk.hear(SubmitRequest)
            made.say(Bye("restart"))
            await made.next_coordinator()
        for number, code in enumerate(("unavailable", "overloaded", "left")):
            again = await made.desk.hear(SubmitRequest)
            assert again.resume_from == (() if asks_later and not number else (0,))
            made.say(RequestFailedNotice(again.request_id, code, "not yet"))
        last = await made.desk.hear(SubmitRequest)
        made.say(RequestFailedNotice(last.request_id, "bad_request", "never"))
        assert "never" in (await why_ended(reading))[1]


async def test_a_model_may_join_the_next_coordinator_later_than_its_clients() -> None:
    async with scripted() as (made, reading):
        await made.desk.hear(SubmitRequest)
        made.say(Bye("restart"))
        await made.next_coordinator()
        again = await made.desk.hear(SubmitRequest)
        made.say(RequestFailedNotice(again.request_id, "bad_request", "never"))
        await why_ended(reading)
        # New requests wait for its target, and who only wants a prompt read may ask again.
        reading = asyncio.create_task(made.read(GenerateOptions(model="late")))
        submit = await made.desk.hear(SubmitRequest)
        made.say(RequestFailedNotice(submit.request_id, "not_found", "no target has it"))
        submit = await made.desk.hear(SubmitRequest)
        made.begin(submit)
        made.say(FinishedNotice(submit.request_id, 0, 0, "stop", FIGURES))
        await reading
        asking = asyncio.create_task(made.client.read("a", GenerateOptions(model="late"), "tokens"))
        submit = await made.desk.hear(SubmitRequest)
        made.say(RequestFailedNotice(submit.request_id, "not_found", "no target has it"))
        with pytest.raises(RequestFailedError, match="try again"):
            await asking


@pytest.mark.slow
async def test_who_waits_for_nodes_does_not_wait_for_ever() -> None:
    async with scripted(asks_later=True) as (made, reading):

        async def refuse() -> None:
            while True:
                submit = await made.desk.hear(SubmitRequest)
                made.say(RequestFailedNotice(submit.request_id, "unavailable", "no target"))

        refusing = asyncio.create_task(refuse())
        assert "no target" in (await why_ended(reading))[1]
        refusing.cancel()
        await asyncio.gather(refusing, return_exceptions=True)


async def test_another_text_ends_it() -> None:
    async with scripted(GenerateOptions(seed=3)) as (made, reading):
        submit = await made.desk.hear(SubmitRequest)
        assert submit.seed == 3
        made.begin(submit)
        made.say(Bye("restart"))
        await made.next_coordinator()
        again = await made.desk.hear(SubmitRequest)
        made.say(StartedNotice(again.request_id, 3, 9, True, "big", "", False))
        code, reason = await why_ended(reading)
        assert (code, "the prompt has changed since" in reason) == ("internal", True)


@pytest.mark.slow
async def test_who_is_forgotten_in_line_sends_the_rest() -> None:
    link = LinkFields("cell-a", 2e6, 0.0)
    async with scripted(prompt=PROMPT * 1000, declared=link) as (made, _):
        offer = await made.desk.hear(UploadOffer)
        made.say(UploadGrant(offer.request_id, 256, 0))
        first, rest = [await made.desk.hear(UploadPiece) for _ in range(2)]
        assert (len(first.data), len(rest.data)) == (256, offer.num_bytes - 256)


@pytest.mark.parametrize(
    ("rejoins", "end", "why"),
    [
        (True, ("unavailable", "no target"), "no target"),
        (False, ("left", "the client was silent"), "client was silent"),
        (False, None, "connection to the coordinator has ended"),
    ],
    ids=["refused at once", "silent", "lost"],
)
async def test_a_request_that_nobody_can_go_on_with_ends(
    rejoins: bool, end: tuple[str, str] | None, why: str
) -> None:
    async with scripted(rejoins=rejoins) as (made, reading):
        submit = await made.desk.hear(SubmitRequest)
        if not rejoins:
            made.begin(submit)
        made.say(RequestFailedNotice(submit.request_id, *end) if end else Bye("over"))
        code, reason = await why_ended(reading)
        assert (code, why in reason) == ("unavailable", True)


async def test_a_request_ends_by_its_limit_whatever_its_coordinators_do() -> None:
    async with scripted(GenerateOptions(timeout_s=0.5)) as (made, reading):
        submit = await made.desk.hear(SubmitRequest)
        assert 0 < submit.deadline_s <= 0.5
        # It neither answers nor ends it.
        code, reason = await why_ended(reading)
        assert (code, "not done within its 0.5 s" in reason) == ("deadline", True)
        assert (await made.desk.hear(CancelRequest)).request_id == submit.request_id
    async with scripted(GenerateOptions(timeout_s=0.5)) as (made, reading):
        made.begin(await made.desk.hear(SubmitRequest))
        # Nor is there another one.
        made.say(Bye("over"))
        assert (await why_ended(reading))[0] == "deadline"
    # The coordinator's own limit holds for its client.
    async with scripted() as (made, reading):
        made.begin(await made.desk.hear(SubmitRequest), limit_s=0.05)
        assert (await why_ended(reading))[0] == "deadline"
    # It names that limit itself where a request never had a place.
    async with scripted() as (made, reading):
        submit = await made.desk.hear(SubmitRequest)
        made.say(RequestFailedNotice(submit.request_id, "deadline", "not done within its 1 s"))
        assert await why_ended(reading) == ("deadline", "not done within its 1 s")
    # One that was found late was told the rest of the time only, and names that.
    async with scripted(GenerateOptions(timeout_s=0.05)) as (made, reading):
        submit = await made.desk.hear(SubmitRequest)
        is_over = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, is_over.set)
        await is_over.wait()
        made.say(RequestFailedNotice(submit.request_id, "deadline", "not done within its 0 s"))
        assert await why_ended(reading) == (
            "deadline",
            "the request was not done within its 0.05 s",
        )


async def test_a_question_that_is_not_answered_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airdraft.nodes.client.inbox, "QUESTION_LIMIT_S", 0.05)
    async with scripted() as (made, _):
        with pytest.raises(RequestFailedError, match="gave no answer within"):
            await made.client.nodes()


async def test_waiting_for_a_coordinator_can_be_given_up_and_what_is_asked_meanwhile_goes_to_it(
    eventually: Eventually,
) -> None:
    async with scripted() as (made, reading):
        made.begin(await made.desk.hear(SubmitRequest))
        await eventually(lambda: made.events)
        made.say(Bye("over"))
        await eventually(lambda: made.num_waits == 1)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        asking = asyncio.create_task(made.client.nodes())
        await made.next_coordinator()
        # Nothing of what was given up is asked for again.
        request = await made.desk.hear((SubmitRequest, NodesRequest))
        assert isinstance(request, NodesRequest)
        made.say(NodesReply(request.request_id, ()))
        assert await asking == NodesReply(request.request_id, ())


async def test_a_cancellation_that_could_not_leave_goes_with_the_next_message() -> None:
    async with scripted() as (made, reading):
        submit = await made.desk.hear(SubmitRequest)
        num_tries = 0

        def stick(frames: Frames) -> bool:
            nonlocal num_tries
            if isinstance(decode(frames).message, CancelRequest):
                num_tries += 1
                if num_tries == 1:
                    raise BackpressureError
            return False

        made.hub.drop = stick
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        for _ in range(2):
            made.say(NodesReply(9, ()))
        assert (await made.desk.hear(CancelRequest)).request_id == submit.request_id
        # Once, and nobody asks for it any more.
        made.say(NodesReply(9, ()))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await made.desk.hear(CancelRequest)
        assert num_tries == 2
