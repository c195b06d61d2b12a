"""What a coordinator's log says of members: false deaths, what was noticed, what healed."""

import math
from datetime import datetime
from pathlib import Path

import pytest

from bench.harness.members import Dark, MemberLog
from bench.harness.report import quantiles

BEGAN = datetime(2026, 1, 2, 3, 4, 5)
ROSTER = "airdraft.nodes.coordinator.members.roster"


class Log:
    """A coordinator that writes a log, whose reader's clock began with it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # A time is logged without what is less than a millisecond.
        self.read = MemberLog(path, lambda: BEGAN.timestamp() + 0.001)

    def write(self, at_s: float, said: str) -> None:
        at = datetime.fromtimestamp(BEGAN.timestamp() + at_s)
        self.append(f"{at:%Y-%m-%d %H:%M:%S},{at.microsecond // 1000:03d} INFO {said}\n")

    def append(self, text: str) -> None:
        with self._path.open("a") as file:
            file.write(text)

    def joined(self, at_s: float, node: str) -> None:
        self.write(at_s, f"{ROSTER}: draft {node} joined with tiny")

    def left(self, at_s: float, node: str) -> None:
        self.write(at_s, f"{ROSTER}: draft {node} left: silent for 2.1 s")


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log")


def test_lines_of_members_are_read_once_they_are_whole_and_others_are_not(log: Log) -> None:
    assert log.read.read_changes() == []
    log.joined(1.0, "k/t")
    log.write(2.0, "airdraft.nodes.coordinator.serving: draft request 1 left: x")
    log.append(f"2026-01-02 03:04:07,500 DEBUG {ROSTER}: draft a joined with x\n")
    assert log.read.is_in("t")
    log.append(f"2026-01-02 03:04:08,000 INFO {ROSTER}: draft a left: silent")
    assert [change.node for change in log.read.read_changes()] == ["t"]
    log.append(" for 2.1 s\n")
    assert [change.node for change in log.read.read_changes()] == ["t", "a"]
    first = log.read.first("a", 1.5, has_left=True)
    assert first is not None
    assert (first.at, first.reason) == (pytest.approx(3.0), "silent for 2.1 s")
    assert log.read.first("a", 1.5, has_left=False) is None
    assert not log.read.is_in("b")


def test_who_leaves_in_the_light_died_falsely(log: Log) -> None:
    for at_s, node in ((5.0, "a"), (9.0, "a"), (12.0, "a"), (18.9, "b"), (19.0, "b"), (30.0, "b")):
        log.left(at_s, node)
    deaths = log.read.false_deaths([Dark(10.0, 13.0, 18.95)], 6.0, 29.9)
    assert [round(change.at, 3) for change in deaths] == [9.0, 19.0]
    assert log.read.false_deaths([Dark(8.0, math.inf, math.inf)], 6.0, 30.0) == []


def test_what_is_noticed_is_the_first_leaving_and_what_heals_the_last_joining(log: Log) -> None:
    log.left(9.0, "a")
    log.left(12.0, "a")
    log.left(12.5, "b")
    # In again before the mending, as over a path that was not cut.
    log.joined(12.8, "b")
    log.joined(13.2, "a")
    log.left(14.0, "a")
    log.joined(14.5, "a")
    log.left(15.0, "c")
    dark = Dark(begin=10.0, mended=13.0, over=19.0)
    assert log.read.noticed_s(dark) == pytest.approx([2.0, 2.5, 5.0])
    assert log.read.healed_s(dark) == pytest.approx([1.5, 0.0, math.inf])


def test_quantiles_are_values_that_there_are() -> None:
    assert quantiles([3.0, 1.0, 2.0]) == (2.0, 3.0, 3.0)
    assert quantiles(range(1000)) == (500, 990, 999)
    assert all(map(math.isnan, quantiles([])))
