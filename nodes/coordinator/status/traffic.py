"""Counts bytes and messages on the wire since the start, by message type and node. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from nodes.telemetry.status import WireTotal


@dataclass(slots=True)
class NodeTraffic:
    """Bytes of one node. bytes_in: from the node to the coordinator."""

    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(slots=True)
class _Total:
    num_messages: int = 0
    num_bytes: int = 0


@dataclass(slots=True)
class Traffic:
    """Totals by message class, of which there are only as many as the protocol has."""

    _in: dict[type, _Total] = field(default_factory=dict)
    _out: dict[type, _Total] = field(default_factory=dict)

    def received(self, kind: type, num_bytes: int) -> None:
        _add(self._in, kind, num_bytes)

    def sent(self, kind: type, num_bytes: int) -> None:
        _add(self._out, kind, num_bytes)

    def totals(self) -> Iterator[WireTotal]:
        for direction, found in (("in", self._in), ("out", self._out)):
            for kind, total in found.items():
                yield WireTotal(kind.__name__, direction, total.num_messages, total.num_bytes)


def _add(found: dict[type, _Total], kind: type, num_bytes: int) -> None:
    total = found.get(kind)
    if total is None:
        total = found[kind] = _Total()
    total.num_messages += 1
    total.num_bytes += num_bytes
