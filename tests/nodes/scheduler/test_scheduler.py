"""Streams of one target: who follows, what is passed on, what goes wrong."""

from __future__ import annotations

from typing import Any

import pytest

from airdraft.mesh.codec import decode, encode
from airdraft.nodes.messages import (
    ChainPart,
    CloseStreamNotice,
    CommitNotice,
    GuessNotice,
    OpenStreamRequest,
)
from airdraft.nodes.scheduler.drafts import DraftRecord, Drafts
from airdraft.nodes.scheduler.in_force import observed_price_s
from airdraft.nodes.scheduler.instructions import Abort, Emit, Finish, Instruction
from airdraft.nodes.scheduler.planning import MODES
from airdraft.nodes.scheduler.scheduler import Scheduler
from airdraft.nodes.worker.stream import StreamId
from airdraft.policies.plan import Link
from tests.nodes.builders import PROMPT
from tests.nodes.scheduler.watched import (
    ONE,
    TARGET_COSTS,
    admit,
    commit,
    fail,
    join,
    leases_of,
    make_scheduler,
    ready,
    to_draft,
    to_target,
)


def make(**nodes: float) -> Scheduler:
    """nodes: draft nodes by name, with the seconds of one of their steps."""
    scheduler = make_scheduler()
    for name, step_s in nodes.items():
        join(scheduler, name, step_s)
    return scheduler


def decoding(scheduler: Scheduler, **changes: Any) -> Scheduler:
    """It has one stream that is decoded."""
    admit(scheduler, **{"max_tokens": 1000, **changes})
    ready(scheduler)
    return scheduler


def followers(out: list[Instruction]) -> list[tuple[str, int]]:
    """Draft nodes that are to follow a stream from now on, with the number of the following."""
    return [(node, m.generation) for node, m in to_draft(out, OpenStreamRequest)]


def notices(out: list[Instruction]) -> list[CommitNotice]:
    return [message for _, message in to_draft(out, CommitNotice)]


def refusal(scheduler: Scheduler) -> str:
    """Why no draft node follows the only stream."""
    (stream,) = scheduler.streams.values()
    return stream.refusal


# -- following ------------------------------------------------------------------------------------


def test_the_draft_node_that_answers_sooner_follows_until_it_has_too_many() -> None:
    scheduler = make(slow=0.006)
    join(scheduler, "quick", 0.005, max_streams=1)
    found = [followers(admit(scheduler, number, max_tokens=1000)) for number in (1, 2)]
    assert found == [[("quick", 1)], [("slow", 1)]]
    scheduler.cancel(ONE)
    assert followers(admit(scheduler, 3, max_tokens=1000)) == [("quick", 1)]


def test_a_stream_moves_to_a_draft_node_that_is_much_quicker() -> None:
    out = join(decoding(make(slow=0.050)), "quick")
    assert followers(out) == [("quick", 2)]
    assert [node for node, _ in to_draft(out, CloseStreamNotice)] == ["slow"]


def test_a_stream_has_the_slower_draft_node_while_that_is_right_more_often() -> None:
    scheduler = make(good=0.008, quick=0.003)
    assert followers(admit(scheduler, max_tokens=2000)) == [("quick", 1)]
    ready(scheduler)
    stream = scheduler.streams[ONE]
    assert stream.follow is not None
    for second in range(1800):
        better = "good" if second < 900 else "quick"
        if second in (899, 1799):
            assert stream.follow.node == better
        right = int(stream.follow.node == better or second % 2 == 0)
        commit(scheduler, 7, num_compared=1, num_right=right)
        scheduler.tick(float(second))
        ready(scheduler)
        assert stream.follow is not None


def test_it_stays_where_little_is_left_to_gain() -> None:
    """Its text would have to be read again for two more tokens."""
    scheduler = decoding(make(slow=0.050), max_tokens=3, prompt=tuple(range(1, 90)) * 10)
    assert not join(scheduler, "quick")


@pytest.mark.parametrize("is_lost", [True, False], ids=["lost", "full"])
def test_when_its_draft_node_gives_up_another_one_takes_over_under_a_higher_number(
    is_lost: bool,
) -> None:
    scheduler = make(a=0.001, b=0.005)
    assert followers(admit(scheduler)) == [("a", 1)]
    out = scheduler.draft_lost("a") if is_lost else fail(scheduler, "a", "full")
    assert followers(out) == [("b", 2)]


