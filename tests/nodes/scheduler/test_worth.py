"""Of which draft models nothing is to be had, by what is known of them."""

from __future__ import annotations

import pytest

from nodes.scheduler.drafting.draft_node import DraftNode
from nodes.scheduler.drafting.worth import pays_nobody
from policies.latency import CostTable, NodeCosts

# Passes hardly longer with more tokens.
TARGET = CostTable((1, 32), (0.010, 0.012))


def make_node(step_s: float, *rounds: tuple[int, int]) -> DraftNode:
    """A draft node that takes so long for a guess; rounds: guesses made and accepted, of four."""
    costs = CostTable((1, 32), (step_s, step_s))
    node = DraftNode("a", NodeCosts(costs, CostTable((32,), (0.01,))))
    for made, accepted in rounds:
        node.acceptance.observe(made, accepted, 4)
    return node


def test_what_is_hardly_known_may_pay() -> None:
    assert not pays_nobody(make_node(0.002, *[(4, 0)] * 30), TARGET, 4)
    assert pays_nobody(make_node(0.002, *[(4, 0)] * 400), TARGET, 4)


def test_where_streams_differ_a_draft_that_is_bad_for_most_pays_some() -> None:
    """A guess of 6 ms beside a pass of 10 pays from an acceptance of about 0.6 on."""
    alike, apart = (make_node(0.006, *[(4, 0), (4, 1)] * 100) for _ in range(2))
    for rate in (0.32, 0.34) * 20:
        alike.model.population.ended(40 * rate, 40)
    for rate in (0.0, 0.0, 1.0) * 10:
        apart.model.population.ended(40 * rate, 40)
    assert alike.acceptance.alpha == apart.acceptance.alpha
    assert pays_nobody(alike, TARGET, 1)
    assert not pays_nobody(apart, TARGET, 1)


@pytest.mark.parametrize("num_streams", [1, 16])
def test_texts_that_a_node_has_yet_to_read_are_no_reason(num_streams: int) -> None:
    node = make_node(0.001, *[(4, 3)] * 100)
    node.num_unread = 10**6
    assert not pays_nobody(node, TARGET, num_streams)


def test_a_draft_that_stops_early_is_not_charged_for_guesses_it_does_not_make() -> None:
    """One guess, right mostly, then it stops: three more steps would cost more than they earn."""
    node = make_node(0.0045, *[(1, 1), (1, 1), (0, 0)] * 100)
    assert not pays_nobody(node, TARGET, 1)


def test_a_draft_that_pays_a_stream_alone_is_worth_telling_of_all() -> None:
    """Beside 15 others it makes passes longer that are full; once they have left it does not."""
    steep = CostTable((1, 16, 32, 80), (0.010, 0.012, 0.030, 0.075))
    node = make_node(0.003, *[(4, 2)] * 200)
    assert not pays_nobody(node, steep, 16)
