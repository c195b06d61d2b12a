"""The label and the text that say why a stream is decoded without guesses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airdraft.nodes.scheduler.instructions import Finish
from airdraft.nodes.scheduler.planning import MODES
from airdraft.nodes.scheduler.reasons import why_plain
from airdraft.nodes.scheduler.scheduler import Scheduler
from airdraft.nodes.telemetry.counts import PLAIN_TEXTS, Plain
from airdraft.policies.latency import CostTable, NodeCosts
from airdraft.policies.plan import Link
from tests.nodes.scheduler.watched import (
    DRAFT_COSTS,
    ONE,
    TARGET_COSTS,
    admit,
    commit,
    decoding,
    fail,
    make_scheduler,
    ready,
    tick,
)


def why(scheduler: Scheduler) -> tuple[str, str]:
    """Label and text of the only stream."""
    (stream,) = scheduler.streams.values()
    assert stream.plain
    return stream.plain, why_plain(scheduler, stream, stream.plain)


def reading() -> Scheduler:
    scheduler = make_scheduler("d")
    admit(scheduler)
    scheduler.target_ready(ONE, 1)
    return scheduler


def refused() -> Scheduler:
    scheduler = decoding("d")
    fail(scheduler, "d", "d is full")
    return scheduler


def left() -> Scheduler:
    scheduler = decoding("d")
    scheduler.draft_lost("d")
    return scheduler


def of_policy() -> Scheduler:
    scheduler = make_scheduler("d", mode=MODES["plain"])
    admit(scheduler)
    ready(scheduler)
    return scheduler


@pytest.mark.parametrize(
    ("make", "entry", "label", "figures"),
    [
        (lambda: decoding("d", gamma=0), {}, "asked", ""),
        (of_policy, {}, "policy", ""),
        (decoding, {}, "no_draft", "there is no draft node"),
        (left, {}, "no_draft", "draft node d has left, and there is no other"),
        (refused, {}, "refused", "draft node d: d is full"),
        (reading, {}, "reading", "d"),
        # Passes are taken for 50 ms until there were some.
        (
            lambda: decoding("d"),
            {"num_late": 3},
            "none_there",
            "d: 3 late, 0 taken, step 4 ms, pass 40 ms",
        ),
        # As the tables have it: a pass of one token takes 40 ms, each more 2 ms.
        (
            lambda: decoding("d"),
            {"num_offered": 4, "best_percent": 41, "pass_s": 0.04},
            "not_worth",
            "chance 0.41, needs 0.05",
        ),
        # A guess of lookup that did not pay was a guess, too.
        (
            lambda: decoding("d"),
            {"best_percent": 30, "pass_s": 0.04},
            "not_worth",
            "chance 0.30, needs 0.05",
        ),
    ],
)
def test_a_pass_without_guesses_has_a_label_and_a_text_with_its_figures(
    make: Callable[[], Scheduler], entry: dict[str, Any], label: Plain, figures: str
) -> None:
    scheduler = make()
    commit(scheduler, 5, **entry)
    text = PLAIN_TEXTS[label][0]
    assert why(scheduler) == (label, f"{text} ({figures})" if figures else text)
    assert +scheduler.counts.plain_steps == {label: 1}


def test_a_guess_that_delays_more_streams_needs_a_higher_chance() -> None:
    scheduler = make_scheduler("d")
    for stream_id in (1, 2):
        admit(scheduler, stream_id)
        ready(scheduler, stream_id)
    commit(scheduler, 5, num_offered=1, best_percent=30, pass_s=0.04)
    # One more token adds 2 ms to a pass of 42 ms, which gives each stream a token.
    line = why_plain(scheduler, scheduler.streams[ONE], "not_worth")
    assert line.endswith("(chance 0.30, needs 0.10)")


def test_of_a_draft_node_that_another_target_knows_to_be_gone_no_figures_are_told() -> None:
    scheduler, other = decoding("d"), make_scheduler("d")
    commit(scheduler, 5)
    other.drafts = scheduler.drafts
    other.draft_lost("d")
    assert why(scheduler) == ("none_there", PLAIN_TEXTS["none_there"][0])


def test_the_last_token_needs_no_guess() -> None:
    scheduler = decoding("d", max_tokens=1)
    commit(scheduler, 5, finish_reason="length")
    assert +scheduler.counts.plain_steps == {"last_token": 1}


def test_an_answer_ends_with_the_sum_of_its_reasons() -> None:
    scheduler = decoding("d")
    for _ in range(3):
        commit(scheduler, 5)
    commit(scheduler, 5, num_offered=1, best_percent=20)
    commit(scheduler, 5, 6, num_draft_tokens=1, num_accepted_tokens=1, num_offered=1)
    *_, finish = commit(scheduler, 7, 8, num_draft_tokens=1, finish_reason="stop")
    assert isinstance(finish, Finish)
    # The chance of a guess that an earlier pass had is not known any more.
    assert finish.plain_reason == (
        "passes without guesses: 3 as no guess was there in time (d: 0 late, 2 taken, step 4 ms, "
        "pass 42 ms); 1 as a guess would not have saved time"
    )


def test_passes_until_new_guesses_arrive_are_the_fault_of_the_wrong_one() -> None:
    scheduler = decoding("d")
    scheduler.draft_link("d", Link(rtt_s=0.0314))
    taken = {"num_draft_tokens": 2, "num_offered": 2, "num_compared": 1}
    commit(scheduler, 5, **taken)
    for _ in range(2):
        commit(scheduler, 5)
        label, text = why(scheduler)
        assert label == "after_wrong"
        assert "(d: 31 ms there and back, step 4 ms, pass 40 ms)" in text
    commit(scheduler, 5, 6, num_draft_tokens=1, num_accepted_tokens=1, num_offered=1)
    commit(scheduler, 5)
    assert why(scheduler)[0] == "none_there"


def test_a_draft_node_that_came_during_the_text_is_not_said_to_be_missing() -> None:
    scheduler = decoding()
    commit(scheduler, 5)
    scheduler.draft_joined("d", DRAFT_COSTS)
    ready(scheduler)
    (finish,) = (i for i in commit(scheduler, 6, finish_reason="stop") if isinstance(i, Finish))
    assert "1 as no draft node follows the stream;" in finish.plain_reason
    assert "there is no draft node" not in finish.plain_reason


def test_why_a_draft_node_was_given_up_is_told_until_another_one_follows() -> None:
    scheduler = decoding("d", max_tokens=1000)
    for _ in range(71):
        commit(scheduler, 5)
    # It looks for another draft node meanwhile.
    for second in range(10):
        tick(scheduler, float(second))
    label, text = why(scheduler)
    assert label == "refused"
    assert text.endswith("(draft node d: it sent no guesses in time)")
    scheduler.draft_joined("e", DRAFT_COSTS)
    commit(scheduler, 5)
    assert why(scheduler)[0] == "reading"


def test_what_a_plan_would_cost_for_ever_is_no_error_of_it() -> None:
    """Groups are wanted where guesses are never worth their cost, so no plan has any."""
    scheduler = make_scheduler(mode=MODES["grouped"])
    slow = CostTable((1,), (9.0,))
    scheduler.draft_joined("d", NodeCosts(slow, slow))
    admit(scheduler)
    ready(scheduler)
    for number in range(5):
        commit(scheduler, 5, pass_s=1.25 * TARGET_COSTS.decode.at(1), now=number * 2.0)
        tick(scheduler, number * 2.0)
    errors = scheduler.counts.errors()
    assert (errors["pass"].num_seen, errors["plan"].num_seen) == (5, 0)
