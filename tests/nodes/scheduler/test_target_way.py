"""A target on a medium: its messages are counted in plans, and answers of drafts leave room."""

from __future__ import annotations

import pytest

from mesh.grants import Air
from nodes.scheduler import SchedulerState
from nodes.scheduler.target_way import TargetWay
from policies.plan import Link
from tests.nodes.builders import make_spec
from tests.nodes.pure_mesh import DRAFT_COSTS, TARGET_COSTS
from tests.nodes.scheduler.script import (
    ONE,
    TWO,
    FixedPolicy,
    commit,
    guesses,
    length_of,
    verify_requests,
)

# A byte takes 50 us.
CELL = Link(160e3, rtt_s=0.01, medium="cell-a", frame_s=0.001)
# A message of one stream: its envelope and an entry; a token, of 32 bits, and the text of one.
AROUND_S, TOKEN_S, TEXT_S = 0.001 + (1224 + 80) / 160e3, 32 / 160e3, 32 / 160e3


def make_way(link: Link = CELL) -> TargetWay:
    return TargetWay(Air(), 32, link)


def test_a_round_keeps_the_medium_for_the_request_and_for_the_answer_after_its_pass() -> None:
    way = make_way()
    answer = way.verify_sent(1, 4, 0.2, 1.0)
    request_s, answer_s = AROUND_S + 4 * TOKEN_S, AROUND_S + 5 * (TOKEN_S + TEXT_S)
    medium = way.air["cell-a"]
    assert medium.reserved_s == pytest.approx(request_s + answer_s)
    # While the target is at work the air is free.
    begins = 1.0 + request_s + 0.005 + 0.2
    assert medium.is_free(1.0 + request_s, begins - 1.0 - request_s - 1e-6)
    assert not medium.is_free(1.0 + request_s, begins - 1.0 - request_s + 1e-6)
    assert medium.last_end == pytest.approx(begins + answer_s)
    # It came sooner.
    answer.answered()
    assert medium.is_free(1.0 + request_s, 1.0)


def test_the_answer_of_a_round_comes_behind_the_pass_of_the_one_before_it() -> None:
    way = make_way()
    way.verify_sent(1, 4, 0.2, 1.0)
    through = way.busy_until
    way.verify_sent(1, 4, 0.2, 1.05)
    assert way.busy_until == pytest.approx(through + 0.2)
    # What is predicted too long does not add up: no more than one pass is waited for.
    for _ in range(9):
        way.verify_sent(1, 4, 0.2, 1.05)
    assert way.busy_until < 3.0


def test_texts_of_a_wire_take_nothing_and_those_of_a_narrow_way_of_its_own_do() -> None:
    way = make_way(Link(rtt_s=0.01))
    way.text_told(5000, 1.0)
    assert way.told.share(1.0) == 0.0
    assert way.link.is_free
    scheduler = SchedulerState(seen := FixedPolicy(), TARGET_COSTS)
    scheduler.target_link(Link(160e3))
    scheduler.text_told(5000, 0.0)
    scheduler.admit(make_spec(ONE), None)
    scheduler.target_ready(ONE, 1, 0.0)
    assert seen.seen[-1].target_link.rate_bps < 0.95 * 160e3


def test_rounds_have_what_texts_to_the_target_leave_of_its_medium() -> None:
    seen = FixedPolicy()
    scheduler = SchedulerState(seen, TARGET_COSTS)
    for node, medium in (("a", "cell-a"), ("b", "")):
        scheduler.draft_joined(node, DRAFT_COSTS, Link(160e3, medium=medium))
    scheduler.target_link(CELL)
    scheduler.admit(make_spec(ONE), None)
    scheduler.target_ready(ONE, 1, 0.0)
    assert seen.seen[-1].target_link == CELL
    # 5,000 tokens take a second of the last ten or so.
    scheduler.text_told(5000, 0.0)
    told_s = 0.001 + (1224 + 80 + 5000 * 32) / 160e3
    scheduler.admit(make_spec(TWO), None)
    scheduler.target_ready(TWO, 1, 0.0)
    # What the draft node of the cell was told of the other stream is a thousandth.
    free = 1.0 - told_s / 10.0
    made = seen.seen[-1]
    assert made.target_link.rate_bps == pytest.approx(160e3 * free, rel=0.002)
    assert made.target_link.frame_s == pytest.approx(0.001 / free, rel=0.002)
    rates = {view.name: view.link.rate_bps for view in made.drafts}
    assert rates["a"] < 160e3 * free * 1.001
    assert rates["b"] >= 160e3 * 0.99


def test_a_round_that_is_complete_is_reserved_for() -> None:
    air = Air()
    scheduler = SchedulerState(FixedPolicy(gamma=2), TARGET_COSTS, air=air)
    scheduler.draft_joined("a", DRAFT_COSTS)
    scheduler.target_link(CELL)
    scheduler.admit(make_spec(ONE), None)
    scheduler.draft_ready("a", ONE, 1, 0.0)
    scheduler.target_ready(ONE, 1, 0.0)
    # A draft node on a wire takes nothing of the cell.
    assert air.reserved_s() == []
    out = scheduler.drafted("a", guesses(1, ONE, length_of(scheduler, ONE), 7, 8), 1.0)
    assert len(verify_requests(out)) == 1
    ((name, reserved_s),) = air.reserved_s()
    assert name == "cell-a"
    assert reserved_s == pytest.approx(2 * AROUND_S + 5 * TOKEN_S + 3 * TEXT_S)
    pass_s = TARGET_COSTS.decode.at(3)
    assert air["cell-a"].last_end > 1.0 + pass_s + reserved_s
    asked_for = air["cell-a"].last_end - 1.0
    # The answer is there before its turn: others have it.
    request_s = AROUND_S + 2 * TOKEN_S
    scheduler.committed(
        commit(ONE, length_of(scheduler, ONE), [7, 8, 9], num_draft_tokens=2), 1.001
    )
    assert air["cell-a"].is_free(1.0 + request_s + 1e-9, asked_for)


def test_a_target_far_away_on_the_air_reads_a_text_later() -> None:
    scheduler = SchedulerState(FixedPolicy(), TARGET_COSTS)
    scheduler.target_link(Link(rtt_s=0.01))
    wired_s = scheduler.forecast.reading_s(1000)
    scheduler.target_link(CELL)
    told_s = AROUND_S + 1000 * TOKEN_S
    assert scheduler.forecast.reading_s(1000) == pytest.approx(wired_s + told_s)
