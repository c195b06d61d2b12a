from __future__ import annotations

import pytest

from nodes.messages import CommitEntry, CommitReply
from nodes.scheduler import LEASE_TOKENS
from nodes.scheduler.instructions import Instruction, leases_of
from nodes.scheduler.stream import Leased
from policies.plan import Link
from tests.nodes.builders import make_spec
from tests.nodes.scheduler.script import (
    FOUR,
    ONE,
    THREE,
    TWO,
    FixedPolicy,
    PlainPolicy,
    answer,
    commit,
    commit_one,
    draft_requests,
    guesses,
    length_of,
    make_scheduler,
    open_stream,
    started,
)


def test_batches_circulate_each_with_one_round_in_flight() -> None:
    scheduler = make_scheduler("a", policy=FixedPolicy(size=2))
    assert started(open_stream(scheduler, ONE, "a")) == {1: [ONE]}
    # A stream more for the batch joins when it is back.
    assert started(open_stream(scheduler, TWO, "a")) == {}
    assert started(open_stream(scheduler, THREE, "a")) == {2: [THREE]}
    answer(scheduler, 1, "a")
    assert started(commit_one(scheduler, ONE)) == {3: [ONE, TWO]}
    answer(scheduler, 2, "a")
    assert started(commit_one(scheduler, THREE)) == {4: [THREE]}
    answer(scheduler, 3, "a")
    # A pass may be too small for all of a round: it is over when the last of it is back.
    assert started(commit_one(scheduler, ONE)) == {}
    assert started(commit_one(scheduler, TWO)) == {5: [ONE, TWO]}


@pytest.mark.parametrize("target_is_busy", [True, False])
def test_members_in_rounds_of_an_older_plan_are_waited_for_while_the_target_verifies(
    target_is_busy: bool,
) -> None:
    policy = FixedPolicy(size=1)
    scheduler = make_scheduler("a", policy=policy)
    open_stream(scheduler, ONE, "a")
    open_stream(scheduler, TWO, "a")
    policy.size = 2
    open_stream(scheduler, THREE)
    answer(scheduler, 1, "a")
    if target_is_busy:
        answer(scheduler, 2, "a")
        assert started(commit_one(scheduler, ONE)) == {}
        assert started(commit_one(scheduler, TWO)) == {3: [ONE, TWO]}
        return
    # The target would idle: who is back goes, the other joins the next round.
    assert started(commit_one(scheduler, ONE)) == {3: [ONE]}
    answer(scheduler, 2, "a")
    assert started(commit_one(scheduler, TWO)) == {}
    answer(scheduler, 3, "a")
    assert started(commit_one(scheduler, ONE)) == {4: [ONE, TWO]}


def test_a_stream_that_runs_out_its_lease_is_left_behind_and_joins_later() -> None:
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE, "a")
    assert leases_of(open_stream(scheduler, TWO))
    assert started(scheduler.draft_ready("a", TWO, 1, 0.0)) == {}
    answer(scheduler, 1, "a")
    assert started(commit_one(scheduler, ONE)) == {2: [ONE]}
    two = scheduler.stream(TWO)
    assert two is not None
    while isinstance(two.phase, Leased):
        out = commit_one(scheduler, TWO)
        assert (started(out), leases_of(out)) == ({}, [])
    answer(scheduler, 2, "a")
    assert started(commit_one(scheduler, ONE)) == {3: [ONE, TWO]}


def test_a_draft_that_lags_far_behind_reads_first_while_its_stream_goes_on_plainly() -> None:
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE)
    for _ in range(20):
        commit_one(scheduler, ONE)
    ((_, request),) = draft_requests(scheduler.draft_ready("a", ONE, 1, 0.0))
    (entry,) = request.entries
    assert (entry.gamma, entry.num_new_tokens, request.new_token_ids) == (0, 20, (9,) * 20)
    # Until it has read them nobody waits for it.
    for _ in range(10):
        assert draft_requests(commit_one(scheduler, ONE)) == []
    assert scheduler.next_deadline() is None
    scheduler.drafted("a", guesses(request.round, ONE, 23), 0.0)
    stream = scheduler.stream(ONE)
    assert stream is not None
    out: list[Instruction] = []
    while isinstance(stream.phase, Leased):
        out = commit_one(scheduler, ONE)
    ((_, request),) = draft_requests(out)
    assert request.entries[0].gamma == 4
    assert scheduler.num_stale == 0


