from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nodes.messages import (
    CloseStreamNotice,
    CommitEntry,
    CommitReply,
    DraftEntry,
    DraftReply,
    DraftRequest,
    GuessEntry,
    LeaseEntry,
    VerifyRequest,
)
from nodes.scheduler import (
    LEASE_LOW_TOKENS,
    LEASE_TOKENS,
    LEASE_WHILE_OPENING_TOKENS,
    SchedulerState,
)
from nodes.scheduler.instructions import (
    Abort,
    Emit,
    Finish,
    Instruction,
    ToDraft,
    ToTarget,
    leases_of,
    open_request,
)
from nodes.stream import StreamId
from policies.plan import Batch, Observation, Plan
from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.pure_mesh import DRAFT_COSTS, TARGET_COSTS

ONE = StreamId(1)
TWO = StreamId(2)
THREE = StreamId(3)
LONG = 200


@dataclass(slots=True)
class FixedPolicy:
    """Batches of `size` streams that a draft node holds, gamma guesses each; the rest plain."""

    gamma: int = 4
    size: int = 100
    min_cycle_s: float = 0.0
    overlap: bool = True
    seen: list[Observation] = field(default_factory=list)

    def __call__(self, observation: Observation) -> Plan:
        self.seen.append(observation)
        plain = tuple(v.stream_id for v in observation.streams if v.draft is None)
        guessing = [v.stream_id for v in observation.streams if v.draft is not None]
        cuts = [guessing[k : k + self.size] for k in range(0, len(guessing), self.size)]
        return Plan(
            tuple(Batch(tuple(cut), (self.gamma,) * len(cut)) for cut in cuts),
            plain,
            dict.fromkeys(plain, "draft off: no draft node holds it"),
            min_cycle_s=self.min_cycle_s,
            overlap=self.overlap,
        )


def make_scheduler(*drafts: str, policy: FixedPolicy | None = None) -> SchedulerState:
    scheduler = SchedulerState(policy or FixedPolicy(), TARGET_COSTS)
    for draft in drafts:
        scheduler.draft_joined(draft, DRAFT_COSTS)
    return scheduler


def open_stream(
    scheduler: SchedulerState, stream_id: StreamId, node: str = ""
) -> list[Instruction]:
    """Admit a stream and make it ready on its draft node, then on the target."""
    scheduler.admit(make_spec(stream_id, max_tokens=LONG), None)
    if node:
        scheduler.draft_ready(node, stream_id, 1, 0.0)
    return scheduler.target_ready(stream_id, 1, 0.0)


def commit(
    stream_id: StreamId,
    prefix_len: int,
    token_ids: Sequence[int],
    *,
    num_draft_tokens: int = 0,
    finish_reason: str = "",
) -> CommitReply:
    accepted = len(token_ids) - 1 if num_draft_tokens else 0
    entry = CommitEntry(
        stream_id, 1, prefix_len, len(token_ids), num_draft_tokens, accepted, finish_reason, b"x"
    )
    return CommitReply(0.0, (entry,), tuple(token_ids))


def draft_requests(instructions: Sequence[Instruction]) -> list[tuple[str, DraftRequest]]:
    return [
        (i.node, i.message)
        for i in instructions
        if isinstance(i, ToDraft) and isinstance(i.message, DraftRequest)
    ]


def verify_requests(instructions: Sequence[Instruction]) -> list[VerifyRequest]:
    return [
        i.message
        for i in instructions
        if isinstance(i, ToTarget) and isinstance(i.message, VerifyRequest)
    ]


def test_a_stream_is_opened_on_the_target_and_the_least_loaded_draft() -> None:
    scheduler = make_scheduler("a", "b")
    for stream_id, node in ((1, "a"), (2, "b"), (3, "a")):
        spec = make_spec(stream_id)
        opened = open_request(spec)
        assert scheduler.admit(spec, None) == [ToTarget(opened), ToDraft(node, opened)]


