"""Streams of one target: who follows, what is passed on, what goes wrong."""

from __future__ import annotations

from typing import Any

import pytest

from nodes.messages import (
    ChainPart,
    CloseStreamNotice,
    CommitEntry,
    CommitNotice,
    CommitReply,
    GuessNotice,
    OpenStreamRequest,
)
from nodes.scheduler.commits import next_deadline, tell_followers
from nodes.scheduler.drafts import DraftRecord, Drafts
from nodes.scheduler.following import (
    draft_failed,
    draft_joined,
    draft_lost,
    draft_ready,
    guessed,
)
from nodes.scheduler.instructions import (
    Abort,
    Emit,
    Finish,
    Instruction,
    ToDraft,
    ToTarget,
    leases_of,
)
from nodes.scheduler.state import SchedulerState
from nodes.scheduler.stream import Stream
from nodes.worker.stream import StreamId
from policies.latency import CostTable, NodeCosts
from policies.plan import Link
from tests.nodes.builders import PROMPT, make_spec

ONE, TWO = StreamId(1), StreamId(2)


def node(name: str = "d", step_s: float = 0.005, **changes: Any) -> DraftRecord:
    costs = NodeCosts(CostTable((1,), (step_s,)), CostTable((32,), (step_s,)))
    return DraftRecord(name, costs, **changes)


def make(*nodes: DraftRecord) -> SchedulerState:
    state = SchedulerState(Drafts())
    for each in nodes:
        draft_joined(state, each)
    return state


def admit(state: SchedulerState, stream_id: int = 1, **changes: Any) -> list[Instruction]:
    gamma = changes.pop("gamma", None)
    changes.setdefault("max_tokens", 1000)
    return state.admit(make_spec(stream_id, **changes), gamma)


def ready(state: SchedulerState, stream_id: StreamId = ONE, name: str = "d") -> list[Instruction]:
    stream = state.streams[stream_id]
    if stream.follow is not None:
        draft_ready(state, name, stream_id, stream.follow.number)
    return state.target_ready(stream_id, stream.spec.generation)


def commit(
    state: SchedulerState,
    *token_ids: int,
    stream_id: StreamId = ONE,
    now: float = 0.0,
    **changes: Any,
) -> list[Instruction]:
    stream = state.streams.get(stream_id)
    known = (stream.spec.generation, len(stream.token_ids)) if stream is not None else (1, 3)
    fields: dict[str, Any] = {
        "generation": known[0],
        "prefix_len": known[1],
        "num_draft_tokens": 0,
        "num_accepted_tokens": 0,
        "finish_reason": "",
        "text": b"",
    } | changes
    entry = CommitEntry(stream_id=stream_id, num_tokens=len(token_ids), **fields)
    return state.committed(CommitReply(0.01, (entry,), token_ids), now)


def to_draft(out: list[Instruction], kind: type) -> list[Any]:
    return [i.message for i in out if isinstance(i, ToDraft) and isinstance(i.message, kind)]


def to_target(out: list[Instruction], kind: type) -> list[Any]:
    return [i.message for i in out if isinstance(i, ToTarget) and isinstance(i.message, kind)]


def follow_of(stream: Stream) -> tuple[str, int]:
    assert stream.follow is not None
    return stream.follow.node, stream.follow.number


# -- following ------------------------------------------------------------------------------------


def test_a_stream_is_opened_on_the_target_and_followed_at_once() -> None:
    out = admit(make(node()))
    (on_target,) = to_target(out, OpenStreamRequest)
    (on_draft,) = to_draft(out, OpenStreamRequest)
    assert on_target.token_ids == on_draft.token_ids == PROMPT
    assert on_target.num_leased > 0


def test_nobody_follows_where_the_client_wants_no_guesses() -> None:
    assert not to_draft(admit(make(node()), gamma=0), OpenStreamRequest)


def test_the_draft_node_that_answers_sooner_follows_until_it_has_too_many() -> None:
    state = make(node("slow", 0.006), node("quick", 0.005, max_streams=1))
    admit(state, 1)
    admit(state, 2)
    assert follow_of(state.streams[ONE])[0] == "quick"
    assert follow_of(state.streams[TWO])[0] == "slow"


