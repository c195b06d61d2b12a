"""What an operator reads of a scheduler: its counters, and figures in lines."""

from __future__ import annotations

from nodes.messages import OpenStreamRequest
from tests.nodes.scheduler.watched import DRAFT_COSTS, ONE, commit, decoding, fail, guess, to_draft


def test_messages_about_what_is_over_are_counted_and_change_nothing() -> None:
    scheduler = decoding("d")
    assert scheduler.target_ready(ONE, 7) == []
    assert scheduler.target_failed(ONE, 7, "too late") == []
    assert guess(scheduler, "e", 2) == []
    assert scheduler.num_stale == 3
    assert ONE in scheduler.streams


def test_streams_are_opened_anew_until_it_does_not_help() -> None:
    scheduler = decoding()
    for number in range(1, 4):
        (stream,) = scheduler.streams.values()
        scheduler.reopen(stream, "the target lost it")
        # The new generation is above that of a parking that is on its way.
        assert stream.spec.generation == 1 + 2 * number
    scheduler.reopen(stream, "the target lost it")
    assert not scheduler.streams


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
