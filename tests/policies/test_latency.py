"""Cost tables: points, lines between, no negative slope beyond; and how they follow the truth."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.policies.latency import CostColumns, CostTable, Load, NodeCosts, TableRefit

TABLE = CostTable((1, 4, 8), (10.0, 13.0, 25.0))


@pytest.mark.parametrize(
    ("table", "costs"),
    [
        (TABLE, {1: 10.0, 2: 11.0, 4: 13.0, 6: 19.0, 8: 25.0, 9: 28.0, 18: 55.0}),
        (CostTable((4, 8), (1.0, 2.0)), {1: 1.0}),
        (CostTable((1, 2), (3.0, 2.0)), {50: 2.0}),
        (CostTable((32,), (0.64,)), {5: 0.64, 64: 1.28}),
    ],
    ids=["between and beyond", "below the first size", "a falling end", "one size"],
)
def test_costs_are_linear_between_sizes_and_beyond_with_the_last_slope(table, costs):
    assert {num_tokens: table.at(num_tokens) for num_tokens in costs} == pytest.approx(costs)


@pytest.mark.parametrize("num_tokens", [1, 3, 8, 20])
def test_cells_of_its_own_sequence_cost_a_token_more(num_tokens):
    table = CostTable((1, 4, 8), (10.0, 13.0, 25.0), per_cell_s=0.001, per_own_cell_s=0.01)
    expected = TABLE.at(num_tokens) + (0.5 + 2.5) * num_tokens
    assert table.at(num_tokens, 500, 250.0) == pytest.approx(expected)
    assert table.with_own(250.0).at(num_tokens, 500) == pytest.approx(expected)
    assert table.scaled(2.0).at(num_tokens, 500, 250.0) == pytest.approx(2 * expected)
    assert table.with_own(0.0) is table


@pytest.mark.parametrize(
    ("sizes", "seconds", "per_cell_s", "reason"),
    [
        ((), (), 0.0, "at least one"),
        ((1, 2), (1.0,), 0.0, "as many times as sizes"),
        ((1, 1), (1.0, 1.0), 0.0, "not ascending"),
        ((0, 1), (1.0, 1.0), 0.0, "must be at least 1"),
        ((1,), (0.0,), 0.0, "positive and finite"),
        ((1,), (math.inf,), 0.0, "positive and finite"),
        ((1,), (math.nan,), 0.0, "positive and finite"),
        ((1,), (1.0,), -1.0, "the seconds of a cell"),
        ((1,), (1.0,), math.nan, "the seconds of a cell"),
    ],
)
def test_tables_that_no_measurement_gives_are_refused(sizes, seconds, per_cell_s, reason):
    with pytest.raises(ValueError, match=reason):
        CostTable(sizes, seconds, per_cell_s)


COSTS = NodeCosts(CostTable((1, 4, 8), (0.010, 0.013, 0.025), 1e-6), CostTable((32,), (0.2,)))


def noisy(generator, spread=0.2):
    return math.exp(generator.gauss(0.0, spread))


def test_a_table_follows_every_size_for_itself():
    base = CostTable((1, 2, 4, 8, 16, 32), (10.0, 11.0, 13.0, 17.0, 30.0, 58.0), 1e-3)
    truth = CostTable(base.sizes, (20.0, 20.5, 21.0, 15.0, 20.0, 35.0), 1e-3)
    generator = random.Random(1)
    refit = TableRefit(base)
    for true in (truth, base):
        for _ in range(4000):
            num_tokens, used_cells = generator.randint(1, 40), generator.choice((0, 300))
            seconds = true.at(num_tokens, used_cells) * noisy(generator, 0.05)
            refit.observe(num_tokens, seconds, used_cells)
        for num_tokens in range(1, 41):
            expected = true.at(num_tokens, 300)
            assert refit.table.at(num_tokens, 300) == pytest.approx(expected, rel=0.08)


def test_what_own_cells_add_is_learnt_apart_from_the_sizes():
    """A device whose attention is dearer than measured shows it in passes over long texts only."""
    base = CostTable((1, 2, 4, 8), (10.0, 11.0, 13.0, 17.0), 0.0, 1e-3)
    truth = CostTable(base.sizes, base.seconds, 0.0, 4e-3)
    generator = random.Random(1)
    refit = TableRefit(base)
    for _ in range(4000):
        num_tokens, own_cells = generator.randint(1, 8), generator.choice((0, 300, 2000))
        seconds = truth.at(num_tokens, 0, own_cells) * noisy(generator, 0.05)
        refit.observe(num_tokens, seconds, 0, own_cells)
    assert refit.table.per_own_cell_s == pytest.approx(4e-3, rel=0.1)
    assert refit.table.seconds == pytest.approx(base.seconds, rel=0.1)


@pytest.mark.parametrize("num_tokens", [1, 3, 16, 60])
def test_passes_of_one_size_are_learnt_wherever_it_lies(num_tokens):
    base = CostTable((2, 4, 16, 32), (10.0, 11.0, 12.0, 20.0))
    refit = TableRefit(base)
    for _ in range(300):
        refit.observe(num_tokens, 1.7 * base.at(num_tokens))
    assert refit.table.at(num_tokens) == pytest.approx(1.7 * base.at(num_tokens), rel=0.01)
    untouched = {1: 16, 3: 32, 16: 2, 60: 4}[num_tokens]
    assert refit.table.at(untouched) == pytest.approx(base.at(untouched))


def test_a_table_of_one_size_is_scaled():
    refit = TableRefit(CostTable((8,), (0.1,)))
    for num_tokens in [1, 8, 20] * 100:
        refit.observe(num_tokens, 0.3 * max(1.0, num_tokens / 8))
    assert refit.table.at(8) == pytest.approx(0.3, rel=0.01)


def test_one_stalled_pass_moves_a_table_little():
    refit = TableRefit(TABLE)
    refit.observe(4, 1e6)
    assert 1.0 < refit.table.at(4) / TABLE.at(4) < 1.2
    refit.observe(4, 1e-6)
    assert refit.table.seconds == pytest.approx(TABLE.seconds)


@given(
    st.lists(
        st.tuples(st.integers(-1, 300), st.floats(0, 1e300), st.integers(0, 5000)), max_size=60
    )
)
def test_whatever_passes_take_a_table_stays_one(passes):
    first = CostTable((1, 4, 8), (10.0, 13.0, 25.0), 1e-3, 1e-2)
    refit = TableRefit(first, rate=1.0)
    for num_tokens, seconds, cells in passes:
        refit.observe(num_tokens, seconds, cells, cells / 2)
    table = refit.table
    assert table.sizes == first.sizes
    for found, known in zip(
        (*table.seconds, table.per_cell_s, table.per_own_cell_s),
        (*first.seconds, first.per_cell_s, first.per_own_cell_s),
        strict=True,
    ):
        assert known / 16.001 < found < known * 16.001


def test_load_is_the_share_of_time_that_work_takes_and_is_forgotten():
    load = Load(memory_s=10.0)
    assert load.share(5.0) == 0.0
    now = 0.0
    for share in (0.3, 0.8):
        for _ in range(2000):
            now += 0.05
            load.add(0.05 * share, now)
        assert load.share(now) == pytest.approx(share, rel=0.01)
    before = load.share(now)
    assert load.share(now + 10.0) == pytest.approx(before / math.e)
    assert load.share(now + 1000.0) < 1e-9
    # Asking changes nothing; a clock that is a little behind does not make it grow.
    assert load.share(now) == before
    assert load.share(now - 5.0) == before


def test_what_passes_took_with_fewer_threads_is_forgotten_with_all_of_them() -> None:
    columns = CostColumns(TABLE)
    size = TABLE.sizes[-1]
    for _ in range(50):
        columns.of(1).observe(size, 3.0 * TABLE.at(size))
    assert columns.of(1).table.at(size) > 2.0 * TABLE.at(size)
    assert columns.of(2).table == TABLE
