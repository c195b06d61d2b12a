"""Of which draft models nothing is to be had by what is known of them, and who is told to them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from nodes.messages import OpenStreamRequest
from nodes.scheduler import SchedulerState
from nodes.scheduler.drafting.draft_node import DraftNode
from nodes.scheduler.drafting.worth import pays_nobody
from nodes.scheduler.instructions import Instruction, ToDraft
from policies.acceptance import AcceptanceEstimate
from policies.latency import CostTable, NodeCosts
from tests.nodes.builders import make_spec
from tests.nodes.pure_mesh import DRAFT_COSTS, TARGET_COSTS
from tests.nodes.scheduler.script import FOUR, ONE, TWO, FixedPolicy, commit_one

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
    node = make_node(0.003, *[(4, 3)] * 100)
    # It would take five times as long for a guess.
    node.num_unread = 10**6
    assert not pays_nobody(node, TARGET, num_streams)


def test_a_draft_that_stops_early_is_not_charged_for_guesses_it_does_not_make() -> None:
    """Each token of a pass takes 6 ms: too much for a guess that is always made, not for one that
    is made where it is likely."""
    steep = CostTable((1, 2, 32), (0.010, 0.016, 0.196))
    node = make_node(0.002, *[(1, 1), (1, 1), (0, 0)] * 200)
    assert not pays_nobody(node, steep, 1)


def test_a_draft_that_pays_a_stream_alone_is_worth_telling_of_all() -> None:
    """Beside 15 others it makes passes longer that are full; once they have left it does not."""
    steep = CostTable((1, 16, 32, 80), (0.010, 0.012, 0.030, 0.075))
    node = make_node(0.003, *[(4, 2)] * 200)
    assert not pays_nobody(node, steep, 16)


def test_a_draft_that_pays_many_together_is_worth_telling_of() -> None:
    """A step that takes as long for one stream as for 16 is too long beside a pass of one."""
    wide = CostTable((1, 16, 64), (0.010, 0.100, 0.110))
    node = make_node(0.012, *[(4, 1)] * 200)
    assert pays_nobody(node, wide, 1)
    assert not pays_nobody(node, wide, 16)


def in_vain() -> SchedulerState:
    """Its draft node's guesses have all been wrong."""
    scheduler = SchedulerState(FixedPolicy(), TARGET_COSTS, trials=True)
    scheduler.draft_joined("a", DRAFT_COSTS)
    for _ in range(400):
        scheduler._drafts["a"].acceptance.observe(4, 0, 4)
    return scheduler


def opened_on_draft(out: Sequence[Instruction]) -> list[int]:
    """Streams of which a draft node is told."""
    asked = [i.message for i in out if isinstance(i, ToDraft)]
    return [message.stream_id for message in asked if isinstance(message, OpenStreamRequest)]


def test_of_a_draft_that_guesses_in_vain_one_stream_at_a_time_finds_out() -> None:
    """Reading texts in vain would take time of the target's where they share cores."""
    scheduler = in_vain()
    assert opened_on_draft(scheduler.admit(make_spec(ONE, max_tokens=600), None)) == [ONE]
    assert opened_on_draft(scheduler.admit(make_spec(TWO, max_tokens=600), None)) == []
    stream = scheduler.stream(TWO)
    assert stream is not None
    assert stream.plain_reason == "draft off: a guesses in vain"
    # Whose client chose the guesses gets them.
    assert opened_on_draft(scheduler.admit(make_spec(FOUR, max_tokens=400), 3)) == [FOUR]
    # A long text is looked at by itself.
    scheduler.target_ready(TWO, 1, 0.0)
    told: list[int] = []
    while not told:
        told = opened_on_draft(commit_one(scheduler, TWO))
    assert told == [TWO]
    assert 256 <= stream.num_output < 272
    # It is tried as soon as it has been read.
    assert stream.tries is not None
    assert stream.tries.is_due(len(stream.token_ids))
    assert stream.plain_reason == "draft off: a still reads the text"


def test_who_comes_after_the_one_that_was_tried_is_the_next_to_find_out() -> None:
    scheduler = in_vain()
    scheduler.admit(make_spec(ONE, max_tokens=400), None)
    first = scheduler.stream(ONE)
    assert first is not None
    first.acceptance.observe(4, 0, 4)
    assert opened_on_draft(scheduler.admit(make_spec(TWO, max_tokens=400), None)) == [TWO]


def test_a_silent_node_that_guesses_in_vain_is_told_of_no_more_streams() -> None:
    scheduler = in_vain()
    scheduler.admit(make_spec(ONE), None)
    scheduler._drafts["a"].is_silent = True
    assert opened_on_draft(scheduler.admit(make_spec(TWO), None)) == []


def test_a_stream_that_its_draft_node_suited_is_told_to_it_again() -> None:
    scheduler = in_vain()
    for stream_id in (ONE, TWO):
        scheduler.admit(make_spec(stream_id), None)
    stream = scheduler.stream(TWO)
    assert stream is not None
    stream.known["a"] = AcceptanceEstimate(9.0, 1.0)
    assert opened_on_draft(scheduler._draft_side.place(stream)) == [TWO]
