"""The lines of streams that wait for a place, in which tenants take turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from airdraft.nodes.coordinator.requests.book import Requests
from airdraft.nodes.coordinator.requests.lines import STEP_S
from airdraft.nodes.coordinator.requests.request import (
    AwaitsPlace,
    Request,
    RequestStream,
    TargetKind,
)
from airdraft.nodes.coordinator.requests.suspects import Suspicion
from tests.nodes.builders import make_spec, make_submit
from tests.nodes.coordinator.script import make_mesh

ONE = frozenset({("m", "a")})
OTHER = frozenset({("m", "b")})


def stream_of(request: Request) -> RequestStream:
    (stream,) = request.streams.values()
    return stream


@dataclass
class Line:
    """A line and how many have been put into it."""

    book: Requests = field(default_factory=Requests)
    num_added: int = 0

    def add(
        self,
        arrived_at: float,
        priority: int = 5,
        num_tokens: int = 0,
        tenant: str = "",
        user: str = "",
        kinds: frozenset[TargetKind] = ONE,
    ) -> Request:
        self.num_added += 1
        request = Request(b"c", make_submit(self.num_added, priority=priority), 7)
        request.arrived_at, request.tenant, request.owner = arrived_at, tenant, tenant + user
        request.role = "gateway" if tenant else "client"
        (stream,) = self.book.serve(request, [make_spec(self.num_added)], (5,), "", 0.0)
        stream.num_tokens = num_tokens
        self.book.wait(stream, kinds, 0.0)
        return request

    def remove(self, request: Request) -> None:
        self.book.end(request, "left", 0.0)

    def heads(self) -> list[int]:
        return [head.request.request_id for head in self.book.lines.heads()]

    def serve(self, now: float) -> Request:
        head = self.book.lines.heads()[0]
        (target,) = make_mesh().state.roster.targets()
        self.book.place(head, target, now)
        return head.request

    def tenants(self, times: Sequence[float]) -> str:
        """Whose streams are served at these times."""
        return "".join(self.serve(now).tenant for now in times)

    def order(self) -> list[int]:
        """All of them as they are served, from now on."""
        return [self.serve(1e6).request_id for _ in list(self.book.lines)]


@pytest.fixture
def line() -> Line:
    return Line()


def test_a_higher_priority_goes_before_those_that_came_a_little_earlier(line: Line) -> None:
    line.add(0.0, priority=4)
    line.add(STEP_S - 0.1, priority=5)
    line.add(2 * STEP_S + 0.1, priority=6)
    assert line.order() == [2, 1, 3]


# -- tenants take turns ----------------------------------------------------------------------------


def test_priority_goes_before_turns_within_its_lead(line: Line) -> None:
    for _ in range(3):
        line.add(0.0, tenant="a", priority=9)
    line.add(0.0, tenant="b", priority=5)
    # 4 steps of 5 s: b's turn comes when a was served more than 20 s later than b came.
    assert line.tenants([10.0, 30.0, 31.0]) == "aab"


def test_a_text_that_has_begun_waits_for_no_turns_and_no_priorities(line: Line) -> None:
    line.add(0.0, tenant="b", priority=10)
    for _ in range(2):
        line.add(9.0, tenant="a", num_tokens=1, priority=1)
    assert line.tenants([10.0, 10.0, 10.0]) == "aab"


def test_lines_are_by_targets_and_those_of_none_are_not_looked_at(line: Line) -> None:
    line.add(3.0, kinds=OTHER)
    line.add(1.0, kinds=frozenset())
    line.add(2.0)
    line.add(4.0)
    heads = [(head.request.request_id, head.phase) for head in line.book.lines.heads()]
    assert [(n, p.kinds) for n, p in heads if isinstance(p, AwaitsPlace)] == [(3, ONE), (1, OTHER)]
    assert len(line.book.lines) == 4


def test_suspects_have_lines_of_their_own(line: Line) -> None:
    for number in range(4):
        request = line.add(float(number))
        if number in (1, 2):
            line.book.suspect(stream_of(request), Suspicion(("t", 1)), 0.0)
    assert line.heads() == [1, 2]
    for head in line.book.lines.heads():
        line.book.change_kinds(head, OTHER, 0.0)
    assert line.heads() == line.order() == [1, 2, 3, 4]


# -- any order of events ---------------------------------------------------------------------------


class Lines(RuleBasedStateMachine):
    """Streams come at equal priority, a second apart. They go, are served, may go to other targets
    from now on, and come back as they were."""

    def __init__(self) -> None:
        super().__init__()
        self.line = Line()
        self.now = 0.0
        self.requests: list[Request] = []
        self.served: list[Request] = []
        # Those that were served before, by their numbers.
        self.returned: set[int] = set()
        # By tenant: its last turn.
        self.served_at: dict[str, float] = {}

    @rule(tenant=st.sampled_from("abcde"), count=st.integers(1, 6))
    def come(self, tenant: str, count: int) -> None:
        self.now += 1
        self.requests += [self.line.add(self.now, tenant=tenant) for _ in range(count)]

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), kinds=st.sampled_from([ONE, OTHER, ONE | OTHER]))
    def change(self, data: st.DataObject, kinds: frozenset[TargetKind]) -> None:
        request = data.draw(st.sampled_from(self.requests))
        self.line.book.change_kinds(stream_of(request), kinds, 0.0)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        self.now += 1
        request = data.draw(st.sampled_from(self.requests))
        self.line.remove(request)
        self.requests.remove(request)

    @precondition(lambda self: self.requests)
    @rule()
    def serve(self) -> None:
        self.now += 1
        request = self.line.serve(self.now)
        mine = [other for other in self.requests if other.tenant == request.tenant]
        first = min(mine, key=lambda other: (other.arrived_at, other.request_id))
        assert request is first, "its own streams are served as they came"
        last = self.served_at.get(request.tenant, 0.0)
        for other in self.requests if request.request_id not in self.returned else ():
            # Whoever has waited since this tenant's last turn has had one meanwhile.
            if other.tenant != request.tenant and other.arrived_at < last:
                assert self.served_at.get(other.tenant, 0.0) > last, "two turns to another's none"
        self.served_at[request.tenant] = self.now
        self.requests.remove(request)
        self.served.append(request)

    @precondition(lambda self: self.served)
    @rule(data=st.data(), kinds=st.sampled_from([ONE, OTHER]))
    def come_back(self, data: st.DataObject, kinds: frozenset[TargetKind]) -> None:
        """Its target left before anything of it came."""
        request = data.draw(st.sampled_from(self.served))
        self.served.remove(request)
        self.requests.append(request)
        self.returned.add(request.request_id)
        self.line.book.wait(stream_of(request), kinds, 0.0)

    @invariant()
    def all_are_there(self) -> None:
        book = self.line.book
        waiting = [stream.request for stream in book.lines]
        assert len(waiting) == len(book.lines) == len(self.requests)
        assert book.quota.num_waiting("gateway") == len(self.requests)
        assert {id(request) for request in waiting} == {id(each) for each in self.requests}
        heads = book.lines.heads()
        assert {id(head.request) for head in heads} <= {id(each) for each in self.requests}
        assert bool(heads) == bool(self.requests)


TestLines = Lines.TestCase
TestLines.settings = settings(max_examples=200, stateful_step_count=40)
