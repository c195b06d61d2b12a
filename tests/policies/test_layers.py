"""Which machine gets which layers."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airdraft.policies.layers import Machine, cuts_for, slowest_s, step_s

sizes_of = st.lists(st.integers(1, 50), min_size=1, max_size=9)
machines_of = st.lists(
    st.builds(Machine, st.floats(1, 120), st.floats(1, 100)), min_size=1, max_size=4
)


# The first machine may not take all that it has room for.
@example([1, 1, 2, 1], [Machine(2.0, 1.0), Machine(1.0, 1.0), Machine(3.0, 1.0)])
@given(sizes_of, machines_of)
def test_the_slowest_machine_is_as_fast_as_memory_allows(
    sizes: list[int], machines: list[Machine]
) -> None:
    every = combinations(range(1, len(sizes)), len(machines) - 1)
    best = min((slowest_s(sizes, machines, list(cuts)) for cuts in every), default=float("inf"))
    cuts = cuts_for(sizes, machines)
    if best == float("inf"):
        assert cuts == []
    else:
        assert slowest_s(sizes, machines, cuts) == pytest.approx(best)


def test_a_machine_with_twice_the_speed_has_twice_the_layers() -> None:
    machines = [Machine(1e9, 1e6), Machine(1e9, 2e6)]
    assert cuts_for([10] * 30, machines) == [10]
    assert slowest_s([10] * 30, machines, [10]) == pytest.approx(1e-4)
    # But for its memory.
    assert cuts_for([10] * 30, [Machine(1e9, 1e6), Machine(100, 2e6)]) == [20]
    assert cuts_for([10] * 30, [Machine(190, 1e6), Machine(100, 2e6)]) == []


def test_a_step_takes_the_time_of_all_machines_and_round_trips() -> None:
    machines = [Machine(1e9, 1e6, 0.005), Machine(1e9, 2e6)]
    assert step_s([10_000] * 30, machines, [10]) == pytest.approx(0.1 + 0.005 + 0.1)
