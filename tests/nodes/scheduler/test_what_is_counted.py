"""What an operator reads of a scheduler: its counters, and figures in lines."""

from __future__ import annotations

import pytest

from nodes.messages import OpenStreamRequest
from nodes.scheduler.comparison import Comparisons
from nodes.scheduler.reasons import plain_line
from policies.latency import CostTable, NodeCosts
from policies.plan import Link
from tests.nodes.scheduler.watched import (
    DRAFT_COSTS,
    ONE,
    admit,
    commit,
    decoding,
    fail,
    guess,
    make_scheduler,
    ready,
    to_draft,
)


@pytest.mark.parametrize(
    ("num_read", "counted"), [(None, (3, 0, 0)), (0, (1, 2, 1)), (9, (3, 0, 0))]
)
def test_texts_that_a_target_had_to_read_are_told_from_reused_ones(
    num_read: int | None, counted: tuple[int, int, int]
) -> None:
    scheduler = make_scheduler()
    admit(scheduler, prompt=(1, 2, 3))
    scheduler.target_ready(ONE, 1, num_read)
    counts = scheduler.counts
    assert (counts.tokens_read, counts.tokens_reused, counts.num_texts_reused) == counted


def test_messages_about_what_is_over_are_counted_and_change_nothing() -> None:
    scheduler = decoding("d")
    assert scheduler.target_ready(ONE, 7) == []
    assert scheduler.target_failed(ONE, 7, "too late") == []
    assert guess(scheduler, "e", 2) == []
    assert scheduler.num_stale == 3
    assert ONE in scheduler.streams


def test_streams_that_are_opened_anew_are_counted_until_it_does_not_help() -> None:
    scheduler = decoding()
    for number in range(1, 4):
        (stream,) = scheduler.streams.values()
        scheduler.reopen(stream, "the target lost it")
        assert scheduler.counts.num_reopened == number
        # The new generation is above that of a parking that is on its way.
        assert stream.spec.generation == 1 + 2 * number
    scheduler.reopen(stream, "the target lost it")
    assert (scheduler.counts.num_reopened, len(scheduler.streams)) == (3, 0)


def test_the_line_for_guesses_that_do_not_pay_counts_the_streams() -> None:
    scheduler = make_scheduler("d")
    for stream_id in (1, 2):
        admit(scheduler, stream_id)
        ready(scheduler, stream_id)
    commit(scheduler, 5, num_offered=1, best_percent=30, pass_s=0.04)
    line = plain_line(scheduler, scheduler.streams[ONE])
    assert line == (
        "the best guess had a chance of 0.30, too little for its time: one more token adds "
        "2.0 ms to a pass of 42.0 ms, so it needs about 0.10 (streams in it: 2)"
    )


def test_the_line_after_a_wrong_guess_has_the_link_s_round_trip() -> None:
    scheduler = make_scheduler()
    scheduler.draft_joined("d", NodeCosts(CostTable((1,), (0.0125,)), DRAFT_COSTS.prefill))
    scheduler.draft_link("d", Link(rtt_s=0.0314))
    admit(scheduler)
    ready(scheduler)
    commit(scheduler, 5, num_draft_tokens=1, num_offered=1, num_compared=1)
    commit(scheduler, 5)
    line = plain_line(scheduler, scheduler.streams[ONE])
    assert "(31 ms there and back); then a step takes 12 ms" in line


def test_the_ranges_of_stream_counts_have_names() -> None:
    comparisons = Comparisons()
    names = [comparisons.of(number).streams for number in (0, 1, 2, 3, 4, 7, 8)]
    assert names == [
        "one stream",
        "one stream",
        *["2 to 3 streams"] * 2,
        *["4 to 7 streams"] * 2,
        "8 to 15 streams",
    ]


def test_a_draft_node_that_comes_back_is_asked_again_for_a_text_that_it_refused() -> None:
    scheduler = decoding("d")
    fail(scheduler, "d", "d is full")
    assert scheduler.streams[ONE].follow is None
    scheduler.draft_lost("d")
    out = scheduler.draft_joined("d", DRAFT_COSTS)
    assert [node for node, _ in to_draft(out, OpenStreamRequest)] == ["d"]


def test_a_node_is_not_judged_by_the_guesses_of_another_one_of_its_name() -> None:
    """Its model may be another one."""
    scheduler = decoding("a", max_tokens=1000)
    for _ in range(30):
        commit(scheduler, 5, num_draft_tokens=1, num_offered=1, num_compared=1)
    scheduler.draft_lost("a")
    scheduler.draft_joined("a", DRAFT_COSTS)
    for name in scheduler.drafts:
        assert name not in scheduler.alphas
