from dataclasses import replace

import pytest

from airdraft.nodes.telemetry.history import KEPT_S, STEP_S, History, Point
from airdraft.nodes.telemetry.status import Status
from tests.nodes.status_examples import COUNTS, STATUS


def after(second: float, num_tokens: int, made: int = 0, accepted: int = 0) -> Status:
    """A status of so many seconds later, with so much more in its counters."""
    counts = replace(
        COUNTS,
        tokens={**COUNTS.tokens, "plain": num_tokens},
        made=(made, *COUNTS.made[1:]),
        accepted=(accepted, *COUNTS.accepted[1:]),
    )
    target = replace(STATUS.targets[0], counts=counts)
    return replace(STATUS, at_s=second, targets=(target,))


@pytest.mark.parametrize(
    ("statuses", "points"),
    [
        # What came between two statuses.
        (
            (after(0, 0), after(1, 10), after(3, 50, 8, 6)),
            [Point(1, 10.0, None), Point(3, 20.0, 0.75)],
        ),
        # What comes sooner than a step is added to the next.
        (
            (after(0, 0), after(0, 0), after(STEP_S / 2, 10), after(STEP_S, 30)),
            [Point(STEP_S, 30 / STEP_S, None)],
        ),
        # Counters that shrank are no negative speed.
        ((after(0, 90), after(1, 10)), [Point(1, 0.0, None)]),
        # Those of a forgotten target are missing: the rest may grow by any share.
        ((after(0, 0, 10, 9), after(1, 0, 12, 4)), [Point(1, 0.0, None)]),
        ((after(0, 0, 10, 2), after(1, 0, 12, 7)), [Point(1, 0.0, None)]),
    ],
    ids=["between", "sooner", "shrunk", "fewer accepted", "more accepted"],
)
def test_points_are_what_came_between_two_statuses(
    statuses: tuple[Status, ...], points: list[Point]
) -> None:
    history = History()
    for status in statuses:
        history.add(status)
    assert list(history) == points


def test_no_more_than_five_minutes_are_kept() -> None:
    history = History()
    for second in range(1000):
        history.add(after(second, 2 * second))
    assert len(list(history)) == KEPT_S / STEP_S
    assert {point.tokens_per_s for point in history} == {2.0}


def test_a_coordinator_that_starts_anew_begins_anew() -> None:
    history = History()
    for second in range(5):
        history.add(after(second, 100 * second))
    history.add(replace(after(1, 3), epoch="other"))
    assert list(history) == []
    history.add(replace(after(2, 7), epoch="other"))
    assert [point.tokens_per_s for point in history] == [4.0]
