"""The link of a member with its coordinator, which is kept by hand here."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from airdraft.mesh.codec import decode, encode
from airdraft.mesh.credits import GRANT_MESSAGES
from airdraft.mesh.messages import (
    PROTOCOL_VERSION,
    UNSUITABLE,
    Bye,
    Credit,
    Hello,
    Ping,
    Pong,
    Refuse,
    Welcome,
)
from airdraft.mesh.padding import SIZES, pad
from airdraft.nodes.messages import CloseStreamNotice, NodesRequest
from airdraft.nodes.worker.connection import (
    Connection,
    LostCoordinatorError,
    NoCoordinatorError,
    RefusedError,
)
from tests.harness.desk import CLUSTER, EPOCH, Desk
from tests.harness.memory_transport import MemoryHub

Eventually = Callable[..., "asyncio.Future[None]"]


class Node:
    """A link with a handler that keeps what it was told. losses: whether it was joined at each."""

    def __init__(self, hub: MemoryHub, **changes: Any) -> None:
        self.hub = hub
        self.is_joined = asyncio.Event()
        self.welcomes: list[Welcome] = []
        self.messages: list[Any] = []
        self.losses: list[bool] = []
        self.transport = hub.client()
        self.link = Connection(
            self.transport,
            self,
            endpoint="memory://hub",
            node="n",
            role="draft",
            profile=b"p",
            progress=lambda: 42,
            on_lost=lambda: self.losses.append(self.link.is_joined),
            **changes,
        )
        self.running = asyncio.create_task(self.link.run())

    def on_joined(self, welcome: Welcome) -> None:
        self.welcomes.append(welcome)
        self.is_joined.set()

    def on_message(self, message: Any) -> None:
        self.messages.append(message)

    async def error(self) -> Exception:
        """What its run ends with."""
        with pytest.raises(ExceptionGroup) as caught:
            await self.running
        (error,) = caught.value.exceptions
        return error


@contextlib.asynccontextmanager
async def started(**changes: Any) -> AsyncIterator[tuple[Node, Desk]]:
    """A node that says hello."""
    hub = MemoryHub()
    node, desk = Node(hub, **changes), Desk(hub.server())
    try:
        yield node, desk
    finally:
        node.running.cancel()
        await asyncio.gather(node.running, return_exceptions=True)


@contextlib.asynccontextmanager
async def joined(
    timeout_s: float = 60.0, *, pads: bool = False, **changes: Any
) -> AsyncIterator[tuple[Node, Desk]]:
    async with started(**changes) as (node, desk):
        await desk.hear(Hello)
        desk.welcome(timeout_s, pads=pads)
        await node.is_joined.wait()
        yield node, desk


async def test_a_node_says_hello_until_it_is_welcomed(eventually: Eventually) -> None:
    async with started() as (node, desk):
        first, second = await desk.hear(Hello), await desk.hear(Hello)
        assert first == second
        assert (first.node, first.role, first.profile) == ("n", "draft", b"p")
        assert first.protocol == PROTOCOL_VERSION
        desk.welcome()
        desk.welcome()
        desk.say(NodesRequest(7))
        await eventually(lambda: node.messages == [NodesRequest(7)])
        # The second Welcome is of the same membership.
        assert len(node.welcomes) == 1
        # A ping is answered with the progress.
        desk.say(Ping(3, 0))
        assert await desk.hear(Pong) == Pong(3, 42)


async def test_waits_take_no_number_of_the_program_around_the_link() -> None:
    before = random.getstate()
    async with started() as (_, desk):
        await desk.hear(Hello)
        await desk.hear(Hello)
    assert random.getstate() == before


async def test_hellos_that_have_left_are_given_time_to_be_answered() -> None:
    clock = asyncio.get_running_loop().time
    said_at = []
    async with started() as (_, desk):
        for _ in range(4):
            await desk.hear(Hello)
            said_at.append(clock())
    gaps = [b - a for a, b in itertools.pairwise(said_at)]
    # A narrow link is not filled with them; what a sleep takes beyond is the machine's.
    assert min(gaps) > 0.45


async def test_where_the_coordinator_pads_so_do_its_members(eventually: Eventually) -> None:
    async with joined(pads=True) as (node, desk):
        node.link.send(NodesRequest(7))
        frames = (await desk.server.recv()).frames
        while not isinstance(decode(frames).message, NodesRequest):
            frames = (await desk.server.recv()).frames
        assert [len(frame) for frame in frames] == [SIZES[0]]
        desk.server.send(desk.peer, pad(encode(NodesRequest(8), cluster=CLUSTER, epoch=EPOCH)))
        await eventually(lambda: node.messages == [NodesRequest(8)])


@pytest.mark.parametrize("is_known", [True, False])
async def test_a_member_grants_credit_for_what_it_has_read(is_known: bool) -> None:
    """It also grants credit for messages that it does not know."""
    async with joined() as (_, desk):
        frames = encode(NodesRequest(1), cluster=CLUSTER, epoch=EPOCH)
        unknown = [frames[0].replace(bytes([38]), bytes([127]), 1)]
        for _ in range(GRANT_MESSAGES):
            desk.server.send(desk.peer, frames if is_known else unknown)
            # The member reads meanwhile.
            await asyncio.sleep(0)
        granted = await desk.hear(Credit)
        assert granted == Credit(GRANT_MESSAGES)


async def test_a_refusal_ends_the_link_with_its_reason() -> None:
    async with started() as (node, desk):
        await desk.hear(Hello)
        desk.say(Refuse("vocabularies differ", UNSUITABLE))
        error = await node.error()
    assert isinstance(error, RefusedError)
    assert (str(error), error.code) == ("vocabularies differ", UNSUITABLE)


async def test_nobody_at_the_endpoint_is_an_error_that_names_it() -> None:
    error = await Node(MemoryHub(), join_timeout_s=0.05).error()
    assert isinstance(error, NoCoordinatorError)
    assert "no coordinator answered at memory://hub within 0.05 s" in str(error)


async def test_messages_of_no_membership_and_unsent_ones_are_dropped_and_counted(
    eventually: Eventually,
) -> None:
    async with started() as (node, desk):
        node.link.send(CloseStreamNotice(1, 1))
        assert node.link.num_dropped == 1
        await desk.hear(Hello)
        desk.say(NodesRequest(1))
        await eventually(lambda: node.link.num_dropped == 2)
        desk.welcome()
        await node.is_joined.wait()
        # Nor does a Bye of another membership end this one.
        for message in (NodesRequest(2), Bye("stops")):
            desk.say(message, cluster="other")
            desk.say(message, epoch=EPOCH - 1)
        desk.server.send(desk.peer, [b"\xc1"])
        desk.say(NodesRequest(4))
        await eventually(lambda: node.messages == [NodesRequest(4)])
        assert node.link.num_dropped == 7
        assert node.losses == []
        desk.server.close()
        node.link.send(CloseStreamNotice(1, 1))
        assert node.link.num_dropped == 8


async def test_a_silent_coordinator_is_greeted_anew(eventually: Eventually) -> None:
    async with joined(timeout_s=0.1) as (node, desk):
        await desk.hear(Hello)
        desk.welcome()
        await eventually(lambda: len(node.welcomes) == 2)


@pytest.mark.slow
async def test_a_coordinator_that_did_not_speak_because_this_side_did_not_run_is_not_silent() -> (
    None
):
    async with joined(timeout_s=2.0) as (node, desk):
        time.sleep(4.0)  # noqa: ASYNC251 - the event loop stands still: that is the matter
        await asyncio.sleep(0.06)
        assert node.link.is_joined
        desk.say(Ping(3, 0))
        assert await desk.hear(Pong) == Pong(3, 42)
        # Silence is noticed none the less.
        await desk.hear(Hello)


@pytest.mark.slow
async def test_a_coordinator_whose_bytes_still_come_is_not_silent(eventually: Eventually) -> None:
    clock = asyncio.get_running_loop().time
    async with joined(timeout_s=1.0) as (node, desk):
        node.hub.quiet_s = 0.01
        # Three times as long as silence is borne.
        until = clock() + 3.0
        await eventually(lambda: clock() > until)
        assert len(node.welcomes) == 1
        node.hub.quiet_s = 7.0
        await desk.hear(Hello)


async def test_a_closed_connection_ends_the_membership_at_once(eventually: Eventually) -> None:
    async with joined(timeout_s=1e4) as (node, desk):
        desk.server.close()
        await eventually(lambda: node.losses)
        assert not node.link.is_joined
        # The next coordinator hears no Bye of a membership that it never knew, and whether its
        # epoch is higher or lower than the last one's does not matter.
        desk = Desk(node.hub.server())
        desk.epoch = EPOCH - 3
        assert isinstance(await desk.hear(Hello, Bye), Hello)
        desk.welcome(1e4)
        await eventually(lambda: len(node.welcomes) == 2)
        desk.say(NodesRequest(1), epoch=EPOCH)
        desk.say(NodesRequest(2))
        await eventually(lambda: node.messages == [NodesRequest(2)])
        node.hub.disconnect(node.transport)
        await eventually(lambda: len(node.losses) == 2)


@pytest.mark.slow
async def test_a_connection_that_answers_no_hello_is_given_up(
    monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    retries: list[bool] = []
    async with started(join_timeout_s=None) as (node, desk):
        monkeypatch.setattr(node.transport, "retry", lambda: retries.append(True))
        await eventually(lambda: retries)
        await desk.hear(Hello)
        desk.welcome()
        await eventually(lambda: node.link.is_joined)


async def test_a_bye_of_the_coordinator_is_a_loss_and_is_answered_with_a_new_hello(
    eventually: Eventually,
) -> None:
    async with joined() as (node, desk):
        desk.say(Bye("coordinator stops"))
        await desk.hear(Hello)
        # It was told once, when the link was not joined any more.
        assert node.losses == [False]
        desk.welcome()
        await eventually(lambda: len(node.welcomes) == 2)
        node.link.say_bye("done")
        assert await desk.hear(Bye) == Bye("done")


@pytest.mark.parametrize(
    ("way", "says_bye", "closes"),
    [
        ("stopped", True, False),
        # What a coordinator says before it closes is read first.
        ("stopped", True, True),
        ("closed the connection", False, True),
        ("has been silent", False, False),
    ],
)
async def test_a_link_that_does_not_rejoin_ends_when_the_coordinator_is_lost(
    way: str, says_bye: bool, closes: bool
) -> None:
    async with joined(0.1 if way == "has been silent" else 60.0, rejoins=False) as (node, desk):
        if says_bye:
            desk.say(Bye("stops"))
        if closes:
            desk.server.close()
        error = await node.error()
    assert isinstance(error, LostCoordinatorError)
    assert f"memory://hub {way}" in str(error)
