"""The short form of `python -m bench chaos clocks`."""

from __future__ import annotations

import asyncio

import pytest

from bench.chaos.endurance.clocks import (
    DAY_S,
    Clocked,
    NoClocksError,
    jumping_wall_clocks,
    other_monotonic_clocks,
)


def test_a_run_without_guesses_shows_nothing() -> None:
    found = Clocked(texts=[("a",), ("b",)])
    found.check()
    assert len(found.faults) == 2


def test_nobody_compares_monotonic_times_of_two_machines() -> None:
    try:
        found = asyncio.run(other_monotonic_clocks(2))
    except NoClocksError as error:
        pytest.skip(str(error))
    assert found.faults == []
    assert len(found.texts) == 2


def test_a_wall_clock_that_jumps_changes_nothing() -> None:
    try:
        found = asyncio.run(jumping_wall_clocks((DAY_S, -DAY_S)))
    except NoClocksError as error:
        pytest.skip(str(error))
    assert found.faults == []
    assert len(found.texts) == 5
