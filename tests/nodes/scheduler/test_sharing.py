"""How many streams each draft node of one medium has."""

from __future__ import annotations

import math

import pytest

from nodes.scheduler.drafting.sharing import Sharer, longest_s, shares


def sharer(
    first_s: float, more_s: float = 0.0, *, held: int = 0, room: int = 100, air_s: float = 2e-3
) -> Sharer:
    """air_s: of the two messages, whatever is in them."""
    return Sharer(lambda n: first_s + more_s * n, lambda _n: air_s, held, room)


def test_a_round_takes_what_its_slowest_node_and_half_of_the_others_messages_take() -> None:
    two = [sharer(0.02), sharer(0.01)]
    assert longest_s(two, [1, 1]) == pytest.approx(0.02 + (4e-3 + 2e-3) / 2)
    assert longest_s(two, [1, 0]) == pytest.approx(0.022)
    assert longest_s(two, [0, 0]) == 0.0
    # Where messages take longer than guesses they follow one another.
    crowded = [sharer(0.001, air_s=0.1) for _ in range(3)]
    assert longest_s(crowded, [1, 1, 1]) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("sharers", "num_streams", "expected"),
    [
        ([sharer(0.02), sharer(0.02)], 16, [16, 0]),
        ([sharer(0.0, 0.01), sharer(0.0, 0.01)], 16, [8, 8]),
        # Twice as fast: twice as many.
        ([sharer(0.0, 0.01), sharer(0.0, 0.02)], 12, [8, 4]),
        # Who has them keeps them, unless another one is better by more than noise.
        ([sharer(0.02), sharer(0.0201, held=3)], 4, [0, 4]),
        ([sharer(0.02), sharer(0.03, held=3)], 4, [4, 0]),
        # Small ones are used where they are of use: beside a large one they are not.
        ([sharer(0.02, room=5), sharer(0.02)], 16, [0, 16]),
        ([sharer(0.01, room=5), sharer(0.0, 0.01)], 16, [5, 11]),
        ([sharer(0.02, room=5), sharer(0.02, room=3)], 16, [5, 3]),
        ([sharer(0.02)], 3, [3]),
        ([], 3, []),
    ],
)
def test_the_fewest_that_do_nearly_as_well_share_them(
    sharers: list[Sharer], num_streams: int, expected: list[int]
) -> None:
    assert shares(sharers, num_streams) == expected


@pytest.mark.parametrize("num_streams", [1, 15, 16, 17, 100, 1000])
def test_none_is_lost_and_none_is_made_up(num_streams: int) -> None:
    many = [sharer(0.001 * k, 0.0003 * k, room=1000) for k in range(1, 8)]
    assert sum(shares(many, num_streams)) == num_streams


@pytest.mark.parametrize(("num_nodes", "num_streams"), [(2, 18), (5, 20), (7, 21), (40, 80)])
def test_all_nodes_are_asked_where_that_saves_much(num_nodes: int, num_streams: int) -> None:
    many = [sharer(0.0, 0.01, air_s=1e-5) for _ in range(num_nodes)]
    assert max(shares(many, num_streams)) <= math.ceil(num_streams / num_nodes)
