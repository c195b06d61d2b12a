"""Streams that wait for their draft node ride in the passes of their batch."""

from __future__ import annotations

import pytest

from nodes.messages import LeaseRequest
from nodes.scheduler import SchedulerState
from nodes.scheduler.instructions import Instruction, ToTarget
from nodes.scheduler.riding import should_ride
from policies.plan import Batch, BatchTimes, Observation, Plan, Prediction
from tests.nodes.builders import make_spec
from tests.nodes.pure_mesh import DRAFT_COSTS, TARGET_COSTS
from tests.nodes.scheduler.script import (
    ONE,
    THREE,
    TWO,
    answer,
    commit,
    commit_one,
    verify_requests,
)

PASS_S = 0.040


def plan(
    *num_streams: int, cycle_s: float, tokens_per_s: float, plain: tuple[int, ...] = ()
) -> Plan:
    times = tuple(BatchTimes(0.01, 0.0, PASS_S, 0.09, 20) for _ in num_streams)
    batches = tuple(Batch((k,), (4,)) for k, _ in enumerate(num_streams))
    made = Prediction(cycle_s, "", 0.1, tokens_per_s, times)
    return Plan(batches, plain, prediction=made)


@pytest.mark.parametrize(
    ("made", "num_waiting", "num_planned", "rides"),
    [
        # Fifteen streams would wait 20 ms of 110 for the one token or two that one has more.
        (plan(15, cycle_s=0.110, tokens_per_s=400.0), 1, 16, True),
        # Where one guesses, one that waits is worth as much.
        (plan(1, cycle_s=0.110, tokens_per_s=50.0), 1, 2, False),
        # Nearly all of them wait.
        (plan(16, cycle_s=0.110, tokens_per_s=400.0), 14, 16, False),
        # A target that has rounds to verify all the time runs no pass for one alone.
        (plan(8, 8, cycle_s=0.080, tokens_per_s=500.0), 1, 16, False),
        # If it has half a pass to spare, it does.
        (plan(8, 8, cycle_s=0.100, tokens_per_s=500.0), 1, 16, True),
        (plan(8, 8, cycle_s=0.100, tokens_per_s=500.0), 4, 16, False),
        # Plain streams have passes anyway.
        (plan(15, cycle_s=0.110, tokens_per_s=400.0, plain=(99,)), 1, 16, False),
        # Nobody waits, nobody guesses, or nobody knows what that takes.
        (plan(15, cycle_s=0.110, tokens_per_s=400.0), 0, 16, False),
        (plan(cycle_s=0.040, tokens_per_s=400.0), 1, 1, False),
        (Plan((Batch((1,), (4,)),)), 1, 1, False),
    ],
)
def test_who_rides(made: Plan, num_waiting: int, num_planned: int, rides: bool) -> None:
    assert should_ride(made, num_waiting, num_planned) is rides


def busy(observation: Observation) -> Plan:
    """All that have a draft node, in one batch, on a target that would be idle for half a pass."""
    ids = tuple(v.stream_id for v in observation.streams if v.draft is not None)
    plain = tuple(v.stream_id for v in observation.streams if v.draft is None)
    times = BatchTimes(0.01, 0.0, 0.067, 0.1, 20)
    made = Prediction(0.1, "target", 0.0, 300.0, (times,))
    return Plan((Batch(ids, (4,) * len(ids)),) if ids else (), plain, prediction=made)


def leased(out: list[Instruction]) -> list[int]:
    told = [i.message for i in out if isinstance(i, ToTarget)]
    return [e.stream_id for m in told if isinstance(m, LeaseRequest) for e in m.entries]


def three_of_which_one_waits() -> tuple[SchedulerState, list[Instruction]]:
    """ONE and TWO are in a round; THREE has come, and its draft node reads its text."""
    scheduler = SchedulerState(busy, TARGET_COSTS)
    scheduler.draft_joined("a", DRAFT_COSTS)
    out: list[Instruction] = []
    for stream_id in (ONE, TWO):
        scheduler.admit(make_spec(stream_id), None)
        scheduler.draft_ready("a", stream_id, 1, 0.0)
        out += scheduler.target_ready(stream_id, 1, 0.0)
    scheduler.admit(make_spec(THREE), None)
    return scheduler, out + scheduler.target_ready(THREE, 1, 0.0)


def test_a_stream_whose_text_is_read_goes_with_the_next_round_of_its_batch() -> None:
    scheduler, out = three_of_which_one_waits()
    assert THREE not in leased(out)
    answer(scheduler, 1, "a")
    out = commit_one(scheduler, ONE, 0.1)
    rounds = scheduler._dispatcher.rounds
    (number,) = rounds
    assert THREE in rounds[number].stream_ids
    assert THREE not in rounds[number].asked
    assert THREE not in leased(out)


def test_a_pass_it_rides_in_is_a_plain_step() -> None:
    scheduler, _ = three_of_which_one_waits()
    answer(scheduler, 1, "a")
    commit_one(scheduler, ONE, 0.1)
    ((number, current),) = scheduler._dispatcher.rounds.items()
    assert THREE in current.stream_ids
    out = answer(scheduler, number, "a")
    (request,) = verify_requests(out)
    riding = [e for e in request.entries if e.stream_id == THREE]
    assert [e.num_draft_tokens for e in riding] == [0]
    stream = scheduler.stream(THREE)
    assert stream is not None
    length = len(stream.token_ids)
    scheduler.committed(commit(THREE, length, [7]), 0.2)
    assert (stream.figures.num_rounds, stream.figures.num_plain_steps) == (0, 1)


def test_who_waits_for_long_is_decoded_beside_the_batch() -> None:
    scheduler, _ = three_of_which_one_waits()
    # Eight cycles of a tenth of a second.
    assert THREE not in leased(scheduler.plan(0.7))
    assert THREE in leased(scheduler.plan(0.9))


def test_a_late_node_is_not_late_for_who_rides() -> None:
    scheduler, _ = three_of_which_one_waits()
    answer(scheduler, 1, "a")
    commit_one(scheduler, ONE, 0.1)
    ((_, current),) = scheduler._dispatcher.rounds.items()
    assert THREE in current.stream_ids
    scheduler.tick(current.deadline + 1.0)
    streams = {s.spec.stream_id: s for s in scheduler.streams()}
    late = {k for k, s in streams.items() if s.draft is None or s.draft.is_late}
    assert late == set(current.asked)


def test_a_round_of_riders_alone_waits_for_nobody() -> None:
    scheduler, _ = three_of_which_one_waits()
    answer(scheduler, 1, "a")
    commit_one(scheduler, ONE, 0.1)
    ((_, current),) = scheduler._dispatcher.rounds.items()
    out: list[Instruction] = []
    for stream_id in list(current.asked):
        out += scheduler.cancel(stream_id, 0.1)
    (request,) = verify_requests(out)
    assert [entry.stream_id for entry in request.entries] == [THREE]


def test_a_text_in_pieces_is_no_reason_to_ride_for_longer() -> None:
    """Each piece is asked for anew; what counts is since when the stream waits."""
    scheduler, _ = three_of_which_one_waits()
    stream = scheduler.stream(THREE)
    assert stream is not None
    assert stream.draft is not None
    scheduler.plan(0.5)
    stream.draft.asked_at = None
    scheduler.plan(0.7)
    assert stream.draft.asked_at == 0.7
    assert THREE in leased(scheduler.plan(0.9))
