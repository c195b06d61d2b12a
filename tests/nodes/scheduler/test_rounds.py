from __future__ import annotations

import pytest

from nodes.messages import (
    CloseStreamNotice,
    CommitEntry,
    CommitReply,
    DraftEntry,
    DraftReply,
    DraftRequest,
    GuessEntry,
    LeaseEntry,
    OpenStreamRequest,
    VerifyRequest,
)
from nodes.scheduler import LEASE_TOKENS, LEASE_WHILE_OPENING_TOKENS, SchedulerState
from nodes.scheduler.drafting.draft_node import DraftNode
from nodes.scheduler.drafting.pace import Pace
from nodes.scheduler.instructions import (
    Emit,
    Finish,
    Instruction,
    ToDraft,
    ToTarget,
    leases_of,
    open_request,
)
from nodes.scheduler.rounds import Round, Share
from nodes.scheduler.stream import Leased
from nodes.stream import StreamId
from policies.plan import Link
from tests.nodes.builders import make_spec
from tests.nodes.pure_mesh import DRAFT_COSTS, TARGET_COSTS
from tests.nodes.scheduler.script import (
    LONG,
    NO_DRAFT,
    ONE,
    TWO,
    FixedPolicy,
    answer,
    commit,
    commit_one,
    draft_requests,
    guesses,
    length_of,
    make_scheduler,
    open_stream,
    started,
    verify_requests,
)


def make_round(now: float, **times: tuple[float, float]) -> Round:
    """A round that began at now; times: draft and link seconds of its nodes."""
    shares = {}
    for name, (draft_s, link_s) in times.items():
        node = DraftNode(name, DRAFT_COSTS, num_waiting=1)
        shares[name] = Share(node, draft_s, link_s, 1, (ONE,), 1)
    return Round(1, [ONE], shares, now, asked={ONE: 4}, guesses={ONE: (1, 2, 3, 4)})


# -- deadlines -------------------------------------------------------------------------------------


def test_a_deadline_is_6_times_what_the_slowest_node_should_take_but_not_short() -> None:
    assert make_round(2.0, a=(0.01, 0.02)).deadline == 2.25
    slow = make_round(2.0, a=(0.2, 0.3), b=(0.1, 0.1))
    assert slow.deadline == pytest.approx(2.0 + 6 * 0.5)
    slow.drop_share("a")
    assert slow.deadline == pytest.approx(2.0 + 6 * 0.2)
    # Rounds that the node does beside it come first, at the worst.
    slow.share_node("b", 3)
    slow.share_node("b", 2)
    slow.share_node("a", 9)
    assert slow.deadline == pytest.approx(2.0 + 6 * 3 * 0.2)


def test_a_node_is_waited_for_until_it_is_dropped_once() -> None:
    current = make_round(0.0, a=(0.1, 0.1), b=(0.1, 0.1))
    a, b = current.shares["a"].node, current.shares["b"].node
    assert current.drop_share("a") is not None
    assert current.drop_share("a") is None
    assert (a.num_waiting, b.num_waiting) == (0, 1)
    current.drop_all()
    assert (b.num_waiting, current.shares) == (0, {})


def test_a_nodes_speed_is_learnt_from_rounds_it_did_alone() -> None:
    alone = make_round(1.0, a=(0.2, 0.5))
    node = alone.shares["a"].node
    alone.answered("a", 1.9)
    # 0.4 s of drafting instead of 0.2.
    assert node.pace.speed.factor == pytest.approx(2**node.pace.speed.rate)
    beside = make_round(2.0, a=(0.2, 0.5))
    beside.shares["a"].node = node
    beside.share_node("a", 2)
    beside.answered("a", 9.0)
    beside.answered("b", 9.0)
    assert node.pace.speed.factor == pytest.approx(2**node.pace.speed.rate)


def test_what_a_node_says_it_took_parts_its_speed_from_its_way() -> None:
    told = make_round(1.0, a=(0.2, 0.5))
    node = told.shares["a"].node
    told.answered("a", 2.3, draft_s=0.4)
    assert node.pace.speed.factor == pytest.approx(2**node.pace.speed.rate)
    # 0.9 s on the way instead of 0.5.
    assert node.pace.detour_s == pytest.approx(0.1 * 0.4)
    # It cannot have taken longer than the whole round.
    liar = make_round(1.0, a=(0.2, 0.5))
    node = liar.shares["a"].node
    liar.answered("a", 1.4, draft_s=9.0)
    assert node.pace.speed.factor == pytest.approx(2**node.pace.speed.rate)
    assert node.pace.detour_s == 0.0
    assert node.rtt_s == 0.0


