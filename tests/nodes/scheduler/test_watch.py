"""What a scheduler tells of itself, and that telling changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nodes.messages import CommitEntry, CommitReply
from nodes.scheduler import SchedulerState
from nodes.scheduler.watching.stage_errors import ErrorFigures
from nodes.trace.recorder import RingRecorder
from nodes.trace.records import (
    DraftRecord,
    GivenUpRecord,
    LapRecord,
    PassRecord,
    PassStream,
    PlanRecord,
    Record,
    RoundNode,
    RoundRecord,
    RoundStream,
    TrialRecord,
    TrialResultRecord,
    VerifyRecord,
    from_line,
)
from nodes.trace.ring import Ring
from policies.plan import Batch, Link
from tests.nodes.builders import make_spec
from tests.nodes.pure_mesh import DRAFT_COSTS, TARGET_COSTS
from tests.nodes.scheduler.script import (
    ONE,
    TWO,
    FixedPolicy,
    answer,
    commit,
    commit_one,
    draft_requests,
    guesses,
    make_scheduler,
    open_stream,
)

RTT_S = 0.02


def recorded(scheduler: SchedulerState, now: float = 0.0) -> Ring:
    ring = Ring()
    scheduler.record(RingRecorder(ring, "t", lambda: RTT_S), now)
    return ring


def taken(ring: Ring, *kinds: type[Record]) -> list[Any]:
    """Records of these kinds; all are forgotten."""
    lines = ring.after(0, 10**9).lines.splitlines()
    ring.clear()
    return [r for r in map(from_line, lines) if not kinds or type(r) in kinds]


def test_a_round_is_told_step_by_step() -> None:
    scheduler = make_scheduler("a", policy=FixedPolicy(cycle_s=2.0))
    scheduler.draft_link("a", Link(rtt_s=0.01))
    ring = recorded(scheduler)
    open_stream(scheduler, ONE, "a", now=1.0)
    *_, plan, begun = taken(ring, PlanRecord, RoundRecord)
    assert (plan.at_s, plan.target, plan.batches) == (1.0, "t", (Batch((1,), (4,)),))
    assert [view.stream_id for view in plan.observation.streams] == [1]
    (share,) = scheduler._rounds[1].shares.values()
    assert share.link_s == 0.01
    node = RoundNode("a", share.draft_s, share.link_s, (1,))
    assert begun == RoundRecord(1.0, "t", 1, 1, 2.0, (RoundStream(1, 4),), (node,))
    reply = replace(guesses(1, ONE, 3, 7, 8), num_wasted=2, draft_us=300_000)
    scheduler.drafted("a", reply, 1.5)
    drafted, verify = taken(ring)
    # Three steps of four: two guesses, and the one that was kept back.
    made_s = pytest.approx(0.75 * share.draft_s)
    assert drafted == DraftRecord(1.5, "t", 1, "a", 0.3, made_s, 0.01, 0, 2)
    predicted_s = scheduler._learning.predicted_pass_s(3, 3.0)
    assert verify == VerifyRecord(1.5, "t", 1, 3, predicted_s)
    assert predicted_s > 0
    commits = commit(ONE, 3, [7, 9], num_draft_tokens=2, pass_s=0.1)
    predicted_s = scheduler._learning.predicted_pass_s(3 + 5, 3.0)
    scheduler.committed(replace(commits, num_read_tokens=5), 2.0)
    done, lap, _next = taken(ring)
    streams = (PassStream(1, 1, 2, 2, 1),)
    assert done == PassRecord(2.0, "t", 0.1, pytest.approx(predicted_s), RTT_S, streams, 5)
    assert lap == LapRecord(2.0, "t", 1, 1.0, 2.0)


def test_errors_are_kept_without_a_recorder() -> None:
    scheduler = make_scheduler("a", policy=FixedPolicy(cycle_s=2.0))
    scheduler.draft_link("a", Link(rtt_s=0.1))
    open_stream(scheduler, ONE, "a", now=1.0)
    (share,) = scheduler._rounds[1].shares.values()
    draft_s = share.draft_s
    scheduler.drafted(
        "a", replace(guesses(1, ONE, 3, 7, 8, 9, 10), draft_us=round(1e6 * (2 * draft_s))), 1.5
    )
    predicted_s = scheduler._learning.predicted_pass_s(5, 3.0)
    reply = commit(ONE, 3, [7, 9], num_draft_tokens=4, pass_s=3 * predicted_s)
    scheduler.committed(reply, 2.0)
    figures = scheduler.stage_errors.figures()
    link_error = (0.5 - 2 * draft_s - 0.1) / 0.1
    assert figures["draft"] == ErrorFigures(1, pytest.approx(1.0), pytest.approx(1.0))
    assert figures["link"].median == pytest.approx(link_error)
    assert figures["pass"].median == pytest.approx(2.0)
    assert figures["lap"].median == pytest.approx(0.5)


def test_a_node_cannot_have_taken_longer_than_its_answer() -> None:
    scheduler = make_scheduler("a")
    scheduler.draft_link("a", Link(rtt_s=0.1))
    ring = recorded(scheduler)
    open_stream(scheduler, ONE, "a", now=1.0)
    scheduler.drafted("a", replace(guesses(1, ONE, 3, 7), draft_us=99_000_000), 1.5)
    (record,) = taken(ring, DraftRecord)
    assert record.draft_s == 0.5
    # Nothing was left for the way: that is not known then.
    assert scheduler.stage_errors.figures()["link"] == ErrorFigures()


def test_a_node_that_says_nothing_teaches_no_stage() -> None:
    scheduler = make_scheduler("a")
    scheduler.draft_link("a", Link(rtt_s=0.1))
    open_stream(scheduler, ONE, "a", now=1.0)
    scheduler.drafted("a", guesses(1, ONE, 3, 7), 1.5)
    figures = scheduler.stage_errors.figures()
    assert figures["draft"] == figures["link"] == ErrorFigures()


def test_who_guesses_less_is_judged_by_the_steps_it_made() -> None:
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE, "a", now=1.0)
    (share,) = scheduler._rounds[1].shares.values()
    node, first = share.node, share.num_first
    two_steps_s = node.draft_s([2], first) / node.draft_s([4], first) * share.draft_s
    scheduler.drafted("a", replace(guesses(1, ONE, 3, 7), draft_us=round(1e6 * (two_steps_s))), 1.5)
    assert scheduler.stage_errors.figures()["draft"].median == pytest.approx(0.0)


def test_leased_streams_are_told_as_such_and_stale_entries_are_not() -> None:
    scheduler = make_scheduler()
    ring = recorded(scheduler)
    open_stream(scheduler, ONE)
    entries = (
        CommitEntry(ONE, 1, 3, 1, 0, 0, "", b"x"),
        # Of another place, another generation, and nobody's.
        CommitEntry(ONE, 1, 2, 1, 0, 0, "", b"x"),
        CommitEntry(ONE, 2, 3, 1, 0, 0, "", b"x"),
        CommitEntry(TWO, 1, 3, 1, 0, 0, "", b"x"),
    )
    scheduler.committed(CommitReply(0.1, entries, (9,) * 4), 1.0)
    (record,) = taken(ring, PassRecord)
    assert record.streams == (PassStream(1, 0, 1),)


def test_late_and_lost_nodes_are_told() -> None:
    scheduler = make_scheduler("a")
    ring = recorded(scheduler)
    open_stream(scheduler, ONE, "a")
    deadline = scheduler.next_deadline()
    assert deadline is not None
    scheduler.tick(deadline)
    (late,) = taken(ring, GivenUpRecord)
    assert late == GivenUpRecord(deadline, "t", 1, ("a",))
    scheduler = make_scheduler("a")
    ring = recorded(scheduler)
    open_stream(scheduler, ONE, "a")
    scheduler.draft_lost("a", 9.0)
    (lost,) = taken(ring, GivenUpRecord)
    assert lost == GivenUpRecord(9.0, "t", 1, ("a",))


def test_trials_are_told() -> None:
    scheduler = SchedulerState(FixedPolicy(), TARGET_COSTS, trials=True)
    scheduler.draft_joined("a", DRAFT_COSTS, Link(rtt_s=0.01))
    ring = recorded(scheduler)
    out = open_stream(scheduler, ONE, "a", now=1.0)
    ((_, request),) = draft_requests(out)
    (begun,) = taken(ring, TrialRecord)
    assert begun == TrialRecord(1.0, "t", request.round, "a", (1,))
    scheduler.drafted("a", replace(guesses(request.round, ONE, 3, 9, 5), draft_us=200_000), 2.0)
    assert taken(ring) == [DraftRecord(2.0, "t", request.round, "a", 0.2, 0.0, 0.01)]
    commit_one(scheduler, ONE, 3.0)
    commit_one(scheduler, ONE, 4.0)
    (result,) = taken(ring, TrialResultRecord)
    assert result == TrialResultRecord(4.0, "t", 1, 2, 1)


def test_who_begins_is_told_the_plan_in_force_and_who_has_ceased_nothing() -> None:
    scheduler = make_scheduler()
    open_stream(scheduler, ONE)
    ring = recorded(scheduler, now=5.0)
    (plan,) = taken(ring)
    assert (plan.at_s, plan.plain) == (5.0, (1,))
    assert plan.policy == scheduler.plan_in_force.policy
    scheduler.record(None, 6.0)
    commit_one(scheduler, ONE, 7.0)
    assert taken(ring) == []


def test_batches_are_numbered_as_in_the_plan() -> None:
    scheduler = make_scheduler("a", policy=FixedPolicy(size=1))
    ring = recorded(scheduler)
    open_stream(scheduler, ONE, "a")
    open_stream(scheduler, TWO, "a")
    answer(scheduler, 1, "a")
    commit_one(scheduler, ONE)
    batches = {record.streams[0].stream_id: record.batch for record in taken(ring, RoundRecord)}
    assert batches == {1: 1, 2: 2}


def test_prompts_that_are_read_beside_are_predicted() -> None:
    """A pass by the tokens it read, a lap by whether there is something to read as it starts."""
    scheduler = make_scheduler("a", policy=FixedPolicy(cycle_s=2.0, verify_s=1e-6))
    ring = recorded(scheduler)
    scheduler.admit(make_spec(TWO, prompt=tuple(range(1, 101))), None)
    open_stream(scheduler, ONE, "a", now=1.0)
    (begun,) = taken(ring, RoundRecord)
    # One batch, one pass in its lap.
    piece_s = TARGET_COSTS.decode.with_own(50).at(5 + 32) - TARGET_COSTS.decode.with_own(50).at(5)
    assert piece_s > 0
    assert begun.predicted_s == pytest.approx(2.0 + piece_s)
    scheduler.drafted("a", guesses(1, ONE, 3, 7, 8, 9, 10), 1.5)
    expected_s = TARGET_COSTS.decode.at(5 + 32, 103, (5 * 3 + 32 * 50) / 37)
    reply = commit(ONE, 3, [7, 9], num_draft_tokens=4, pass_s=2 * expected_s)
    scheduler.committed(replace(reply, num_read_tokens=32), 2.0)
    assert scheduler.stage_errors.figures()["pass"].median == pytest.approx(1.0)
