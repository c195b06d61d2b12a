import pytest

from nodes.client.inbox import Backoff, TimeLimit


def test_waits_double_up_to_the_longest_and_begin_anew_after_progress() -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return high / 2

    backoff = Backoff(uniform)
    waits = [backoff.wait_s() for _ in range(100)]
    # Full jitter: anything from nothing on.
    assert {low for low, _ in asked} == {0.0}
    assert waits[1:3] == [2 * waits[0], 4 * waits[0]]
    assert waits[-1] == waits[-2] > waits[3]
    backoff.reset()
    assert backoff.wait_s() == waits[0]


def test_a_limit_that_was_asked_for_is_told_and_kept() -> None:
    limit = TimeLimit(30.0, 100.0)
    assert limit.deadline_s(110.0) == 20.0
    assert limit.exceeded == "the request was not done within its 30 s"
    # The coordinator has some time to say so itself.
    assert 130.0 < limit.give_up_at < 131.0
    # It may allow less, not more.
    limit.told(500.0, 110.0)
    assert limit.deadline_s(110.0) == 20.0
    limit = TimeLimit(30.0, 100.0)
    limit.told(5.0, 110.0)
    assert 115.0 < limit.give_up_at < 116.0


def test_without_one_the_first_coordinators_holds_for_all_that_follow() -> None:
    limit = TimeLimit(None, 100.0)
    assert limit.deadline_s(110.0) == 0.0
    limit.told(0.0, 110.0)
    limit.told(7200.0, 110.0)
    limit.told(18_000.0, 120.0)
    assert 7310.0 < limit.give_up_at < 7311.0
    assert limit.deadline_s(120.0) == pytest.approx(7190.0)
    # Who is late asks for next to nothing, and not for everything.
    assert 0 < TimeLimit(1.0, 0.0).deadline_s(5.0) < 0.01
