"""Checks of a mesh: what its coordinator tells is consistent, and nothing is left of requests."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterable, Iterator
from types import FunctionType, ModuleType

from airdraft.nodes.messages import OpenStreamRequest
from airdraft.nodes.telemetry.status import Status

# Where what is made for a request, and is of no use after it, has its classes.
_OF_REQUESTS = (
    *(
        "airdraft.nodes.coordinator.requests.request",
        "airdraft.nodes.scheduler.stream",
        "airdraft.nodes.worker.stream",
    ),
    *("airdraft.nodes.target.stream", "airdraft.nodes.draft.followed"),
)


def check(status: Status) -> None:
    """Every stream is in one place, and nodes have the streams that say so, and room for them."""
    places = {node.name: node for node in status.nodes if node.state != "left"}
    numbers = [stream.stream_id for stream in status.streams]
    assert len(set(numbers)) == len(numbers) == status.num_streams
    has_streams: Counter[str] = Counter()
    for stream in status.streams:
        assert (stream.phase == "waiting") == (not stream.target)
        assert stream.num_tokens <= stream.max_tokens
        for role, name in (("target", stream.target), ("draft", stream.draft)):
            assert not name or places[name].role == role, "a stream is on a node that is gone"
            has_streams[name] += 1
    for name, node in places.items():
        assert node.num_streams == has_streams[name] <= node.max_streams
    num_waiting = sum(stream.phase == "waiting" for stream in status.streams)
    assert status.waiting.num_streams == num_waiting


def check_empty(status: Status) -> None:
    """Nobody asks for anything any more: nothing is left of what was asked for."""
    assert (status.num_streams, status.streams) == (0, ())
    assert status.waiting.num_streams == status.waiting.num_tokenizing == 0
    for node in status.nodes:
        assert node.state == "left" or node.num_streams == node.used_cells == 0, node.name


def left_of_requests(*roots: object) -> set[str]:
    """What these refer to that is of a request."""
    return {
        f"{type(item).__module__}.{type(item).__name__}"
        for item in reachable(roots)
        if type(item).__module__ in _OF_REQUESTS or isinstance(item, OpenStreamRequest)
    }


def reachable(roots: Iterable[object]) -> Iterator[object]:
    """Everything that these refer to, but for code."""
    left = list(roots)
    seen = {id(root) for root in left}
    while left:
        item = left.pop()
        yield item
        if isinstance(item, type | ModuleType):
            continue
        # Its module's globals are everybody's.
        found = item.__closure__ or () if isinstance(item, FunctionType) else gc.get_referents(item)
        for other in found:
            if id(other) not in seen:
                seen.add(id(other))
                left.append(other)
