"""Which machine gets which layers."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airdraft.policies.latency import CostTable
from airdraft.policies.layers import Layers, Machine, cuts_for, pass_s, rates_of, slowest_s


def machine(room_bytes: float, bytes_per_s: float, rtt_s: float = 0.0) -> Machine:
    """A machine whose passes take the same time for any number of tokens."""
    return Machine(room_bytes, CostTable((1, 16), (1 / bytes_per_s,) * 2), rtt_s)


@st.composite
def layers_of(draw: st.DrawFn) -> Layers:
    sizes = draw(st.lists(st.integers(1, 50), min_size=1, max_size=9))
    cuts = draw(st.sets(st.integers(1, 8), max_size=8))
    return Layers(sizes, draw(st.integers(0, 100)), sorted(n for n in cuts if n < len(sizes)))


LAYERS = Layers([10] * 30, 0, range(1, 30))
machines_of = st.lists(
    st.builds(machine, st.floats(1, 120), st.floats(1, 100)), min_size=1, max_size=4
)


# The first machine may not take all that it has room for.
@example(
    Layers([1, 1, 2, 1], 0, [1, 2, 3]), [machine(2.0, 1.0), machine(1.0, 1.0), machine(3.0, 1.0)]
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
    machines = [machine(1e9, 1e6), machine(1e9, 2e6)]
    assert cuts_for(LAYERS, machines) == [10]
    assert slowest_s(LAYERS, machines, [10]) == pytest.approx(1e-4)
    # But for its memory.
    assert cuts_for(LAYERS, [machine(1e9, 1e6), machine(100, 2e6)]) == [20]
    assert cuts_for(LAYERS, [machine(190, 1e6), machine(100, 2e6)]) == []


def test_a_step_takes_the_time_of_all_machines_and_round_trips() -> None:
    machines = [machine(1e9, 1e6, 0.005), machine(1e9, 2e6)]
    layers = Layers([10_000] * 30, 2_000, range(1, 30))
    assert pass_s(layers, machines, [10], 1) == pytest.approx(0.1 + 0.005 + 0.101)


def test_shares_follow_the_passes_of_many_tokens() -> None:
    # One reads memory as fast as the other, and computes half as fast.
    slow = Machine(1e9, CostTable((1, 16), (1e-6, 4e-6)))
    fast = Machine(1e9, CostTable((1, 16), (1e-6, 2e-6)))
    assert cuts_for(LAYERS, [slow, fast]) == [10]


def test_guesses_are_predicted_by_what_passes_with_them_take() -> None:
    layers, flat = Layers([10_000] * 30, 0, range(1, 30)), [machine(1e9, 1e6), machine(1e9, 1e6)]
    one, four = rates_of(layers, flat, [15], 1), rates_of(layers, flat, [15], 4)
    assert one.plain == pytest.approx(1 / 0.3)
    assert four.plain == pytest.approx(4 / 0.3)
    # Seven guesses at no cost: 1 + 0.75 + 0.75 ** 2 and so on.
    assert one.with_guesses == pytest.approx((1 - 0.75**8) / 0.25 / 0.3)
    # Where each token costs as much as the first one, guesses are worth nothing.
    steep = [Machine(1e9, CostTable((1, 16), (1e-6, 16e-6)))] * 2
    assert rates_of(layers, steep, [15], 1).with_guesses == pytest.approx(1 / 0.3)


def test_the_output_layer_takes_room_and_counts_half() -> None:
    layers = Layers([10] * 30, 100, range(1, 30))
    machines = [machine(1e9, 1e6), machine(1e9, 1e6)]
    (cut,) = cuts_for(layers, machines)
    assert cut in (17, 18)
    assert cuts_for(layers, [machine(1e9, 1e6), machine(200, 1e6)]) == [20]
    assert cuts_for(layers, [machine(190, 1e6), machine(200, 1e6)]) == []
