from __future__ import annotations

from nodes.coordinator.requests.deadlines import Deadlines
from nodes.coordinator.requests.request import Request
from tests.nodes.builders import make_submit


def requests(*ends_at: float) -> list[Request]:
    return [Request(b"c", make_submit(n), 7, ends_at=end) for n, end in enumerate(ends_at)]


def test_those_whose_time_is_over_are_due_until_they_are_forgotten() -> None:
    deadlines, (late, early, later) = Deadlines(), requests(5.0, 2.0, 9.0)
    for request in (late, early, later):
        deadlines.add(request)
    assert deadlines.due(1.9) == []
    assert deadlines.due(2.0) == [early]
    deadlines.forget(early)
    assert deadlines.due(4.0) == []
    assert deadlines.due(9.0) == [late, later]
    for request in (late, later, later):
        deadlines.forget(request)
    assert (deadlines.due(99.0), len(deadlines)) == ([], 0)


def test_one_that_comes_after_a_look_is_seen() -> None:
    deadlines, (first, second) = Deadlines(), requests(5.0, 1.0)
    deadlines.add(first)
    assert deadlines.due(0.5) == []
    deadlines.add(second)
    assert deadlines.due(1.0) == [second]


def test_many_are_due_a_few_at_a_time() -> None:
    deadlines = Deadlines()
    for request in requests(*[1.0] * 600):
        deadlines.add(request)
    sizes = []
    while due := deadlines.due(2.0):
        sizes.append(len(due))
        for request in due:
            deadlines.forget(request)
    assert sizes == [256, 256, 88]
