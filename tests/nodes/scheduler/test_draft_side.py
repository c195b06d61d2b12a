"""Draft nodes come, go and refuse, and what becomes of their streams."""

from __future__ import annotations

from itertools import pairwise

import pytest

from nodes.messages import (
    CloseStreamNotice,
    DraftReply,
    GuessEntry,
    LeaseEntry,
    OpenStreamRequest,
)
from nodes.scheduler import LEASE_TOKENS
from nodes.scheduler.instructions import Instruction, ToDraft, leases_of, open_request
from nodes.scheduler.stream import Leased
from nodes.scheduler.watching.counts import plain_label
from nodes.stream import StreamId
from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.pure_mesh import DRAFT_COSTS
from tests.nodes.scheduler.script import (
    LONG,
    ONE,
    THREE,
    TWO,
    answer,
    commit,
    commit_one,
    draft_requests,
    length_of,
    make_scheduler,
    open_stream,
    verify_requests,
)


def test_a_stream_of_a_lost_draft_moves_to_another_with_all_its_tokens() -> None:
    scheduler = make_scheduler("a", "b")
    open_stream(scheduler, ONE, "a")
    answer(scheduler, 1, "a")
    commit_one(scheduler, ONE)
    out = scheduler.draft_lost("a", 0.1)
    moved = make_spec(1, max_tokens=LONG, generation=2, token_ids=(*PROMPT, 9))
    assert out[0] == ToDraft("b", open_request(moved))
    assert len(verify_requests(out)) == 1
    # What the lost node still said, and what the new one said of another generation, is counted.
    assert scheduler.draft_ready("a", ONE, 1, 0.2) == []
    assert scheduler.draft_ready("b", ONE, 1, 0.2) == []
    assert scheduler.num_stale == 2


def test_a_stream_with_which_two_drafts_die_goes_on_without() -> None:
    scheduler = make_scheduler("a", "b", "c")
    open_stream(scheduler, ONE, "a")
    for name in ("a", "b"):
        scheduler.draft_lost(name, 0.0)
    stream = scheduler.stream(ONE)
    assert stream is not None
    assert stream.draft is None
    assert stream.plain_reason == "draft off: 2 draft nodes died with it"
    assert plain_label(stream) == "refused"
    scheduler.draft_joined("a", DRAFT_COSTS)
    assert stream.draft is None
    # Others are none the worse.
    scheduler.admit(make_spec(TWO), None)
    other = scheduler.stream(TWO)
    assert other is not None
    assert other.draft is not None


@pytest.mark.parametrize("has_died", [True, False])
def test_a_round_in_between_or_a_draft_that_only_leaves_says_nothing(has_died: bool) -> None:
    scheduler = make_scheduler("a", "b", "c")
    stream_ids = (ONE,)
    open_stream(scheduler, ONE, "a")
    stream = scheduler.stream(ONE)
    assert stream is not None
    for _ in range(6):
        assert stream.draft is not None, stream_ids
        node, number = stream.draft.node, stream.draft.generation
        if has_died:
            ((round_id, _),) = scheduler._rounds.items()
            entry = GuessEntry(ONE, number, length_of(scheduler, ONE), 1)
            scheduler.drafted(node, DraftReply(round_id, (entry,), (5,)), 0.0)
        scheduler.draft_lost(node, 0.0, has_died=has_died)
        scheduler.draft_joined(node, DRAFT_COSTS)
        assert stream.draft is not None
        scheduler.draft_ready(stream.draft.node, ONE, stream.draft.generation, 0.0)
        commit_one(scheduler, ONE)


def test_a_draft_that_joins_takes_the_streams_that_have_none() -> None:
    scheduler = make_scheduler()
    open_stream(scheduler, ONE)
    assert [type(i) for i in scheduler.draft_joined("a", DRAFT_COSTS)] == [ToDraft]
    scheduler.draft_ready("a", ONE, 1, 0.0)
    # A stream more makes a plan.
    open_stream(scheduler, TWO)
    stream = scheduler.stream(ONE)
    assert stream is not None
    # It runs its lease out first.
    assert isinstance(stream.phase, Leased)
    out: list[Instruction] = []
    while isinstance(stream.phase, Leased):
        out = commit_one(scheduler, ONE)
    ((node, request),) = draft_requests(out)
    assert node == "a"
    assert request.entries[0].gamma == 4
    # The node was opened with the prompt alone.
    assert request.new_token_ids == (9,) * (length_of(scheduler, ONE) - len(PROMPT))


def test_a_draft_that_refuses_is_not_asked_at_once_and_its_reason_is_kept() -> None:
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


def test_what_was_drafted_ahead_is_counted_with_what_was_of_no_use() -> None:
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE, "a")
    # Of a round or of none: the node has done it. Of nobody's streams all targets are told.
    for stream_id, ready, wasted in ((ONE, 0, 4), (ONE, 3, 1), (TWO, 2, 2)):
        entries = (GuessEntry(stream_id, 1, 3, 0),)
        scheduler.drafted("a", DraftReply(77, entries, (), ready, wasted), 0.0)
    counts = scheduler.report.counts
    assert (counts.num_ahead_used, counts.num_ahead_wasted) == (3, 5)


@pytest.mark.parametrize(("code", "num_asked"), [("unavailable", 4), ("bad_request", 1)])
def test_a_node_that_was_full_is_asked_again_and_ever_more_seldom(
    code: str, num_asked: int
) -> None:
    """But not where something is wrong with the request itself."""
    scheduler = make_scheduler("a")
    scheduler.admit(make_spec(max_tokens=1000), None)
    scheduler.draft_failed("a", ONE, 1, "a is full", 0.0, code)
    scheduler.target_ready(ONE, 1, 0.0)
    asked_at = [0]
    for num_output in range(1, 601):
        told = scheduler.committed(commit(ONE, length_of(scheduler, ONE), [9]), 0.0)
        opened = [i.message for i in told if isinstance(i, ToDraft)]
        for message in opened:
            assert isinstance(message, OpenStreamRequest)
            asked_at.append(num_output)
            scheduler.draft_failed("a", ONE, message.generation, "a is full", 0.0, code)
    assert len(asked_at) == num_asked
    gaps = [after - before for before, after in pairwise(asked_at)]
    # One is looked at every 16 tokens.
    for gap, least in zip(gaps, (64, 128, 256), strict=False):
        assert least <= gap < least + 17


def test_a_node_that_starts_anew_may_be_asked_again() -> None:
    scheduler = make_scheduler("a")
    scheduler.admit(make_spec(), None)
    assert scheduler.draft_failed("a", ONE, 1, "a is full", 0.0) == []
    scheduler.draft_lost("a", 0.0)
    (opened,) = scheduler.draft_joined("a", DRAFT_COSTS)
    assert opened == ToDraft("a", open_request(make_spec(generation=2)))


def test_a_place_that_is_given_up_is_free_again() -> None:
    scheduler = make_scheduler("a", "b")
    for stream_id in (ONE, TWO, THREE):
        scheduler.admit(make_spec(stream_id), None)
    # a holds the first and the third, b the second; once the third is gone they are even.
    assert ToDraft("a", CloseStreamNotice(THREE, 1)) in scheduler.cancel(THREE, 0.0)
    scheduler.target_failed(ONE, 1, "full", 0.0)
    for stream_id, node in ((StreamId(4), "a"), (StreamId(5), "a"), (StreamId(6), "b")):
        spec = make_spec(stream_id)
        assert scheduler.admit(spec, None)[1] == ToDraft(node, open_request(spec))
