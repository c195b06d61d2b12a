from __future__ import annotations

from mesh.messages import Ping, Pong
from nodes.coordinator.status.traffic import Traffic
from nodes.telemetry.status import WireTotal


def test_messages_are_counted_by_kind_and_direction() -> None:
    traffic = Traffic()
    traffic.received(Pong, 10)
    traffic.received(Pong, 5)
    traffic.sent(Ping, 7)
    traffic.sent(Pong, 1)
    assert set(traffic.totals()) == {
        WireTotal("Pong", "in", 2, 15),
        WireTotal("Ping", "out", 1, 7),
        WireTotal("Pong", "out", 1, 1),
    }
