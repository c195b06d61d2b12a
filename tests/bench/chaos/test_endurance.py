"""Short forms of `python -m bench chaos soak`, `disk`, `fds` and `clocks`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from itertools import pairwise
from typing import Any

import pytest

from bench.chaos.endurance.clocks import (
    DAY_S,
    Clocked,
    NoClocksError,
    jumping_wall_clocks,
    other_monotonic_clocks,
)
from bench.chaos.endurance.disk import DiskFound, NoDiskError, run_disk
from bench.chaos.endurance.fds import Starved, coordinator_starved, gateway_starved
from bench.chaos.endurance.soak import Figures, Soak, run_soak


def lasting(faults: list[str]) -> list[str]:
    """Faults but for how long something took, which is the machine's affair here."""
    return [f for f in faults if "after space was freed" not in f and "a new client" not in f]


# -- soak ------------------------------------------------------------------------------------------


async def test_requests_of_every_kind_leave_nothing_behind() -> None:
    num_requests = 200
    found = await run_soak(4 * num_requests, num_requests)
    assert found.outcomes["failed"] == 0, found
    assert {"whole", "streamed", "left", "refused", "looked"} <= found.outcomes.keys()
    for name in found.figures[found.last]:
        # What is made once, when first it is wanted, is growth in one step; a leak is in all.
        steps = [
            (after.tasks - before.tasks, after.files - before.files, after.objects - before.objects)
            for before, after in pairwise(figures[name] for figures in found.figures.values())
        ]
        assert len(steps) == 3
        tasks, files, objects = (min(more) for more in zip(*steps, strict=True))
        assert tasks <= 0, found
        assert files <= 0, found
        # Less than one a request.
        assert objects < num_requests, found


def test_growth_is_a_fault() -> None:
    before = Figures(50_000, 20, 5, 7, 60_000, 1.0)
    after = Figures(53_000, 21, 5, 7, 99_000, 2.0)
    found = Soak(figures={10: {"a": before, "b": before}, 20: {"a": after, "b": before}})
    found.check()
    assert found.faults == ["a: 3000 more rss_kib, 2048 allowed", "a: 1 more files, 0 allowed"]
    assert "| a | 50000 | 53000 | +3000 | 20 +1 |" in str(found)


# -- disk ------------------------------------------------------------------------------------------


def played(*scenes: str) -> DiskFound:
    try:
        return run_disk(*scenes)
    except NoDiskError as error:
        if "cannot be mounted" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("kind", "says"), [("full", "No space left on device"), ("read-only", "Read-only file system")]
)
def test_on_a_disk_that_takes_nothing_all_is_served_and_nothing_is_damaged(
    kind: str, says: str
) -> None:
    found = played(kind)
    assert lasting(found.faults) == []
    assert len(found.refused) == 6
    assert all(says in line for line in found.refused.values()), found.refused
    assert len(found.recovered_s) == 1


def test_without_standard_error_all_is_served() -> None:
    found = played("stderr")
    assert found.faults == []
    assert len(found.lines) == 2


# -- files -----------------------------------------------------------------------------------------


async def test_a_coordinator_without_files_serves_who_is_in_and_lets_others_in_later() -> None:
    found = await coordinator_starved(64, 1.0)
    assert lasting(found.faults) == []
    assert found.num_answers > 0
    # Some of twice as many as there are files.
    assert 0 < found.num_joined < 64
    # After the strangers, and after the members.
    assert len(found.recovered_s) == 2


async def test_a_gateway_without_files_says_so_to_some_and_serves_the_others() -> None:
    found = await gateway_starved(128, 150, 1.0)
    assert lasting(found.faults) == []
    # Sixty-four at most, one of which is a stream's.
    assert 0 < found.statuses["200"] < 64
    assert found.statuses["503 with Retry-After"] > 0
    assert found.statuses["never answered"] == 0
    assert len(found.recovered_s) == 1


def test_what_takes_long_or_much_is_a_fault() -> None:
    found = Starved()
    found.judge(0.9, 3.0, "gateway")
    assert [fault.split()[2] for fault in found.faults] == ["took", "served"]
    assert "2 faults" in str(found)


# -- clocks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("running", "num_rounds"),
    [(other_monotonic_clocks(2), 2), (jumping_wall_clocks((DAY_S, -DAY_S)), 5)],
    ids=["clocks of two machines", "a clock that jumps"],
)
def test_clocks_that_differ_change_nothing(
    running: Coroutine[Any, Any, Clocked], num_rounds: int
) -> None:
    try:
        found = asyncio.run(running)
    except NoClocksError as error:
        pytest.skip(str(error))
    assert found.faults == []
    assert len(found.texts) == num_rounds


def test_a_run_without_guesses_shows_nothing() -> None:
    found = Clocked(texts=[("a",), ("b",)])
    found.check()
    assert len(found.faults) == 2
