"""What is counted of rounds, against what is known of them one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.messages import MAX_GAMMA, CommitEntry
from nodes.scheduler.drafting.refusals import Refusals
from nodes.scheduler.drafting.tries import Tries
from nodes.scheduler.stream import DraftPlacement, Leased, Stream, Verifying
from nodes.scheduler.watching.counts import (
    MAX_SPANS,
    MOST_S,
    PLAIN_LABELS,
    RATIO_BOUNDS,
    TOKEN_KINDS,
    Counts,
    Ratios,
    plain_label,
)
from tests.nodes.builders import make_spec
from tests.nodes.scheduler.script import (
    ONE,
    TWO,
    answer,
    commit,
    commit_one,
    draft_requests,
    guesses,
    length_of,
    make_scheduler,
    open_stream,
)


def stream_of(**changes: object) -> Stream:
    spec = make_spec(max_tokens=100)
    stream = Stream(spec, list(spec.token_ids), None, phase=Leased(10))
    stream.draft = DraftPlacement("d", 1, len(spec.token_ids), is_ready=True)
    for name, value in changes.items():
        setattr(stream, name, value)
    return stream


def refused(node: str) -> Refusals:
    refusals = Refusals()
    refusals.add(node, 3)
    return refusals


def entry(made: int, accepted: int, num_tokens: int) -> CommitEntry:
    return CommitEntry(1, 1, 3, num_tokens, made, accepted, "", b"")


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({"fixed_gamma": 0}, "asked"),
        ({"draft": None}, "no_draft"),
        ({"draft": None, "refusals": refused("d")}, "refused"),
        ({"draft": DraftPlacement("d", 1, 3, is_ready=True, is_late=True)}, "late"),
        ({"draft": DraftPlacement("d", 1, 3)}, "reading"),
        ({"draft": DraftPlacement("d", 1, 3, is_ready=True, catching_up=True)}, "behind"),
        ({"tries": Tries()}, "trial"),
        ({"phase": Verifying(1)}, "unsure"),
        ({"spec": make_spec(max_tokens=1)}, "last_token"),
        ({}, "not_worth"),
    ],
)
def test_every_plain_step_has_one_reason(changes: dict[str, object], label: str) -> None:
    assert plain_label(stream_of(**changes)) == label
    assert label in PLAIN_LABELS


def test_tokens_are_told_apart_by_what_made_them() -> None:
    counts = Counts()
    guessing, plain = stream_of(phase=Verifying(1)), stream_of()
    counts.committed(entry(4, 2, 3), 3, plain_label(guessing))
    counts.committed(entry(4, 4, 5), 5, plain_label(guessing))
    counts.committed(entry(0, 0, 1), 1, plain_label(plain))
    # A text that ends with its second guess; one whose draft node made none.
    counts.committed(entry(4, 3, 2), 2, plain_label(guessing))
    counts.committed(entry(0, 0, 1), 1, plain_label(guessing), is_in_round=True)
    kinds = {kind: counts.tokens[kind] for kind in TOKEN_KINDS}
    assert kinds == {"accepted": 8, "corrected": 1, "bonus": 1, "plain": 2}
    assert counts.num_tokens == 12
    assert counts.plain_steps == {"not_worth": 1, "unsure": 1}
    assert counts.gammas[0] == 1


# A busy machine is not what is tested.
@given(
    rounds=st.lists(
        st.integers(1, MAX_GAMMA).flatmap(
            lambda made: st.tuples(st.just(made), st.integers(0, made))
        )
    )
)
def test_positions_are_those_of_the_rounds_one_by_one(rounds: list[tuple[int, int]]) -> None:
    counts = Counts()
    for made, accepted in rounds:
        counts.committed(
            entry(made, accepted, accepted + 1), accepted + 1, plain_label(stream_of())
        )
    found_made, judged, found_accepted = counts.by_position()
    for position in range(1, MAX_GAMMA + 1):
        assert found_made[position - 1] == sum(made >= position for made, _ in rounds)
        assert found_accepted[position - 1] == sum(right >= position for _, right in rounds)
        assert judged[position - 1] == sum(
            made >= position and right >= position - 1 for made, right in rounds
        )


def test_ratios_are_sorted_by_their_bounds() -> None:
    ratios = Ratios()
    for ratio in (0.1, 0.5, 0.51, 1.0, 99.0):
        ratios.observe(ratio, 1.0)
    assert (ratios.counts[0], ratios.counts[1], ratios.counts[-1]) == (2, 1, 1)
    assert ratios.counts[RATIO_BOUNDS.index(1.0)] == 1
    assert ratios.total == pytest.approx(101.11)
    ratios.observe(0.0, 1.0)
    ratios.observe(1.0, 0.0)
    assert sum(ratios.counts) == 5


def test_a_round_leaves_its_spans_and_counts() -> None:
    scheduler = make_scheduler("d")
    counts = scheduler.report.counts
    ((_, request),) = draft_requests(open_stream(scheduler, ONE, "d"))
    reply = guesses(request.round, ONE, 3, 5, 6, 7, 8)
    scheduler.drafted("d", reply, 1.0)
    scheduler.committed(commit(ONE, 3, [5, 6, 9], num_draft_tokens=4, pass_s=0.25), 2.0)
    draft, verify = counts.spans
    assert (draft.stage, draft.node, draft.batch, draft.num_tokens) == ("draft", "d", 1, 4)
    assert (draft.start, draft.end) == (0.0, 1.0)
    assert (verify.stage, verify.batch, verify.round_id) == ("pass", 1, request.round)
    assert (verify.start, verify.end, verify.num_tokens) == (1.75, 2.0, 5)
    assert (counts.num_rounds, counts.num_passes, counts.pass_s) == (2, 1, 0.25)
    assert (counts.num_laps, counts.lap_s) == (1, 2.0)
    assert counts.gammas[4] == 2
    assert counts.by_position()[2][:3] == (1, 1, 0)


def test_what_does_not_follow_the_journal_is_not_counted() -> None:
    scheduler = make_scheduler()
    open_stream(scheduler, ONE)
    commit_one(scheduler, ONE)
    stale = commit(ONE, 3, [9])
    scheduler.committed(stale, 0.0)
    assert scheduler.report.counts.num_tokens == 1
    assert length_of(scheduler, ONE) == 4


def test_late_drafts_parked_streams_and_texts_that_were_there() -> None:
    scheduler = make_scheduler("d")
    counts = scheduler.report.counts
    open_stream(scheduler, ONE, "d")
    scheduler.tick(1e6)
    assert counts.num_late == 1
    scheduler.target_parked(ONE, 1, 1e6)
    assert counts.num_parked == 1
    scheduler.target_ready(ONE, 2, 1e6, 1)
    assert (counts.num_texts, counts.num_texts_reused) == (2, 1)
    assert (counts.tokens_read, counts.tokens_reused) == (4, 2)


def test_spans_and_numbers_of_batches_do_not_grow_for_ever() -> None:
    counts = Counts()
    for number in range(3 * MAX_SPANS):
        counts.round_started(number, 1, (4,))
        counts.pass_done("t", 0.01, number, 5, float(number))
    assert len(counts.spans) == MAX_SPANS
    assert len(counts._batch_of) <= MAX_SPANS
    assert all(span.batch == 1 for span in counts.spans)


def test_no_pass_takes_less_than_nothing_or_for_ever() -> None:
    counts = Counts()
    counts.pass_done("t", -1.0, 0, 1, 0.0)
    counts.pass_done("t", 1e308, 0, 1, 0.0)
    assert counts.pass_s == MOST_S


def test_streams_without_guesses_in_a_round_took_a_plain_step() -> None:
    scheduler = make_scheduler("d")
    ((_, request),) = draft_requests(open_stream(scheduler, TWO, "d"))
    answer(scheduler, request.round, "d")
    commit_one(scheduler, TWO)
    assert scheduler.report.counts.plain_steps == {"unsure": 1}