def test_a_stream_moves_to_a_draft_node_that_is_much_quicker() -> None:
    state = make(node("slow", 0.050))
    admit(state)
    ready(state, name="slow")
    out = draft_joined(state, node("quick", 0.005))
    assert follow_of(state.streams[ONE])[0] == "quick"
    assert to_draft(out, CloseStreamNotice)


def test_a_stream_moves_to_a_slower_draft_node_that_is_right_more_often() -> None:
    """The quick one is tried first; when it has been wrong often enough, the other one is."""
    state = make(node("good", 0.008), node("quick", 0.003))
    admit(state)
    assert follow_of(state.streams[ONE])[0] == "quick"
    ready(state, name="quick")
    for second in range(200):
        right = int(second % 2 == 0)
        commit(state, 7, num_compared=1, num_right=right, num_draft_tokens=0)
        state.tick(float(second))
    assert follow_of(state.streams[ONE])[0] == "good"


def test_it_stays_where_another_one_is_hardly_quicker_or_little_is_left() -> None:
    state = make(node("slow", 0.006))
    admit(state)
    ready(state, name="slow")
    assert not draft_joined(state, node("quick", 0.005))
    short = make(node("slow", 0.050))
    admit(short, max_tokens=3, prompt=tuple(range(1, 90)) * 10)
    ready(short, name="slow")
    assert not draft_joined(short, node("quick", 0.005))


def test_when_its_draft_node_is_lost_another_one_takes_over_under_a_higher_number() -> None:
    state = make(node("a", 0.001), node("b"))
    admit(state)
    name, number = follow_of(state.streams[ONE])
    draft_lost(state, name)
    assert follow_of(state.streams[ONE]) == ("b", number + 1)


def test_a_text_with_which_draft_nodes_die_goes_without() -> None:
    state = make(node("a"), node("b"), node("c"))
    admit(state)
    for _ in range(2):
        draft_lost(state, follow_of(state.streams[ONE])[0])
    assert state.streams[ONE].follow is None
    assert "its draft nodes died" in state.streams[ONE].plain_reason


def test_a_refused_stream_is_not_offered_to_that_node_again_soon() -> None:
    state = make(node("a", 0.001), node("b"))
    admit(state)
    _, number = follow_of(state.streams[ONE])
    draft_failed(state, "a", ONE, number, "full", for_good=False)
    assert follow_of(state.streams[ONE])[0] == "b"


def test_a_draft_node_that_never_has_a_guess_in_time_loses_the_stream() -> None:
    state = make(node())
    admit(state)
    ready(state)
    out: list[Instruction] = []
    for _ in range(70):
        out += commit(state, 5)
    assert to_draft(out, CloseStreamNotice)
    assert state.streams[ONE].follow is None
    measured = make(node())
    admit(measured)
    ready(measured)
    for k in range(140):
        commit(measured, 5, num_compared=int(k % 8 == 0))
    assert measured.streams[ONE].follow is not None


# -- what is passed on ----------------------------------------------------------------------------


def part(stream_id: int, follow: int, start: int = 3, num: int = 2) -> ChainPart:
    return ChainPart(stream_id, follow, 1, start, bytes([200] * num))


def test_guesses_of_who_follows_go_to_the_target_and_no_others() -> None:
    state = make(node())
    admit(state)
    _, number = follow_of(state.streams[ONE])
    good, stale, strange = part(1, number), part(1, number + 1), part(7, number)
    out = guessed(state, "d", [(good, (4, 5)), (stale, (6, 7)), (strange, (8, 9))])
    assert to_target(out, GuessNotice) == [GuessNotice((good,), (4, 5))]
    assert guessed(state, "other", [(good, (4, 5))]) == []
    assert state.num_stale == 3


def test_commits_go_to_the_client_and_to_who_follows() -> None:
    state = make(node())
    admit(state)
    ready(state)
    out = commit(state, 8, 9, num_draft_tokens=3, num_accepted_tokens=1, text=b"x")
    (emit,) = (i for i in out if isinstance(i, Emit))
    assert (emit.position, emit.token_ids, emit.text) == (0, (8, 9), b"x")
    (notice,) = to_draft(out, CommitNotice)
    assert notice.new_token_ids == (8, 9)
    assert notice.entries[0].num_draft_tokens == 3


