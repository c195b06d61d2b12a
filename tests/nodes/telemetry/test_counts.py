"""What is counted of passes and guesses, against what is known of them one by one."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.nodes.messages import MAX_GAMMA, CommitEntry, StreamReadyNotice
from airdraft.nodes.telemetry.counts import FATES, MAX_SPANS, TOKEN_KINDS, Counts, Ratios
from airdraft.nodes.telemetry.status import ErrorStatus, SpanStatus
from airdraft.nodes.worker.stream import StreamId
from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.scheduler.watched import PASS_S, admit, commit, decoding, guess, make_scheduler
from tests.nodes.target.script import make_state, steps

ONE = StreamId(1)


def entry(made: int, accepted: int, num_tokens: int, **changes: Any) -> CommitEntry:
    return CommitEntry(1, 1, 3, num_tokens, made, accepted, "", b"", **changes)


def counted(*entries: CommitEntry) -> Counts:
    counts = Counts()
    for each in entries:
        counts.committed(each, each.num_tokens, "not_worth")
    return counts


def test_tokens_are_told_apart_by_what_made_them() -> None:
    # Of the fourth the text ends with its second guess.
    passes = entry(4, 2, 3), entry(4, 4, 5), entry(0, 0, 1), entry(4, 3, 2)
    counts = counted(*passes)
    kinds = {kind: counts.tokens[kind] for kind in TOKEN_KINDS}
    assert kinds == {"accepted": 8, "corrected": 1, "bonus": 1, "plain": 1}
    assert counts.num_tokens == 11
    assert counts.plain_steps == {"not_worth": 1}
    assert (counts.by_made[0], counts.by_made[4]) == (1, 3)


def test_every_guess_has_a_fate() -> None:
    # Three of five that were there are taken; the target looks four up instead of two; one is late.
    counts = counted(
        entry(3, 1, 2, num_offered=5),
        entry(4, 4, 5, num_looked_up=4, num_offered=2),
        entry(0, 0, 1, num_late=1),
    )
    assert counts.guesses == {"taken": 3, "not_chosen": 4, "late": 1, "looked_up": 4, "in_turns": 0}
    assert set(counts.guesses) == set(FATES)


def test_guesses_are_compared_whether_they_were_taken_or_not() -> None:
    counts = counted(entry(0, 0, 1, num_compared=3, num_right=2), entry(2, 2, 3, num_compared=1))
    assert (counts.num_compared, counts.num_right) == (4, 2)


def test_no_counter_falls_whatever_a_target_says() -> None:
    counts = counted(entry(1, 9, 2, num_looked_up=9, num_compared=1, num_right=5))
    assert counts.guesses == {"taken": 0, "not_chosen": 0, "late": 0, "looked_up": 1, "in_turns": 0}
    assert counts.num_right <= counts.num_compared
    assert counts.tokens["accepted"] == 1


def test_a_text_that_had_no_token_to_come_had_no_pass() -> None:
    counts = Counts()
    counts.committed(CommitEntry(1, 1, 3, 0, 0, 0, "length", b""), 0, "last_token")
    assert (counts.by_made[0], counts.plain_steps) == (0, {})


@given(
    passes=st.lists(
        st.integers(1, MAX_GAMMA).flatmap(
            lambda made: st.tuples(st.just(made), st.integers(0, made))
        )
    )
)
def test_positions_are_those_of_the_passes_one_by_one(passes: list[tuple[int, int]]) -> None:
    counts = counted(*(entry(made, accepted, accepted + 1) for made, accepted in passes))
    found_made, judged, found_accepted = counts.by_position()
    for position in range(1, MAX_GAMMA + 1):
        assert found_made[position - 1] == sum(made >= position for made, _ in passes)
        assert found_accepted[position - 1] == sum(right >= position for _, right in passes)
        assert judged[position - 1] == sum(
            made >= position and right >= position - 1 for made, right in passes
        )


def test_errors_are_of_the_last_thousand_whichever_way() -> None:
    ratios = Ratios()
    # Of these nothing is known.
    for times_s in ((0.0, 1.0), (1.0, 0.0), (1.0, float("inf"))):
        ratios.observe(*times_s)
    assert ratios.errors() == ErrorStatus(0, 0.0, 0.0)
    for observed_s in (1.0, 3.0, 2.5):
        ratios.observe(observed_s, 2.0)
    # 0.5, 0.5 and 0.25: as far below as above is as wrong.
    assert ratios.errors() == ErrorStatus(3, 0.5, 0.5)
    for _ in range(1000):
        ratios.observe(1.5, 1.0)
    assert ratios.errors() == ErrorStatus(1000, 0.5, 0.5)
    ratios = Ratios()
    for number in range(101):
        ratios.observe(1.0 + number / 100, 1.0)
    assert ratios.errors().p95 == pytest.approx(0.95)


def test_spans_do_not_grow_for_ever() -> None:
    counts = Counts()
    for number in range(3 * MAX_SPANS):
        counts.guessed("d", 4, float(number))
        counts.pass_done("t", 0.01, 5, 4, float(number))
    assert len(counts.spans) == MAX_SPANS
    assert counts.num_passes == 3 * MAX_SPANS


# -- of a scheduler -------------------------------------------------------------------------------


def test_a_message_and_the_pass_that_took_its_guesses_leave_spans() -> None:
    scheduler = decoding("d")
    guess(scheduler, "d", 4, now=1.0)
    commit(scheduler, 5, 6, 9, num_draft_tokens=4, num_accepted_tokens=2, now=2.0)
    counts = scheduler.counts
    message = SpanStatus("guesses", "d", 1.0, 1.0, num_tokens=4, num_guesses=4)
    verified = SpanStatus("pass", "big", 2.0 - PASS_S, 2.0, num_tokens=5, num_guesses=4)
    assert list(counts.spans) == [message, verified]
    assert (counts.num_passes, counts.pass_s) == (1, PASS_S)
    assert counts.by_position()[2][:3] == (1, 1, 0)


def test_what_does_not_follow_the_journal_is_not_counted() -> None:
    scheduler = decoding()
    commit(scheduler, 5)
    commit(scheduler, 9, prefix_len=len(PROMPT))
    assert scheduler.counts.num_tokens == 1


def test_a_text_of_which_a_target_had_nothing_is_not_counted_as_reused() -> None:
    """The last token of a text is run with the first pass of the answer, and is in no cache."""
    scheduler = make_scheduler()
    target, _ = make_state()
    for stream_id, prompt in ((1, PROMPT), (2, (5,))):
        admit(scheduler, stream_id, prompt=prompt)
        (ready,) = target.open(make_spec(stream_id, prompt=prompt)) + steps(target)
        assert isinstance(ready, StreamReadyNotice)
        scheduler.target_ready(StreamId(stream_id), 1, ready.num_read)
    counts = scheduler.counts
    assert (counts.tokens_read, counts.tokens_reused) == (len(PROMPT) + 1, 0)


@pytest.mark.parametrize(("num_read", "counted"), [(None, (3, 0)), (0, (1, 2)), (9, (3, 0))])
def test_tokens_that_a_target_had_to_read_are_told_from_reused_ones(
    num_read: int | None, counted: tuple[int, int]
) -> None:
    scheduler = make_scheduler()
    admit(scheduler, prompt=(1, 2, 3))
    scheduler.target_ready(ONE, 1, num_read)
    assert (scheduler.counts.tokens_read, scheduler.counts.tokens_reused) == counted
