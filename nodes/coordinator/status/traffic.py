"""Counts bytes and messages on the wire since the start, by message type. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from nodes.telemetry.status import WireTotal


class Traffic:
    """Totals by direction and message class, of which the protocol has only a few."""

    def __init__(self) -> None:
        self._num_messages = Counter[tuple[str, type]]()
        self._num_bytes = Counter[tuple[str, type]]()

    def note(self, direction: str, kind: type, num_bytes: int) -> None:
        """Count a message. direction: "in" if the coordinator received it, otherwise "out"."""
        self._num_messages[direction, kind] += 1
        self._num_bytes[direction, kind] += num_bytes

    def totals(self) -> Iterator[WireTotal]:
        for key in sorted(self._num_messages, key=lambda key: key[0]):
            direction, kind = key
            numbers = self._num_messages[key], self._num_bytes[key]
            yield WireTotal(kind.__name__, direction, *numbers)
