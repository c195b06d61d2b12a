"""A short form of `python -m bench chaos zombies`."""

from __future__ import annotations

from pathlib import Path

from bench.chaos.kills.zombies import Zombies, run_zombies


async def test_who_wakes_up_after_being_given_up_changes_nothing(tmp_path: Path) -> None:
    tally = await run_zombies(Zombies(seed=3, num_cycles=6, num_streams=4, folder=tmp_path))
    assert tally.is_good, str(tally)
    assert tally.num_stale + tally.num_dropped > 0
    assert tally.disturbances == {
        "target taken for dead, then awake": 2,
        "draft taken for dead, then awake": 2,
        "coordinator taken for dead, then awake": 2,
    }
