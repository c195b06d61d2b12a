"""What holds between two events in the coordinator: each phase has what it owns, and only that."""

from __future__ import annotations

from collections import Counter

from airdraft.nodes.coordinator.data import Data
from airdraft.nodes.coordinator.requests.request import (
    Asked,
    AwaitsPlace,
    NoReader,
    Over,
    Placed,
    Queued,
    Request,
    RequestStream,
    Serving,
)
from airdraft.nodes.coordinator.requests.texts import MAX_AT_ONCE


def check_phases(data: Data) -> None:
    """Check everything that is derived from phases against the phases."""
    book = data.requests
    due = book.due
    assert not any((due.moves, due.targets, due.places)), "an event was not settled"
    requests = [request for peer in data.roster.peers() for request in book.of_client(peer)]
    streams = [stream for request in requests for stream in request.streams.values()]
    assert {s.stream_id: s for s in streams} == book.streams, "a stream is of no living request"
    assert not any(isinstance(each.phase, Over) for each in (*requests, *streams))
    assert all(request.streams for request in requests if isinstance(request.phase, Serving))
    reading = [r for r in requests if isinstance(r.phase, NoReader | Queued | Asked)]
    assert set(reading) == set(book.reading)
    _check_counts(data, requests, streams)
    _check_places(data, streams)
    stranded = {r for r in requests if isinstance(r.phase, NoReader)}
    stranded |= {
        s.request for s in streams if isinstance(s.phase, AwaitsPlace) and not s.phase.kinds
    }
    assert stranded == set(book.stranded)
    slots = Counter(r.phase.target for r in reading if isinstance(r.phase, Asked))
    assert all(num <= MAX_AT_ONCE for num in slots.values())


def _check_counts(data: Data, requests: list[Request], streams: list[RequestStream]) -> None:
    quota, waiting = data.requests.quota, Counter[str]()
    for request in requests:
        if request in data.requests.reading:
            waiting[request.role] += request.num_to_wait
    for stream in streams:
        waiting[stream.request.role] += isinstance(stream.phase, AwaitsPlace)
    for role in ("client", "gateway", "admin"):
        assert quota.num_waiting(role) == waiting[role]
    held = sum(request.num_held for request in requests)
    assert held == quota.num_held, "text is charged that nobody keeps"


def _check_places(data: Data, streams: list[RequestStream]) -> None:
    lines = {stream.stream_id for stream in data.requests.lines}
    assert lines == {s.stream_id for s in streams if isinstance(s.phase, AwaitsPlace)}
    targets = data.roster.targets()
    for target in targets:
        placed = {s.stream_id for s in streams if s.target is target}
        assert placed == target.streams.keys(), "a scheduler has other streams than are placed"
        assert len(placed) <= target.profile.max_streams
        untried = [s for s in streams if s.target is target and s.suspicion is not None]
        assert len(untried) <= 1, "two suspects are on one target"
    assert all(s.phase.target in targets for s in streams if isinstance(s.phase, Placed))
    followed = {(s, node.name) for node in data.drafts.values() for s in node.followed}
    following = {
        (stream_id, stream.follow.node)
        for target in targets
        for stream_id, stream in target.streams.items()
        if stream.follow is not None
    }
    assert followed == following