def test_batches_that_could_start_together_are_spread_over_the_cycle() -> None:
    policy = FixedPolicy(cycle_s=0.3)
    scheduler = make_scheduler("a", policy=policy)
    for stream_id in (ONE, TWO, THREE):
        open_stream(scheduler, stream_id, "a")
    answer(scheduler, 1, "a")
    assert started(commit_one(scheduler, ONE)) == {2: [ONE, TWO, THREE]}
    policy.size = 1
    scheduler.admit(make_spec(FOUR), 0)
    scheduler.target_ready(FOUR, 1, 0.0)
    answer(scheduler, 2, "a")
    entries = tuple(
        CommitEntry(s, 1, length_of(scheduler, s), 1, 0, 0, "", b"") for s in (ONE, TWO, THREE)
    )
    out = scheduler.committed(CommitReply(0.0, entries, (9, 9, 9)), 1.0)
    # Batches that have not gone yet come first.
    assert started(out) == {3: [TWO]}
    for round_id, stream_id, now in ((4, THREE, 1.1), (5, ONE, 1.2)):
        answer(scheduler, round_id - 1, "a", now - 0.05)
        assert scheduler.next_deadline() == pytest.approx(now)
        assert started(scheduler.tick(now - 0.01)) == {}
        assert started(scheduler.tick(now + 1e-9)) == {round_id: [stream_id]}


def test_a_batch_starts_no_sooner_than_the_plan_allows() -> None:
    scheduler = make_scheduler("a", policy=FixedPolicy(min_cycle_s=0.5))
    assert started(open_stream(scheduler, ONE, "a", now=1.0)) == {1: [ONE]}
    answer(scheduler, 1, "a", 1.1)
    assert started(commit_one(scheduler, ONE, 1.2)) == {}
    assert scheduler.next_deadline() == 1.5
    assert scheduler.tick(1.4) == []
    assert started(scheduler.tick(1.5)) == {2: [ONE]}
    # One that takes longer goes on at once.
    answer(scheduler, 2, "a", 1.6)
    assert started(commit_one(scheduler, ONE, 2.1)) == {3: [ONE]}


def test_without_overlap_one_round_goes_at_a_time() -> None:
    scheduler = make_scheduler("a", policy=FixedPolicy(size=1, overlap=False))
    assert started(open_stream(scheduler, ONE, "a")) == {1: [ONE]}
    assert started(open_stream(scheduler, TWO, "a")) == {}
    answer(scheduler, 1, "a")
    assert started(scheduler.tick(0.1)) == {}
    assert len(started(commit_one(scheduler, ONE))) == 1


@pytest.mark.parametrize("rtt_s", [0.0, 0.03, 0.2])
@pytest.mark.parametrize("draft", ["none", "reads", "is behind"])
def test_leases_of_plain_streams_last_for_the_way_to_the_target(draft: str, rtt_s: float) -> None:
    """A draft node that is not used costs nothing, however far away the target is."""
    drafts = [] if draft == "none" else ["a"]
    scheduler = make_scheduler(*drafts, policy=PlainPolicy())
    scheduler.target_link(Link(rtt_s=rtt_s))
    open_stream(scheduler, ONE, "a" if draft == "is behind" else "")
    stream = scheduler.stream(ONE)
    assert stream is not None
    for step in range(100):
        now = step * 0.01
        scheduler.committed(commit(ONE, length_of(scheduler, ONE), [9], pass_s=0.01), now)
        if draft == "is behind" and step > 50:
            assert stream.is_behind
        assert isinstance(stream.phase, Leased)
        left = stream.phase.end - len(stream.token_ids)
        # Once it is known what passes take: what is told now is there before the last one is run.
        assert step == 0 or left >= max(1, rtt_s / 0.01)
        assert left <= max(LEASE_TOKENS, 2 * rtt_s / 0.01 + 1)


@pytest.mark.parametrize("told", [[5e-324], [1.7e308, -1.7e308, 0.01], [0.0], [-1.0]])
def test_whatever_a_target_says_of_its_passes_the_scheduler_goes_on(told: list[float]) -> None:
    scheduler = make_scheduler("a", policy=PlainPolicy())
    open_stream(scheduler, ONE, "a")
    for pass_s in [*told, *[0.01] * 4]:
        reply = commit(ONE, length_of(scheduler, ONE), [9], pass_s=pass_s)
        scheduler.committed(reply, 0.0)
    stream = scheduler.stream(ONE)
    assert stream is not None
    assert isinstance(stream.phase, Leased)
    assert length_of(scheduler, ONE) < stream.phase.end <= length_of(scheduler, ONE) + LEASE_TOKENS