def test_commits_that_wait_for_a_busy_link_go_together() -> None:
    """10 kbit/s: what a message takes is longer than a pass."""
    state = make(node(link=Link(rate_bps=10_000.0)))
    admit(state)
    ready(state)
    first = commit(state, 4, now=10.0)
    assert to_draft(first, CommitNotice)
    assert not to_draft(commit(state, 5, now=10.01), CommitNotice)
    assert not to_draft(commit(state, 6, now=10.02), CommitNotice)
    at = next_deadline(state)
    assert at is not None
    (notice,) = to_draft(state.tick(at), CommitNotice)
    assert notice.new_token_ids == (5, 6)
    assert notice.entries[0].prefix_len == len(PROMPT) + 1


def test_a_long_text_goes_in_pieces_with_gaps_between_them() -> None:
    text = tuple(1 + k % 90 for k in range(200))
    state = make(node(link=Link(rate_bps=50_000.0)))
    (opened,) = to_draft(admit(state, prompt=text), OpenStreamRequest)
    told = list(opened.token_ids)
    assert len(told) < 100
    assert opened.num_known == len(text)
    now = 0.0
    while len(told) < len(text):
        (notice,) = to_draft(state.tick(now), CommitNotice)
        told += notice.new_token_ids
        assert not to_draft(tell_followers(state, now), CommitNotice)
        now = next_deadline(state) or 0.0
    assert tuple(told) == text


def test_a_long_text_on_a_slow_link_does_not_keep_commits_from_others() -> None:
    state = make(node(link=Link(rate_bps=50_000.0)))
    admit(state, 1)
    ready(state)
    admit(state, 2, prompt=tuple(1 + k % 90 for k in range(2000)))
    now, told = 0.0, []
    for token_id in range(5, 15):
        out = commit(state, token_id, now=now)
        now = (next_deadline(state) or now) + 1e-6
        out += state.tick(now)
        for notice in to_draft(out, CommitNotice):
            told += [e.num_tokens for e in notice.entries if e.stream_id == ONE]
    assert sum(told) >= 8


def test_the_target_is_told_to_go_on_long_before_it_would_stop() -> None:
    state = make()
    admit(state)
    (lease,) = leases_of(ready(state))
    entries = []
    for _ in range(200):
        entries += leases_of(commit(state, 5))
    ends = [e.prefix_len + e.num_tokens for e in [lease, *entries]]
    begins = [e.prefix_len for e in entries]
    assert entries
    assert all(begin < end - 16 for begin, end in zip(begins, ends, strict=False))


# -- ends and errors ------------------------------------------------------------------------------


def test_a_text_that_ends_is_closed_at_its_draft_node() -> None:
    state = make(node())
    admit(state)
    ready(state)
    out = commit(state, 5, finish_reason="stop", num_draft_tokens=2, num_accepted_tokens=1)
    assert [i.reason for i in out if isinstance(i, Finish)] == ["stop"]
    assert to_draft(out, CloseStreamNotice)
    figures, _ = state.take_figures(ONE)
    assert (figures.num_draft_tokens, figures.num_accepted_tokens) == (2, 1)
    assert not state.streams


def test_a_commit_that_is_missing_makes_it_open_the_stream_anew() -> None:
    state = make()
    admit(state)
    ready(state)
    out = commit(state, 5, prefix_len=9)
    (request,) = to_target(out, OpenStreamRequest)
    assert request.generation > 1
    assert request.token_ids == PROMPT
    while state.streams:
        out = commit(state, 5, prefix_len=9)
    assert any(isinstance(i, Abort) for i in out)


def test_a_commit_that_comes_twice_is_taken_once() -> None:
    state = make()
    admit(state)
    ready(state)
    commit(state, 5)
    assert commit(state, 5, prefix_len=len(PROMPT)) == []
    assert state.streams[ONE].token_ids == [*PROMPT, 5]


def test_a_parked_stream_goes_on_when_it_is_ready_again() -> None:
    state = make(node())
    admit(state)
    ready(state)
    number = follow_of(state.streams[ONE])[1]
    state.target_parked(ONE, 1)
    assert state.target_ready(ONE, 1) == []
    assert leases_of(state.target_ready(ONE, 2))
    assert follow_of(state.streams[ONE])[1] == number


