"""What a coordinator's log says of members: false deaths, what was noticed, what healed."""

from __future__ import annotations

import math

from bench.chaos.links.log import Change, Dark, MemberLog
from bench.chaos.quantiles import quantiles

ROSTER = "2026-01-02 03:04:05,678 {} nodes.coordinator.members.roster"
JOINED = ROSTER.format("INFO") + ": draft {} joined with tiny\n"
LEFT = ROSTER.format("INFO") + ": draft {} left: {}\n"


def log_of(*lines: tuple[float, str]) -> MemberLog:
    log = MemberLog()
    for at, line in lines:
        log.read(line, at)
    return log


def test_lines_of_members_are_read_and_others_are_not() -> None:
    log = log_of(
        (1.0, f"{ROSTER.format('INFO')}: target k/t joined with big"),
        (2.0, "2026-01-02 03:04:05,678 INFO nodes.coordinator.serving: draft request 1 left: x"),
        (2.5, f"{ROSTER.format('DEBUG')}: draft a joined with x"),
        (3.0, LEFT.format("a", "silent for 2.1 s")),
    )
    assert log.changes[0] == Change(1.0, "t", has_left=False)
    assert log.changes[-1] == Change(3.0, "a", has_left=True, reason="silent for 2.1 s")
    assert {change.node for change in log.changes} == {"t", "a"}


def test_a_node_is_in_by_its_last_line() -> None:
    log = log_of((1.0, JOINED.format("a")))
    assert log.is_in("a")
    assert not log.is_in("b")
    log.read(LEFT.format("a", "gone"), 2.0)
    assert not log.is_in("a")
    assert log.first("a", 1.5, has_left=True) == Change(2.0, "a", has_left=True, reason="gone")
    assert log.first("a", 1.5, has_left=False) is None


def test_who_leaves_in_the_light_died_falsely() -> None:
    dark = Dark(begin=10.0, mended=13.0, over=19.0)
    log = log_of(
        (5.0, LEFT.format("a", "before the run")),
        (9.0, LEFT.format("a", "silent")),
        (12.0, LEFT.format("a", "of the dark")),
        (18.9, LEFT.format("b", "of the dark")),
        (19.0, LEFT.format("b", "silent")),
        (30.0, LEFT.format("b", "after the run")),
    )
    assert [c.at for c in log.false_deaths([dark], 6.0, 30.0)] == [9.0, 19.0]
    assert log.false_deaths([Dark(8.0, math.inf, math.inf)], 6.0, 30.0) == []


def test_what_is_noticed_is_the_first_leaving_and_what_heals_the_last_joining() -> None:
    log = log_of(
        (9.0, LEFT.format("a", "earlier")),
        (12.0, LEFT.format("a", "silent")),
        (12.5, LEFT.format("b", "silent")),
        (13.2, JOINED.format("a")),
        (14.0, LEFT.format("a", "silent")),
        (14.5, JOINED.format("a")),
    )
    dark = Dark(begin=10.0, mended=13.0, over=19.0)
    assert log.noticed_s(dark) == [2.0, 2.5]
    assert log.healed_s(dark) == [1.5, math.inf]
    # In again before the mending, as over a way that was not cut.
    log.read(JOINED.format("b"), 12.8)
    assert log.healed_s(Dark(10.0, 13.0, 14.0))[1] == 0.0


def test_quantiles_are_values_that_there_are() -> None:
    assert quantiles([3.0, 1.0, 2.0]) == (2.0, 3.0, 3.0)
    assert quantiles(range(1000)) == (500, 990, 999)
    assert all(map(math.isnan, quantiles([])))
