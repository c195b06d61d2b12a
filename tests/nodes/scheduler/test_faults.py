"""One test a fault that was found and mended; each says what should hold."""

from __future__ import annotations

from nodes.scheduler import LEASE_TOKENS, SchedulerState
from nodes.scheduler.cycle import CycleState
from nodes.scheduler.instructions import ToDraft, leases_of
from nodes.stream import StreamId
from policies.joint import joint_plan
from policies.latency import CostTable, NodeCosts
from tests.nodes.pure_mesh import DRAFT_COSTS, TARGET_COSTS
from tests.nodes.scheduler.script import (
    ONE,
    THREE,
    TWO,
    FixedPolicy,
    answer,
    commit,
    commit_one,
    costs,
    draft_requests,
    guesses,
    length_of,
    make_scheduler,
    open_stream,
)


def test_without_overlap_batches_take_turns() -> None:
    scheduler = make_scheduler("a", policy=FixedPolicy(size=1, overlap=False))
    open_stream(scheduler, ONE, "a")
    open_stream(scheduler, TWO, "a")
    served = []
    for round_id in range(1, 9):
        (stream_id,) = next(iter(scheduler._rounds.values())).stream_ids
        served.append(stream_id)
        answer(scheduler, round_id, "a")
        commit_one(scheduler, stream_id)
    assert served == [ONE, TWO] * 4


def test_a_lease_never_shrinks() -> None:
    scheduler = make_scheduler()
    open_stream(scheduler, ONE)
    ends = [3 + LEASE_TOKENS]
    scheduler.draft_joined("a", DRAFT_COSTS)
    for _ in range(LEASE_TOKENS):
        ends += [e.prefix_len + e.num_tokens for e in leases_of(commit_one(scheduler, ONE))]
    assert ends == sorted(ends)


def test_a_lease_is_not_sent_again_when_nothing_moved() -> None:
    scheduler = make_scheduler("a", "b")
    open_stream(scheduler, ONE)
    open_stream(scheduler, TWO)
    seen = []
    for _ in range(3):
        # Only the second moves.
        seen += [e for e in leases_of(commit_one(scheduler, TWO)) if e.stream_id == ONE]
    assert seen == []


def test_a_stream_whose_draft_gets_ready_is_not_leased_anew_under_the_old_plan() -> None:
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE)
    assert leases_of(scheduler.draft_ready("a", ONE, 1, 0.0)) == []


def test_an_overrun_that_is_forgotten_does_not_come_back_with_a_good_lap() -> None:
    state = CycleState(joint_plan)
    for k in range(100):
        state.lap_done(1.5, 1.0, k * 0.1, ahead=False)
    before = state._excess(70.0)
    assert before < 0.05
    state.lap_done(1.0, 1.0, 70.0, ahead=False)
    assert state._excess(70.0) <= before


def test_rounds_that_queue_at_a_node_are_not_late() -> None:
    """Eight batches at one node whose passes cost their tokens: as predicted, one after another."""
    per_token = NodeCosts(CostTable((1, 32), (0.05, 1.6)), CostTable((32,), (1.0,)))
    scheduler = SchedulerState(FixedPolicy(size=1), TARGET_COSTS)
    scheduler.draft_joined("a", per_token)
    ids = [StreamId(k) for k in range(1, 9)]
    for stream_id in ids:
        open_stream(scheduler, stream_id, "a")
    # 4 passes of 8 tokens, as the node does them all at once: 4 x 0.4 s.
    scheduler.tick(1.55)
    late = [s for s in ids if scheduler.stream(s).draft.is_late]
    assert late == []


def test_a_round_that_another_joined_tells_nothing_of_speed() -> None:
    scheduler = SchedulerState(FixedPolicy(size=1), TARGET_COSTS)
    scheduler.draft_joined("a", costs(0.1))
    open_stream(scheduler, ONE, "a", now=0.0)
    # The second comes half way: the node, which does one after another, is as fast as predicted.
    open_stream(scheduler, TWO, "a", now=0.2)
    answer(scheduler, 1, "a", 0.6)
    assert scheduler._drafts["a"].pace.speed.factor == 1.0


def test_a_stream_whose_draft_is_silent_moves_to_one_that_answers() -> None:
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE, "a")
    scheduler.draft_joined("b", DRAFT_COSTS)
    out = scheduler.tick(1.0)
    moved = any(isinstance(i, ToDraft) and i.node == "b" for i in out)
    for second in range(2, 62):
        out = commit_one(scheduler, ONE, float(second)) + scheduler.tick(float(second))
        moved |= any(isinstance(i, ToDraft) and i.node == "b" for i in out)
    assert moved