def test_a_text_with_which_draft_nodes_die_goes_without() -> None:
    scheduler = make(a=0.005, b=0.005, c=0.005)
    out = admit(scheduler)
    for _ in range(2):
        ((node, _),) = followers(out)
        out = scheduler.draft_lost(node)
    assert followers(out) == []
    assert "its draft nodes died" in refusal(scheduler)


def test_a_draft_node_that_never_reports_that_it_has_read_a_text_loses_the_stream() -> None:
    """The request to follow it, or the answer, was lost."""
    scheduler = make(a=0.001, b=0.005)
    assert followers(admit(scheduler, max_tokens=1000)) == [("a", 1)]
    scheduler.target_ready(ONE, 1)
    out: list[Instruction] = []
    for second in range(100):
        out += commit(scheduler, 7, now=float(second))
        out += scheduler.tick(float(second))
    assert [node for node, _ in to_draft(out, CloseStreamNotice)] == ["a"]
    assert followers(out) == [("b", 2)]


def test_what_a_draft_node_has_to_read_is_known_although_texts_grow_meanwhile() -> None:
    scheduler = make(a=0.001)
    for number in (1, 2):
        admit(scheduler, number, max_tokens=1000, prompt=tuple(range(1, 100)))
        scheduler.target_ready(StreamId(number), 1)
    commit(scheduler, *range(1, 50))
    scheduler.draft_ready("a", ONE, 1)
    assert scheduler.drafts["a"].num_unread == 99
    scheduler.cancel(StreamId(2))
    assert scheduler.drafts["a"].num_unread == 0


def test_a_request_that_is_invalid_for_a_draft_node_is_never_offered_to_it_again() -> None:
    scheduler = make(a=0.001)
    admit(scheduler, max_tokens=1000)
    told = scheduler.draft_failed("a", ONE, 1, "no grammars", "bad_request")
    ready(scheduler)
    for second in range(500):
        told += commit(scheduler, 7)
        told += scheduler.tick(float(second))
    assert followers(told) == []


@pytest.mark.parametrize("is_measured", [False, True])
def test_a_draft_node_that_never_has_a_guess_in_time_loses_the_stream(is_measured: bool) -> None:
    scheduler = decoding(make(d=0.005))
    out: list[Instruction] = []
    for number in range(140):
        # Where a guess is compared now and then, it is in time.
        out += commit(scheduler, 5, num_compared=int(is_measured and number % 8 == 0))
    assert bool(to_draft(out, CloseStreamNotice)) != is_measured
    # It is tried again later, because it may be quicker then.
    assert followers(scheduler.tick(1.0)) == ([] if is_measured else [("d", 2)])


# -- what is passed on ----------------------------------------------------------------------------


def part(stream_id: int, follow: int) -> ChainPart:
    return ChainPart(stream_id, follow, 1, len(PROMPT), bytes([200] * 2))


def test_guesses_of_who_follows_go_to_the_target_and_no_others() -> None:
    scheduler = make(d=0.005)
    ((_, number),) = followers(admit(scheduler))
    good, stale, strange = part(1, number), part(1, number + 1), part(7, number)
    out = scheduler.guessed("d", [(good, (4, 5)), (stale, (6, 7)), (strange, (8, 9))], 0.0)
    assert to_target(out, GuessNotice) == [GuessNotice((good,), (4, 5))]
    assert scheduler.guessed("other", [(good, (4, 5))], 0.0) == []
    assert scheduler.num_stale == 3


def narrow(rate_bps: float) -> Scheduler:
    """With a draft node behind a slow link."""
    scheduler = make()
    join(scheduler, "d", link=Link(rate_bps=rate_bps))
    return scheduler


def test_a_long_text_goes_in_pieces_with_gaps_between_them() -> None:
    text = tuple(1 + k % 90 for k in range(200))
    scheduler = narrow(50e3)
    ((_, opened),) = to_draft(admit(scheduler, prompt=text), OpenStreamRequest)
    told = list(opened.token_ids)
    assert len(told) < 100
    assert opened.num_known == len(text)
    now = 0.0
    while len(told) < len(text):
        (notice,) = notices(scheduler.tick(now))
        told += notice.new_token_ids
        assert not notices(scheduler.tick(now))
        now = scheduler.next_deadline() or 0.0
    assert tuple(told) == text


def test_a_long_text_on_a_slow_link_does_not_keep_commits_from_others() -> None:
    scheduler = decoding(narrow(50e3))
    admit(scheduler, 2, prompt=tuple(1 + k % 90 for k in range(2000)))
    now, told = 0.0, 0
    for token_id in range(5, 15):
        out = commit(scheduler, token_id, now=now)
        now = (scheduler.next_deadline() or now) + 1e-6
        out += scheduler.tick(now)
        entries = [entry for notice in notices(out) for entry in notice.entries]
        told += sum(entry.num_tokens for entry in entries if entry.stream_id == ONE)
    assert told >= 8


