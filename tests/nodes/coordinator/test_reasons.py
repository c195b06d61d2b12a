"""What is shown of streams and of the plan: labels, lines with figures, prices."""

from __future__ import annotations

import pytest

from nodes.coordinator.status import reasons
from nodes.scheduler import Scheduler
from nodes.scheduler.drafts import Drafts
from nodes.scheduler.planning import MODES, observed_price_s, predicted_price_s
from nodes.scheduler.stream import Stream
from policies.latency import CostTable, NodeCosts
from tests.nodes.scheduler.watched import (
    DRAFT_COSTS,
    ONE,
    PASS_S,
    TARGET_COSTS,
    admit,
    commit,
    decoding,
    fail,
    make_scheduler,
    ready,
)


def only(scheduler: Scheduler) -> Stream:
    (stream,) = scheduler.streams.values()
    return stream


def why(scheduler: Scheduler) -> tuple[str, str]:
    """Label and line of the only stream."""
    stream = only(scheduler)
    return reasons.plain(scheduler, stream), reasons.why_plain(scheduler, stream)


def test_what_a_guess_would_have_cost_is_told_beside_its_chance() -> None:
    scheduler = decoding("d")
    commit(scheduler, 5, num_offered=3, best_percent=41, pass_s=0.04)
    label, line = why(scheduler)
    assert label == "not_worth"
    # As the tables have it: a pass of one token takes 40 ms, each more 2 ms.
    costs = "one more token adds 2.0 ms to a pass of 40.0 ms"
    assert line == f"plain: the best guess had a chance of 0.41, and {costs}"


def test_without_costs_only_the_chance_is_told() -> None:
    scheduler = Scheduler(None, Drafts())
    scheduler.draft_joined("d", DRAFT_COSTS)
    admit(scheduler)
    ready(scheduler)
    commit(scheduler, 5, num_offered=3, best_percent=41)
    assert why(scheduler)[1] == "plain: the best guess had a chance of 0.41"


def test_a_stream_that_no_guess_reached_in_time_says_whose() -> None:
    scheduler = decoding("d")
    commit(scheduler, 5)
    assert why(scheduler) == (
        "none_there",
        "plain: no guess of d was there when the pass began; its guesses are right with a "
        "chance of 0.70",
    )


def test_a_stream_without_a_draft_node_says_why() -> None:
    asked = decoding("d", gamma=0)
    assert why(asked) == ("asked", "draft off: the request sets gamma to 0")
    none = decoding()
    assert why(none) == ("no_draft", "draft off: there is no draft node")
    reading = make_scheduler("d")
    admit(reading)
    reading.target_ready(ONE, 1, 0.0)
    assert why(reading) == ("reading", "draft off: d is still reading the text")
    refused = decoding("d")
    fail(refused, "d", "full")
    label, line = why(refused)
    assert label == "refused"
    assert "full" in line


def test_why_a_draft_node_was_given_up_is_told_until_another_one_follows() -> None:
    scheduler = decoding("d", max_tokens=1000)
    for _ in range(70):
        commit(scheduler, 5)
    told = "refused", "draft off: d sent no guesses in time"
    assert why(scheduler) == told
    # It goes on looking for one meanwhile.
    for second in range(10):
        scheduler.tick(float(second))
    assert why(scheduler) == told
    scheduler.draft_joined("e", DRAFT_COSTS)
    assert why(scheduler) == ("reading", "draft off: e is still reading the text")


def test_a_stream_that_had_guesses_needs_no_reason() -> None:
    scheduler = decoding("d")
    commit(scheduler, 5, 6, num_draft_tokens=2, num_accepted_tokens=1, num_offered=2)
    assert reasons.plain(scheduler, only(scheduler)) == ""
    assert only(scheduler).last_pass.num_guesses == 2
    # Nor one whose text the target still reads.
    scheduler.target_parked(ONE, 1)
    assert reasons.plain(scheduler, only(scheduler)) == ""


def test_prices_of_both_ways_are_known_once_a_plan_was_made() -> None:
    scheduler = make_scheduler("d", mode=MODES["auto"])
    admit(scheduler)
    ready(scheduler)
    assert predicted_price_s(scheduler) == 0.0
    scheduler.tick(0.0)
    made, plain_s = scheduler.last_made, TARGET_COSTS.decode.at(1)
    assert made is not None
    assert all(0.0 < price_s < plain_s for price_s in (made.open_s, made.grouped_s))
    # The way in force is the one that needs no groups.
    assert scheduler.plan.batches == ()


def test_the_price_as_seen_is_of_the_times_between_commits() -> None:
    scheduler = decoding("d", max_tokens=1000)
    assert observed_price_s(scheduler) == 0.0
    for number in range(200):
        commit(scheduler, 5, 6, now=number * 0.1, num_draft_tokens=1, num_accepted_tokens=1)
    # Two tokens every 100 ms.
    assert observed_price_s(scheduler) == pytest.approx(0.05, rel=0.01)


def test_errors_are_known_of_passes() -> None:
    scheduler = decoding()
    commit(scheduler, 5, pass_s=1.25 * TARGET_COSTS.decode.at(1))
    errors = scheduler.stage_errors.figures()
    assert (errors["pass"].num_seen, errors["plan"].num_seen) == (1, 0)
    assert errors["pass"].median == pytest.approx(0.25)


def test_what_a_plan_would_cost_for_ever_is_no_error_of_it() -> None:
    """Groups are asked for where guesses are never worth it: no plan has any."""
    scheduler = make_scheduler(mode=MODES["grouped"])
    slow = CostTable((1,), (9.0,))
    scheduler.draft_joined("d", NodeCosts(slow, slow))
    admit(scheduler)
    ready(scheduler)
    for number in range(5):
        commit(scheduler, 5, now=number * 2.0)
        scheduler.tick(number * 2.0)
    assert scheduler.stage_errors.figures()["plan"].num_seen == 0
    assert sum(scheduler.counts.ratios["plan"].counts) == 0


def test_costs_are_those_seen_since_the_calibration() -> None:
    scheduler = decoding("d")
    for _ in range(50):
        commit(scheduler, 5, pass_s=2 * PASS_S)
    assert scheduler.target is not None
    costs = scheduler.target.now()
    assert costs.decode.at(1) > 1.5 * TARGET_COSTS.decode.at(1)


def test_a_policy_without_guesses_is_the_reason() -> None:
    scheduler = make_scheduler("d", mode=MODES["plain"])
    admit(scheduler)
    ready(scheduler)
    commit(scheduler, 5)
    assert why(scheduler) == ("policy", "draft off: the coordinator's policy is plain decoding")
