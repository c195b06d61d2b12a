"""Streams that wait for a place on a target, in the order in which they get one."""

from __future__ import annotations

import bisect
import heapq
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from nodes.coordinator.requests.request import Choice, Request
from nodes.messages.access import GATEWAY
from nodes.worker.stream import StreamId

# A step of priority goes before who came so much earlier; who has waited longer is not overtaken.
STEP_S = 5.0
# Entries of a heap that may be out of date, beside as many as are not.
_SPARE_ENTRIES = 16

# Model and numerics class of a target, and its name where no other will do.
Kind: TypeAlias = tuple[str, ...]
# Whether its text is still to begin, its turn in seconds, and how far priority put that forward.
_Place: TypeAlias = tuple[bool, float, StreamId, float]
_Key: TypeAlias = tuple[bool, float, int, StreamId]
_LineKey: TypeAlias = tuple[frozenset[Kind], bool]


@dataclass(frozen=True, slots=True)
class Head:
    """The first of those who wait for targets of the same kinds."""

    kinds: frozenset[Kind]
    request: Request
    choice: Choice


@dataclass(slots=True, eq=False)
class _Tenant:
    """Who takes turns with others for the targets of a model; it is forgotten with its last stream.

    number: of its own, for it may be there anew while what was before is still in heaps. served_at:
    when a stream of its own got a place. turn: numbers these, of all tenants.
    """

    number: int
    num_waiting: int = 0
    served_at: float = -math.inf
    turn: int = 0


class _Line:
    """Those who wait for targets of the same kinds: each tenant's streams, and whose turn it is."""

    def __init__(self) -> None:
        self._places: dict[_Tenant, list[_Place]] = {}
        # A tenant's entry is never later than its first stream is due; it is put right when seen.
        self._due: list[tuple[_Key, int, _Tenant]] = []

    def __bool__(self) -> bool:
        return bool(self._places)

    def add(self, tenant: _Tenant, place: _Place) -> None:
        places = self._places.setdefault(tenant, [])
        bisect.insort(places, place)
        if places[0] is place:
            heapq.heappush(self._due, (self._key(tenant), tenant.number, tenant))
            if len(self._due) > 2 * len(self._places) + _SPARE_ENTRIES:
                # Those behind one that waits for long would never be seen and put right.
                self._due = [(self._key(each), each.number, each) for each in self._places]
                heapq.heapify(self._due)

    def remove(self, tenant: _Tenant, place: _Place) -> None:
        places = self._places[tenant]
        del places[bisect.bisect_left(places, place)]
        if not places:
            del self._places[tenant]

    def first(self) -> _Key:
        """Of a line that is not empty."""
        while True:
            key, number, tenant = self._due[0]
            if tenant not in self._places:
                heapq.heappop(self._due)
            elif (now_due := self._key(tenant)) == key:
                return key
            else:
                heapq.heapreplace(self._due, (now_due, number, tenant))

    def _key(self, tenant: _Tenant) -> _Key:
        is_new, turn_s, stream_id, lead_s = self._places[tenant][0]
        if is_new:
            # As if it had come when the tenant had its last turn.
            turn_s = max(turn_s, tenant.served_at - lead_s)
        return is_new, turn_s, tenant.turn if is_new else 0, stream_id


@dataclass(frozen=True, slots=True)
class _Entry:
    request: Request
    choice: Choice
    tenant: _Tenant
    kinds: frozenset[Kind]
    place: _Place
    # Suspects have lines of their own: they wait for each other, too.
    is_suspect: bool

    @property
    def line(self) -> _LineKey:
        return self.kinds, self.is_suspect


class Waiting:
    """First those whose clients have read some of their text, then by turns.

    Tenants take turns at equal priority: the first stream of each is in the line since it came or
    since the tenant's last turn, whichever is later; a tenant's own go by priority and arrival. So
    nobody waits for more than one stream of each other tenant, however many these have; and nobody
    who comes, or had a turn, later than 45 s after that can go before it, so that nobody starves.
    """

    def __init__(self) -> None:
        self._lines: dict[_LineKey, _Line] = {}
        self._entries: dict[StreamId, _Entry] = {}
        self._tenants: dict[tuple[str, str], _Tenant] = {}
        self._num_of_role: Counter[str] = Counter()
        self._num_turns = 0
        self._num_tenants = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, stream_id: StreamId) -> bool:
        return stream_id in self._entries

    def __iter__(self) -> Iterator[tuple[Request, Choice]]:
        """All of them, in no particular order."""
        for entry in list(self._entries.values()):
            yield entry.request, entry.choice

    def num_of(self, role: str) -> int:
        """Streams of clients that joined in a role."""
        return self._num_of_role[role]

    def add(self, request: Request, choice: Choice, kinds: frozenset[Kind]) -> None:
        """kinds: of the targets that may serve it."""
        stream_id = choice.spec.stream_id
        tenant = self._tenant(request)
        tenant.num_waiting += 1
        place, is_suspect = _place(request, choice), choice.suspicion is not None
        entry = _Entry(request, choice, tenant, kinds, place, is_suspect)
        self._entries[stream_id] = entry
        self._num_of_role[request.role] += 1
        self._lines.setdefault(entry.line, _Line()).add(tenant, entry.place)

    def _tenant(self, request: Request) -> _Tenant:
        whose = request.model_hash, request.tenant
        if whose not in self._tenants:
            self._num_tenants += 1
            self._tenants[whose] = _Tenant(self._num_tenants)
        return self._tenants[whose]

    def remove(self, request: Request, choice: Choice) -> None:
        """Take out a stream that is in the line."""
        entry = self._entries.pop(choice.spec.stream_id)
        self._leave_line(entry)
        self._num_of_role[request.role] -= 1
        entry.tenant.num_waiting -= 1
        if not entry.tenant.num_waiting:
            del self._tenants[request.model_hash, request.tenant]

    def serve(self, request: Request, choice: Choice, now: float) -> None:
        """Take out a stream that gets a place: its tenant has had its turn."""
        tenant = self._entries[choice.spec.stream_id].tenant
        self.remove(request, choice)
        self._num_turns += 1
        tenant.served_at, tenant.turn = now, self._num_turns

    def change(self, choice: Choice, kinds: frozenset[Kind]) -> None:
        """Other targets may serve a stream now."""
        entry = self._entries[choice.spec.stream_id]
        if kinds == entry.kinds:
            return
        self._leave_line(entry)
        moved = replace(entry, kinds=kinds)
        self._entries[choice.spec.stream_id] = moved
        self._lines.setdefault(moved.line, _Line()).add(entry.tenant, entry.place)

    def _leave_line(self, entry: _Entry) -> None:
        line = self._lines[entry.line]
        line.remove(entry.tenant, entry.place)
        if not line:
            del self._lines[entry.line]

    def heads(self) -> list[Head]:
        """The first one of each line, in order; those that no target may serve are left out."""
        firsts = sorted(line.first() for (kinds, _), line in self._lines.items() if kinds)
        found = [self._entries[key[-1]] for key in firsts]
        return [Head(entry.kinds, entry.request, entry.choice) for entry in found]


def _place(request: Request, choice: Choice) -> _Place:
    lead_s = STEP_S * request.submit.priority
    # What a client says that it has of a text is its own word; a gateway has no reason to cheat.
    known = choice.spec.num_committed if request.is_resumed and request.role != GATEWAY else 0
    is_new = choice.num_tokens <= known
    return is_new, request.arrived_at - lead_s, choice.spec.stream_id, lead_s
