"""Streams that wait for a place on a target, in the order in which they get one."""

from __future__ import annotations

import bisect
from collections.abc import Iterator

from nodes.coordinator.requests import Choice, Request
from nodes.stream import StreamId

# A step of priority goes before who came so much earlier; who has waited longer is not overtaken.
STEP_S = 5.0


class Waiting:
    """First those whose clients have read some of their text, then by priority and arrival.

    The place of a stream in the line never changes: nobody who comes later than 45 s after it can
    go before it, so that nobody starves.
    """

    def __init__(self) -> None:
        self._line: list[tuple[bool, float, StreamId]] = []
        self._requests: dict[StreamId, Request] = {}

    def __len__(self) -> int:
        return len(self._line)

    def __contains__(self, stream_id: StreamId) -> bool:
        return stream_id in self._requests

    def __iter__(self) -> Iterator[tuple[Request, Choice]]:
        for _, _, stream_id in self._line:
            request = self._requests[stream_id]
            yield request, request.choices[stream_id]

    def add(self, request: Request, choice: Choice) -> None:
        stream_id = choice.spec.stream_id
        self._requests[stream_id] = request
        bisect.insort(self._line, _place(request, choice))

    def remove(self, request: Request, choice: Choice) -> None:
        """Take out a stream that is in the line."""
        del self._requests[choice.spec.stream_id]
        del self._line[bisect.bisect_left(self._line, _place(request, choice))]


def _place(request: Request, choice: Choice) -> tuple[bool, float, StreamId]:
    turn = request.arrived_at - STEP_S * request.submit.priority
    return choice.num_tokens == 0, turn, choice.spec.stream_id
