"""In which order the coordinator's shell does what its state says."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from mesh.codec import decode, encode
from mesh.memory_transport import MemoryHub
from mesh.messages import OTHER_PROTOCOL, PROTOCOL_VERSION, Hello, Refuse, Welcome
from nodes.coordinator.sends import Send
from nodes.coordinator.service import Coordinator
from nodes.messages import CloseStreamNotice, GuessEntry, RequestFailedNotice, VerifyRequest
from tests.nodes.builders import one_batch


async def test_nodes_are_told_first_then_clients_and_then_it_is_planned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with contextlib.closing(MemoryHub().server()) as server:
        coordinator = Coordinator(server, one_batch)
        done: list[str] = []

        def plan(_now: float) -> list[Send]:
            done.append("plan")
            return [Send(b"node-b", CloseStreamNotice(3, 1))]

        monkeypatch.setattr(server, "send", lambda peer, _frames: done.append(peer.decode()))
        monkeypatch.setattr(coordinator._credits, "take", lambda _peer: True)
        monkeypatch.setattr(
            coordinator.state,
            "role_of",
            lambda peer: "target" if peer.startswith(b"node") else "client",
        )
        monkeypatch.setattr(coordinator.state, "plan_anew", plan)
        failed = RequestFailedNotice(1, "internal", "x")
        coordinator._send_all(
            [
                Send(b"client-a", failed),
                Send(b"node-a", CloseStreamNotice(1, 1)),
                Send(b"client-b", failed),
                Send(b"node-b", CloseStreamNotice(2, 1)),
            ]
        )
        assert done == ["node-a", "node-b", "client-a", "client-b", "plan", "node-b"]


async def test_a_gateway_may_be_told_at_once_that_all_its_requests_have_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Others that do not read are gone after a thousand messages."""
    with contextlib.closing(MemoryHub().server()) as server:
        coordinator = Coordinator(server, one_batch)
        monkeypatch.setattr(server, "send", lambda _peer, _frames: None)
        welcome = Welcome("n", "c", 1, 1.0, 5.0, False)
        told = {}
        for role in ("client", "gateway"):
            peer = role.encode()
            monkeypatch.setattr(coordinator.state, "role_of", lambda peer: peer.decode())
            gone: list[bytes] = []
            monkeypatch.setattr(
                coordinator.state,
                "peer_gone",
                lambda peer, _now, gone=gone: gone.append(peer) or [],
            )
            failed = [Send(peer, RequestFailedNotice(n, "internal", "x")) for n in range(2_000)]
            coordinator._hand_over([Send(peer, welcome), *failed])
            told[role] = not gone
        assert told == {"client": False, "gateway": True}


@pytest.mark.parametrize("version", [PROTOCOL_VERSION - 1, PROTOCOL_VERSION + 1])
async def test_who_speaks_another_protocol_is_told_so_in_its_own(
    version: int, caplog: pytest.LogCaptureFixture
) -> None:
    hub = MemoryHub()
    with contextlib.closing(hub.server()) as server, contextlib.closing(hub.client()) as client:
        coordinator = Coordinator(server, one_batch)
        task = asyncio.create_task(coordinator.run())
        try:
            async with asyncio.timeout(5):
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
    reason = f"it speaks protocol {version}, the coordinator {PROTOCOL_VERSION}"
    assert refusal.reason.startswith(reason)
    (line,) = [r.getMessage() for r in caplog.records]
    assert reason in line
    assert coordinator.num_dropped == 1


async def test_what_is_no_hello_of_another_protocol_is_not_answered() -> None:
    hub = MemoryHub()
    with contextlib.closing(hub.server()) as server, contextlib.closing(hub.client()) as client:
        coordinator = Coordinator(server, one_batch)
        task = asyncio.create_task(coordinator.run())
        try:
            async with asyncio.timeout(5):
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
        coordinator = Coordinator(server, one_batch, pads=pads)
        sent: list[list[bytes]] = []
        monkeypatch.setattr(server, "send", lambda _peer, frames: sent.append(frames))
        monkeypatch.setattr(coordinator._credits, "take", lambda _peer: True)
        verify = VerifyRequest(1, (GuessEntry(1, 1, 3, 2),), (7, 8))
        coordinator._send_all([Send(b"node", verify), Send(b"node", CloseStreamNotice(1, 1))])
    assert [len(frames) for frames in sent] == [1, 1]
    assert decode(sent[0]).message == verify
