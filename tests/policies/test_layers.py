"""Which machine gets which layers."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.policies.layers import Machine, cuts_for, step_s

sizes_of = st.lists(st.integers(1, 50), min_size=1, max_size=9)
machines_of = st.lists(
    st.builds(Machine, st.floats(1, 120), st.floats(1, 100)), min_size=1, max_size=4
)


def slowest(sizes: list[int], machines: list[Machine], cuts: list[int]) -> float:
    """Seconds of the slowest machine; infinite where something does not fit."""
    found = 0.0
    for (first, end), machine in zip(pairwise([0, *cuts, len(sizes)]), machines, strict=True):
        used = sum(sizes[first:end])
        if end <= first or used > machine.room_bytes:
            return float("inf")
        found = max(found, used / machine.bytes_per_s)
    return found


@given(sizes_of, machines_of)
def test_the_slowest_machine_is_as_fast_as_memory_allows(
    sizes: list[int], machines: list[Machine]
) -> None:
    every = combinations(range(1, len(sizes)), len(machines) - 1)
    best = min((slowest(sizes, machines, list(cuts)) for cuts in every), default=float("inf"))
    cuts = cuts_for(sizes, machines)
    if best == float("inf"):
        assert cuts == []
    else:
        assert slowest(sizes, machines, cuts) == pytest.approx(best)


def test_a_machine_with_twice_the_speed_has_twice_the_layers() -> None:
    machines = [Machine(1e9, 1e6), Machine(1e9, 2e6)]
    assert cuts_for([10] * 30, machines) == [10]
    # But for its memory.
    assert cuts_for([10] * 30, [Machine(1e9, 1e6), Machine(100, 2e6)]) == [20]
    assert cuts_for([10] * 30, [Machine(190, 1e6), Machine(100, 2e6)]) == []


def test_a_step_takes_the_time_of_all_machines_and_round_trips() -> None:
    machines = [Machine(1e9, 1e6, 0.005), Machine(1e9, 2e6)]
    assert step_s([10_000] * 30, machines, [10]) == pytest.approx(0.1 + 0.005 + 0.1)
