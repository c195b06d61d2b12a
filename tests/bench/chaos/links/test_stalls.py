"""Stalls after the loss of a target: which gaps count, and one loss of each kind."""

from __future__ import annotations

import pytest

from bench.chaos.links.clients import Heard
from bench.chaos.links.stalls import HEAD, StallFigures, run_stalls


def test_a_stall_is_what_is_left_of_a_gap_after_the_loss() -> None:
    gaps = [(9.0, 5.0, 9), (12.0, 2.5, 100), (13.0, 3.5, 300), (10.2, 0.3, 9), (22.0, 2.5, 200)]
    figures = StallFigures("kill", 4, 0.001, [10.0, 20.0], Heard(gaps_s=gaps))
    stalls, reads = zip(*figures.stalls_s(), strict=True)
    assert stalls == (2.0, 3.0, 2.0)
    # Texts of those who wait together are read one after the other.
    assert reads == pytest.approx((0.1, 0.4, 0.2))
    assert figures.faults() == []
    row = figures.row()
    assert row == (
        "| kill | 2 | 3 of 8 | 2.00 3.00 3.00 | 0.20 0.40 0.40 | 1.90 2.60 2.60 | 0 | 0 |"
    )
    assert row.count("|") == HEAD.splitlines()[0].count("|")


def test_each_fault_of_a_stall_is_said() -> None:
    heard = Heard(num_wrong=2, failures={"gone": 1}, gaps_s=[(14.0, 5.0, 9)], waits_s=[1.0, 9.0])
    assert StallFigures("cut", 4, 0.001, [10.0], heard).faults() == [
        "cut: p99 of the stall without reading texts is 4.0 s",
        "cut: 2 wrong texts",
        "cut: requests failed: {'gone': 1}",
        "cut: at the end a stream had waited for 9.0 s",
    ]
    assert "shows nothing" in StallFigures("cut", 4, 0.001, [10.0]).faults()[0]


async def test_streams_of_a_lost_target_go_on_at_the_other() -> None:
    lines: list[str] = []
    # One after the other, because streams may be on one of them; with four streams it happened
    # once that none was on the lost one both times.
    found = await run_stalls(["cut"], 2, 8, 1, "auto", lines.append)
    for figures in found:
        assert len(figures.lost_at) == 2
        assert figures.stalls_s()
        assert figures.heard.num_tokens > 0
        assert figures.heard.num_wrong == 0
        assert figures.heard.failures == {}
        assert max(figures.heard.waits_s) < 20.0
    assert lines[0].startswith("*emulated* (T")
