from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.messages import (
    CloseStreamNotice,
    CommitEntry,
    CommitReply,
    DraftRequest,
    LeaseEntry,
    VerifyRequest,
)
from nodes.scheduler import (
    LEASE_LOW_TOKENS,
    LEASE_TOKENS,
    LEASE_WHILE_OPENING_TOKENS,
    SchedulerState,
)
from nodes.scheduler.instructions import Abort, Emit, Finish, ToDraft, ToTarget, leases_of
from policies.acceptance import AcceptanceEstimate
from policies.joint import joint_plan
from policies.latency import NodeCosts
from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.pure_mesh import DRAFT_COSTS, TARGET_COSTS
from tests.nodes.scheduler.script import (
    FOUR,
    LONG,
    ONE,
    THREE,
    TWO,
    FixedPolicy,
    answer,
    commit,
    commit_one,
    draft_requests,
    guesses,
    make_scheduler,
    open_stream,
    started,
    verify_requests,
)
from tests.nodes.scheduler.walk import Walk, replayed

# -- leases ----------------------------------------------------------------------------------------


def test_plain_streams_decode_on_leases_that_are_renewed_before_they_end() -> None:
    scheduler = make_scheduler()
    assert leases_of(open_stream(scheduler, ONE)) == [LeaseEntry(ONE, 1, 3, LEASE_TOKENS)]
    until_low = LEASE_TOKENS - LEASE_LOW_TOKENS
    for renewal in (1, 2, 3):
        for _ in range(until_low - 1):
            assert leases_of(commit_one(scheduler, ONE)) == []
        length = 3 + renewal * until_low
        assert leases_of(commit_one(scheduler, ONE)) == [LeaseEntry(ONE, 1, length, LEASE_TOKENS)]


def test_a_lease_ends_with_the_stream_and_is_not_renewed_there() -> None:
    scheduler = make_scheduler()
    assert leases_of(open_stream(scheduler, ONE, max_tokens=5)) == [LeaseEntry(ONE, 1, 3, 5)]
    assert commit_one(scheduler, ONE) == [Emit(ONE, 0, (9,), b"x")]


def test_leases_are_short_while_the_draft_opens_the_stream() -> None:
    scheduler = make_scheduler("a")
    out = open_stream(scheduler, ONE)
    assert leases_of(out) == [LeaseEntry(ONE, 1, 3, LEASE_WHILE_OPENING_TOKENS, True)]


def test_the_last_token_is_left_to_the_target() -> None:
    scheduler = make_scheduler("a")
    out = open_stream(scheduler, ONE, "a", max_tokens=4)
    (request,) = [i.message for i in out if isinstance(i, ToDraft)]
    assert isinstance(request, DraftRequest)
    # The target's own token is one of the 4.
    assert request.entries[0].gamma == 3
    answer(scheduler, 1, "a")
    out = scheduler.committed(commit(ONE, 3, [9, 9, 9], num_draft_tokens=3), 0.0)
    assert leases_of(out) == [LeaseEntry(ONE, 1, 6, 1, True)]
    assert started(out) == {}


# -- commits ---------------------------------------------------------------------------------------


def test_a_commit_that_does_not_follow_the_journal_is_counted_and_dropped() -> None:
    scheduler = make_scheduler()
    open_stream(scheduler, ONE)
    commit_one(scheduler, ONE)
    for stale in (commit(ONE, 3, [9]), commit(TWO, 4, [9])):
        assert scheduler.committed(stale, 0.0) == []
    other = CommitReply(0.0, (CommitEntry(ONE, 2, 4, 1, 0, 0, "", b""),), (9,))
    assert scheduler.committed(other, 0.0) == []
    assert scheduler.num_stale == 3
    stream = scheduler.stream(ONE)
    assert stream is not None
    assert stream.token_ids == [*PROMPT, 9]


def test_a_target_that_commits_too_much_ends_the_stream_with_an_error() -> None:
    scheduler = make_scheduler()
    open_stream(scheduler, ONE)
    out = scheduler.committed(commit(ONE, 3, [9] * (LONG + 1)), 0.0)
    assert isinstance(out[1], Abort)
    assert not any(isinstance(i, Emit) for i in out)


