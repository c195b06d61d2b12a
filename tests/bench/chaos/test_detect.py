"""The short form of `python -m bench chaos detect`: who dies is noticed, and comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path

from bench.chaos.detect import FAULTS, KEYED, MEMBERS, detect_coordinator, detect_members, rows


def test_dead_members_are_noticed_and_come_back(tmp_path: Path) -> None:
    found = asyncio.run(detect_members(KEYED, tmp_path, FAULTS, 1))
    assert set(found) == {(role, fault) for role in MEMBERS for fault in FAULTS}
    for times in found.values():
        assert [len(times.noticed_s), len(times.back_s)] == [1, 1]
        assert min(times.noticed_s) > 0.0
    assert len(rows(found)) == len(found)


def test_a_dead_coordinator_is_noticed_and_found_again(tmp_path: Path) -> None:
    found = asyncio.run(detect_coordinator("ipc", tmp_path, ("killed", "stopped"), 1))
    assert set(found) == {("coordinator", "killed"), ("coordinator", "stopped")}
    for times in found.values():
        assert [len(times.noticed_s), len(times.back_s)] == [1, 1]
