from __future__ import annotations

from nodes.coordinator.placing.stranded import STRANDED_LIMIT_S, Stranded
from nodes.coordinator.requests.request import Request
from tests.nodes.builders import make_submit


def requests(count: int) -> list[Request]:
    return [Request(b"c", make_submit(number), 7) for number in range(count)]


def test_who_waits_too_long_is_due_those_first_that_waited_longest() -> None:
    stranded, (first, second) = Stranded(), requests(2)
    stranded.note(first, is_able=False, now=1.0)
    stranded.note(second, is_able=False, now=2.0)
    # Said again it counts from the first time.
    stranded.note(first, is_able=False, now=9.0)
    assert stranded.due(0.9 + STRANDED_LIMIT_S) == []
    assert stranded.due(1.0 + STRANDED_LIMIT_S) == [first]
    assert stranded.due(2.0 + STRANDED_LIMIT_S) == [first, second]


def test_who_can_be_served_again_or_has_ended_is_not() -> None:
    stranded, (first, second) = Stranded(), requests(2)
    for request in (first, second):
        stranded.note(request, is_able=False, now=0.0)
    stranded.note(first, is_able=True, now=1.0)
    stranded.forget(second)
    stranded.forget(second)
    assert stranded.due(99.0) == []
    assert (first.stranded_at, second.stranded_at) == (None, None)


def test_many_are_due_a_few_at_a_time() -> None:
    stranded = Stranded()
    for request in requests(1000):
        stranded.note(request, is_able=False, now=0.0)
    for wanted in (256, 256, 256, 232, 0):
        due = stranded.due(99.0)
        assert len(due) == wanted
        for request in due:
            stranded.forget(request)
