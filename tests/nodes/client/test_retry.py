import random

import pytest

from airdraft.nodes.client.inbox import TimeLimit, wait_before_s


def test_waits_double_up_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    def longest(_: random.Random, low: float, high: float) -> float:
        # Full jitter: anything from nothing on.
        assert low == 0.0
        return high

    monkeypatch.setattr("random.Random.uniform", longest)
    waits = list(map(wait_before_s, range(100)))
    assert waits[1:3] == [2 * waits[0], 4 * waits[0]]
    assert waits[-1] == waits[-2] > waits[3]


def test_a_wait_takes_no_number_of_the_program_around_the_client() -> None:
    before = random.getstate()
    wait_before_s(3)
    assert random.getstate() == before


def test_a_limit_that_was_asked_for_is_told_and_kept() -> None:
    limit = TimeLimit(30.0, 100.0)
    assert limit.deadline_s(110.0) == 20.0
    assert limit.exceeded == "the request was not done within its 30 s"
    assert (limit.is_over(129.9), limit.is_over(130.0)) == (False, True)
    # The coordinator has some time to say so itself.
    assert 130.0 < limit.give_up_at < 131.0
    # It may allow less, not more.
    limit.apply(500.0, 110.0)
    assert limit.deadline_s(110.0) == 20.0
    limit = TimeLimit(30.0, 100.0)
    limit.apply(5.0, 110.0)
    assert 115.0 < limit.give_up_at < 116.0


def test_without_one_the_first_coordinators_holds_for_all_that_follow() -> None:
    limit = TimeLimit(None, 100.0)
    assert limit.deadline_s(110.0) == 0.0
    assert not limit.is_over(1e9)
    limit.apply(0.0, 110.0)
    limit.apply(7200.0, 110.0)
    limit.apply(18_000.0, 120.0)
    assert 7310.0 < limit.give_up_at < 7311.0
    assert limit.deadline_s(120.0) == pytest.approx(7190.0)
    # Who is late asks for next to nothing, and not for everything.
    assert 0 < TimeLimit(1.0, 0.0).deadline_s(5.0) < 0.01