def test_one_pass_commits_for_many_streams_each_from_its_own_tokens() -> None:
    scheduler = make_scheduler()
    for stream_id in (ONE, TWO):
        open_stream(scheduler, stream_id)
    entries = (
        CommitEntry(TWO, 1, 3, 1, 0, 0, "", b"b"),
        CommitEntry(ONE, 1, 3, 2, 0, 0, "stop", b"a"),
    )
    out = scheduler.committed(CommitReply(0.0, entries, (7, 8, 9)), 0.0)
    assert out == [
        Emit(TWO, 0, (7,), b"b"),
        Emit(ONE, 0, (8, 9), b"a", is_last=True),
        Finish(ONE, "stop"),
    ]


def test_figures_of_an_ended_stream_are_given_once() -> None:
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE, "a")
    scheduler.drafted("a", guesses(1, ONE, 3, 8, 9), 0.0)
    scheduler.committed(commit(ONE, 3, [8, 4], num_draft_tokens=2), 0.0)
    scheduler.draft_lost("a", 0.0)
    commit_one(scheduler, ONE)
    commit_one(scheduler, ONE)
    scheduler.committed(commit(ONE, 7, [9], finish_reason="length"), 0.0)
    figures, reason = scheduler.take_figures(ONE)
    # The round that was being drafted when the node was lost was verified without guesses.
    assert (figures.num_rounds, figures.num_plain_steps) == (2, 2)
    assert (figures.num_draft_tokens, figures.num_accepted_tokens) == (2, 1)
    assert reason == "draft off: no draft node holds it"
    figures, reason = scheduler.take_figures(ONE)
    assert (figures.num_rounds, reason) == (0, "")


# -- streams that go -------------------------------------------------------------------------------


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
    answer(scheduler, 1, "a")
    # Once the first is being verified the second, of the same batch, waits for it.
    assert open_stream(scheduler, TWO, "a") == []
    assert started(scheduler.cancel(ONE, 0.0)) == {2: [TWO]}


def test_a_draft_whose_only_stream_of_a_round_was_cancelled_is_not_waited_for() -> None:
    scheduler = make_scheduler("a", "b")
    open_stream(scheduler, ONE, "a")
    answer(scheduler, 1, "a")
    open_stream(scheduler, TWO, "b")
    assert started(commit_one(scheduler, ONE)) == {2: [ONE, TWO]}
    assert scheduler.drafted("b", guesses(2, TWO, 3, 7), 0.0) == []
    (verify,) = verify_requests(scheduler.cancel(ONE, 0.0))
    assert verify == VerifyRequest(2, guesses(2, TWO, 3, 7).entries, (7,))


def test_a_stream_that_the_target_refuses_is_aborted_with_its_reason() -> None:
    scheduler = make_scheduler("a")
    scheduler.admit(make_spec(), None)
    assert scheduler.target_failed(ONE, 2, "other", 0.0) == []
    closed = ToDraft("a", CloseStreamNotice(ONE, 1))
    assert scheduler.target_failed(ONE, 1, "full", 0.0) == [closed, Abort(ONE, "full")]
    assert scheduler.target_ready(ONE, 1, 0.0) == []
    assert scheduler.num_stale == 2


# -- what the policy sees --------------------------------------------------------------------------


