"""In which order the coordinator's shell does what its state says."""

from __future__ import annotations

import contextlib

import pytest

from mesh.memory_transport import MemoryHub
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
