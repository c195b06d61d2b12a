"""Keeps the streams that wait for a place on a target, in the order in which they get one."""

from __future__ import annotations

import bisect
import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from nodes.coordinator.requests.request import Choice, Request
from nodes.messages.access import GATEWAY
from nodes.worker.stream import StreamId

# One step of priority counts like an arrival this much earlier, so the wait it causes is bounded.
STEP_S = 5.0

# Model, numerics class and size of a target, and its name if a stream must go to this one.
Kind: TypeAlias = tuple[str, ...]
# What orders the streams of a tenant: whether the output has not begun, the turn in seconds, the
# stream, and by how many seconds its priority advanced the turn.
_Rank: TypeAlias = tuple[bool, float, StreamId, float]
_Key: TypeAlias = tuple[bool, float, int, StreamId]
_LineKey: TypeAlias = tuple[frozenset[Kind], bool]


@dataclass(slots=True, eq=False)
class _Tenant:
    """A tenant that takes turns with others for the targets of a model.

    It is forgotten with its last waiting stream. served_at: when its last stream got a place. turn:
    the number of that placement among those of all tenants.
    """

    num_waiting: int = 0
    served_at: float = -math.inf
    turn: int = 0


class _Line:
    """The streams that wait for targets of the same kinds, by tenant, with the tenants' turns."""

    def __init__(self) -> None:
        self._ranks: dict[_Tenant, list[_Rank]] = {}
        # The tenant of the first stream and its key, as they were found last.
        self._first: tuple[_Key, _Tenant] | None = None

    def __bool__(self) -> bool:
        return bool(self._ranks)

    def add(self, tenant: _Tenant, rank: _Rank) -> None:
        bisect.insort(self._ranks.setdefault(tenant, []), rank)
        if self._first is not None and (key := self._key(tenant)) < self._first[0]:
            self._first = key, tenant

    def remove(self, tenant: _Tenant, rank: _Rank) -> None:
        ranks = self._ranks[tenant]
        del ranks[bisect.bisect_left(ranks, rank)]
        if not ranks:
            del self._ranks[tenant]

    def first(self) -> _Key:
        """Return the key of the first stream; the line must not be empty."""
        # What was found last holds until that stream goes or its tenant has had a turn, because
        # keys only rise without new streams.
        if self._first is not None:
            key, tenant = self._first
            if tenant in self._ranks and self._key(tenant) == key:
                return key
        first = min(self._ranks, key=self._key)
        self._first = self._key(first), first
        return self._first[0]

    def _key(self, tenant: _Tenant) -> _Key:
        is_new, turn_s, stream_id, lead_s = self._ranks[tenant][0]
        if is_new:
            # It counts as if it had arrived no earlier than the tenant's last turn.
            turn_s = max(turn_s, tenant.served_at - lead_s)
        return is_new, turn_s, tenant.turn if is_new else 0, stream_id


@dataclass(frozen=True, slots=True)
class Entry:
    """A waiting stream. kinds: those of the targets that may serve it. since: when it began to
    wait, which is after its request arrived if a target served it before."""

    choice: Choice
    tenant: _Tenant
    kinds: frozenset[Kind]
    rank: _Rank
    since: float

    @property
    def line(self) -> _LineKey:
        # Suspects have separate lines, because they also wait for each other.
        return self.kinds, self.choice.suspicion is not None


class Waits:
    """Counts the streams without a place, by the role of their clients and by tenant."""

    def __init__(self) -> None:
        self._nums = Counter[tuple[str, str]]()

    def add(self, request: Request, num: int) -> None:
        for key in ("role", request.role), ("tenant", request.tenant):
            self._nums[key] += num
            if not self._nums[key]:
                del self._nums[key]

    def num_of(self, role: str) -> int:
        return self._nums["role", role]

    def has_of(self, tenant: str) -> bool:
        return ("tenant", tenant) in self._nums