def test_the_target_is_told_to_go_on_long_before_it_would_stop() -> None:
    scheduler = make()
    (opened,) = to_target(admit(scheduler, max_tokens=1000), OpenStreamRequest)
    assert opened.num_leased > 0
    leases = leases_of(scheduler.target_ready(ONE, 1))
    for _ in range(200):
        leases += leases_of(commit(scheduler, 5))
    ends = [lease.prefix_len + lease.num_tokens for lease in leases]
    # They cover 200 tokens, and not each token has one.
    assert 1 < len(leases) < 20
    for lease, end in zip(leases[1:], ends, strict=False):
        assert lease.prefix_len < end - 16


@pytest.mark.parametrize(("num_read", "num_cached"), [(None, 0), (len(PROMPT) - 1, 0), (0, 2)])
def test_what_of_a_prompt_was_not_computed_is_told_at_the_end(
    num_read: int | None, num_cached: int
) -> None:
    scheduler = make()
    admit(scheduler, max_tokens=1)
    scheduler.target_ready(ONE, 1, num_read)
    out = commit(scheduler, 5, finish_reason="length")
    (end,) = [each for each in out if isinstance(each, Finish)]
    assert end.figures.num_cached_tokens == num_cached


# -- ends and errors ------------------------------------------------------------------------------


def test_a_commit_that_is_missing_makes_it_open_the_stream_anew() -> None:
    scheduler = decoding(make())
    (request,) = to_target(commit(scheduler, 5, prefix_len=9), OpenStreamRequest)
    # Above the generation of a parking that is on its way.
    assert request.generation == 3
    assert request.token_ids == PROMPT
    out, num_opened = list[Instruction](), 1
    while len(scheduler.streams):
        out = commit(scheduler, 5, prefix_len=9)
        num_opened += len(to_target(out, OpenStreamRequest))
    assert any(isinstance(i, Abort) for i in out)
    assert num_opened == 3


def test_what_a_target_says_twice_is_taken_once() -> None:
    scheduler = decoding(make())
    assert scheduler.target_ready(ONE, 1) == []
    # Nor is what is about an earlier or a later opening.
    assert scheduler.target_ready(ONE, 7) == scheduler.target_failed(ONE, 7, "late") == []
    assert scheduler.num_stale == 2
    commit(scheduler, 5)
    assert commit(scheduler, 5, prefix_len=len(PROMPT)) == []
    (emit,) = (i for i in commit(scheduler, 6, prefix_len=4) if isinstance(i, Emit))
    assert (emit.position, emit.token_ids) == (1, (6,))


def test_an_end_for_which_the_target_gives_no_reason_is_an_error() -> None:
    scheduler = decoding(make(), max_tokens=2)
    out = commit(scheduler, 5, 6)
    assert [each.error for each in out if isinstance(each, Abort)]
    assert not scheduler.streams


def test_a_pass_that_gives_a_stream_nothing_ends_it_and_not_the_coordinator() -> None:
    (abort,) = [i for i in commit(decoding(make())) if isinstance(i, Abort)]
    assert abort.error == "the target reported a pass without a token"


def test_silence_of_the_target_about_a_stream_ends() -> None:
    scheduler = decoding(make())
    out = [each for second in range(2000) for each in scheduler.tick(float(second))]
    assert to_target(out, OpenStreamRequest)
    assert any(isinstance(i, Abort) for i in out)


# -- the air --------------------------------------------------------------------------------------

CELL = Link(1e5, 0.001, "cell", 0.001)
ELSEWHERE = Link(1e5, 0.001, "other", 0.001)


def on_air(num_streams: int = 8, **links: Link) -> tuple[Scheduler, Drafts]:
    """Streams of a target, and draft nodes by name."""
    drafts = Drafts()
    scheduler = Scheduler(TARGET_COSTS, drafts, mode=MODES["auto"], name="target")
    for name, link in links.items():
        join(scheduler, name, link=link)
    for number in range(1, num_streams + 1):
        admit(scheduler, number, max_tokens=1000)
    return scheduler, drafts


def share(node: DraftRecord, uses: int = 1) -> float:
    """What a draft node may take of its medium. uses: how often a guess takes it."""
    return uses * node.share_up + node.share_down