def test_the_policy_sees_all_active_streams_wherever_they_are() -> None:
    policy = FixedPolicy()
    scheduler = make_scheduler("a", policy=policy)
    open_stream(scheduler, ONE, "a")
    for stream_id, gamma in ((TWO, None), (THREE, 3), (FOUR, 0)):
        scheduler.admit(make_spec(stream_id), gamma)
    scheduler.target_ready(THREE, 1, 0.0)
    commit_one(scheduler, THREE)
    scheduler.target_ready(FOUR, 1, 0.0)
    seen = policy.seen[-1]
    # The first in a round, the third on a lease; the target still reads the prompt of the second.
    first, third, fourth = seen.streams
    assert (first.stream_id, first.draft, first.fixed_gamma) == (ONE, "a", None)
    # It will guess once its node has read the prompt.
    assert (third.stream_id, third.draft, third.fixed_gamma) == (THREE, "a", 3)
    assert (fourth.stream_id, fourth.draft, fourth.fixed_gamma) == (FOUR, None, 0)
    assert [view.tokens_left for view in seen.streams] == [LONG, 7, 8]
    assert (seen.target, seen.used_cells) == (TARGET_COSTS, 3 + 3 + 4 + 3)
    (draft,) = seen.drafts
    # It holds the first; the prompts of the second and third it still reads.
    assert (draft.name, draft.used_cells) == ("a", 3)
    assert scheduler._drafts["a"].num_unread == 3 + 3
    reading_s = 6 / 32 * DRAFT_COSTS.prefill.at(32)
    slower = DRAFT_COSTS.decode.at(1) / (1 - reading_s / 2.0)
    assert draft.costs.decode.at(1) == pytest.approx(slower, rel=1e-9)


def test_the_policy_sees_what_the_length_of_texts_costs() -> None:
    policy = FixedPolicy()
    costs = NodeCosts(replace(TARGET_COSTS.decode, per_own_cell_s=1e-3), TARGET_COSTS.prefill)
    scheduler = SchedulerState(policy, costs)
    for stream_id, num_tokens in ((ONE, 3), (TWO, 11)):
        scheduler.admit(make_spec(stream_id, token_ids=tuple(range(num_tokens))), None)
        scheduler.target_ready(stream_id, 1, 0.0)
    seen = policy.seen[-1]
    assert seen.target is not None
    # The mean stream has 7 tokens.
    assert seen.target.decode.at(4) == pytest.approx(TARGET_COSTS.decode.at(4) + 4 * 7e-3)
    assert [view.extra_s for view in seen.streams] == pytest.approx([-4e-3, 4e-3])


def test_prompts_take_a_share_of_the_target_that_fades() -> None:
    policy = FixedPolicy()
    scheduler = make_scheduler(policy=policy)
    scheduler.admit(make_spec(ONE, prompt=(5,) * 6400), None)
    scheduler.target_ready(ONE, 1, 100.0)
    # 200 pieces of 32 tokens that make passes longer by 1/31 ms a token, over the last 10 s or so.
    share = 200 * 32 * (1e-3 / 31) / 10
    assert policy.seen[-1].prefill_share == pytest.approx(share)
    open_stream(scheduler, TWO, now=110.0)
    assert policy.seen[-1].prefill_share == pytest.approx(share / math.e, rel=0.01)
    scheduler.admit(make_spec(THREE, prompt=(5,) * 1_000_000), None)
    scheduler.target_ready(THREE, 1, 110.0)
    assert policy.seen[-1].prefill_share == 0.8


def test_what_a_target_had_of_a_prompt_takes_no_share_of_it() -> None:
    policy = FixedPolicy()
    scheduler = make_scheduler(policy=policy)
    scheduler.admit(make_spec(ONE, prompt=(5,) * 6400), None)
    scheduler.target_ready(ONE, 1, 100.0, 3200)
    share = 100 * 32 * (1e-3 / 31) / 10
    assert policy.seen[-1].prefill_share == pytest.approx(share)
    scheduler.target_parked(ONE, 1, 100.0)
    scheduler.target_ready(ONE, 2, 100.0, 0)
    assert policy.seen[-1].prefill_share == pytest.approx(share)