def test_guesses_that_were_not_made_cost_a_node_one_step() -> None:
    """It stops at the second guess of eight: two steps, whatever it could have taken."""
    stopped = make_round(1.0, a=(0.8, 0.5))
    stopped.asked, stopped.guesses = {ONE: 8}, {ONE: (1,)}
    node = stopped.shares["a"].node
    stopped.answered("a", 1.5 + 0.2)
    assert node.pace.speed.factor == pytest.approx(1.0)
    # A stream that the node left out tells nothing.
    silent = make_round(1.0, a=(0.8, 0.5))
    silent.guesses = {}
    silent.answered("a", 9.0)
    assert silent.shares == {}


# -- a round and what may come between -------------------------------------------------------------


def test_a_round_drafts_verifies_and_commits() -> None:
    scheduler = make_scheduler("a")
    out = open_stream(scheduler, ONE, "a")
    request = DraftRequest(1, (DraftEntry(ONE, 1, 3, 0, 4, 0),), ())
    assert draft_requests(out) == [("a", request)]
    verify = VerifyRequest(1, (GuessEntry(ONE, 1, 3, 2),), (8, 9))
    assert scheduler.drafted("a", guesses(1, ONE, 3, 8, 9), 0.1) == [ToTarget(verify)]
    out = scheduler.committed(commit(ONE, 3, [8, 4], num_draft_tokens=2), 0.2)
    assert out[0] == Emit(ONE, 0, (8, 4), b"x", 2, 1)
    # The draft node is told of exactly what it does not know yet.
    request = DraftRequest(2, (DraftEntry(ONE, 1, 3, 2, 4, 0),), (8, 4))
    assert draft_requests(out) == [("a", request)]
    out = answer(scheduler, 2, "a", 0.3)
    assert verify_requests(out) == [VerifyRequest(2, (GuessEntry(ONE, 1, 5, 0),), ())]
    out = scheduler.committed(commit(ONE, 5, [6], finish_reason="stop"), 0.4)
    closed = ToDraft("a", CloseStreamNotice(ONE, 1))
    assert out == [Emit(ONE, 2, (6,), b"x", is_last=True), closed, Finish(ONE, "stop")]
    figures, reason = scheduler.take_figures(ONE)
    assert (figures.num_rounds, figures.num_plain_steps) == (2, 0)
    assert (figures.num_draft_tokens, figures.num_accepted_tokens) == (2, 1)
    assert reason == ""
    assert scheduler.num_streams == 0


def test_guesses_of_several_drafts_are_verified_together() -> None:
    scheduler = make_scheduler("a", "b")
    open_stream(scheduler, ONE, "a")
    open_stream(scheduler, TWO, "b")
    answer(scheduler, 1, "a")
    out = commit_one(scheduler, ONE)
    assert [(node, r.entries[0].stream_id) for node, r in draft_requests(out)] == [
        ("a", ONE),
        ("b", TWO),
    ]
    assert scheduler.drafted("b", guesses(2, TWO, 3, 7), 0.0) == []
    (verify,) = verify_requests(scheduler.drafted("a", guesses(2, ONE, 4, 5, 6), 0.0))
    assert verify.entries == (GuessEntry(ONE, 1, 4, 2), GuessEntry(TWO, 1, 3, 1))
    assert verify.draft_token_ids == (5, 6, 7)


def test_guesses_after_another_prefix_are_left_out() -> None:
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE, "a")
    reply = DraftReply(1, (GuessEntry(TWO, 1, 3, 1), GuessEntry(ONE, 1, 2, 1)), (8, 9))
    (verify,) = verify_requests(scheduler.drafted("a", reply, 0.0))
    assert verify == VerifyRequest(1, (GuessEntry(ONE, 1, 3, 0),), ())
    assert scheduler.drafted("b", reply, 0.0) == []


def test_a_late_draft_is_left_behind_and_its_stream_takes_a_plain_step() -> None:
    scheduler = make_scheduler("a")
    assert scheduler.next_deadline() is None
    open_stream(scheduler, ONE, "a")
    deadline = scheduler.next_deadline()
    assert deadline == 0.25
    assert scheduler.tick(deadline - 0.01) == []
    verify = VerifyRequest(1, (GuessEntry(ONE, 1, 3, 0),), ())
    assert scheduler.tick(deadline) == [ToTarget(verify)]
    assert scheduler.next_deadline() is None
    assert scheduler.tick(deadline + 1) == []
    # Its answer tells that it works after all; a second one tells nothing.
    assert scheduler.drafted("a", guesses(1, ONE, 3, 9), deadline) == []
    assert scheduler.num_stale == 0
    assert scheduler.drafted("a", guesses(1, ONE, 3, 9), deadline) == []
    assert scheduler.num_stale == 1


