from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from mesh.codec import decode, encode
from mesh.messages import (
    PROTOCOL_VERSION,
    UNSUITABLE,
    Bye,
    Hello,
    KeyNotice,
    Ping,
    Pong,
    Refuse,
    Welcome,
)
from mesh.padding import SIZES, pad
from nodes.messages import CloseStreamNotice, NodesRequest
from nodes.worker.link import Link, LostCoordinatorError, NoCoordinatorError, RefusedError
from tests.harness.memory_transport import MemoryHub, MemoryServer

CLUSTER, EPOCH = "test", 5
Eventually = Callable[..., "asyncio.Future[None]"]


class Node:
    """A link with a handler that keeps what it was told."""

    def __init__(self, hub: MemoryHub, **changes: Any) -> None:
        self.welcomes: list[Welcome] = []
        self.messages: list[Any] = []
        self.link = Link(
            hub.client(),
            self,
            endpoint="memory://hub",
            node="n",
            role="draft",
            profile=b"p",
            progress=lambda: 42,
            **changes,
        )

    def on_joined(self, welcome: Welcome) -> None:
        self.welcomes.append(welcome)

    def on_message(self, message: Any) -> None:
        self.messages.append(message)


class Desk:
    """The coordinator's side, by hand."""

    def __init__(self, server: MemoryServer) -> None:
        self.server = server
        self.peer = b""

    async def hear(self, kind: type) -> Any:
        """The next message of a kind; others before it are skipped."""
        while True:
            self.peer, frames, _ = await self.server.recv()
            message = decode(frames).message
            if isinstance(message, kind):
                return message

    def say(self, message: Any, *, cluster: str = CLUSTER, epoch: int = EPOCH) -> None:
        self.server.send(self.peer, encode(message, cluster=cluster, epoch=epoch))

    def welcome(self, timeout_s: float = 60.0, *, pads: bool = False) -> None:
        self.say(Welcome("n", CLUSTER, EPOCH, 0.02, timeout_s, pads))


@contextlib.asynccontextmanager
async def joined(
    eventually: Eventually, timeout_s: float = 60.0
) -> AsyncIterator[tuple[Node, Desk]]:
    hub = MemoryHub()
    node, desk = Node(hub), Desk(hub.server())
    task = asyncio.create_task(node.link.run())
    try:
        await desk.hear(Hello)
        desk.welcome(timeout_s)
        await eventually(lambda: node.welcomes)
        yield node, desk
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_node_says_hello_until_it_is_welcomed(eventually: Eventually) -> None:
    hub = MemoryHub()
    node, desk = Node(hub), Desk(hub.server())
    task = asyncio.create_task(node.link.run())
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
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_hellos_that_have_left_are_given_time_to_be_answered() -> None:
    hub = MemoryHub()
    node, desk = Node(hub), Desk(hub.server())
    clock = asyncio.get_running_loop().time
    task = asyncio.create_task(node.link.run())
    said_at = []
    for _ in range(4):
        await desk.hear(Hello)
        said_at.append(clock())
    gaps = [b - a for a, b in itertools.pairwise(said_at)]
    # A narrow link is not filled with them; what a sleep takes beyond is the machine's.
    assert min(gaps) > 0.45
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_key_notice_is_for_the_transport(eventually: Eventually) -> None:
    told: list[str] = []
    async with joined(eventually) as (node, desk):
        node.link.transport.expect_key = told.append  # type: ignore[method-assign]
        for key in ("k" * 40, "", "no key"):
            desk.say(KeyNotice(key))
        desk.say(NodesRequest(7))
        await eventually(lambda: node.messages)
        assert told == ["k" * 40, ""]
        assert node.link.num_dropped == 1
        desk.say(KeyNotice("k" * 40), cluster="another")
        desk.say(NodesRequest(8))
        await eventually(lambda: len(node.messages) == 2)
        assert len(told) == 2


