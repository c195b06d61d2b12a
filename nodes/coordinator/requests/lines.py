"""Keeps the streams that wait for a place on a target, in the order in which they get one."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator
from typing import TypeAlias

from airdraft.nodes.coordinator.requests.request import (
    AwaitsPlace,
    Owner,
    Rank,
    RequestStream,
    TargetKind,
    TenantTurn,
)
from airdraft.nodes.messages.access import GATEWAY
from airdraft.nodes.scheduler.stream import Stream
from airdraft.nodes.worker.stream import StreamId

# One step of priority counts like an arrival this much earlier, so the wait it causes is bounded.
STEP_S = 5.0

_Key: TypeAlias = tuple[bool, float, int, int, StreamId]
_LineKey: TypeAlias = tuple[frozenset[TargetKind], bool]


class _Line:
    """The streams that wait for targets of the same kinds, by owner, with the turns of all."""

    def __init__(self) -> None:
        self._ranks: dict[Owner, list[Rank]] = {}
        # The owner of the first stream and its key, as they were found last.
        self._first: tuple[_Key, Owner] | None = None

    def __bool__(self) -> bool:
        return bool(self._ranks)

    def add(self, owner: Owner, rank: Rank) -> None:
        bisect.insort(self._ranks.setdefault(owner, []), rank)
        if self._first is not None and (key := self._key(owner)) < self._first[0]:
            self._first = key, owner

    def remove(self, owner: Owner, rank: Rank) -> None:
        ranks = self._ranks[owner]
        del ranks[bisect.bisect_left(ranks, rank)]
        if not ranks:
            del self._ranks[owner]

    def first(self) -> _Key:
        """Returns the key of the first stream; the line must not be empty."""
        # What was found last holds until that stream goes or its tenant has had a turn, because
        # keys only rise without new streams.
        if self._first is not None:
            key, owner = self._first
            if owner in self._ranks and self._key(owner) == key:
                return key
        first = min(self._ranks, key=self._key)
        self._first = self._key(first), first
        return self._first[0]

    def _key(self, owner: Owner) -> _Key:
        is_new, turn_s, stream_id, lead_s = self._ranks[owner][0]
        if not is_new:
            return False, turn_s, 0, 0, stream_id
        # It counts as if it had arrived no earlier than the last turn of its tenant, all streams of
        # which then count alike, so that the turns of its owners decide.
        turn_s = max(turn_s, owner.turn.served_at - lead_s)
        return True, turn_s, owner.turn.number, owner.number, stream_id


class Lines:
    """The waiting streams: those whose output has begun go first, the others by tenants' turns.

    At equal priority tenants take turns: the first stream of each counts as waiting since it
    arrived or since the tenant's last turn, whichever is later. Within a tenant owners take turns
    in the same way, and within an owner the order is by priority and arrival. So a stream waits for
    at most one stream of each other tenant, however many streams and owners that one has. A tenant
    whose stream arrives, or that had a turn, more than 45 s later cannot overtake it, so no stream
    starves.
    """

    def __init__(self) -> None:
        self._lines: dict[_LineKey, _Line] = {}
        self._streams: dict[StreamId, RequestStream] = {}
        # By model and then by tenant; those of each tenant by owner.
        self._owners: dict[tuple[str, str], dict[str, Owner]] = {}
        self._turns = itertools.count(1)

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[RequestStream]:
        """Yield all waiting streams in no particular order."""
        return iter(list(self._streams.values()))

    def entry(
        self, stream: RequestStream, kinds: frozenset[TargetKind], journal: Stream | None
    ) -> AwaitsPlace:
        """Returns the phase of a stream that begins to wait, which add() puts into its line."""
        request = stream.request
        owners = self._owners.setdefault((request.model_hash, request.tenant), {})
        turn = next((known.turn for known in owners.values()), None) or TenantTurn()
        owner = owners.setdefault(request.owner, Owner(turn))
        return AwaitsPlace(kinds, _rank(stream), owner, journal)

    def add(self, stream: RequestStream) -> None:
        """Put a stream that has begun to wait into the line of its kinds."""
        _waiting(stream).owner.num_waiting += 1
        self._streams[stream.stream_id] = stream
        self.enter(stream)

    def remove(self, stream: RequestStream) -> None:
        """Remove a stream that waits no longer after this."""
        request, owner = stream.request, _waiting(stream).owner
        self.leave(stream)
        del self._streams[stream.stream_id]
        owner.num_waiting -= 1
        if not owner.num_waiting:
            key = request.model_hash, request.tenant
            del self._owners[key][request.owner]
            if not self._owners[key]:
                del self._owners[key]

    def enter(self, stream: RequestStream) -> None:
        """Put a stream that has left its line into the one that is now its own."""
        phase = _waiting(stream)
        self._lines.setdefault(_line_of(stream), _Line()).add(phase.owner, phase.rank)

    def leave(self, stream: RequestStream) -> None:
        """Take a stream out of its line, before its kinds or the suspicion against it change."""
        phase, key = _waiting(stream), _line_of(stream)
        self._lines[key].remove(phase.owner, phase.rank)
        if not self._lines[key]:
            del self._lines[key]

    def served(self, owner: Owner, now: float) -> None:
        """A stream of this owner gets a place, which uses its tenant's turn."""
        owner.turn.served_at = now
        owner.number = owner.turn.number = next(self._turns)

    def heads(self) -> list[RequestStream]:
        """Returns the first stream of each line in order, but none that no target may serve."""
        firsts = sorted(line.first() for (kinds, _), line in self._lines.items() if kinds)
        return [self._streams[key[-1]] for key in firsts]


def _waiting(stream: RequestStream) -> AwaitsPlace:
    assert isinstance(stream.phase, AwaitsPlace)
    return stream.phase


def _line_of(stream: RequestStream) -> _LineKey:
    # Suspects have separate lines, because they also wait for each other.
    return _waiting(stream).kinds, stream.suspicion is not None


def _rank(stream: RequestStream) -> Rank:
    request = stream.request
    lead_s = STEP_S * request.submit.priority
    # A client could claim that its output has begun to get ahead; a gateway has no reason to.
    known = stream.spec.num_committed if request.is_resumed and request.role != GATEWAY else 0
    is_new = stream.num_tokens <= known
    return is_new, request.arrived_at - lead_s, stream.stream_id, lead_s
