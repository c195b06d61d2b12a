from __future__ import annotations

from dataclasses import dataclass

import pytest

from nodes.coordinator.requests import Choice, Request
from nodes.coordinator.waiting import STEP_S, Waiting
from tests.nodes.builders import make_spec, make_submit


@dataclass(slots=True)
class Line:
    """A line and who has been put into it."""

    waiting: Waiting
    num_added: int = 0

    def add(self, arrived_at: float, priority: int = 5, num_tokens: int = 0) -> Request:
        self.num_added += 1
        request = Request(b"c", make_submit(self.num_added, priority=priority), 7)
        request.arrived_at = arrived_at
        choice = Choice(make_spec(self.num_added), num_tokens=num_tokens)
        request.choices[choice.spec.stream_id] = choice
        self.waiting.add(request, choice)
        return request

    def order(self) -> list[int]:
        return [request.request_id for request, _ in self.waiting]


@pytest.fixture
def line() -> Line:
    return Line(Waiting())


def test_of_one_priority_who_came_first_is_first(line: Line) -> None:
    for arrived_at in (1.0, 0.5, 1.0):
        line.add(arrived_at)
    assert line.order() == [2, 1, 3]
    assert len(line.waiting) == 3


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
    assert line.order() == [3, 1]
    with pytest.raises(KeyError):
        line.waiting.remove(requests[1], choice)