async def test_where_the_coordinator_pads_so_do_its_members(eventually: Eventually) -> None:
    hub = MemoryHub()
    node, desk = Node(hub), Desk(hub.server())
    task = asyncio.create_task(node.link.run())
    await desk.hear(Hello)
    desk.welcome(pads=True)
    await eventually(lambda: node.welcomes)
    node.link.send(NodesRequest(7))
    while True:
        _, frames, _ = await desk.server.recv()
        if isinstance(decode(frames).message, NodesRequest):
            break
    assert [len(frame) for frame in frames] == [SIZES[0]]
    desk.server.send(desk.peer, pad(encode(NodesRequest(8), cluster=CLUSTER, epoch=EPOCH)))
    await eventually(lambda: node.messages == [NodesRequest(8)])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_refusal_ends_the_link_with_its_reason() -> None:
    hub = MemoryHub()
    node, desk = Node(hub), Desk(hub.server())
    task = asyncio.create_task(node.link.run())
    await desk.hear(Hello)
    desk.say(Refuse("vocabularies differ", UNSUITABLE))
    with pytest.raises(ExceptionGroup) as caught:
        await task
    assert caught.group_contains(RefusedError, match="vocabularies differ")
    (error,) = caught.value.exceptions
    assert isinstance(error, RefusedError)
    assert error.code == UNSUITABLE


async def test_nobody_at_the_endpoint_is_an_error_that_names_it() -> None:
    node = Node(MemoryHub(), join_timeout_s=0.05)
    with pytest.raises(ExceptionGroup) as caught:
        await node.link.run()
    match = "no coordinator answered at memory://hub within 0.05 s"
    assert caught.group_contains(NoCoordinatorError, match=match)


async def test_pings_are_answered_with_the_progress(eventually: Eventually) -> None:
    async with joined(eventually) as (_, desk):
        desk.say(Ping(3, 0))
        assert await desk.hear(Pong) == Pong(3, 42)


async def test_messages_of_another_cluster_or_epoch_are_counted(eventually: Eventually) -> None:
    async with joined(eventually) as (node, desk):
        desk.say(NodesRequest(1), cluster="other")
        desk.say(NodesRequest(2), epoch=EPOCH - 1)
        desk.server.send(desk.peer, [b"\xc1"])
        desk.say(NodesRequest(3))
        await eventually(lambda: node.messages == [NodesRequest(3)])
        assert node.link.num_dropped == 3


async def test_without_a_membership_nothing_is_sent_or_taken(eventually: Eventually) -> None:
    hub = MemoryHub()
    node, desk = Node(hub), Desk(hub.server())
    node.link.send(CloseStreamNotice(1, 1))
    assert node.link.num_dropped == 1
    task = asyncio.create_task(node.link.run())
    await desk.hear(Hello)
    desk.say(NodesRequest(1))
    await eventually(lambda: node.link.num_dropped == 2)
    assert node.messages == []
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_does_not_go_out_is_counted_and_not_waited_for(eventually: Eventually) -> None:
    async with joined(eventually) as (node, desk):
        desk.server.close()
        node.link.send(CloseStreamNotice(1, 1))
        assert node.link.num_dropped == 1


async def test_a_silent_coordinator_is_greeted_anew(eventually: Eventually) -> None:
    async with joined(eventually, timeout_s=0.1) as (node, desk):
        await desk.hear(Hello)
        desk.welcome()
        await eventually(lambda: len(node.welcomes) == 2)


@pytest.mark.slow
async def test_a_coordinator_that_did_not_speak_because_this_side_did_not_run_is_not_silent(
    eventually: Eventually,
) -> None:
    async with joined(eventually, timeout_s=2.0) as (node, desk):
        time.sleep(4.0)  # noqa: ASYNC251 - the event loop stands still: that is the matter
        await asyncio.sleep(0.06)
        assert node.link.is_joined
        desk.say(Ping(3, 0))
        assert await desk.hear(Pong) == Pong(3, 42)
        # Silence is noticed none the less.
        await desk.hear(Hello)


@pytest.mark.slow
async def test_a_coordinator_whose_bytes_still_come_is_not_silent(eventually: Eventually) -> None:
    async with joined(eventually, timeout_s=1.0) as (node, desk):
        hub = node.link.transport._hub  # type: ignore[attr-defined]
        hub.quiet_s = 0.01
        desk.say(NodesRequest(1))
        await eventually(lambda: node.messages)
        heard_at = node.link._heard_at
        # Three times as long as silence is borne.
        await eventually(lambda: node.link._heard_at > heard_at + 3.0)
        assert len(node.welcomes) == 1
        hub.quiet_s = 7.0
        await desk.hear(Hello)


