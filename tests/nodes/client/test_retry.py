from __future__ import annotations

import pytest

from nodes.client.retry import (
    DEFAULT_LIMIT_S,
    FIRST_WAIT_S,
    GRACE_S,
    MOST_WAIT_S,
    Backoff,
    TimeLimit,
)


def test_waits_double_up_to_the_longest_and_begin_anew_after_progress() -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return high / 2

    backoff = Backoff(uniform)
    waits = [backoff.wait_s() for _ in range(100)]
    # Full jitter: anything from nothing on.
    assert {low for low, _ in asked} == {0.0}
    most = [high for _, high in asked]
    assert most[:3] == [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S]
    assert most[-1] == MOST_WAIT_S == 2 * waits[-1]
    backoff.reset()
    assert backoff.wait_s() == FIRST_WAIT_S / 2


def test_a_limit_that_was_asked_for_is_told_and_kept() -> None:
    limit = TimeLimit(30.0, 100.0)
    assert limit.deadline_s(110.0) == 20.0
    assert limit.exceeded == "the request was not done within its 30 s"
    assert limit.give_up_at == 130.0 + GRACE_S
    # A coordinator may allow less, not more.
    limit.told(500.0, 110.0)
    assert limit.deadline_s(110.0) == 20.0
    shorter = TimeLimit(30.0, 100.0)
    shorter.told(5.0, 110.0)
    assert shorter.give_up_at == 115.0 + GRACE_S


def test_without_one_the_first_coordinators_holds_for_all_that_follow() -> None:
    limit = TimeLimit(None, 100.0)
    assert limit.deadline_s(110.0) == 0.0
    assert limit.give_up_at == 100.0 + DEFAULT_LIMIT_S + GRACE_S
    limit.told(0.0, 110.0)
    limit.told(2 * DEFAULT_LIMIT_S, 110.0)
    limit.told(5 * DEFAULT_LIMIT_S, 120.0)
    assert limit.give_up_at == 110.0 + 2 * DEFAULT_LIMIT_S + GRACE_S
    assert limit.deadline_s(120.0) == pytest.approx(2 * DEFAULT_LIMIT_S - 10)


def test_who_is_late_asks_for_next_to_nothing_and_not_for_everything() -> None:
    assert 0 < TimeLimit(1.0, 0.0).deadline_s(5.0) < 0.01
