"""Streams that their target took out of its cache."""

from __future__ import annotations

from nodes.messages import (
    CloseStreamNotice,
    CommitEntry,
    CommitReply,
    DraftReply,
    GuessEntry,
    LeaseEntry,
)
from nodes.scheduler import LEASE_TOKENS
from nodes.scheduler.instructions import Emit, ToTarget, leases_of
from nodes.scheduler.stream import Opening
from tests.nodes.scheduler.script import (
    ONE,
    TWO,
    answer,
    commit,
    commit_one,
    draft_requests,
    guesses,
    make_scheduler,
    open_stream,
    verify_requests,
)


def test_a_plain_stream_is_leased_anew_in_its_next_generation_once_it_is_back() -> None:
    scheduler = make_scheduler()
    open_stream(scheduler, ONE)
    scheduler.committed(commit(ONE, 3, [9]), 0.0)
    assert leases_of(scheduler.target_parked(ONE, 1, 0.0)) == []
    stream = scheduler.stream(ONE)
    assert stream is not None
    assert stream.phase == Opening()
    assert leases_of(scheduler.target_ready(ONE, 1, 0.0)) == []
    assert scheduler.num_stale == 1
    assert leases_of(scheduler.target_ready(ONE, 2, 0.0)) == [LeaseEntry(ONE, 2, 4, LEASE_TOKENS)]
    entry = CommitEntry(ONE, 2, 4, 1, 0, 0, "", b"x")
    out = scheduler.committed(CommitReply(0.0, (entry,), (8,)), 0.0)
    assert Emit(ONE, 1, (8,), b"x") in out


def test_a_notice_of_another_stream_or_generation_changes_nothing() -> None:
    scheduler = make_scheduler()
    open_stream(scheduler, ONE)
    for stream_id, generation in ((ONE, 2), (ONE, 0), (TWO, 1)):
        assert scheduler.target_parked(stream_id, generation, 0.0) == []
    stream = scheduler.stream(ONE)
    assert stream is not None
    assert stream.phase != Opening()
    assert scheduler.num_stale == 3


def test_guesses_on_their_way_are_dropped_and_the_others_of_the_round_go_on() -> None:
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE, "a")
    open_stream(scheduler, TWO, "a")
    answer(scheduler, 1, "a")
    out = commit_one(scheduler, ONE)
    ((_, request),) = draft_requests(out)
    assert [entry.stream_id for entry in request.entries] == [ONE, TWO]
    assert scheduler.target_parked(TWO, 1, 0.0) == []
    entries = (GuessEntry(ONE, 1, 4, 1), GuessEntry(TWO, 1, 3, 1))
    (verify,) = verify_requests(
        scheduler.drafted("a", DraftReply(request.round, entries, (7, 8)), 0.0)
    )
    assert verify.entries == (GuessEntry(ONE, 1, 4, 1),)
    assert verify.draft_token_ids == (7,)
    # When it is back it guesses again, with the rest or by itself.
    out = scheduler.target_ready(TWO, 2, 0.0)
    out += scheduler.committed(commit(ONE, 4, [7, 9], num_draft_tokens=1), 0.0)
    assert TWO in [entry.stream_id for _, r in draft_requests(out) for entry in r.entries]


def test_a_round_whose_only_stream_is_parked_is_over() -> None:
    scheduler = make_scheduler("a")
    ((_, request),) = draft_requests(open_stream(scheduler, ONE, "a"))
    scheduler.drafted("a", guesses(request.round, ONE, 3, 5), 0.0)
    assert scheduler.target_parked(ONE, 1, 0.0) == []
    assert scheduler._rounds == {}
    assert scheduler.next_deadline() is None
    ((_, again),) = draft_requests(scheduler.target_ready(ONE, 2, 0.0))
    (verify,) = verify_requests(scheduler.drafted("a", guesses(again.round, ONE, 3, 5), 0.0))
    assert verify.entries == (GuessEntry(ONE, 2, 3, 1),)


def test_a_parked_stream_is_closed_under_its_new_generation() -> None:
    scheduler = make_scheduler()
    open_stream(scheduler, ONE)
    scheduler.target_parked(ONE, 1, 0.0)
    assert ToTarget(CloseStreamNotice(ONE, 2)) in scheduler.cancel(ONE, 0.0)


def test_cells_count_all_streams_with_room_to_grow() -> None:
    scheduler = make_scheduler()
    assert scheduler.cells == 0
    open_stream(scheduler, ONE, max_tokens=200)
    open_stream(scheduler, TWO, max_tokens=10)
    assert scheduler.cells == (3 + 64 + 16) + (3 + 10 + 16)
    scheduler.committed(commit(ONE, 3, [9, 9]), 0.0)
    scheduler.committed(commit(TWO, 3, [9, 9]), 0.0)
    scheduler.target_parked(TWO, 1, 0.0)
    assert scheduler.cells == (5 + 64 + 16) + (5 + 8 + 16)
