"""Stops of the plan on their way to draft nodes, and what rounds that stopped tell."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from nodes.messages import DraftReply, GuessEntry
from nodes.scheduler import SchedulerState
from policies.acceptance import AcceptanceEstimate
from policies.confidence import Spread
from policies.latency import CostTable, NodeCosts
from policies.plan import Batch, Observation, Plan
from tests.nodes.pure_mesh import DRAFT_COSTS, TARGET_COSTS
from tests.nodes.scheduler.script import (
    ONE,
    TWO,
    commit,
    draft_requests,
    guesses,
    open_stream,
    verify_requests,
)


@dataclass(slots=True)
class Stopping:
    """All streams in one batch of four guesses at most, with stops of 0.1, 0.2, ..."""

    has_stops: bool = True

    def __call__(self, observation: Observation) -> Plan:
        ids = tuple(view.stream_id for view in observation.streams)
        stops = tuple(0.1 * stream_id for stream_id in ids) if self.has_stops else ()
        return Plan((Batch(ids, (4,) * len(ids), stops),) if ids else ())


def make(has_stops: bool = True) -> SchedulerState:
    scheduler = SchedulerState(Stopping(has_stops), TARGET_COSTS)
    scheduler.draft_joined("a", DRAFT_COSTS)
    return scheduler


@pytest.mark.parametrize(("has_stops", "percents"), [(True, [10, 20]), (False, [0, 0])])
def test_each_streams_stop_goes_to_its_draft_node(has_stops: bool, percents: list[int]) -> None:
    scheduler = make(has_stops)
    first = open_stream(scheduler, ONE, "a")
    ((_, request),) = draft_requests(first)
    assert [entry.stop_percent for entry in request.entries] == percents[:1]
    open_stream(scheduler, TWO, "a")
    scheduler.drafted("a", guesses(1, ONE, 3), 0.1)
    out = scheduler.committed(commit(ONE, 3, [9]), 0.2)
    ((_, request),) = draft_requests(out)
    found = {entry.stream_id: entry.stop_percent for entry in request.entries}
    assert found == dict(zip((ONE, TWO), percents, strict=True))


def estimate_of(scheduler: SchedulerState) -> AcceptanceEstimate:
    stream = scheduler.stream(ONE)
    assert stream is not None
    return stream.acceptance


@pytest.mark.parametrize(
    ("made", "accepted", "fails", "stops"),
    [(4, 4, False, False), (4, 1, True, False), (2, 2, True, True), (2, 1, True, True)],
)
def test_a_guess_that_was_not_made_earned_nothing(
    made: int, accepted: int, fails: bool, stops: bool
) -> None:
    scheduler = make()
    open_stream(scheduler, ONE, "a")
    before = replace(estimate_of(scheduler))
    out = scheduler.drafted("a", guesses(1, ONE, 3, *range(20, 20 + made)), 0.1)
    (verify,) = verify_requests(out)
    assert verify.entries[0].num_draft_tokens == made
    scheduler.committed(commit(ONE, 3, range(20, 21 + accepted), num_draft_tokens=made), 0.2)
    found = estimate_of(scheduler)
    assert found.successes == pytest.approx(0.97 * before.successes + accepted)
    assert found.failures == pytest.approx(0.97 * before.failures + fails)
    assert (found.kept < 1.0) is stops


def test_a_text_that_ends_with_the_last_guess_was_not_stopped_short() -> None:
    """An end-of-text token ends the guesses too: no failure is booked on the node."""
    scheduler = make()
    open_stream(scheduler, ONE, "a")
    open_stream(scheduler, TWO, "a")
    scheduler.drafted("a", guesses(1, ONE, 3, 20, 21), 0.1)
    end = commit(ONE, 3, [20, 21, 22], num_draft_tokens=2, finish_reason="stop")
    scheduler.committed(end, 0.2)
    node = scheduler._drafts["a"].acceptance
    assert node.kept == 1.0
    assert node.failures < AcceptanceEstimate().failures


def test_a_round_in_which_nothing_was_likely_enough_is_a_plain_step_that_counts() -> None:
    scheduler = make()
    open_stream(scheduler, ONE, "a")
    (verify,) = verify_requests(scheduler.drafted("a", guesses(1, ONE, 3), 0.1))
    assert (verify.entries[0].num_draft_tokens, verify.draft_token_ids) == (0, ())
    before = estimate_of(scheduler).alpha
    scheduler.committed(commit(ONE, 3, [9]), 0.2)
    assert estimate_of(scheduler).alpha < before
    assert estimate_of(scheduler).kept < 1.0


def test_every_verify_teaches_what_a_pass_of_its_size_takes() -> None:
    """Without guesses it is a pass like any plain one: the pause before it costs nothing."""
    for made in (0, 1):
        scheduler = make()
        open_stream(scheduler, ONE, "a")
        assert scheduler._target is not None
        before = scheduler._target.now().decode.at(1 + made)
        scheduler.drafted("a", guesses(1, ONE, 3, *range(20, 20 + made)), 0.1)
        slow = commit(ONE, 3, [20], num_draft_tokens=made, pass_s=1.0)
        scheduler.committed(slow, 0.2)
        assert scheduler._target.now().decode.at(1 + made) > before


def test_an_answer_that_did_not_come_tells_nothing_of_guesses() -> None:
    """Neither a late one nor one in which the stream is left out."""
    for reply in (None, DraftReply(1, (), ()), DraftReply(1, (GuessEntry(ONE, 9, 3, 0),), ())):
        scheduler = make()
        open_stream(scheduler, ONE, "a")
        before = estimate_of(scheduler).alpha
        out = scheduler.tick(99.0) if reply is None else scheduler.drafted("a", reply, 0.1)
        assert len(verify_requests(out)) == 1
        scheduler.committed(commit(ONE, 3, [9]), 100.0)
        assert estimate_of(scheduler).alpha == before
        assert estimate_of(scheduler).kept == 1.0


def test_a_measured_draft_is_expected_to_be_what_it_was() -> None:
    """A sure draft and a poor one, before the first round of any stream."""
    costs = NodeCosts(CostTable((1, 8), (10e-3, 14e-3)), CostTable((32,), (20e-3,)))
    alphas = []
    for rate in (0.9, 0.2):
        scheduler = SchedulerState(Stopping(), costs)
        scheduler.draft_joined("a", DRAFT_COSTS, spread=Spread((0.5, 0.5), (rate, 0.1)))
        open_stream(scheduler, ONE, "a")
        alphas.append(estimate_of(scheduler).alpha)
    assert 0.3 < alphas[0] < 0.6
    assert alphas[1] < 0.2
