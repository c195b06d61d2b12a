"""Cost tables: the measured points, lines between them, and no negative slope beyond."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.latency import CostTable, median

TABLE = CostTable((1, 4, 8), (10.0, 13.0, 25.0))


@pytest.mark.parametrize(
    ("num_tokens", "seconds"),
    [(1, 10.0), (4, 13.0), (8, 25.0), (2, 11.0), (6, 19.0), (9, 28.0), (18, 55.0)],
)
def test_between_sizes_linear_and_beyond_with_the_last_slope(num_tokens, seconds):
    assert TABLE.at(num_tokens) == pytest.approx(seconds)


def test_below_the_first_size_as_the_first():
    assert CostTable((4, 8), (1.0, 2.0)).at(1) == 1.0


def test_beyond_a_falling_end_costs_do_not_fall_further():
    assert CostTable((1, 2), (3.0, 2.0)).at(50) == 2.0


def test_one_measured_size_is_taken_in_proportion_beyond_it():
    assert CostTable((32,), (0.64,)).at(64) == pytest.approx(1.28)
    assert CostTable((32,), (0.64,)).at(5) == 0.64


@pytest.mark.parametrize("num_tokens", [1, 3, 8, 20])
def test_used_cells_cost_each_token(num_tokens):
    table = CostTable((1, 4, 8), (10.0, 13.0, 25.0), per_cell_s=0.001)
    extra = table.at(num_tokens, used_cells=500) - TABLE.at(num_tokens)
    assert extra == pytest.approx(0.5 * num_tokens)
    assert table.at(num_tokens) == TABLE.at(num_tokens)


@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=6), st.data())
def test_costs_that_rise_give_costs_that_rise(seconds, data):
    sizes = sorted(
        data.draw(st.sets(st.integers(1, 64), min_size=len(seconds), max_size=len(seconds)))
    )
    table = CostTable(tuple(sizes), tuple(sorted(seconds)))
    costs = [table.at(n) for n in range(1, 100)]
    assert all(b >= a * (1 - 1e-12) for a, b in itertools.pairwise(costs))
    assert [table.at(n) for n in sizes] == pytest.approx(sorted(seconds))


@pytest.mark.parametrize(
    ("sizes", "seconds", "per_cell_s", "reason"),
    [
        ((), (), 0.0, "at least one"),
        ((1, 2), (1.0,), 0.0, "as many times as sizes"),
        ((2, 1), (1.0, 1.0), 0.0, "not ascending"),
        ((1, 1), (1.0, 1.0), 0.0, "not ascending"),
        ((0, 1), (1.0, 1.0), 0.0, "at least one token"),
        ((1,), (0.0,), 0.0, "positive time"),
        ((1,), (math.nan,), 0.0, "positive time"),
        ((1,), (math.inf,), 0.0, "positive time"),
        ((1,), (1.0,), -1.0, "used cell"),
        ((1,), (1.0,), math.nan, "used cell"),
    ],
)
def test_tables_that_no_measurement_gives_are_refused(sizes, seconds, per_cell_s, reason):
    with pytest.raises(ValueError, match=reason):
        CostTable(sizes, seconds, per_cell_s)


def test_median():
    assert median([5.0]) == 5.0
    assert median([9.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0]) == 2.5
