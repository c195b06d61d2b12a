"""The short form of `python -m bench chaos fds`."""

from __future__ import annotations

import asyncio

from bench.chaos.endurance.fds import Starved, coordinator_starved, gateway_starved


def test_a_coordinator_without_files_serves_who_is_in_and_lets_others_in_later() -> None:
    found = asyncio.run(coordinator_starved(64, 1.0))
    # How long something takes is not for tests.
    assert [fault for fault in found.faults if "served a new client" not in fault] == []
    assert found.num_answers > 0
    # Some of twice as many as there are files.
    assert 0 < found.num_joined < 64
    # After the strangers, and after the members.
    assert len(found.recovered_s) == 2


def test_a_gateway_without_files_says_so_to_some_and_serves_the_others() -> None:
    found = asyncio.run(gateway_starved(128, 150, 1.0))
    assert [fault for fault in found.faults if "served a new client" not in fault] == []
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