def test_nodes_of_a_medium_share_it_by_what_their_messages_take_and_their_streams() -> None:
    faster = Link(4e5, 0.001, "cell", 0.001)
    _, drafts = on_air(a=CELL, b=faster, c=ELSEWHERE, wired=Link())
    a, b = drafts["a"], drafts["b"]
    # Some is left free, so that messages do not queue.
    assert 0.5 < share(a) + share(b) < 1.0
    # Guesses of a step are more than the tokens that are told.
    assert a.share_up > a.share_down
    assert share(drafts["c"]) == pytest.approx(share(a) + share(b))
    assert drafts["wired"].rate_up_bps == 0
    # The rate that it has goes with what it is told.
    assert 0 < a.rate_up_bps < 1e5


def test_a_target_on_the_medium_comes_before_guesses_and_hears_them_over_it() -> None:
    _, drafts = on_air(d=CELL, elsewhere=ELSEWHERE)
    alone = share(drafts["d"])
    drafts.take("target", "cell", 0.3)
    # A guess takes the medium twice: to the coordinator, and from there to the target.
    assert share(drafts["d"], 2) == pytest.approx(alone - 0.3)
    assert share(drafts["elsewhere"]) == pytest.approx(alone)


def test_nobody_guesses_over_a_medium_that_a_target_needs_for_its_answers() -> None:
    scheduler, drafts = on_air(1, d=CELL)
    ready(scheduler)
    drafts.take("target", "cell", 0.9)
    assert to_draft(scheduler.tick(1e6), CloseStreamNotice)
    reason = "the answers of targets fill the shared medium"
    assert refusal(scheduler) == reason
    drafts.give_back("target")
    assert followers(scheduler.tick(2e6)) == [("d", 2)]


@pytest.mark.parametrize("num_streams", [0, 8])
def test_answers_of_many_streams_fill_a_narrow_cell_until_the_target_is_gone(
    num_streams: int,
) -> None:
    scheduler, drafts = on_air(num_streams)
    scheduler.link = Link(50_000.0, 0.002, "cell", 0.0005)
    scheduler.tick(1.0)
    assert drafts.is_full("cell") == bool(num_streams)
    assert not drafts.is_full("other")
    scheduler.release_all()
    assert not drafts.is_full("cell")


def test_commits_wait_for_the_share_of_the_air_that_they_have_and_merge() -> None:
    scheduler, drafts = on_air(1, d=Link(2e4, 0.001, "cell", 0.001))
    ready(scheduler)
    (notice,) = notices(commit(scheduler, 7, now=1.0))
    node = drafts["d"]
    assert notice.rate_bps == node.rate_up_bps
    assert not notices(commit(scheduler, 8, now=1.001))
    assert not notices(commit(scheduler, 9, now=1.002))
    deadline = scheduler.next_deadline()
    # The text, which waited for nobody, is paid for as well.
    air_s = node.message_s(1, len(PROMPT)) + node.message_s(1, 1)
    assert deadline == pytest.approx(1.0 + air_s / node.share_down)
    (notice,) = notices(scheduler.tick(deadline))
    assert notice.entries[0].prefix_len == len(PROMPT) + 1
    assert notice.new_token_ids == (8, 9)


@pytest.mark.parametrize(
    "link",
    [
        # The medium is declared, and the rate is to be measured.
        Link(medium="cell"),
        Link(medium="cell", frame_s=0.001),
        Link(frame_s=0.001),
        Link(10e9),
        Link(1e12, medium="cell"),
    ],
)
def test_a_draft_node_is_told_of_commits_whatever_is_known_of_its_link(link: Link) -> None:
    scheduler, drafts = on_air(1, d=link, beside=CELL)
    assert drafts["d"].followed
    ready(scheduler)
    told = notices(
        commit(scheduler, 7, now=1.0) + commit(scheduler, 8, now=2.0) + scheduler.tick(3.0)
    )
    assert [token_id for notice in told for token_id in notice.new_token_ids] == [7, 8]
    for notice in told:
        assert decode(encode(notice)).message == notice


def test_the_time_without_a_target_is_not_part_of_the_price_at_the_next() -> None:
    """The first target committed every 0.1 s, and the second one, an hour later, every 0.2 s."""
    first, second = decoding(make()), make_scheduler()
    for now in (0.0, 0.1):
        commit(first, 5, now=now)
    assert observed_price_s(first) == pytest.approx(0.1)
    journal, _ = first.release(ONE)
    second.adopt(journal)
    ready(second)
    commit(second, 5, now=3600.0)
    assert observed_price_s(second) == 0.0
    commit(second, 5, now=3600.2)
    assert observed_price_s(second) == pytest.approx(0.2)