def test_a_stream_that_asks_for_gamma_0_takes_no_room_on_a_draft() -> None:
    scheduler = make_scheduler("a")
    assert scheduler.admit(make_spec(), 0) == [ToTarget(open_request(make_spec()))]


def test_plain_streams_decode_on_leases_that_are_renewed_before_they_end() -> None:
    scheduler = make_scheduler()
    out = open_stream(scheduler, ONE)
    assert leases_of(out) == [LeaseEntry(ONE, 1, 3, LEASE_TOKENS)]
    length = len(PROMPT)
    while LEASE_TOKENS - (length - 3) > LEASE_LOW_TOKENS + 1:
        assert leases_of(scheduler.committed(commit(ONE, length, [9]), 0.0)) == []
        length += 1
    out = scheduler.committed(commit(ONE, length, [9]), 0.0)
    assert leases_of(out) == [LeaseEntry(ONE, 1, length + 1, LEASE_TOKENS)]


def test_a_lease_ends_with_the_stream_and_is_not_renewed_there() -> None:
    scheduler = make_scheduler()
    scheduler.admit(make_spec(max_tokens=5), None)
    assert leases_of(scheduler.target_ready(ONE, 1, 0.0)) == [LeaseEntry(ONE, 1, 3, 5)]
    assert scheduler.committed(commit(ONE, 3, [9]), 0.0) == [Emit(ONE, 0, (9,), b"x")]


def test_leases_are_short_while_the_draft_opens_the_stream() -> None:
    scheduler = make_scheduler("a")
    out = open_stream(scheduler, ONE)
    assert leases_of(out) == [LeaseEntry(ONE, 1, 3, LEASE_WHILE_OPENING_TOKENS)]


def test_a_round_drafts_verifies_and_commits() -> None:
    scheduler = make_scheduler("a")
    out = open_stream(scheduler, ONE, "a")
    request = DraftRequest(1, (DraftEntry(ONE, 1, 3, 0, 4),), ())
    assert draft_requests(out) == [("a", request)]
    reply = DraftReply(1, (GuessEntry(ONE, 1, 3, 2),), (8, 9))
    verify = VerifyRequest(1, (GuessEntry(ONE, 1, 3, 2),), (8, 9))
    assert scheduler.drafted("a", reply, 0.1) == [ToTarget(verify)]
    out = scheduler.committed(commit(ONE, 3, [8, 4], num_draft_tokens=2), 0.2)
    assert out[0] == Emit(ONE, 0, (8, 4), b"x")
    # The draft node is told of exactly what it does not know yet.
    request = DraftRequest(2, (DraftEntry(ONE, 1, 3, 2, 4),), (8, 4))
    assert draft_requests(out) == [("a", request)]
    out = scheduler.drafted("a", DraftReply(2, (), ()), 0.3)
    assert verify_requests(out) == [VerifyRequest(2, (GuessEntry(ONE, 1, 5, 0),), ())]
    out = scheduler.committed(commit(ONE, 5, [6], finish_reason="stop"), 0.4)
    closed = ToDraft("a", CloseStreamNotice(ONE, 1))
    assert out == [Emit(ONE, 2, (6,), b"x"), closed, Finish(ONE, "stop")]
    figures, reason = scheduler.take_figures(ONE)
    assert (figures.num_rounds, figures.num_plain_steps) == (2, 0)
    assert (figures.num_draft_tokens, figures.num_accepted_tokens) == (2, 1)
    assert reason == ""
    assert scheduler.num_streams == 0


