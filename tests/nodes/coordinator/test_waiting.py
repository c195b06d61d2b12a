from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nodes.coordinator.placing.suspects import Suspicion
from nodes.coordinator.placing.waiting import STEP_S, Head, Kind, Waiting
from nodes.coordinator.requests.request import Choice, Request
from tests.nodes.builders import make_spec, make_submit

ONE = frozenset({("m", "a")})
OTHER = frozenset({("m", "b")})


@dataclass(slots=True)
class Line:
    """A line and who has been put into it."""

    waiting: Waiting
    num_added: int = 0

    def add(
        self,
        arrived_at: float,
        priority: int = 5,
        num_tokens: int = 0,
        tenant: str = "",
        kinds: frozenset[Kind] = ONE,
    ) -> Request:
        self.num_added += 1
        request = Request(b"c", make_submit(self.num_added, priority=priority), 7)
        request.arrived_at = arrived_at
        request.tenant = tenant
        request.role = "gateway" if tenant else "client"
        choice = Choice(make_spec(self.num_added), num_tokens=num_tokens)
        request.choices[choice.spec.stream_id] = choice
        self.waiting.add(request, choice, kinds)
        return request

    def first(self) -> Head | None:
        return next(iter(self.waiting.heads()), None)

    def serve(self, now: float) -> Request:
        head = self.first()
        assert head is not None
        self.waiting.serve(head.request, head.choice, now)
        return head.request

    def order(self) -> list[int]:
        """All of them as they are served, from now on."""
        assert len(list(self.waiting)) == len(self.waiting)
        return [self.serve(1e6).request_id for _ in range(len(self.waiting))]


@pytest.fixture
def line() -> Line:
    return Line(Waiting())


def num_entries(line: Line) -> int:
    return sum(len(lane._due) for lane in line.waiting._lines.values())


def test_entries_behind_one_that_waits_for_long_do_not_pile_up(line: Line) -> None:
    line.add(0.0, tenant="stuck")
    for second in range(1, 500):
        passing = line.add(float(second), tenant=f"p{second}")
        line.waiting.remove(passing, next(iter(passing.choices.values())))
    assert num_entries(line) < 40


def test_entries_of_one_that_always_waits_do_not_pile_up(line: Line) -> None:
    line.add(1000.0, tenant="crowd")
    for second in range(500):
        # Before all others of its tenant, again and again.
        line.add(999.0 - second, tenant="crowd")
    assert num_entries(line) < 40
    assert len(line.waiting) == 501
    assert line.order() == [*range(501, 0, -1)]


def test_of_one_priority_who_came_first_is_first(line: Line) -> None:
    for arrived_at in (1.0, 0.5, 1.0):
        line.add(arrived_at)
    assert len(line.waiting) == 3
    assert line.order() == [2, 1, 3]
    assert len(line.waiting) == 0


def test_a_higher_priority_goes_before_those_that_came_a_little_earlier(line: Line) -> None:
    line.add(0.0, priority=4)
    line.add(STEP_S - 0.1, priority=5)
    line.add(2 * STEP_S + 0.1, priority=6)
    assert line.order() == [2, 1, 3]


def test_who_has_waited_long_is_overtaken_by_nobody(line: Line) -> None:
    line.add(0.0, priority=1)
    for number in range(20):
        line.add(5.0 * number, priority=10)
    # Those of the first 45 seconds go before it, whatever comes after them.
    assert line.order().index(1) == 9


def test_whose_text_has_begun_goes_on_first(line: Line) -> None:
    line.add(0.0, priority=10)
    line.add(99.0, priority=1, num_tokens=3)
    assert line.order() == [2, 1]


def test_who_is_taken_out_leaves_the_others_in_order(line: Line) -> None:
    requests = [line.add(0.0, priority) for priority in (3, 9, 5)]
    (choice,) = requests[1].choices.values()
    assert choice.spec.stream_id in line.waiting
    line.waiting.remove(requests[1], choice)
    assert choice.spec.stream_id not in line.waiting
    with pytest.raises(KeyError):
        line.waiting.remove(requests[1], choice)
    assert line.order() == [3, 1]


