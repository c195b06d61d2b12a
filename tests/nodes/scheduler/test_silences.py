from __future__ import annotations

from airdraft.nodes.scheduler.silences import Silences


def look(silences: Silences[str], now: float, limit_s: float = 3.0, **states: object) -> list[str]:
    return silences.overdue(states.items(), lambda _: limit_s, now)


def test_what_stands_still_beyond_its_limit_is_overdue_and_begins_anew() -> None:
    silences = Silences[str]()
    found = [look(silences, float(second), a=1) for second in range(9)]
    assert [second for second, keys in enumerate(found) if keys] == [4]
    assert [second for second in range(9, 14) if look(silences, float(second), a=1)] == [9]


def test_a_change_ends_a_wait_and_so_does_leaving() -> None:
    silences = Silences[str]()
    for second in range(20):
        state = second // 3
        others = {} if second % 4 == 3 else {"b": 1}
        assert look(silences, float(second), a=state, **others) == []


def test_who_looks_after_a_sleep_knows_nothing_of_what_came_meanwhile() -> None:
    silences = Silences[str]()
    for second in (0, 1, 2, 60, 61, 62, 63):
        assert look(silences, float(second), a=1) == []
    assert look(silences, 64.0, a=1) == ["a"]