def test_the_targets_costs_follow_what_its_passes_take() -> None:
    policy = FixedPolicy()
    scheduler = make_scheduler(policy=policy)
    open_stream(scheduler, ONE)
    for length in range(3, 103):
        scheduler.committed(commit(ONE, length, [9], pass_s=3e-3), 0.0)
    # One in which a stream ends, which is saved, tells nothing of what decoding takes, nor do
    # those in which a prompt is read.
    scheduler.admit(make_spec(TWO, max_tokens=200), None)
    scheduler.target_ready(TWO, 1, 0.0)
    scheduler.committed(commit(TWO, 3, [9], finish_reason="stop", pass_s=9e-3), 0.0)
    scheduler.admit(make_spec(TWO), None)
    for length in range(103, 153):
        reading = replace(commit(ONE, length, [9], pass_s=9e-3), num_read_tokens=32)
        scheduler.committed(reading, 0.0)
    # Nor that of a prompt's end, which is told when the stream is ready already.
    scheduler.target_ready(TWO, 1, 0.0)
    for length in range(153, 203):
        reading = replace(commit(ONE, length, [9], pass_s=9e-3), num_read_tokens=31)
        scheduler.committed(reading, 0.0)
    target = policy.seen[-1].target
    assert target is not None
    assert target.decode.at(1) == pytest.approx(3e-3, rel=0.01)
    assert target.decode.at(32) == TARGET_COSTS.decode.at(32)
    assert target.prefill == TARGET_COSTS.prefill


def test_acceptance_may_be_given_from_outside() -> None:
    policy = FixedPolicy()
    given_alpha = AcceptanceEstimate(1.0, 3.0)
    scheduler = SchedulerState(policy, TARGET_COSTS, lambda stream_id: given_alpha)
    scheduler.draft_joined("a", DRAFT_COSTS)
    open_stream(scheduler, ONE, "a")
    assert policy.seen[-1].streams[0].alpha == 0.25


def test_a_target_of_unknown_costs_is_decoded_on_plainly() -> None:
    scheduler = SchedulerState(joint_plan, None)
    scheduler.draft_joined("a", DRAFT_COSTS)
    out = open_stream(scheduler, ONE, "a")
    assert leases_of(out) == [LeaseEntry(ONE, 1, 3, LEASE_TOKENS)]
    scheduler.committed(commit(ONE, 3, [9], finish_reason="stop", pass_s=1.0), 0.0)
    assert scheduler.take_figures(ONE)[1] == "draft off: no costs"


def test_a_stream_that_has_begun_is_waited_for_and_not_asked_twice() -> None:
    scheduler = make_scheduler("a")
    scheduler.admit(make_spec(ONE), None)
    scheduler.draft_ready("a", ONE, 1, 0.0)
    # Its guesses would follow a token that is not known yet.
    assert draft_requests(scheduler.target_ready(ONE, 1, 0.0, 2, has_begun=True)) == []
    out = scheduler.committed(commit(ONE, 3, [9]), 0.0)
    ((_, request),) = draft_requests(out)
    assert request.entries[0].prefix_len + request.entries[0].num_new_tokens == 4


# -- walks -----------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=25, database=None)
@given(seed=st.integers(0, 2**32), num_streams=st.integers(1, 6))
def test_no_stream_waits_for_ever_and_nothing_leaks(seed: int, num_streams: int) -> None:
    walk = Walk(seed, num_streams, num_events=400)
    walk.run()
    assert set(walk.ended) == set(walk.lengths)
    scheduler = walk.scheduler
    assert (scheduler.num_streams, scheduler.next_deadline()) == (0, None)
    assert not scheduler._membership.ended
    assert all(node.num_streams == node.num_waiting == 0 for node in scheduler._drafts)
    assert replayed(walk, walk.told), "not a function of what it was told"


def test_a_scheduler_that_plans_later_starts_nothing_new_before_it_does() -> None:
    policy = FixedPolicy(gamma=4)
    due: list[bool] = []
    at_once = SchedulerState(policy, TARGET_COSTS)
    later = SchedulerState(policy, TARGET_COSTS, plans_later=lambda: due.append(True))
    for scheduler in (at_once, later):
        scheduler.draft_joined("a", DRAFT_COSTS)
        scheduler.admit(make_spec(ONE), None)
        scheduler.draft_ready("a", ONE, 1, 0.0)
    together = at_once.target_ready(ONE, 1, 0.0)
    assert together
    assert later.target_ready(ONE, 1, 0.0) == []
    assert due
    assert later.plan_anew(0.0) == together
    assert later.plan_anew(0.0) == []