# -- tenants take turns ----------------------------------------------------------------------------


def test_many_streams_of_one_tenant_do_not_keep_out_another(line: Line) -> None:
    for _ in range(1000):
        line.add(0.0, tenant="many")
    line.serve(1.0)
    line.add(2.0, tenant="few")
    line.add(2.0, tenant="few")
    # The first one had come before; from there on they take turns.
    assert [line.serve(2.0 + n).tenant for n in range(5)] == ["many", "few", "many", "few", "many"]
    assert line.waiting.num_of("gateway") == 996
    assert line.waiting.num_of("client") == 0


def test_places_that_become_free_together_are_shared(line: Line) -> None:
    for tenant in ("a", "a", "a", "b", "b", "c"):
        line.add(1.0, tenant=tenant)
    assert [line.serve(1.0).tenant for _ in range(6)] == ["a", "b", "c", "a", "b", "a"]


def test_a_tenant_that_was_away_has_no_turns_in_store(line: Line) -> None:
    line.add(0.0, tenant="a")
    line.serve(0.0)
    for _ in range(3):
        line.add(5.0, tenant="b")
    line.serve(6.0)
    line.add(7.0, tenant="a")
    line.add(7.0, tenant="a")
    assert [line.serve(8.0 + n).tenant for n in range(4)] == ["b", "a", "b", "a"]


def test_priority_goes_before_turns_within_its_lead(line: Line) -> None:
    for _ in range(3):
        line.add(0.0, tenant="a", priority=9)
    line.add(0.0, tenant="b", priority=5)
    # 4 steps of 5 s: b's turn comes when a was served more than 20 s later than b came.
    assert [line.serve(now).tenant for now in (10.0, 30.0, 31.0)] == ["a", "a", "b"]


def test_whose_text_has_begun_does_not_wait_for_turns(line: Line) -> None:
    line.add(0.0, tenant="b")
    for _ in range(2):
        line.add(9.0, tenant="a", num_tokens=1)
    assert [line.serve(10.0).tenant for _ in range(3)] == ["a", "a", "b"]


def test_lines_are_by_targets_and_those_of_none_are_not_looked_at(line: Line) -> None:
    line.add(3.0, kinds=OTHER)
    line.add(1.0, kinds=frozenset())
    line.add(2.0)
    line.add(4.0)
    heads = line.waiting.heads()
    assert [(h.request.request_id, h.kinds) for h in heads] == [(3, ONE), (1, OTHER)]
    assert len(line.waiting) == 4


def test_suspects_have_lines_of_their_own(line: Line) -> None:
    for number in range(4):
        request = line.add(float(number))
        if number in (1, 2):
            (choice,) = request.choices.values()
            line.waiting.remove(request, choice)
            choice.suspicion = Suspicion(["t"], [0.0])
            line.waiting.add(request, choice, ONE)
    assert [head.request.request_id for head in line.waiting.heads()] == [1, 2]
    for head in line.waiting.heads():
        line.waiting.change(head.choice, OTHER)
    assert [head.request.request_id for head in line.waiting.heads()] == [1, 2, 3, 4]
    assert line.order() == [1, 2, 3, 4]


def test_who_may_be_served_elsewhere_changes_lines_and_keeps_its_place(line: Line) -> None:
    requests = [line.add(float(n)) for n in range(3)]
    for request in (requests[2], requests[0]):
        (choice,) = request.choices.values()
        line.waiting.change(choice, OTHER)
    assert [h.request.request_id for h in line.waiting.heads()] == [1, 2]
    assert line.order() == [1, 2, 3]


