"""When streams wait for each other by the program's plan, and when nobody does."""

from __future__ import annotations

import math

import pytest

from nodes.messages import HoldEntry, HoldNotice
from nodes.scheduler import Scheduler
from nodes.scheduler.drafts import Drafts
from nodes.scheduler.instructions import Instruction
from nodes.scheduler.planning import Made, Mode, Planning, promises, waits_of
from nodes.worker.stream import StreamId
from policies.joint import joint_plan
from policies.latency import CostTable, NodeCosts
from policies.plan import (
    Batch,
    BatchTimes,
    DraftView,
    Link,
    Observation,
    Plan,
    Prediction,
    StreamView,
)
from tests.nodes.scheduler.watched import ONE, TARGET_COSTS, admit, ready, to_target


def costs(first_s: float, per_token_s: float = 0.0) -> NodeCosts:
    table = CostTable((1, 101), (first_s, first_s + 100 * per_token_s))
    return NodeCosts(table, table)


def seen(alpha: float = 0.8, draft_s: float = 0.002, rtt_s: float = 0.001) -> Observation:
    streams = tuple(StreamView(k, alpha, 1000, draft="d") for k in (1, 2))
    draft = DraftView("d", costs(draft_s), Link(rtt_s=rtt_s))
    return Observation(streams, costs(0.05, 0.0005), (draft,))


def test_what_streams_wait_for_is_what_the_program_says() -> None:
    planned = Planning(seen(), joint_plan).make()
    assert planned.grouped.batches
    waits = waits_of(planned.grouped)
    for number, batch in enumerate(planned.grouped.batches, 1):
        for stream_id, gamma in zip(batch.stream_ids, batch.gammas, strict=True):
            assert (waits[stream_id].group, waits[stream_id].num_guesses) == (number, gamma)
            assert 0.0 < waits[stream_id].most_s < 1.0


def test_a_plan_without_guesses_is_no_alternative() -> None:
    assert Planning(seen(draft_s=0.5), joint_plan).make().grouped_s == math.inf


@pytest.mark.parametrize(("grouped_s", "is_worth_it"), [(0.95, False), (0.5, True)])
def test_nobody_waits_where_that_promises_little(grouped_s: float, is_worth_it: bool) -> None:
    assert promises(Made(seen(), Plan(), grouped_s, 1.0)) is is_worth_it


# -- what a target is told of it -----------------------------------------------------------------

TWO = StreamId(2)


def together(observation: Observation) -> Plan:
    """All streams in one batch that waits for four guesses of each that is guessed for."""
    streams = observation.streams
    gammas = tuple(4 if stream.draft is not None else 0 for stream in streams)
    times = BatchTimes(0.1, 0.0, 0.1, 0.3, 10)
    prediction = Prediction(0.3, "", 1e9, 100.0, (times,))
    return Plan((Batch(tuple(s.stream_id for s in streams), gammas),), prediction=prediction)


def decoding(**drafts: int) -> Scheduler:
    """Two streams; drafts: by name, how many streams each may follow."""
    scheduler = Scheduler(TARGET_COSTS, Drafts(), mode=Mode(together, is_grouped=True))
    for name, max_streams in drafts.items():
        scheduler.draft_joined(name, TARGET_COSTS, max_streams=max_streams)
    for stream_id in (ONE, TWO):
        admit(scheduler, stream_id)
        ready(scheduler, stream_id)
    return scheduler


def held(instructions: list[Instruction]) -> dict[int, HoldEntry]:
    """What streams are told to wait for, by stream."""
    holds = to_target(instructions, HoldNotice)
    return {entry.stream_id: entry for hold in holds for entry in hold.entries}


def test_streams_of_a_group_wait_for_their_guesses_and_are_told_once() -> None:
    scheduler = decoding(d=2)
    # One and a half times the round without its pass.
    assert held(scheduler.tick(1.0)) == {s: HoldEntry(s, 1, 1, 4, 300_000) for s in (ONE, TWO)}
    assert held(scheduler.tick(2.1)) == {}


def test_nobody_waits_when_all_draft_nodes_are_gone() -> None:
    scheduler = decoding(d=2)
    scheduler.tick(1.0)
    scheduler.draft_lost("d")
    holds = held(scheduler.tick(2.1))
    assert {s: entry.group for s, entry in holds.items()} == {ONE: 0, TWO: 0}
    assert scheduler.plan.batches == ()
    assert held(scheduler.tick(3.2)) == {}


def test_a_stream_that_lost_its_draft_node_waits_for_no_guesses() -> None:
    scheduler = decoding(c=1, d=1)
    scheduler.tick(1.0)
    scheduler.draft_lost("c")
    ((lost, entry),) = held(scheduler.tick(2.1)).items()
    stream = scheduler.streams.get(StreamId(lost))
    assert stream is not None
    assert stream.follow is None
    # It goes with its group all the same.
    assert (entry.group, entry.num_guesses) == (1, 0)


def test_a_plan_says_nothing_of_streams_that_left_while_it_was_made() -> None:
    scheduler = decoding(d=2)
    planning = scheduler.begin_plan(1.0)
    assert planning is not None
    scheduler.cancel(ONE)
    assert set(held(scheduler.take_plan(planning.make(), 1.2))) == {TWO}
