"""When streams wait for each other by the program's plan, and when nobody does."""

from __future__ import annotations

import pytest

from airdraft.nodes.messages import HoldEntry, HoldNotice
from airdraft.nodes.scheduler.in_force import begin_plan, take_plan
from airdraft.nodes.scheduler.instructions import Instruction
from airdraft.nodes.scheduler.planning import Mode, PlanResult, promises
from airdraft.nodes.scheduler.scheduler import Scheduler
from airdraft.nodes.worker.stream import StreamId
from airdraft.policies.plan import (
    Batch,
    BatchTimes,
    Observation,
    Plan,
    Policy,
    Prediction,
    StreamView,
)
from tests.nodes.scheduler.watched import (
    ONE,
    TARGET_COSTS,
    admit,
    make_scheduler,
    ready,
    tick,
    to_target,
)


@pytest.mark.parametrize(("grouped_s", "is_worth_it"), [(0.95, False), (0.5, True)])
def test_nobody_waits_where_that_promises_little(grouped_s: float, is_worth_it: bool) -> None:
    assert promises(PlanResult(Observation(()), Plan(), grouped_s, 1.0)) is is_worth_it


TWO = StreamId(2)


def together(observation: Observation) -> Plan:
    """All streams in one batch that waits for four guesses of each that is guessed for."""
    return planned(tuple(observation.streams))


def apart(observation: Observation) -> Plan:
    """Each stream in a batch of its own."""
    return planned(*((stream,) for stream in observation.streams))


def planned(*groups: tuple[StreamView, ...]) -> Plan:
    batches = tuple(
        Batch(tuple(s.stream_id for s in group), tuple(4 * (s.draft is not None) for s in group))
        for group in groups
    )
    times = BatchTimes(0.1, 0.0, 0.1, 0.3, 10)
    return Plan(batches, prediction=Prediction(0.3, "", 1e9, 100.0, (times,) * len(groups)))


def decoding(policy: Policy = together, **drafts: int) -> Scheduler:
    """Two streams; drafts: by name, how many streams each may follow."""
    scheduler = make_scheduler(mode=Mode(policy, is_grouped=True))
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


@pytest.mark.parametrize(("policy", "groups"), [(together, (1, 1)), (apart, (1, 2))])
def test_streams_of_a_group_wait_for_their_guesses_and_are_told_once(
    policy: Policy, groups: tuple[int, int]
) -> None:
    scheduler = decoding(policy, d=2)
    # One and a half times the round without its pass.
    expected = [HoldEntry(s, 1, group, 4, 300_000) for s, group in zip((1, 2), groups, strict=True)]
    assert list(held(tick(scheduler, 1.0)).values()) == expected
    assert held(tick(scheduler, 2.1)) == {}


def test_a_plan_is_due_once_a_second() -> None:
    scheduler = decoding(d=2)
    due = []
    for now in (1.0, 1.5, 1.9, 2.0, 2.5):
        scheduler.tick(now)
        due.append((scheduler.is_plan_due, begin_plan(scheduler, now) is not None))
        assert not scheduler.is_plan_due
    assert due == [(now, now) for now in (True, False, False, True, False)]


def test_nobody_waits_when_all_draft_nodes_are_gone() -> None:
    scheduler = decoding(d=2)
    tick(scheduler, 1.0)
    scheduler.draft_lost("d")
    holds = held(tick(scheduler, 2.1))
    assert {s: entry.group for s, entry in holds.items()} == {ONE: 0, TWO: 0}
    assert scheduler.plan.batches == ()
    assert held(tick(scheduler, 3.2)) == {}


def test_a_stream_that_lost_its_draft_node_waits_for_no_guesses() -> None:
    scheduler = decoding(c=1, d=1)
    tick(scheduler, 1.0)
    scheduler.draft_lost("c")
    ((lost, entry),) = held(tick(scheduler, 2.1)).items()
    stream = scheduler.streams.get(StreamId(lost))
    assert stream is not None
    assert stream.follow is None
    # It goes with its group all the same.
    assert (entry.group, entry.num_guesses) == (1, 0)


def test_a_plan_says_nothing_of_streams_that_left_while_it_was_made() -> None:
    scheduler = decoding(d=2)
    planning = begin_plan(scheduler, 1.0)
    assert planning is not None
    scheduler.cancel(ONE)
    assert set(held(take_plan(scheduler, planning.make()))) == {TWO}