class Turns(RuleBasedStateMachine):
    """Streams come, go and are served at equal priority, a second apart."""

    def __init__(self) -> None:
        super().__init__()
        self.line = Line(Waiting())
        self.now = 0.0
        self.requests: list[Request] = []
        # By tenant: its last turn.
        self.served_at: dict[str, float] = {}

    @rule(tenant=st.sampled_from("abcde"), count=st.integers(1, 6))
    def come(self, tenant: str, count: int) -> None:
        self.now += 1
        self.requests += [self.line.add(self.now, tenant=tenant) for _ in range(count)]

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        self.now += 1
        request = data.draw(st.sampled_from(self.requests))
        (choice,) = request.choices.values()
        self.line.waiting.remove(request, choice)
        self.requests.remove(request)

    @precondition(lambda self: self.requests)
    @rule()
    def serve(self) -> None:
        self.now += 1
        request = self.line.serve(self.now)
        mine = [other for other in self.requests if other.tenant == request.tenant]
        assert request is mine[0], "its own streams are served as they came"
        last = self.served_at.get(request.tenant, 0.0)
        for other in self.requests:
            # Whoever has waited since this tenant's last turn has had one meanwhile.
            if other.tenant != request.tenant and other.arrived_at < last:
                assert self.served_at.get(other.tenant, 0.0) > last, "two turns to another's none"
        self.served_at[request.tenant] = self.now
        self.requests.remove(request)

    @invariant()
    def all_are_there(self) -> None:
        assert len(self.line.waiting) == len(self.requests)
        assert (self.line.first() is None) == (not self.requests)


TestTurns = Turns.TestCase
TestTurns.settings = settings(max_examples=100, stateful_step_count=40)


class Kinds(RuleBasedStateMachine):
    """Streams that may go to other targets from now on, and some that come back as they were."""

    def __init__(self) -> None:
        super().__init__()
        self.line = Line(Waiting())
        self.now = 0.0
        self.requests: list[Request] = []
        self.served: list[Request] = []

    @rule(tenant=st.sampled_from("ab"), count=st.integers(1, 3))
    def come(self, tenant: str, count: int) -> None:
        self.now += 1
        self.requests += [self.line.add(self.now, tenant=tenant) for _ in range(count)]

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), kinds=st.sampled_from([ONE, OTHER, ONE | OTHER]))
    def change(self, data: st.DataObject, kinds: frozenset[Kind]) -> None:
        (choice,) = data.draw(st.sampled_from(self.requests)).choices.values()
        self.line.waiting.change(choice, kinds)

    @precondition(lambda self: self.requests)
    @rule()
    def serve(self) -> None:
        self.now += 1
        request = self.line.serve(self.now)
        self.requests.remove(request)
        self.served.append(request)

    @precondition(lambda self: self.served)
    @rule(data=st.data(), kinds=st.sampled_from([ONE, OTHER]))
    def come_back(self, data: st.DataObject, kinds: frozenset[Kind]) -> None:
        """Its target left before anything of it came."""
        request = data.draw(st.sampled_from(self.served))
        (choice,) = request.choices.values()
        self.served.remove(request)
        self.requests.append(request)
        self.line.waiting.add(request, choice, kinds)

    @invariant()
    def all_are_there(self) -> None:
        waiting = list(self.line.waiting)
        assert len(waiting) == len(self.requests)
        heads = self.line.waiting.heads()
        assert {id(head.request) for head in heads} <= {id(each) for each in self.requests}
        assert bool(heads) == bool(self.requests)


TestKinds = Kinds.TestCase
TestKinds.settings = settings(max_examples=100, stateful_step_count=40)


def test_one_that_comes_back_may_be_as_it_was(line: Line) -> None:
    """What is left of it in a line that it went out of is of a tenant that is forgotten."""
    first = line.add(0.0, tenant="a")
    second = line.add(1.0, tenant="b")
    (choice,) = second.choices.values()
    line.waiting.change(choice, ONE | OTHER)
    line.waiting.serve(second, choice, 2.0)
    line.waiting.add(second, choice, ONE)
    assert line.order() == [first.request_id, second.request_id]