def test_guesses_of_several_drafts_are_verified_together() -> None:
    scheduler = make_scheduler("a", "b")
    for stream_id, node in ((ONE, "a"), (TWO, "b")):
        scheduler.admit(make_spec(stream_id, max_tokens=LONG), None)
        scheduler.draft_ready(node, stream_id, 1, 0.0)
    scheduler.target_ready(ONE, 1, 0.0)
    scheduler.target_ready(TWO, 1, 0.0)
    scheduler.drafted("a", DraftReply(1, (), ()), 0.0)
    out = scheduler.committed(commit(ONE, 3, [9]), 0.0)
    assert [node for node, _ in draft_requests(out)] == ["a", "b"]
    first = DraftReply(2, (GuessEntry(TWO, 1, 3, 1),), (7,))
    assert scheduler.drafted("b", first, 0.0) == []
    second = DraftReply(2, (GuessEntry(ONE, 1, 4, 2),), (5, 6))
    (verify,) = verify_requests(scheduler.drafted("a", second, 0.0))
    assert verify.entries == (GuessEntry(ONE, 1, 4, 2), GuessEntry(TWO, 1, 3, 1))
    assert verify.draft_token_ids == (5, 6, 7)


def test_a_late_draft_is_left_behind_and_its_stream_takes_a_plain_step() -> None:
    scheduler = make_scheduler("a")
    assert scheduler.next_deadline() is None
    open_stream(scheduler, ONE, "a")
    deadline = scheduler.next_deadline()
    assert deadline is not None
    assert deadline >= 0.25
    assert scheduler.tick(deadline - 0.01) == []
    verify = VerifyRequest(1, (GuessEntry(ONE, 1, 3, 0),), ())
    assert scheduler.tick(deadline) == [ToTarget(verify)]
    assert scheduler.next_deadline() is None
    assert scheduler.tick(deadline + 1) == []
    late = DraftReply(1, (GuessEntry(ONE, 1, 3, 1),), (9,))
    assert scheduler.drafted("a", late, deadline) == []
    assert scheduler.num_stale == 1


def test_a_draft_lost_in_mid_round_lets_the_round_go_on_at_once() -> None:
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE, "a")
    out = scheduler.draft_lost("a", 0.1)
    assert out == [ToTarget(VerifyRequest(1, (GuessEntry(ONE, 1, 3, 0),), ()))]
    out = scheduler.committed(commit(ONE, 3, [9]), 0.2)
    assert leases_of(out) == [LeaseEntry(ONE, 1, 4, LEASE_TOKENS)]
    assert scheduler.draft_lost("a", 0.3) == []
    scheduler.committed(commit(ONE, 4, [9], finish_reason="stop"), 0.4)
    assert scheduler.take_figures(ONE)[1] == "draft off: no draft node holds it"
    assert scheduler.take_figures(ONE)[1] == ""


def test_a_stream_of_a_lost_draft_moves_to_another_with_all_its_tokens() -> None:
    scheduler = make_scheduler("a", "b")
    open_stream(scheduler, ONE, "a")
    scheduler.drafted("a", DraftReply(1, (), ()), 0.0)
    scheduler.committed(commit(ONE, 3, [9]), 0.0)
    out = scheduler.draft_lost("a", 0.1)
    moved = make_spec(1, max_tokens=LONG, generation=2, token_ids=(*PROMPT, 9))
    assert out[0] == ToDraft("b", open_request(moved))
    assert len(verify_requests(out)) == 1
    # What the lost node still said, and what the new one said of another generation, is counted.
    assert scheduler.draft_ready("a", ONE, 1, 0.2) == []
    assert scheduler.draft_ready("b", ONE, 1, 0.2) == []
    assert scheduler.num_stale == 2


def test_a_draft_that_joins_takes_the_streams_that_have_none() -> None:
    scheduler = make_scheduler()
    open_stream(scheduler, ONE)
    assert [type(i) for i in scheduler.draft_joined("a", DRAFT_COSTS)] == [ToDraft]
    scheduler.draft_ready("a", ONE, 1, 0.0)
    # It runs its lease out first.
    for length in range(3, 3 + LEASE_TOKENS - 1):
        assert draft_requests(scheduler.committed(commit(ONE, length, [9]), 0.0)) == []
    last = 3 + LEASE_TOKENS - 1
    ((node, request),) = draft_requests(scheduler.committed(commit(ONE, last, [9]), 0.0))
    assert node == "a"
    assert request.new_token_ids == (9,) * LEASE_TOKENS