def test_guesses_that_are_there_are_verified_when_another_node_is_late() -> None:
    scheduler = make_scheduler("a", "b")
    open_stream(scheduler, ONE, "a")
    answer(scheduler, 1, "a")
    open_stream(scheduler, TWO, "b")
    commit_one(scheduler, ONE, 1.0)
    scheduler.drafted("a", guesses(2, ONE, 4, 5, 6), 1.0)
    (verify,) = verify_requests(scheduler.tick(1.3))
    assert verify == VerifyRequest(2, (GuessEntry(ONE, 1, 4, 2), GuessEntry(TWO, 1, 3, 0)), (5, 6))
    # Only the node that was late is done without, at once where another is there.
    entries = (CommitEntry(ONE, 1, 4, 1, 2, 0, "", b""), CommitEntry(TWO, 1, 3, 1, 0, 0, "", b""))
    out = scheduler.committed(CommitReply(0.0, entries, (9, 9)), 1.4)
    assert started(out) == {3: [ONE]}
    assert leases_of(out) == [LeaseEntry(TWO, 1, 4, LEASE_WHILE_OPENING_TOKENS, True)]


def test_a_late_draft_is_asked_again_only_after_it_answered() -> None:
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE, "a")
    scheduler.tick(9.0)
    out = commit_one(scheduler, ONE, 9.0)
    assert leases_of(out) == [LeaseEntry(ONE, 1, 4, LEASE_TOKENS)]
    assert leases_of(run_out(scheduler)), "renewed: no answer is there yet"
    scheduler.drafted("a", guesses(1, ONE, 3, 9), 9.0)
    assert started(run_out(scheduler)) == {2: [ONE]}


def test_a_draft_that_keeps_being_late_is_done_without() -> None:
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE, "a")
    for round_id in (1, 2):
        out = scheduler.tick(10.0 * round_id)
        assert ToDraft("a", CloseStreamNotice(ONE, 1)) not in out
        commit_one(scheduler, ONE)
        scheduler.drafted("a", guesses(round_id, ONE, 3), 0.0)
        assert started(run_out(scheduler)) == {round_id + 1: [ONE]}
    out = scheduler.tick(30.0)
    assert ToDraft("a", CloseStreamNotice(ONE, 1)) in out
    assert len(verify_requests(out)) == 1
    length = length_of(scheduler, ONE)
    scheduler.committed(commit(ONE, length, [9], finish_reason="stop"), 40.0)
    assert scheduler.take_figures(ONE)[1] == "draft off: a was late 3 times"


def test_a_stream_of_a_late_draft_moves_to_one_that_answers() -> None:
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE, "a")
    scheduler.draft_joined("b", DRAFT_COSTS)
    out = scheduler.tick(10.0)
    assert ToDraft("a", CloseStreamNotice(ONE, 1)) in out
    moved = make_spec(ONE, max_tokens=LONG, generation=2)
    assert ToDraft("b", open_request(moved)) in out


def five_on_one_of_two_nodes(medium: str) -> SchedulerState:
    """Five streams in a round of a, and b, which has joined since."""
    scheduler = SchedulerState(FixedPolicy(gamma=4), TARGET_COSTS)
    link = Link(medium=medium)
    scheduler.draft_joined("a", DRAFT_COSTS, link)
    for number in range(1, 6):
        open_stream(scheduler, StreamId(number), "a")
    answer(scheduler, 1, "a")
    commit_one(scheduler, ONE)
    scheduler.draft_joined("b", DRAFT_COSTS, link)
    return scheduler


