"""What a target is told that streams wait for, while plans come and streams and nodes go."""

from __future__ import annotations

from nodes.messages import HoldEntry, HoldNotice
from nodes.scheduler import Scheduler
from nodes.scheduler.drafts import Drafts
from nodes.scheduler.instructions import Instruction
from nodes.scheduler.planning import Mode
from nodes.worker.stream import StreamId
from policies.latency import CostTable, NodeCosts
from policies.plan import Batch, BatchTimes, Observation, Plan, Prediction
from tests.nodes.scheduler.watched import ONE, admit, ready, to_target

TWO = StreamId(2)
COSTS = NodeCosts(CostTable((1, 33), (0.04, 0.1)), CostTable((32,), (0.1,)))


def together(observation: Observation) -> Plan:
    """All streams in one batch that waits for four guesses of each that is guessed for."""
    streams = observation.streams
    gammas = tuple(4 if stream.draft is not None else 0 for stream in streams)
    times = BatchTimes(0.1, 0.0, 0.1, 0.3, 10)
    # No better than what is in force, which is kept then.
    prediction = Prediction(0.3, "", 1e9, 100.0, (times,))
    return Plan((Batch(tuple(s.stream_id for s in streams), gammas),), prediction=prediction)


def decoding(**drafts: int) -> Scheduler:
    """Two streams; drafts: by name, how many streams each may follow."""
    scheduler = Scheduler(COSTS, Drafts(), mode=Mode(together, is_grouped=True))
    for name, max_streams in drafts.items():
        scheduler.draft_joined(name, COSTS, max_streams=max_streams)
    for stream_id in (ONE, TWO):
        admit(scheduler, stream_id)
        ready(scheduler, stream_id)
    return scheduler


def held(instructions: list[Instruction]) -> dict[int, HoldEntry]:
    """What streams are told to wait for, by stream."""
    holds = to_target(instructions, HoldNotice)
    return {entry.stream_id: entry for hold in holds for entry in hold.entries}


def test_streams_of_a_group_wait_for_their_guesses() -> None:
    holds = held(decoding(d=2).tick(1.0))
    # One and a half times the round without its pass.
    assert holds == {s: HoldEntry(s, 1, 1, 4, 300_000) for s in (ONE, TWO)}


def test_nobody_waits_when_all_draft_nodes_are_gone() -> None:
    scheduler = decoding(d=2)
    scheduler.tick(1.0)
    scheduler.draft_lost("d", 1.5)
    holds = held(scheduler.tick(2.1))
    assert {s: entry.group for s, entry in holds.items()} == {ONE: 0, TWO: 0}
    assert scheduler.plan_in_force.batches == ()
    assert held(scheduler.tick(3.2)) == {}


def test_a_stream_that_lost_its_draft_node_waits_for_no_guesses() -> None:
    scheduler = decoding(c=1, d=1)
    scheduler.tick(1.0)
    scheduler.draft_lost("c", 1.5)
    ((lost, entry),) = held(scheduler.tick(2.1)).items()
    stream = scheduler.stream(StreamId(lost))
    assert stream is not None
    assert stream.follow is None
    # It goes with its group all the same.
    assert (entry.group, entry.num_guesses) == (1, 0)


def test_a_plan_says_nothing_of_streams_that_left_while_it_was_made() -> None:
    scheduler = decoding(d=2)
    planning = scheduler.begin_plan(1.0)
    assert planning is not None
    scheduler.cancel(ONE, 1.1)
    assert set(held(scheduler.take_plan(planning, planning.make(), 1.2))) == {TWO}