class Waiting:
    """The waiting streams: those whose output has begun go first, the others by tenants' turns.

    At equal priority tenants take turns: the first stream of each counts as waiting since it
    arrived or since the tenant's last turn, whichever is later. Within a tenant the order is by
    priority and arrival. So a stream waits for at most one stream of each other tenant, however
    many that one has. A tenant whose stream arrives, or that had a turn, more than 45 s later
    cannot overtake it, so no stream starves.
    """

    def __init__(self, waits: Waits) -> None:
        """waits: counts these streams, and what will become such streams."""
        self._waits = waits
        self._lines: dict[_LineKey, _Line] = {}
        self._entries: dict[StreamId, Entry] = {}
        self._tenants: dict[tuple[str, str], _Tenant] = {}
        self._turns = itertools.count(1)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, stream_id: StreamId) -> bool:
        return stream_id in self._entries

    def __iter__(self) -> Iterator[Choice]:
        """Yield all waiting streams in no particular order."""
        return iter([entry.choice for entry in self._entries.values()])

    def has_targets(self, stream_id: StreamId) -> bool:
        """Whether any present target may serve a waiting stream."""
        return bool(self._entries[stream_id].kinds)

    def oldest_since(self, now: float) -> float:
        """Return when the stream that waits longest began to wait; now if none waits."""
        return min((entry.since for entry in self._entries.values()), default=now)

    def add(self, choice: Choice, kinds: frozenset[Kind], now: float) -> None:
        """Add a stream. kinds: the kinds of the targets that may serve it."""
        request = choice.request
        tenant = self._tenants.setdefault((request.model_hash, request.tenant), _Tenant())
        tenant.num_waiting += 1
        entry = Entry(choice, tenant, kinds, _rank(choice), now)
        self._entries[choice.spec.stream_id] = entry
        self._waits.add(request, 1)
        self._lines.setdefault(entry.line, _Line()).add(tenant, entry.rank)

    def remove(self, choice: Choice) -> None:
        """Remove a waiting stream."""
        request, entry = choice.request, self._entries.pop(choice.spec.stream_id)
        self._leave_line(entry)
        self._waits.add(request, -1)
        entry.tenant.num_waiting -= 1
        if not entry.tenant.num_waiting:
            del self._tenants[request.model_hash, request.tenant]

    def take(self, choice: Choice, now: float) -> None:
        """Remove a stream that gets a place, which uses its tenant's turn."""
        tenant = self._entries[choice.spec.stream_id].tenant
        self.remove(choice)
        tenant.served_at, tenant.turn = now, next(self._turns)

    def change(self, choice: Choice, kinds: frozenset[Kind]) -> None:
        """Change the kinds of the targets that may serve a stream."""
        entry = self._entries[choice.spec.stream_id]
        if kinds == entry.kinds:
            return
        self._leave_line(entry)
        moved = replace(entry, kinds=kinds)
        self._entries[choice.spec.stream_id] = moved
        self._lines.setdefault(moved.line, _Line()).add(entry.tenant, entry.rank)

    def _leave_line(self, entry: Entry) -> None:
        line = self._lines[entry.line]
        line.remove(entry.tenant, entry.rank)
        if not line:
            del self._lines[entry.line]

    def heads(self) -> list[Entry]:
        """Return the first stream of each line in order, without those that no target may serve."""
        firsts = sorted(line.first() for (kinds, _), line in self._lines.items() if kinds)
        return [self._entries[key[-1]] for key in firsts]


def _rank(choice: Choice) -> _Rank:
    request = choice.request
    lead_s = STEP_S * request.submit.priority
    # A client could claim that its output has begun to get ahead; a gateway has no reason to.
    known = choice.spec.num_committed if request.is_resumed and request.role != GATEWAY else 0
    is_new = choice.num_tokens <= known
    return is_new, request.arrived_at - lead_s, choice.spec.stream_id, lead_s
