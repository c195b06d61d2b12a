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
# What orders the streams of an owner: whether the output has not begun, the turn in seconds, the
# stream, and by how many seconds its priority advanced the turn.
_Rank: TypeAlias = tuple[bool, float, StreamId, float]
_Key: TypeAlias = tuple[bool, float, int, int, StreamId]
_LineKey: TypeAlias = tuple[frozenset[Kind], bool]


@dataclass(slots=True, eq=False)
class _Tenant:
    """A tenant that takes turns with others for the targets of a model.

    It is forgotten with its last waiting stream. served_at: when its last stream got a place. turn:
    the number of that placement among all.
    """

    served_at: float = -math.inf
    turn: int = 0


@dataclass(slots=True, eq=False)
class _Owner:
    """One of the owners of a tenant, which take turns among themselves; forgotten as it is."""

    tenant: _Tenant
    turn: int = 0
    num_waiting: int = 0


class _Line:
    """The streams that wait for targets of the same kinds, by owner, with the turns of all."""

    def __init__(self) -> None:
        self._ranks: dict[_Owner, list[_Rank]] = {}
        # The owner of the first stream and its key, as they were found last.
        self._first: tuple[_Key, _Owner] | None = None

    def __bool__(self) -> bool:
        return bool(self._ranks)

    def add(self, owner: _Owner, rank: _Rank) -> None:
        bisect.insort(self._ranks.setdefault(owner, []), rank)
        if self._first is not None and (key := self._key(owner)) < self._first[0]:
            self._first = key, owner

    def remove(self, owner: _Owner, rank: _Rank) -> None:
        ranks = self._ranks[owner]
        del ranks[bisect.bisect_left(ranks, rank)]
        if not ranks:
            del self._ranks[owner]

    def first(self) -> _Key:
        """Return the key of the first stream; the line must not be empty."""
        # What was found last holds until that stream goes or its tenant has had a turn, because
        # keys only rise without new streams.
        if self._first is not None:
            key, owner = self._first
            if owner in self._ranks and self._key(owner) == key:
                return key
        first = min(self._ranks, key=self._key)
        self._first = self._key(first), first
        return self._first[0]

    def _key(self, owner: _Owner) -> _Key:
        is_new, turn_s, stream_id, lead_s = self._ranks[owner][0]
        if not is_new:
            return False, turn_s, 0, 0, stream_id
        # It counts as if it had arrived no earlier than the last turn of its tenant, all streams of
        # which then count alike, so that the turns of its owners decide.
        turn_s = max(turn_s, owner.tenant.served_at - lead_s)
        return True, turn_s, owner.tenant.turn, owner.turn, stream_id


@dataclass(frozen=True, slots=True)
class Entry:
    """A waiting stream. kinds: those of the targets that may serve it. since: when it began to
    wait, which is after its request arrived if a target served it before."""

    choice: Choice
    owner: _Owner
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

    def num_of_tenant(self, tenant: str) -> int:
        return self._nums["tenant", tenant]


class Waiting:
    """The waiting streams: those whose output has begun go first, the others by tenants' turns.

    At equal priority tenants take turns: the first stream of each counts as waiting since it
    arrived or since the tenant's last turn, whichever is later. Within a tenant owners take turns
    in the same way, and within an owner the order is by priority and arrival. So a stream waits for
    at most one stream of each other tenant, however many streams and owners that one has. A tenant
    whose stream arrives, or that had a turn, more than 45 s later cannot overtake it, so no stream
    starves.
    """

    def __init__(self, waits: Waits) -> None:
        """waits: counts these streams, and what will become such streams."""
        self._waits = waits
        self._lines: dict[_LineKey, _Line] = {}
        self._entries: dict[StreamId, Entry] = {}
        # By model and then by tenant; those of each tenant by owner.
        self._owners: dict[tuple[str, str], dict[str, _Owner]] = {}
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
        owners = self._owners.setdefault((request.model_hash, request.tenant), {})
        tenant = next((known.tenant for known in owners.values()), None) or _Tenant()
        owner = owners.setdefault(request.owner, _Owner(tenant))
        owner.num_waiting += 1
        entry = Entry(choice, owner, kinds, _rank(choice), now)
        self._entries[choice.spec.stream_id] = entry
        self._waits.add(request, 1)
        self._lines.setdefault(entry.line, _Line()).add(owner, entry.rank)

    def remove(self, choice: Choice) -> None:
        """Remove a waiting stream."""
        request, entry = choice.request, self._entries.pop(choice.spec.stream_id)
        self._leave_line(entry)
        self._waits.add(request, -1)
        entry.owner.num_waiting -= 1
        if not entry.owner.num_waiting:
            key = request.model_hash, request.tenant
            del self._owners[key][request.owner]
            if not self._owners[key]:
                del self._owners[key]

    def take(self, choice: Choice, now: float) -> None:
        """Remove a stream that gets a place, which uses its tenant's turn."""
        owner = self._entries[choice.spec.stream_id].owner
        self.remove(choice)
        owner.tenant.served_at = now
        owner.turn = owner.tenant.turn = next(self._turns)

    def change(self, choice: Choice, kinds: frozenset[Kind]) -> None:
        """Change the kinds of the targets that may serve a stream."""
        entry = self._entries[choice.spec.stream_id]
        if kinds == entry.kinds:
            return
        self._leave_line(entry)
        moved = replace(entry, kinds=kinds)
        self._entries[choice.spec.stream_id] = moved
        self._lines.setdefault(moved.line, _Line()).add(entry.owner, entry.rank)

    def _leave_line(self, entry: Entry) -> None:
        line = self._lines[entry.line]
        line.remove(entry.owner, entry.rank)
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