def test_a_draft_that_refuses_is_not_asked_again_and_its_reason_is_kept() -> None:
    scheduler = make_scheduler("a", "b")
    scheduler.admit(make_spec(max_tokens=LONG), None)
    (moved,) = scheduler.draft_failed("a", ONE, 1, "a is full", 0.0)
    assert isinstance(moved, ToDraft)
    assert moved.node == "b"
    assert scheduler.draft_failed("b", ONE, 2, "b is full", 0.0) == []
    assert scheduler.draft_failed("b", ONE, 2, "b is full", 0.0) == []
    assert scheduler.num_stale == 1
    out = scheduler.target_ready(ONE, 1, 0.0)
    assert leases_of(out) == [LeaseEntry(ONE, 1, 3, LEASE_TOKENS)]
    scheduler.committed(commit(ONE, 3, [9], finish_reason="length"), 0.0)
    assert scheduler.take_figures(ONE)[1] == "draft off: b is full"


def test_a_commit_that_does_not_follow_the_journal_is_counted_and_dropped() -> None:
    scheduler = make_scheduler()
    open_stream(scheduler, ONE)
    scheduler.committed(commit(ONE, 3, [9]), 0.0)
    for stale in (commit(ONE, 3, [9]), commit(TWO, 4, [9])):
        assert scheduler.committed(stale, 0.0) == []
    other = CommitReply(0.0, (CommitEntry(ONE, 2, 4, 1, 0, 0, "", b""),), (9,))
    assert scheduler.committed(other, 0.0) == []
    assert scheduler.num_stale == 3
    stream = scheduler.stream(ONE)
    assert stream is not None
    assert stream.token_ids == [*PROMPT, 9]


def test_a_commit_that_leaves_a_gap_ends_the_stream_with_an_error() -> None:
    scheduler = make_scheduler()
    open_stream(scheduler, ONE)
    out = scheduler.committed(commit(ONE, 4, [9]), 0.0)
    assert out[0] == ToTarget(CloseStreamNotice(ONE, 1))
    assert out[1] == Abort(ONE, "tokens of the target were lost on the way")
    assert scheduler.num_streams == 0


def test_a_target_that_commits_too_much_ends_the_stream_with_an_error() -> None:
    scheduler = make_scheduler()
    open_stream(scheduler, ONE)
    out = scheduler.committed(commit(ONE, 3, [9] * (LONG + 1)), 0.0)
    assert isinstance(out[1], Abort)
    assert not any(isinstance(i, Emit) for i in out)


def test_a_late_draft_is_asked_again_only_after_it_answered() -> None:
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE, "a")
    scheduler.tick(9.0)
    out = scheduler.committed(commit(ONE, 3, [9]), 9.0)
    assert leases_of(out) == [LeaseEntry(ONE, 1, 4, LEASE_TOKENS)]
    scheduler.drafted("a", DraftReply(1, (GuessEntry(ONE, 1, 3, 1),), (9,)), 9.0)
    out = scheduler.committed(commit(ONE, 4, [9] * LEASE_TOKENS), 9.0)
    assert len(draft_requests(out)) == 1


def test_a_draft_that_keeps_being_late_is_done_without() -> None:
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE, "a")
    length, out = 3, []
    for round_id in (1, 2, 3):
        out = scheduler.tick(10.0 * round_id)
        scheduler.committed(commit(ONE, length, [9]), 10.0 * round_id)
        scheduler.drafted("a", DraftReply(round_id, (GuessEntry(ONE, 1, length, 0),), ()), 0.0)
        scheduler.committed(commit(ONE, length + 1, [9] * LEASE_TOKENS), 10.0 * round_id)
        length += 1 + LEASE_TOKENS
    assert ToDraft("a", CloseStreamNotice(ONE, 1)) in out
    scheduler.committed(commit(ONE, length, [9], finish_reason="stop"), 40.0)
    assert scheduler.take_figures(ONE)[1] == "draft off: a was late 3 times"


