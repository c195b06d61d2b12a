"""What goes into a pass, against trying everything; and which streams are guessed for next."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.policies.guesses import (
    LEAST_CHANCE,
    WINDOW,
    Ahead,
    Offer,
    composed,
    composed_equal,
    extended,
)
from airdraft.policies.latency import CostTable


def rate_of(
    offers: Sequence[Offer],
    counts: Sequence[int],
    pass_s: Callable[[float], float],
    num_read: int = 0,
) -> float:
    """Weighted tokens a second of a pass with so many guesses of each."""
    expected = sum(
        offer.weight * (1.0 + sum(offer.chances[:count]))
        for offer, count in zip(offers, counts, strict=True)
    )
    num = len(offers)
    reading_s = pass_s(num + num_read) - pass_s(num) if num_read else 0.0
    return expected / (pass_s(num + sum(counts) + num_read) - reading_s)


chains = st.lists(st.floats(0.01, 1.0), max_size=4).map(
    lambda each: tuple(itertools.accumulate(each, lambda a, b: a * b))
)
offers_ = st.lists(st.builds(Offer, st.floats(0.2, 5.0), chains), min_size=1, max_size=4)
tables = st.lists(st.floats(0.0, 0.01), min_size=4, max_size=4).map(
    lambda steps: CostTable((1, 2, 4, 8), tuple(0.01 + sum(steps[: k + 1]) for k in range(4)))
)


@given(offers=offers_, table=tables, num_read=st.sampled_from([0, 0, 3, 32]))
def test_no_choice_of_guesses_gives_more(
    offers: list[Offer], table: CostTable, num_read: int
) -> None:
    found = composed(offers, table.at, num_read=num_read, most=100)
    every = itertools.product(*(range(len(offer.chances) + 1) for offer in offers))
    best = max(rate_of(offers, counts, table.at, num_read) for counts in every)
    assert rate_of(offers, found, table.at, num_read) == pytest.approx(best)


@given(offers=offers_, table=tables, most=st.integers(0, 6))
def test_it_takes_no_more_than_there_is_room_for(
    offers: list[Offer], table: CostTable, most: int
) -> None:
    found = composed(offers, table.at, most=most)
    assert sum(found) <= most
    assert all(count <= len(o.chances) for count, o in zip(found, offers, strict=True))


def test_guesses_that_go_in_anyway_are_paid_for() -> None:
    """Where they have made the pass long, others are worth less than in a pass without them."""
    table = CostTable((1, 4, 5, 64), (0.010, 0.010, 0.030, 0.031))
    for num_given, taken in ((3, 0), (4, 1)):
        offers = [Offer(1.0, (0.5,), num_given)]
        assert composed(offers, table.at, given_gain=0.0, most=16) == [taken]


# Two machines: four tokens take hardly longer than one, or much longer.
FLAT = CostTable((1, 4, 8, 16, 32), (1.0, 1.15, 1.6, 2.6, 4.6))
STEEP = CostTable((1, 4, 8, 16, 32), (1.0, 1.6, 2.4, 4.0, 7.2))


def tokens_a_second(
    table: CostTable, num_streams: int, acceptance: float, choose: Callable[[list[int]], list[int]]
) -> float:
    """Simulate 4,000 passes of a model that computes accepted tokens again after a wrong guess.

    choose: returns the guesses of each stream by its pending tokens.
    """
    random, pending, num_tokens, seconds = Random(1), [0] * num_streams, 0, 0.0
    for _ in range(4000):
        counts = choose(pending)
        length = max(1 + r + g for r, g in zip(pending, counts, strict=True))
        seconds += table.at(length * num_streams)
        for stream, (r, g) in enumerate(zip(pending, counts, strict=True)):
            right = sum(itertools.takewhile(bool, (random.random() < acceptance for _ in range(g))))
            num_tokens += right + 1
            is_done = right == g and 1 + r + g == length
            pending[stream] = 0 if is_done else r + 1 + right
    return num_tokens / seconds


@pytest.mark.parametrize("table", [FLAT, STEEP], ids=["flat", "steep"])
@pytest.mark.parametrize("acceptance", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("num_streams", [1, 2, 4])
def test_equal_lengths_are_chosen_nearly_as_well_as_the_best_constant_one(
    table: CostTable, acceptance: float, num_streams: int
) -> None:
    chances = tuple(acceptance**place for place in range(1, 17))

    def chosen(pending: list[int]) -> list[int]:
        offers = [Offer(1.0, chances, num_pending=num) for num in pending]
        return composed_equal(offers, table.at, most=200)

    def constant(length: int, pending: list[int]) -> list[int]:
        length = max(length, *(1 + num for num in pending))
        return [length - 1 - num for num in pending]

    rate = tokens_a_second(table, num_streams, acceptance, chosen)
    best = max(
        tokens_a_second(table, num_streams, acceptance, partial(constant, length))
        for length in (1, 2, 3, 4, 5, 6, 8, 10)
    )
    assert rate >= 0.95 * best
    assert rate >= 0.99 * num_streams / table.at(num_streams)


def test_guesses_take_what_pending_tokens_leave_of_a_length() -> None:
    sure = (1.0,) * 8
    offers = [Offer(1.0, sure, num_pending=3), Offer(1.0, sure), Offer(1.0, (), num_pending=None)]
    table = CostTable((1, 12, 13, 64), (0.010, 0.011, 0.050, 0.200))
    # Five tokens of each, and one of the stream that is read: eleven, beside twelve at most.
    assert composed_equal(offers, table.at, most=100) == [1, 4, 0]
    # Room for no guesses: the shortest length is that of the pending tokens.
    assert composed_equal(offers, table.at, most=0) == [0, 3, 0]
    # Where all states are kept, right guesses cost no second time.
    unsure = [Offer(1.0, (0.5,))]
    half = CostTable((1, 2), (0.010, 0.0145))
    assert composed_equal(unsure, half.at, most=1) == [0]
    assert composed_equal(unsure, half.at, most=1, times_again=0.0) == [1]


def test_nobody_is_extended_beyond_the_window_or_what_has_a_chance() -> None:
    streams = [Ahead(1.0, WINDOW), Ahead(LEAST_CHANCE - 0.01, 3), Ahead(0.9, 1)]
    assert extended(streams, most_tokens=64) == [2]


def test_guesses_that_are_likely_to_be_used_come_first() -> None:
    streams = [Ahead(0.6, 4), Ahead(1.0, 0), Ahead(0.8, 2)]
    assert extended(streams, most_tokens=64) == [1, 2, 0]


ahead = st.builds(Ahead, st.floats(0.0, 1.0), st.integers(0, 40), st.integers(1, 5))


@given(streams=st.lists(ahead, max_size=12), most=st.integers(1, 20))
def test_a_step_holds_what_fits_and_somebody_if_anybody_fits(
    streams: list[Ahead], most: int
) -> None:
    found = extended(streams, most)
    assert len(set(found)) == len(found)
    assert sum(streams[k].num_new for k in found) <= most
    able = [s for s in streams if s.chance >= LEAST_CHANCE and s.num_guesses < WINDOW]
    if able and all(s.num_new == 1 for s in able):
        assert found