def test_a_batch_that_was_held_back_goes_before_who_held_it_back() -> None:
    """Without a tick between the laps of the first, the second is pushed back again and again."""
    policy = FixedPolicy(cycle_s=0.1)
    scheduler = make_scheduler("a", policy=policy)
    for s in (ONE, TWO):
        open_stream(scheduler, s, "a")
    answer(scheduler, 1, "a")
    commit_one(scheduler, ONE)  # round 2: both
    policy.size = 1
    open_stream(scheduler, THREE)
    answer(scheduler, 2, "a")
    from nodes.messages import CommitEntry, CommitReply

    entries = tuple(
        CommitEntry(s, 1, length_of(scheduler, s), 1, 0, 0, "", b"") for s in (ONE, TWO)
    )
    scheduler.committed(CommitReply(0.0, entries, (9, 9)), 1.0)
    now, served = 1.0, []
    for _ in range(10):
        now += 0.06  # laps of 60 ms; the coordinator's ticks fall just beside
        (current,) = scheduler._rounds.values()
        served += current.stream_ids
        answer(scheduler, current.round_id, "a", now)
        commit_one(scheduler, current.stream_ids[0], now)
        if len(scheduler._rounds) > 1:
            break
    assert TWO in served or len(scheduler._rounds) > 1


def test_a_target_that_says_nothing_of_the_end_does_not_leave_a_stream_waiting() -> None:
    scheduler = make_scheduler()
    open_stream(scheduler, ONE, max_tokens=2)
    out = scheduler.committed(commit(ONE, 3, [9, 9]), 0.0)
    assert scheduler.num_streams == 0, out


def test_guesses_of_a_lost_node_are_not_held_against_the_next() -> None:
    scheduler = make_scheduler("a", "b")
    open_stream(scheduler, ONE, "a")
    scheduler.drafted("a", guesses(1, ONE, 3, 1, 1, 1, 1), 0.0)
    scheduler.draft_lost("a", 0.0)
    before = scheduler._drafts["b"].acceptance.alpha
    scheduler.committed(commit(ONE, 3, [9], num_draft_tokens=4), 0.0)
    assert scheduler._drafts["b"].acceptance.alpha == before


def test_a_draft_on_a_slow_link_catches_up_some_day() -> None:
    """Plain decoding runs away: more than 16 tokens in every round trip of catching up."""
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE)
    for _ in range(20):
        commit_one(scheduler, ONE)
    out = scheduler.draft_ready("a", ONE, 1, 0.0)
    asked = []
    for _ in range(8):
        requests = draft_requests(out)
        if not requests:
            out = commit_one(scheduler, ONE)
            continue
        ((_, request),) = requests
        asked.append(request.entries[0].gamma)
        out = []
        for _ in range(20):
            out += commit_one(scheduler, ONE)
        length = request.entries[0].prefix_len + request.entries[0].num_new_tokens
        out += scheduler.drafted("a", guesses(request.round, ONE, length), 0.0)
        out += commit_one(scheduler, ONE)
    assert any(asked), asked


def test_a_stream_that_its_draft_lags_behind_is_given_a_reason() -> None:
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE)
    for _ in range(20):
        commit_one(scheduler, ONE)
    scheduler.draft_ready("a", ONE, 1, 0.0)
    for _ in range(30):
        commit_one(scheduler, ONE)
    scheduler.committed(commit(ONE, length_of(scheduler, ONE), [9], finish_reason="stop"), 0.0)
    assert scheduler.take_figures(ONE)[1] != ""


def test_a_catch_up_that_is_never_answered_makes_a_draft_late() -> None:
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE)
    for _ in range(20):
        commit_one(scheduler, ONE)
    scheduler.draft_ready("a", ONE, 1, 0.0)
    for second in range(60):
        commit_one(scheduler, ONE, float(second))
        scheduler.tick(float(second))
    assert scheduler.stream(ONE).draft.is_late


def test_a_draft_that_joins_is_used_without_any_other_change() -> None:
    """120 tokens on: the stream has been ready on the node all the time."""
    scheduler = make_scheduler()
    open_stream(scheduler, ONE)
    scheduler.draft_joined("a", DRAFT_COSTS)
    scheduler.draft_ready("a", ONE, 1, 0.0)
    out = []
    for _ in range(120):
        out += commit_one(scheduler, ONE)
    assert draft_requests(out)


def test_a_stream_that_is_left_behind_for_good_reason_says_why() -> None:
    """In a batch of the plan, but its node still reads the prompt when it ends."""
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE)
    scheduler.committed(commit(ONE, 3, [9], finish_reason="stop"), 0.0)
    assert scheduler.take_figures(ONE)[1] != ""