@pytest.mark.parametrize(("medium", "num_moved"), [("", 5), ("cell", 0)])
def test_a_crowd_does_not_leave_a_late_node_at_once_where_their_texts_share_a_medium(
    medium: str, num_moved: int
) -> None:
    """They wait for it to answer, and are decoded plainly meanwhile."""
    scheduler = five_on_one_of_two_nodes(medium)
    ((number, current),) = scheduler._rounds.items()
    assert len(current.stream_ids) == 5
    out = scheduler.tick(10.0)
    opened = [i.message for i in out if isinstance(i, ToDraft) and i.node == "b"]
    assert len([m for m in opened if isinstance(m, OpenStreamRequest)]) == num_moved
    streams = scheduler.streams()
    late = [s for s in streams if s.draft is not None and s.draft.is_late]
    assert len(late) == 5 - num_moved
    made = [(s.spec.stream_id, len(s.token_ids)) for s in late]
    entries = tuple(GuessEntry(stream_id, 1, length, 0) for stream_id, length in made)
    scheduler.drafted("a", DraftReply(number, entries, ()), 10.1)
    assert not any(s.draft.is_late for s in late if s.draft is not None)
    assert {s.draft.node for s in late if s.draft is not None} <= {"a"}


def test_a_node_that_says_nothing_is_left_by_a_few_streams_at_a_time() -> None:
    scheduler = five_on_one_of_two_nodes("cell")
    scheduler.tick(10.0)
    # Nor do new ones go to it.
    scheduler.admit(make_spec(9), None)
    newcomer = scheduler.stream(StreamId(9))
    assert newcomer is not None
    assert newcomer.draft is not None
    assert newcomer.draft.node == "b"
    scheduler.draft_ready("b", StreamId(9), 1, 10.0)
    moved = []
    for _ in range(3):
        out: list[Instruction] = []
        for number in range(1, 6):
            for _ in range(20):
                out += commit_one(scheduler, StreamId(number))
        said = [i.message for i in out if isinstance(i, ToDraft) and i.node == "b"]
        opened = [m for m in said if isinstance(m, OpenStreamRequest)]
        moved.append(len(opened))
        for message in opened:
            scheduler.draft_ready("b", StreamId(message.stream_id), message.generation, 10.0)
    assert max(moved) == 2
    assert sum(moved) == 5


def run_out(scheduler: SchedulerState) -> list[Instruction]:
    """Let the target commit what the first stream has a lease of; returns the last answer."""
    stream = scheduler.stream(ONE)
    assert stream is not None
    assert isinstance(stream.phase, Leased)
    left = stream.phase.end - len(stream.token_ids)
    return scheduler.committed(commit(ONE, len(stream.token_ids), [9] * left), 9.0)


def test_a_draft_lost_in_mid_round_lets_the_round_go_on_at_once() -> None:
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE, "a")
    out = scheduler.draft_lost("a", 0.1)
    assert out == [ToTarget(VerifyRequest(1, (GuessEntry(ONE, 1, 3, 0),), ()))]
    out = commit_one(scheduler, ONE, 0.2)
    assert leases_of(out) == [LeaseEntry(ONE, 1, 4, LEASE_TOKENS)]
    assert scheduler.draft_lost("a", 0.3) == []
    scheduler.committed(commit(ONE, 4, [9], finish_reason="stop"), 0.4)
    assert scheduler.take_figures(ONE)[1] == NO_DRAFT


def test_a_stream_that_its_draft_gives_up_in_mid_round_takes_a_plain_step() -> None:
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE, "a")
    assert scheduler.draft_failed("a", ONE, 1, "out of step", 0.0) == []
    # The node still answers the round, without the stream.
    (verify,) = verify_requests(answer(scheduler, 1, "a"))
    assert verify.entries == (GuessEntry(ONE, 1, 3, 0),)
    out = commit_one(scheduler, ONE)
    assert leases_of(out) == [LeaseEntry(ONE, 1, 4, LEASE_TOKENS)]


def test_who_waited_for_the_round_of_a_stream_that_fails_begins() -> None:
    scheduler = make_scheduler("a", policy=FixedPolicy(size=1, overlap=False))
    open_stream(scheduler, ONE, "a")
    assert started(open_stream(scheduler, TWO, "a")) == {}
    assert started(scheduler.target_failed(ONE, 1, "its grammar cannot go on", 0.0)) == {2: [TWO]}


def test_rounds_that_are_under_way_at_once_do_not_each_correct_the_same_error() -> None:
    """Of many targets: a node takes twice as long as was thought, its way 10 ms longer."""
    pace = Pace()
    for _ in range(20):
        # Forty at once, all predicted before the first of them is back.
        factor, detour_s = pace.speed.factor, pace.detour_s
        for _ in range(40):
            pace.speed.observe(0.1, 0.05 * factor, factor)
            pace.way_seen(0.03, 0.02 + detour_s, 0.02, detour_s)
    assert pace.speed.factor == pytest.approx(2.0, rel=0.01)
    assert pace.detour_s == pytest.approx(0.01, rel=0.01)