async def test_a_closed_connection_ends_the_membership_at_once(eventually: Eventually) -> None:
    hub = MemoryHub()
    losses: list[bool] = []
    node, desk = Node(hub, on_lost=lambda: losses.append(True)), Desk(hub.server())
    task = asyncio.create_task(node.link.run())
    try:
        await desk.hear(Hello)
        desk.welcome(timeout_s=1e4)
        await eventually(lambda: node.welcomes)
        desk.server.close()
        await eventually(lambda: losses)
        assert not node.link.is_joined
        # The next coordinator hears no Bye of a membership that it never knew, and whether its
        # epoch is higher or lower than the last one's does not matter.
        desk = Desk(hub.server())
        desk.peer, frames, _ = await desk.server.recv()
        assert isinstance(decode(frames).message, Hello)
        desk.say(Welcome("n", CLUSTER, EPOCH - 3, 0.02, 1e4, False))
        await eventually(lambda: len(node.welcomes) == 2)
        desk.say(NodesRequest(1), epoch=EPOCH)
        desk.say(NodesRequest(2), epoch=EPOCH - 3)
        await eventually(lambda: node.messages == [NodesRequest(2)])
        node.link.transport.losses.put(b"")  # type: ignore[attr-defined]
        await eventually(lambda: len(losses) == 2)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_a_coordinator_says_before_it_closes_is_read_first() -> None:
    hub = MemoryHub()
    node, desk = Node(hub, rejoins=False), Desk(hub.server())
    task = asyncio.create_task(node.link.run())
    await desk.hear(Hello)
    desk.welcome()
    desk.say(Bye("coordinator stops"))
    desk.server.close()
    with pytest.raises(ExceptionGroup) as caught:
        await task
    assert caught.group_contains(LostCoordinatorError, match="stopped")


async def test_a_connection_that_answers_no_hello_is_given_up(
    monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    monkeypatch.setattr("nodes.worker.link._ANSWER_S", 0.1)
    hub = MemoryHub()
    node, desk = Node(hub, join_timeout_s=None), Desk(hub.server())
    retries: list[bool] = []
    monkeypatch.setattr(node.link.transport, "retry", lambda: retries.append(True))
    task = asyncio.create_task(node.link.run())
    try:
        await eventually(lambda: len(retries) == 2)
        desk.peer, _, _ = await desk.server.recv()
        desk.welcome()
        await eventually(lambda: node.link.is_joined)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_bye_of_the_coordinator_is_answered_with_a_new_hello(
    eventually: Eventually,
) -> None:
    async with joined(eventually) as (node, desk):
        desk.say(Bye("coordinator stops"))
        await desk.hear(Hello)
        desk.welcome()
        await eventually(lambda: len(node.welcomes) == 2)
        node.link.say_bye("done")
        assert await desk.hear(Bye) == Bye("done")


@pytest.mark.parametrize("way", ["stopped", "has been silent", "closed the connection"])
async def test_who_does_not_rejoin_ends_when_the_coordinator_is_lost(
    way: str, eventually: Eventually
) -> None:
    hub = MemoryHub()
    node, desk = Node(hub, rejoins=False), Desk(hub.server())
    task = asyncio.create_task(node.link.run())
    await desk.hear(Hello)
    desk.welcome(timeout_s=0.1 if way == "has been silent" else 60.0)
    await eventually(lambda: node.welcomes)
    if way == "stopped":
        desk.say(Bye("stops"))
    elif way == "closed the connection":
        desk.server.close()
    with pytest.raises(ExceptionGroup) as caught:
        await task
    assert caught.group_contains(LostCoordinatorError, match=f"memory://hub {way}")


async def test_a_loss_is_told_once_and_the_link_is_not_joined_meanwhile(
    eventually: Eventually,
) -> None:
    hub = MemoryHub()
    losses: list[bool] = []
    node, desk = Node(hub, on_lost=lambda: losses.append(node.link.is_joined)), Desk(hub.server())
    task = asyncio.create_task(node.link.run())
    try:
        assert not node.link.is_joined
        for count in (1, 2):
            await desk.hear(Hello)
            desk.welcome()
            await eventually(lambda count=count: len(node.welcomes) == count)
            assert node.link.is_joined
            desk.say(Bye("done"))
            await eventually(lambda count=count: losses == [False] * count)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
