"""Cuts of a draft node's link: what is measured of one of each kind."""

from __future__ import annotations

from bench.chaos.links.clients import Heard
from bench.chaos.links.cuts import HEAD, KINDS, CutFigures, run_cuts


def test_each_fault_of_a_cut_is_said() -> None:
    heard = Heard(num_tokens=1)
    assert CutFigures("blackout", [2.9], [4.9], heard).faults() == []
    assert CutFigures("half-open", [9.0], [1.0], heard).faults() == []
    assert "shows nothing" in CutFigures("blackout", [1.0], [1.0]).faults()[0]
    wrong = Heard(num_tokens=2, num_wrong=1, failures={"gone": 1})
    bad = CutFigures("blackout", [1.0, 3.1], [5.2], wrong)
    assert bad.faults() == [
        "blackout: noticed after 3.1 s",
        "blackout: healed after 5.2 s",
        "blackout: 1 wrong texts",
        "blackout: requests failed: {'gone': 1}",
    ]


def test_a_row_fits_its_head() -> None:
    row = CutFigures("blackout", [2.0, 2.5], [1.0, 0.5]).row()
    assert row == "| blackout | 2 | 2.50 2.50 2.50 | 1.00 1.00 1.00 | 0 |"
    assert row.count("|") == HEAD.splitlines()[0].count("|")


async def test_cuts_are_noticed_and_heal() -> None:
    lines: list[str] = []
    kinds = ["blackout", "half-open"]
    assert set(kinds) < set(KINDS)
    found = await run_cuts(kinds, 1, 1, "auto", lines.append)
    assert [figures.kind for figures in found] == kinds
    assert [(len(f.noticed_s), len(f.healed_s)) for f in found] == [(1, 1)] * 2
    assert [fault for f in found for fault in f.faults() if " after " not in fault] == []
    assert lines[0].startswith("*emulated* (T")
    assert len(lines) == 3
