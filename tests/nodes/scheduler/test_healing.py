"""Messages that are lost between the coordinator and nodes that answer."""

from __future__ import annotations

from collections.abc import Sequence

from nodes.messages import (
    CloseStreamNotice,
    CommitEntry,
    CommitReply,
    LeaseRequest,
    OpenStreamRequest,
)
from nodes.scheduler import SchedulerState
from nodes.scheduler.instructions import Abort, Emit, Instruction, ToDraft, ToTarget
from nodes.scheduler.stream import Opening
from nodes.stream import StreamId
from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.pure_mesh import DRAFT_COSTS
from tests.nodes.scheduler.script import (
    LONG,
    ONE,
    THREE,
    TWO,
    FixedPolicy,
    answer,
    commit,
    commit_one,
    costs,
    guesses,
    make_scheduler,
    open_stream,
    verify_requests,
)


def to_target(instructions: Sequence[Instruction]) -> list[object]:
    return [i.message for i in instructions if isinstance(i, ToTarget)]


def opened(instructions: Sequence[Instruction]) -> list[OpenStreamRequest]:
    return [m for m in to_target(instructions) if isinstance(m, OpenStreamRequest)]


def wait(scheduler: SchedulerState, seconds: int, since: int = 0) -> list[Instruction]:
    """Ticks once a second, as if nobody said anything."""
    return [i for second in range(seconds) for i in scheduler.tick(float(since + second))]


def num_reopened(scheduler: SchedulerState) -> int:
    return scheduler.report.counts.num_reopened


def test_a_gap_in_the_commits_opens_the_stream_anew_from_its_journal() -> None:
    scheduler = make_scheduler()
    open_stream(scheduler, ONE)
    commit_one(scheduler, ONE)
    closed, there = to_target(scheduler.committed(commit(ONE, 5, [9]), 0.0))
    assert closed == CloseStreamNotice(ONE, 1)
    assert isinstance(there, OpenStreamRequest)
    # Above the generation that a parking on its way would give it.
    assert (there.generation, there.token_ids, there.num_leased) == (3, (*PROMPT, 9), 0)
    assert num_reopened(scheduler) == 1
    # What it still says of the old one is stale.
    assert scheduler.committed(commit(ONE, 6, [9]), 0.0) == []
    assert scheduler.target_parked(ONE, 1, 0.0) == []
    (leased,) = to_target(scheduler.target_ready(ONE, 3, 0.0))
    assert isinstance(leased, LeaseRequest)
    entry = CommitEntry(ONE, 3, 4, 1, 0, 0, "", b"x")
    out = scheduler.committed(CommitReply(0.0, (entry,), (7,)), 0.0)
    assert Emit(ONE, 1, (7,), b"x") in out


def test_a_stream_that_is_opened_anew_in_vain_ends_with_an_error() -> None:
    scheduler = make_scheduler()
    open_stream(scheduler, ONE)
    generation = 1
    for _ in range(3):
        entry = CommitEntry(ONE, generation, 9, 1, 0, 0, "", b"x")
        (there,) = opened(scheduler.committed(CommitReply(0.0, (entry,), (9,)), 0.0))
        generation = there.generation
    entry = CommitEntry(ONE, generation, 9, 1, 0, 0, "", b"x")
    out = scheduler.committed(CommitReply(0.0, (entry,), (9,)), 0.0)
    assert Abort(ONE, "tokens of the target were lost on the way") in out
    assert scheduler.num_streams == 0


def test_a_token_in_between_begins_the_count_anew() -> None:
    scheduler = make_scheduler()
    open_stream(scheduler, ONE)
    generation, length = 1, 3
    for _ in range(8):
        entries = (
            CommitEntry(ONE, generation, length, 1, 0, 0, "", b"x"),
            CommitEntry(ONE, generation, length + 5, 1, 0, 0, "", b"x"),
        )
        (there,) = opened(scheduler.committed(CommitReply(0.0, entries, (9, 9)), 0.0))
        generation, length = there.generation, length + 1
    assert num_reopened(scheduler) == 8


def test_the_rest_of_a_round_goes_on_without_a_stream_that_is_opened_anew() -> None:
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE, "a")
    open_stream(scheduler, TWO, "a")
    answer(scheduler, 1, "a")
    commit_one(scheduler, ONE)
    # Both are in the second round; of the first one a commit was lost.
    out = scheduler.committed(commit(ONE, 7, [9]), 0.0)
    assert [m.stream_id for m in opened(out)] == [ONE]
    (verify,) = verify_requests(scheduler.drafted("a", guesses(2, TWO, 3, 5), 0.0))
    assert [entry.stream_id for entry in verify.entries] == [TWO]


def test_a_commit_of_a_stream_that_is_not_ready_says_that_it_is() -> None:
    scheduler = make_scheduler()
    scheduler.admit(make_spec(ONE, max_tokens=LONG), None)
    out = commit_one(scheduler, ONE)
    assert out[0] == Emit(ONE, 0, (9,), b"x")
    assert any(isinstance(m, LeaseRequest) for m in to_target(out))
    # Should it come after all.
    assert scheduler.target_ready(ONE, 1, 0.0) == []


def test_a_stream_that_its_target_is_silent_about_is_opened_anew() -> None:
    """Its opening, its lease, or the guesses of its round were lost; or what was said of them."""
    opening, leased, verifying = (make_scheduler("a") for _ in range(3))
    opening.admit(make_spec(ONE, max_tokens=LONG), None)
    open_stream(leased, ONE)
    open_stream(verifying, ONE, "a")
    answer(verifying, 1, "a")
    for scheduler in (opening, leased, verifying):
        assert opened(wait(scheduler, 10)) == []
        (there,) = opened(wait(scheduler, 20, 10))
        assert there.generation == 3
        assert scheduler._rounds == {}
        out = scheduler.target_ready(ONE, 3, 30.0)
        assert [i for i in out if not isinstance(i, Abort)] == out != []


