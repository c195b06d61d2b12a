"""A planner that fails: streams go on plainly, and the log says why once."""

from __future__ import annotations

import logging

import pytest

from nodes.coordinator.careful import REASON, careful
from nodes.scheduler import SchedulerState
from policies.joint import joint_plan
from policies.plan import Observation, Plan, StreamView
from tests.nodes.builders import make_spec
from tests.nodes.pure_mesh import TARGET_COSTS
from tests.nodes.scheduler.script import ONE, commit_one
from tests.policies.instances import observation


def failing(_: Observation) -> Plan:
    raise IndexError("index 203 is out of bounds")


def test_a_plan_that_is_made_is_passed_on() -> None:
    seen = observation(3, 5)
    assert careful(joint_plan)(seen) == joint_plan(seen)


def test_a_policy_that_fails_leaves_all_plain(caplog: pytest.LogCaptureFixture) -> None:
    policy = careful(failing)
    seen = Observation((StreamView(1, 0.5, 9), StreamView(2, 0.5, 9)))
    with caplog.at_level(logging.ERROR):
        plans = [policy(seen) for _ in range(3)]
    assert {plan.plain for plan in plans} == {(1, 2)}
    assert plans[0].reasons == {1: REASON, 2: REASON}
    (record,) = caplog.records
    assert "2 streams: IndexError: index 203" in record.message
    assert record.exc_info


def test_streams_go_on_without_a_plan() -> None:
    scheduler = SchedulerState(careful(failing), TARGET_COSTS, lookup=True)
    scheduler.admit(make_spec(ONE, max_tokens=9), None)
    scheduler.target_ready(ONE, 1, 0.0)
    for _ in range(5):
        commit_one(scheduler, ONE)
    stream = scheduler.stream(ONE)
    assert stream is not None
    assert len(stream.token_ids) == len(stream.spec.token_ids) + 5


def test_what_ends_processes_is_not_held_up() -> None:
    def interrupted(_: Observation) -> Plan:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        careful(interrupted)(Observation(()))
