"""Which machine gets which layers."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airdraft.policies.layers import Layers, Machine, cuts_for, slowest_s, step_s


@st.composite
def layers_of(draw: st.DrawFn) -> Layers:
    sizes = draw(st.lists(st.integers(1, 50), min_size=1, max_size=9))
    cuts = draw(st.sets(st.integers(1, 8), max_size=8))
    return Layers(sizes, draw(st.integers(0, 100)), sorted(n for n in cuts if n < len(sizes)))


LAYERS = Layers([10] * 30, 0, range(1, 30))
machines_of = st.lists(
    st.builds(Machine, st.floats(1, 120), st.floats(1, 100)), min_size=1, max_size=4
)


# The first machine may not take all that it has room for.
@example(
    Layers([1, 1, 2, 1], 0, [1, 2, 3]), [Machine(2.0, 1.0), Machine(1.0, 1.0), Machine(3.0, 1.0)]
)
@given(layers_of(), machines_of)
def test_the_slowest_machine_is_as_fast_as_memory_allows(
    layers: Layers, machines: list[Machine]
) -> None:
    every = combinations(layers.cuts, len(machines) - 1)
    best = min((slowest_s(layers, machines, list(cuts)) for cuts in every), default=float("inf"))
    cuts = cuts_for(layers, machines)
    if best == float("inf"):
        assert cuts == []
    else:
        assert slowest_s(layers, machines, cuts) == pytest.approx(best)


def test_a_machine_with_twice_the_speed_has_twice_the_layers() -> None:
    machines = [Machine(1e9, 1e6), Machine(1e9, 2e6)]
    assert cuts_for(LAYERS, machines) == [10]
    assert slowest_s(LAYERS, machines, [10]) == pytest.approx(1e-4)
    # But for its memory.
    assert cuts_for(LAYERS, [Machine(1e9, 1e6), Machine(100, 2e6)]) == [20]
    assert cuts_for(LAYERS, [Machine(190, 1e6), Machine(100, 2e6)]) == []


def test_a_step_takes_the_time_of_all_machines_and_round_trips() -> None:
    machines = [Machine(1e9, 1e6, 0.005), Machine(1e9, 2e6)]
    assert step_s(Layers([10_000] * 30, 2_000, range(1, 30)), machines, [10]) == pytest.approx(
        0.1 + 0.005 + 0.101
    )


def test_the_output_layer_takes_room_and_counts_half() -> None:
    layers = Layers([10] * 30, 100, range(1, 30))
    machines = [Machine(1e9, 1e6), Machine(1e9, 1e6)]
    (cut,) = cuts_for(layers, machines)
    assert cut in (17, 18)
    assert cuts_for(layers, [Machine(1e9, 1e6), Machine(200, 1e6)]) == [20]
    assert cuts_for(layers, [Machine(190, 1e6), Machine(200, 1e6)]) == []
