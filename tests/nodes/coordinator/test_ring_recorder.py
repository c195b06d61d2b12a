"""What is recorded: of single steps of a scheduler, and of whole runs."""

from __future__ import annotations

import pytest

from nodes.coordinator.tracing import RingRecorder
from nodes.scheduler import Scheduler
from nodes.scheduler.planning import MODES
from nodes.telemetry.trace.records import (
    FollowRecord,
    GuessRecord,
    PassStream,
    PlanRecord,
    Record,
    from_line,
)
from nodes.telemetry.trace.ring import Ring
from tests.nodes.scheduler.watched import (
    DRAFT_COSTS,
    ONE,
    PASS_S,
    admit,
    commit,
    decoding,
    fail,
    guess,
    make_scheduler,
    ready,
)


def recorded(scheduler: Scheduler, now: float = 0.0) -> Ring:
    ring = Ring()
    scheduler.record(RingRecorder(ring, "t", lambda: 0.002), now)
    return ring


def records_of(ring: Ring) -> list[Record]:
    return [from_line(line) for line in ring.after(0, 10**9).lines.splitlines()]


def follows(ring: Ring) -> list[tuple[float, int, str, str]]:
    return [
        (record.at_s, record.stream_id, record.node, record.reason)
        for record in records_of(ring)
        if isinstance(record, FollowRecord)
    ]


# -- single steps ---------------------------------------------------------------------------------


def test_a_message_with_guesses_and_the_pass_that_took_some() -> None:
    scheduler = decoding("d")
    ring = recorded(scheduler)
    guess(scheduler, "d", 4, now=1.0)
    told = {"num_offered": 4, "num_late": 1, "best_percent": 77}
    commit(scheduler, 5, 6, now=2.0, num_draft_tokens=3, num_accepted_tokens=1, **told)
    _, message, verified = records_of(ring)
    assert message == GuessRecord(1.0, "t", "d", 1, 4)
    assert (verified.at_s, verified.pass_s, verified.rtt_s) == (2.0, PASS_S, 0.002)
    # A pass of four tokens by the tables.
    assert verified.predicted_s == pytest.approx(0.046)
    part = PassStream(1, 2, 3, 1, num_offered=4, num_late=1, best_percent=77)
    assert verified.streams == (part,)


def test_who_follows_at_the_beginning_is_told_first() -> None:
    scheduler = decoding("d")
    assert follows(recorded(scheduler, 5.0)) == [(5.0, 1, "d", "")]


def test_a_draft_node_follows_once_it_has_read_the_text() -> None:
    scheduler = make_scheduler("d")
    ring = recorded(scheduler)
    admit(scheduler)
    # What is of a following before is none.
    scheduler.draft_ready("d", ONE, 99)
    assert follows(ring) == []
    ready(scheduler)
    scheduler.tick(2.0)
    assert follows(ring) == [(2.0, 1, "d", "")]


def test_a_draft_node_that_gives_up_is_told_with_its_reason() -> None:
    scheduler = decoding("d")
    ring = recorded(scheduler)
    fail(scheduler, "d", "full")
    scheduler.tick(3.0)
    (_, (at_s, stream_id, node, reason)) = follows(ring)
    assert (at_s, stream_id, node) == (3.0, 1, "")
    assert "full" in reason


def test_a_draft_node_that_dies_follows_nobody_until_another_one_does() -> None:
    scheduler = decoding("d")
    scheduler.draft_joined("e", DRAFT_COSTS)
    ring = recorded(scheduler)
    scheduler.draft_lost("d")
    scheduler.tick(3.0)
    ready(scheduler)
    scheduler.tick(4.0)
    told = [(at_s, node) for at_s, _, node, _ in follows(ring)]
    assert told == [(0.0, "d"), (3.0, ""), (4.0, "e")]


@pytest.mark.parametrize("way", ["finish", "cancel", "release"])
def test_who_followed_a_stream_that_ended_follows_it_no_longer(way: str) -> None:
    scheduler = decoding("d")
    ring = recorded(scheduler)
    match way:
        case "finish":
            commit(scheduler, 5, now=3.0, finish_reason="stop")
        case "cancel":
            scheduler.cancel(ONE)
        case "release":
            scheduler.release(ONE)
    scheduler.tick(3.0)
    assert follows(ring)[-1][:3] == (3.0, 1, "")


def test_a_plan_is_told_with_what_open_flow_would_take() -> None:
    scheduler = make_scheduler("d", mode=MODES["grouped"])
    ring = recorded(scheduler)
    admit(scheduler)
    ready(scheduler)
    scheduler.tick(1.0)
    (plan,) = (record for record in records_of(ring) if isinstance(record, PlanRecord))
    assert (plan.at_s, plan.is_grouped) == (1.0, True)
    assert plan.batches == scheduler.plan.batches
    made = scheduler.last_made
    assert made is not None
    assert plan.open_price_s == made.open_s
    assert plan.prediction is not None
    assert plan.prediction.price_s == made.grouped_s
    # Whoever begins later is told the same first.
    again = records_of(recorded(scheduler, 2.0))[0]
    assert (again.at_s, again.batches) == (2.0, plan.batches)


def test_nothing_is_told_once_recording_is_over() -> None:
    scheduler = decoding("d")
    ring = recorded(scheduler)
    scheduler.record(None, 0.0)
    before = ring.last
    guess(scheduler, "d", 4)
    commit(scheduler, 5)
    assert ring.last == before
