"""In which order the coordinator's shell does what its state says."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from mesh.codec import Envelope, decode, encode, encode_struct
from mesh.credits import MAX_ANSWER_BYTES, WINDOW_MESSAGES
from mesh.messages import OTHER_PROTOCOL, PROTOCOL_VERSION, Hello, Ping, Pong, Refuse, Welcome
from nodes.coordinator.sends import Send
from nodes.coordinator.service import Coordinator
from nodes.messages import (
    MAX_STATUS_BYTES,
    CloseStreamNotice,
    FinishedNotice,
    LeaseEntry,
    LeaseRequest,
    RequestFailedNotice,
    StatusReply,
    StreamFigures,
    TokensNotice,
)
from nodes.scheduler.planning import Planning
from policies.plan import Observation, Plan
from tests.harness.memory_transport import MemoryClient, MemoryHub
from tests.nodes.builders import make_profile

Eventually = Callable[..., "asyncio.Future[None]"]


@contextlib.asynccontextmanager
async def serving(
    hub: MemoryHub, interval_s: float = 1e4, timeout_s: float = 8e4
) -> AsyncIterator[Coordinator]:
    """A coordinator that runs; unless told otherwise it does not look at times."""
    times = {"heartbeat_interval_s": interval_s, "heartbeat_timeout_s": timeout_s}
    with contextlib.closing(hub.server()) as server:
        coordinator = Coordinator(server, **times)
        task = asyncio.create_task(coordinator.run())
        try:
            yield coordinator
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def hear(client: MemoryClient, kind: type) -> Envelope:
    while True:
        envelope = decode(await client.recv())
        if isinstance(envelope.message, kind):
            return envelope


async def join(hub: MemoryHub, name: str) -> tuple[MemoryClient, Envelope]:
    client = hub.client()
    client.send(encode(Hello(name, "client", 1, PROTOCOL_VERSION, b"")))
    return client, await hear(client, Welcome)


async def test_who_closes_the_connection_is_gone_at_once(eventually: Eventually) -> None:
    hub = MemoryHub()
    async with serving(hub) as coordinator:
        first, _ = await join(hub, "a")
        second, _ = await join(hub, "b")
        assert len(coordinator.state.peers()) == 2
        (peer, _) = coordinator.state.peers()
        first.close()
        await eventually(lambda: peer not in coordinator.state.peers())
        assert len(coordinator.state.peers()) == 1
        # What closed was of no member, or is there again: one more Ping, and nobody leaves.
        (peer,) = coordinator.state.peers()
        coordinator._transport.losses.put(b"nobody")
        coordinator._transport.losses.put(peer)
        first_seq = (await hear(second, Ping)).message.seq
        assert (await hear(second, Ping)).message.seq > first_seq
        assert coordinator.state.peers() == [peer]


@pytest.mark.slow
async def test_a_coordinator_that_stood_still_takes_nobody_for_silent(
    eventually: Eventually,
) -> None:
    hub = MemoryHub()
    async with serving(hub, interval_s=0.05, timeout_s=2.0) as coordinator:
        client, welcome = await join(hub, "a")
        where = {"cluster": welcome.cluster, "epoch": welcome.epoch}
        await hear(client, Ping)
        time.sleep(4.0)  # noqa: ASYNC251 - the event loop stands still: that is the matter
        for _ in range(4):
            ping = (await hear(client, Ping)).message
            client.send(encode(Pong(ping.seq, 0), **where))
            assert len(coordinator.state.peers()) == 1
        # Silence is noticed none the less.
        await eventually(lambda: not coordinator.state.peers())


async def test_who_is_in_the_middle_of_a_message_is_not_silent(eventually: Eventually) -> None:
    hub = MemoryHub()
    hub.quiet_s = 0.01
    async with serving(hub, interval_s=0.02, timeout_s=0.1) as coordinator:
        client, _ = await join(hub, "a")
        (peer,) = coordinator.state.peers()
        member = coordinator.state._roster._membership.by_peer(peer)
        seen_at = member.last_seen
        await eventually(lambda: member.last_seen > seen_at + 0.5)
        assert coordinator.state.peers() == [peer]
        hub.quiet_s = 7.0
        await eventually(lambda: not coordinator.state.peers())
        client.close()


async def test_epochs_do_not_come_from_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    epochs = []
    for _ in range(2):
        with contextlib.closing(MemoryHub().server()) as server:
            epochs.append(Coordinator(server).state.epoch)
    assert epochs[0] != epochs[1]
    assert all(0 < epoch < 2**63 for epoch in epochs)


async def test_nodes_are_told_before_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(MemoryHub().server()) as server:
        coordinator = Coordinator(server)
        done: list[str] = []
        monkeypatch.setattr(server, "send", lambda peer, _frames: done.append(peer.decode()))
        monkeypatch.setattr(coordinator._credits, "take", lambda *_: True)
        monkeypatch.setattr(
            coordinator.state,
            "role_of",
            lambda peer: "target" if peer.startswith(b"node") else "client",
        )
        failed = RequestFailedNotice(1, "internal", "x")
        coordinator._send_all(
            [
                Send(b"client-a", failed),
                Send(b"node-a", CloseStreamNotice(1, 1)),
                Send(b"client-b", failed),
                Send(b"node-b", CloseStreamNotice(2, 1)),
            ]
        )
        assert done == ["node-a", "node-b", "client-a", "client-b"]


class SlowPolicy:
    """Plans when it is let; num_begun: of plans."""

    def __init__(self) -> None:
        self.num_begun = 0
        self.may_go_on = threading.Event()

    def __call__(self, observation: Observation) -> Plan:
        self.num_begun += 1
        assert self.may_go_on.wait(10.0)
        return Plan()


@pytest.fixture
def slow() -> Iterator[SlowPolicy]:
    """Whatever happens, no thread waits longer than its test."""
    policy = SlowPolicy()
    yield policy
    policy.may_go_on.set()


async def join_target(hub: MemoryHub, name: str) -> tuple[MemoryClient, Envelope]:
    node = hub.client()
    profile = encode_struct(make_profile())
    node.send(encode(Hello(name, "target", 1, PROTOCOL_VERSION, profile)))
    return node, await hear(node, Welcome)


async def test_messages_are_dealt_with_while_a_plan_is_made(
    slow: SlowPolicy, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = MemoryHub()
    async with serving(hub) as coordinator:
        target, welcome = await join_target(hub, "t")
        client, _ = await join(hub, "a")
        ping = encode(Ping(0, 0), cluster=welcome.message.cluster, epoch=welcome.message.epoch)
        (scheduler,) = coordinator.state.schedulers
        # Each tick finds that one is due.
        monkeypatch.setattr(scheduler, "begin_plan", lambda _: Planning(Observation(()), slow))
        await eventually(lambda: slow.num_begun == 1)
        for _ in range(3):
            client.send(ping)
            await hear(client, Pong)
        # One that is due meanwhile waits for this one, whatever comes in.
        await eventually(lambda: coordinator.state.is_plan_due)
        client.send(ping)
        await hear(client, Pong)
        assert slow.num_begun == 1
        target.close()
        await eventually(lambda: len(coordinator.state.peers()) == 1)
        slow.may_go_on.set()
        # Its target has left: the plan is for nobody, and the coordinator goes on.
        await eventually(lambda: not coordinator.state.is_plan_due)
        client.send(ping)
        await hear(client, Pong)


@pytest.mark.parametrize("version", [PROTOCOL_VERSION - 1, PROTOCOL_VERSION + 1])
async def test_who_speaks_another_protocol_is_told_so_in_its_own(
    version: int, caplog: pytest.LogCaptureFixture
) -> None:
    hub = MemoryHub()
    with contextlib.closing(hub.server()) as server, contextlib.closing(hub.client()) as client:
        coordinator = Coordinator(server)
        task = asyncio.create_task(coordinator.run())
        try:
            async with asyncio.timeout(60):
                # Of a later version nothing is known but how its Hello begins.
                client.send([bytes([version, 0x9F, 1]) + b"what this one cannot know"])
                (frame,) = await client.recv()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    # As the other side reads it, whose version this is.
    assert frame[0] == version
    refusal = decode([bytes([PROTOCOL_VERSION]) + frame[1:]]).message
    assert isinstance(refusal, Refuse)
    assert refusal.code == OTHER_PROTOCOL
    reason = f"protocol {version} differs from the coordinator's {PROTOCOL_VERSION}"
    assert refusal.reason.startswith(reason)
    (line,) = [r.getMessage() for r in caplog.records]
    assert reason in line
    assert coordinator.num_dropped == 1


async def test_what_is_no_hello_of_another_protocol_is_not_answered() -> None:
    hub = MemoryHub()
    with contextlib.closing(hub.server()) as server, contextlib.closing(hub.client()) as client:
        coordinator = Coordinator(server)
        task = asyncio.create_task(coordinator.run())
        try:
            async with asyncio.timeout(60):
                client.send([bytes([PROTOCOL_VERSION + 1, 0x9F, 4])])
                client.send([b"garbage"])
                client.send(encode(Hello("n", "client", 1, PROTOCOL_VERSION, b"")))
                welcome = decode(await client.recv()).message
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert isinstance(welcome, Welcome)
    assert coordinator.num_dropped == 2


@pytest.mark.parametrize("pads", [False, True])
async def test_every_message_to_a_member_is_one_frame(
    monkeypatch: pytest.MonkeyPatch, pads: bool
) -> None:
    """Of two ZeroMQ may take the second away, and abort who has read the first."""
    with contextlib.closing(MemoryHub().server()) as server:
        coordinator = Coordinator(server, pads=pads)
        sent: list[list[bytes]] = []
        monkeypatch.setattr(server, "send", lambda _peer, frames: sent.append(frames))
        monkeypatch.setattr(coordinator._credits, "take", lambda *_: True)
        lease = LeaseRequest((LeaseEntry(1, 1, 3, 2),))
        coordinator._send_all([Send(b"node", lease), Send(b"node", CloseStreamNotice(1, 1))])
    assert [len(frames) for frames in sent] == [1, 1]
    assert decode(sent[0]).message == lease


async def test_who_is_out_of_credit_is_told_no_end_of_a_text_of_which_a_part_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with contextlib.closing(MemoryHub().server()) as server:
        coordinator, peer = Coordinator(server), b"client"
        told: list[object] = []
        monkeypatch.setattr(
            server, "send", lambda _peer, frames: told.append(decode(frames).message)
        )
        failed = Send(peer, RequestFailedNotice(1, "unavailable", "x"))
        gone = [[failed], []]
        monkeypatch.setattr(coordinator.state, "peer_gone", lambda _peer, _now: gone.pop(0))
        welcome = Welcome("n", "c", 1, 1.0, 5.0, False)
        tokens = [TokensNotice(1, 0, n, b"x", (5,), 0, 0, ()) for n in range(WINDOW_MESSAGES)]
        finished = FinishedNotice(1, 0, len(tokens), "stop", StreamFigures(0, 0, 0, 0, 0, 0, ""))
        coordinator._hand_over([Send(peer, message) for message in (welcome, *tokens, finished)])
        # The Welcome took one message's place.
        assert told == [welcome, *tokens[:-1], failed.message]


async def test_who_asks_and_does_not_read_is_out_of_credit_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with contextlib.closing(MemoryHub().server()) as server:
        coordinator, peer = Coordinator(server), b"client"
        num_told: list[int] = []
        monkeypatch.setattr(
            server, "send", lambda _peer, frames: num_told.append(sum(map(len, frames)))
        )
        gone: list[bytes] = []
        monkeypatch.setattr(
            coordinator.state, "peer_gone", lambda peer, _now: gone.append(peer) or []
        )
        welcome = Welcome("n", "c", 1, 1.0, 5.0, False)
        status = StatusReply(1, b"x" * MAX_STATUS_BYTES)
        coordinator._hand_over([Send(peer, message) for message in (welcome, *(status,) * 20)])
    assert gone == [peer]
    assert MAX_ANSWER_BYTES / 2 < sum(num_told) < MAX_ANSWER_BYTES + 1000
