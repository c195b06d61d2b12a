"""The line that says why a stream is decoded without guesses."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nodes.coordinator.status import reasons
from nodes.scheduler import Scheduler
from nodes.scheduler.planning import MODES
from policies.latency import CostTable, NodeCosts
from tests.nodes.scheduler.watched import (
    DRAFT_COSTS,
    ONE,
    TARGET_COSTS,
    admit,
    commit,
    decoding,
    fail,
    make_scheduler,
    ready,
)


def why(scheduler: Scheduler) -> tuple[str, str]:
    """Label and line of the only stream."""
    (stream,) = scheduler.streams.values()
    return reasons.plain(scheduler, stream), reasons.why_plain(scheduler, stream)


def unsure(scheduler: Scheduler) -> Scheduler:
    """Its target has found no guess that is worth it."""
    commit(scheduler, 5, num_offered=3, best_percent=41, pass_s=0.04)
    return scheduler


def late() -> Scheduler:
    scheduler = decoding("d")
    commit(scheduler, 5)
    return scheduler


def reading() -> Scheduler:
    scheduler = make_scheduler("d")
    admit(scheduler)
    scheduler.target_ready(ONE, 1, 0.0)
    return scheduler


def refused() -> Scheduler:
    scheduler = decoding("d")
    fail(scheduler, "d", "full")
    return scheduler


def of_policy() -> Scheduler:
    scheduler = make_scheduler("d", mode=MODES["plain"])
    admit(scheduler)
    ready(scheduler)
    commit(scheduler, 5)
    return scheduler


@pytest.mark.parametrize(
    ("make", "line"),
    [
        # As the tables have it: a pass of one token takes 40 ms, each more 2 ms.
        (
            lambda: unsure(decoding("d")),
            "plain: the best guess had a chance of 0.41, and one more token adds 2.0 ms to a pass "
            "of 40.0 ms",
        ),
        (
            late,
            "plain: no guess of d was there when the pass began; its guesses are right with a "
            "chance of 0.70",
        ),
        (lambda: decoding("d", gamma=0), "draft off: the request sets gamma to 0"),
        (decoding, "draft off: there is no draft node"),
        (reading, "draft off: d is still reading the text"),
        (refused, "draft off: full"),
        (of_policy, "draft off: the coordinator's policy is plain decoding"),
    ],
    ids=["chance", "late", "asked", "no draft node", "reading", "refused", "policy"],
)
def test_the_reason_is_told_with_its_figures(make: Callable[[], Scheduler], line: str) -> None:
    """tests/nodes/telemetry/test_counts.py has the labels."""
    assert why(make())[1] == line


def test_why_a_draft_node_was_given_up_is_told_until_another_one_follows() -> None:
    scheduler = decoding("d", max_tokens=1000)
    for _ in range(70):
        commit(scheduler, 5)
    told = "refused", "draft off: d sent no guesses in time"
    assert why(scheduler) == told
    # It looks for another draft node meanwhile.
    for second in range(10):
        scheduler.tick(float(second))
    assert why(scheduler) == told
    scheduler.draft_joined("e", DRAFT_COSTS)
    assert why(scheduler) == ("reading", "draft off: e is still reading the text")


def test_a_stream_that_had_guesses_needs_no_reason() -> None:
    scheduler = decoding("d")
    commit(scheduler, 5, 6, num_draft_tokens=2, num_accepted_tokens=1, num_offered=2)
    assert why(scheduler)[0] == ""
    # Nor one whose text the target still reads.
    scheduler.target_parked(ONE, 1)
    assert why(scheduler)[0] == ""


def test_what_a_plan_would_cost_for_ever_is_no_error_of_it() -> None:
    """Groups are wanted where guesses are never worth their cost, so no plan has any."""
    scheduler = make_scheduler(mode=MODES["grouped"])
    slow = CostTable((1,), (9.0,))
    scheduler.draft_joined("d", NodeCosts(slow, slow))
    admit(scheduler)
    ready(scheduler)
    for number in range(5):
        commit(scheduler, 5, pass_s=1.25 * TARGET_COSTS.decode.at(1), now=number * 2.0)
        scheduler.tick(number * 2.0)
    errors = scheduler.counts.errors()
    assert (errors["pass"].num_seen, errors["plan"].num_seen) == (5, 0)