def test_silence_of_the_target_about_a_stream_ends() -> None:
    state = make()
    admit(state)
    ready(state)
    out: list[Instruction] = []
    for second in range(2000):
        out += state.tick(float(second))
    assert to_target(out, OpenStreamRequest)
    assert any(isinstance(i, Abort) for i in out)


def test_a_stream_goes_on_with_its_journal_on_another_target() -> None:
    state, other = make(node()), make(node())
    admit(state)
    ready(state)
    commit(state, 5)
    stream, out = state.release(ONE)
    assert to_target(out, CloseStreamNotice)
    (request,) = to_target(other.adopt(stream), OpenStreamRequest)
    assert request.token_ids == (*PROMPT, 5)
    assert request.generation == 2


# -- the air --------------------------------------------------------------------------------------


def on_air(name: str, rate_bps: float, medium: str = "cell") -> DraftRecord:
    return node(name, link=Link(rate_bps, 0.001, medium, 0.001))


def test_nodes_of_a_medium_share_it_by_what_their_messages_take_and_their_streams() -> None:
    nodes = [on_air("a", 1e5), on_air("b", 4e5), on_air("c", 1e5, "other"), node("wired")]
    state = make(*nodes)
    for number in range(1, 9):
        admit(state, number)
    drafts = state.drafts
    a, b = drafts["a"], drafts["b"]
    assert a.followed
    assert b.followed
    shares = [a.share_up, a.share_down, b.share_up, b.share_down]
    # Some is left free, so that messages do not queue.
    assert 0.5 < sum(shares) < 1.0
    # Guesses of a step are more than the tokens that are told.
    assert a.share_up > a.share_down
    assert drafts["c"].share_up + drafts["c"].share_down == pytest.approx(sum(shares))
    assert drafts["wired"].rate_up_bps == 0


def test_a_target_on_the_medium_comes_before_guesses_and_hears_them_over_it() -> None:
    state = make(on_air("d", 1e5), on_air("elsewhere", 1e5, "other"))
    for number in range(1, 9):
        admit(state, number)
    drafts = state.drafts
    node, other = drafts["d"], drafts["elsewhere"]
    alone = node.share_up + node.share_down
    drafts.take("target", "cell", 0.3)
    # A guess takes the medium twice: to the coordinator, and from there to the target.
    assert 2 * node.share_up + node.share_down == pytest.approx(alone - 0.3)
    assert other.share_up + other.share_down == pytest.approx(alone)


def test_nobody_guesses_over_a_medium_that_a_target_needs_for_its_answers() -> None:
    state = make(on_air("d", 1e5))
    admit(state)
    ready(state)
    state.drafts.take("target", "cell", 0.9)
    out = state.tick(1e6)
    assert to_draft(out, CloseStreamNotice)
    stream = state.streams[ONE]
    assert stream.follow is None
    assert stream.plain_reason == "draft off: the answers of targets fill the shared medium"
    state.drafts.give_back("target")
    assert to_draft(state.tick(2e6), OpenStreamRequest)


def test_what_a_draft_node_may_use_of_the_air_goes_with_what_it_is_told() -> None:
    state = make(on_air("d", 1e5))
    admit(state)
    ready(state)
    (notice,) = to_draft(commit(state, 7), CommitNotice)
    assert notice.rate_bps == state.drafts["d"].rate_up_bps
    assert 0 < notice.rate_bps < 1e5


def test_commits_wait_for_the_share_of_the_air_that_they_have_and_merge() -> None:
    state = make(on_air("d", 2e4))
    admit(state)
    ready(state)
    assert to_draft(commit(state, 7, now=1.0), CommitNotice)
    assert not to_draft(commit(state, 8, now=1.001), CommitNotice)
    assert not to_draft(commit(state, 9, now=1.002), CommitNotice)
    deadline = next_deadline(state)
    assert deadline is not None
    alone_s = state.drafts["d"].message_s(1, 1)
    # The text, which waited for nobody, is paid for as well.
    text_s = state.drafts["d"].message_s(1, len(PROMPT))
    assert deadline == pytest.approx(1.0 + (text_s + alone_s) / state.drafts["d"].share_down)
    (notice,) = to_draft(tell_followers(state, deadline), CommitNotice)
    assert notice.new_token_ids == (8, 9)