def test_guesses_after_another_prefix_are_left_out() -> None:
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE, "a")
    reply = DraftReply(1, (GuessEntry(TWO, 1, 3, 1), GuessEntry(ONE, 1, 2, 1)), (8, 9))
    (verify,) = verify_requests(scheduler.drafted("a", reply, 0.0))
    assert verify == VerifyRequest(1, (GuessEntry(ONE, 1, 3, 0),), ())
    assert scheduler.drafted("b", reply, 0.0) == []


def test_cancelling_closes_the_stream_wherever_it_is() -> None:
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE, "a")
    notice = CloseStreamNotice(ONE, 1)
    out = [ToTarget(notice), ToDraft("a", notice), Finish(ONE, "cancelled")]
    assert scheduler.cancel(ONE, 0.0) == out
    assert scheduler.cancel(ONE, 0.0) == []
    assert (scheduler.num_streams, scheduler.next_deadline()) == (0, None)


def test_cancelling_the_only_stream_of_a_round_starts_those_who_waited_for_it() -> None:
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE, "a")
    assert open_stream(scheduler, TWO, "a") == []
    ((_, request),) = draft_requests(scheduler.cancel(ONE, 0.0))
    assert [entry.stream_id for entry in request.entries] == [TWO]


def test_a_draft_whose_only_stream_of_a_round_was_cancelled_is_not_waited_for() -> None:
    scheduler = make_scheduler("a", "b")
    for stream_id, node in ((ONE, "a"), (TWO, "b")):
        scheduler.admit(make_spec(stream_id, max_tokens=LONG), None)
        scheduler.draft_ready(node, stream_id, 1, 0.0)
    scheduler.target_ready(ONE, 1, 0.0)
    scheduler.target_ready(TWO, 1, 0.0)
    scheduler.drafted("a", DraftReply(1, (GuessEntry(ONE, 1, 3, 0),), ()), 5.0)
    scheduler.committed(commit(ONE, 3, [9]), 6.0)
    scheduler.drafted("b", DraftReply(2, (GuessEntry(TWO, 1, 3, 1),), (7,)), 6.0)
    (verify,) = verify_requests(scheduler.cancel(ONE, 6.0))
    assert verify == VerifyRequest(2, (GuessEntry(TWO, 1, 3, 1),), (7,))


def test_a_stream_that_the_target_refuses_is_aborted_with_its_reason() -> None:
    scheduler = make_scheduler("a")
    scheduler.admit(make_spec(), None)
    assert scheduler.target_failed(ONE, 2, "other") == []
    closed = ToDraft("a", CloseStreamNotice(ONE, 1))
    assert scheduler.target_failed(ONE, 1, "full") == [closed, Abort(ONE, "full")]
    assert scheduler.target_ready(ONE, 1, 0.0) == []
    assert scheduler.num_stale == 2


def test_the_policy_sees_who_is_ready_and_what_is_under_way() -> None:
    policy = FixedPolicy()
    scheduler = SchedulerState(policy, TARGET_COSTS)
    scheduler.draft_joined("a", DRAFT_COSTS)
    open_stream(scheduler, ONE, "a")
    scheduler.admit(make_spec(THREE), 3)
    scheduler.target_ready(THREE, 1, 0.0)
    seen = policy.seen[-1]
    assert (seen.num_rounds_in_flight, seen.num_others, seen.target) == (1, 1, TARGET_COSTS)
    (view,) = seen.ready
    assert (view.stream_id, view.tokens_left, view.fixed_gamma) == (THREE, 8, 3)
    assert view.draft is None