def test_silence_is_borne_for_longer_each_time_and_then_ends_the_stream() -> None:
    scheduler = make_scheduler()
    open_stream(scheduler, ONE)
    at: list[int] = []
    for second in range(400):
        out = scheduler.tick(float(second))
        if opened(out):
            at.append(second)
        if any(isinstance(i, Abort) for i in out):
            break
    assert len(at) == 3
    first, second_, third = at[0], at[1] - at[0], at[2] - at[1]
    assert first < second_ < third
    assert scheduler.num_streams == 0
    assert second < 300


def test_who_says_something_now_and_then_is_left_alone() -> None:
    scheduler = make_scheduler()
    open_stream(scheduler, ONE)
    for second in range(150):
        if second % 9 == 0:
            commit_one(scheduler, ONE, float(second))
        scheduler.tick(float(second))
    assert num_reopened(scheduler) == 0


def slow_scheduler(token_s: float, num_cells: int = 100_000) -> SchedulerState:
    """Of a target that takes so long for a token, read or decoded."""
    per_token = costs(token_s)
    return SchedulerState(FixedPolicy(), per_token, num_cells=num_cells)


def test_a_slow_target_is_given_the_time_that_a_long_text_takes() -> None:
    # 32 tokens take a second: 125 s for the whole text, beside another stream.
    scheduler = slow_scheduler(1.0)
    scheduler.admit(make_spec(ONE, tuple([5] * 4000), max_tokens=LONG), None)
    open_stream(scheduler, TWO, max_tokens=9000)
    for second in range(300):
        commit_one(scheduler, TWO, float(second))
        scheduler.tick(float(second))
    assert num_reopened(scheduler) == 0


def test_who_may_wait_for_cells_is_given_the_time_of_all_others() -> None:
    """Short of cells a target parks the youngest, and need not have told it."""
    for num_cells, expected in ((200, 0), (100_000, 3)):
        scheduler = slow_scheduler(0.2, num_cells)
        open_stream(scheduler, ONE, max_tokens=LONG)
        scheduler.admit(make_spec(TWO, max_tokens=8), None)
        for second in range(100):
            commit_one(scheduler, ONE, float(second))
            scheduler.tick(float(second))
        assert num_reopened(scheduler) == expected


def test_who_is_not_read_yet_is_not_opened_anew_with_those_that_are_stuck() -> None:
    """It may wait for the cells of just these."""
    scheduler = make_scheduler()
    open_stream(scheduler, ONE)
    scheduler.admit(make_spec(TWO), None)
    assert [m.stream_id for m in opened(wait(scheduler, 14))] == [ONE]


def test_streams_that_wait_for_the_coordinator_or_for_draft_nodes_are_not_the_targets() -> None:
    scheduler = make_scheduler("a", policy=FixedPolicy(size=1, overlap=False))
    open_stream(scheduler, ONE, "a")
    open_stream(scheduler, TWO, "a")
    assert scheduler.awaits_target is False
    answer(scheduler, 1, "a")
    assert scheduler.awaits_target is True
    commit_one(scheduler, ONE)
    assert scheduler.awaits_target is False


def closed_at_draft(instructions: Sequence[Instruction]) -> list[tuple[str, StreamId]]:
    return [
        (i.node, StreamId(i.message.stream_id))
        for i in instructions
        if isinstance(i, ToDraft) and isinstance(i.message, CloseStreamNotice)
    ]


def keep_decoding(scheduler: SchedulerState, seconds: int) -> list[Instruction]:
    out: list[Instruction] = []
    for second in range(seconds):
        if second % 5 == 0:
            out += commit_one(scheduler, ONE, float(second))
        out += scheduler.tick(float(second))
    return out


def test_a_draft_node_that_never_reads_a_text_is_done_without() -> None:
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE)
    scheduler.draft_joined("b", DRAFT_COSTS)
    out = keep_decoding(scheduler, 60)
    assert closed_at_draft(out) == [("a", ONE)]
    stream = scheduler.stream(ONE)
    assert stream is not None
    assert stream.draft is not None
    assert stream.draft.node == "b"


def test_a_draft_node_that_is_late_for_good_is_done_without() -> None:
    scheduler = make_scheduler("a")
    open_stream(scheduler, ONE, "a")
    assert closed_at_draft(scheduler.tick(5.0)) == []
    assert closed_at_draft(keep_decoding(scheduler, 80)) == [("a", ONE)]
    stream = scheduler.stream(ONE)
    assert stream is not None
    assert stream.draft is None
    assert stream.plain_reason == "draft off: a does not answer"


def test_streams_of_a_coordinator_that_slept_are_not_opened_anew() -> None:
    scheduler = make_scheduler()
    for stream_id in (ONE, TWO, THREE):
        open_stream(scheduler, stream_id)
    wait(scheduler, 5)
    assert opened(scheduler.tick(300.0)) == []
    assert opened(wait(scheduler, 8, 301)) == []


def test_a_parked_stream_that_is_opened_anew_is_read_from_its_journal() -> None:
    scheduler = make_scheduler()
    open_stream(scheduler, ONE)
    commit_one(scheduler, ONE)
    scheduler.target_parked(ONE, 1, 0.0)
    closed, there = to_target(wait(scheduler, 30))
    assert closed == CloseStreamNotice(ONE, 2)
    assert isinstance(there, OpenStreamRequest)
    assert (there.generation, there.token_ids) == (4, (*PROMPT, 9))
    stream = scheduler.stream(ONE)
    assert stream is not None
    assert (stream.phase, stream.is_parked) == (Opening(), False)
