"""In which order the coordinator's shell does what its state says."""

from __future__ import annotations

import contextlib

import pytest

from mesh.memory_transport import MemoryHub
from mesh.messages import Welcome
from nodes.coordinator.sends import Send
from nodes.coordinator.service import Coordinator
from nodes.messages import CloseStreamNotice, RequestFailedNotice
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
