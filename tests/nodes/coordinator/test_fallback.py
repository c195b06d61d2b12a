"""If the planner fails, all streams are decoded plainly, and the log says why once."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from airdraft.nodes.coordinator.service import with_fallback
from airdraft.nodes.messages import TokensNotice
from airdraft.nodes.scheduler.planning import PlanInput, promises
from airdraft.policies.plan import Observation, Plan, StreamView
from tests.nodes.builders import make_profile
from tests.nodes.coordinator.script import CLIENT, DRAFT, TARGET, Mesh


def failing(_: Observation) -> Plan:
    raise IndexError("index 203 is out of bounds")


def test_a_policy_that_fails_leaves_all_plain(caplog: pytest.LogCaptureFixture) -> None:
    make = with_fallback()
    seen = Observation((StreamView(1, 0.5, 9), StreamView(2, 0.5, 9)))
    with caplog.at_level(logging.ERROR):
        made = [make(PlanInput(seen, failing)) for _ in range(3)]
    assert {each.grouped.plain for each in made} == {(1, 2)}
    (record,) = caplog.records
    assert "2 streams: IndexError: index 203" in record.message
    assert record.exc_info
    assert not promises(made[0])


def test_streams_go_on_after_a_plan_that_could_not_be_made() -> None:
    mesh = Mesh()
    mesh.join(TARGET, "target", make_profile())
    mesh.join(DRAFT, "draft", make_profile(0.8))
    mesh.join(CLIENT, "client")
    mesh.submit(max_tokens=100)
    mesh.ready(peer=DRAFT)
    mesh.ready(peer=TARGET)
    for number in range(3):
        mesh.commit(prefix_len=3 + number, now=0.1 * number, pass_s=0.1)
    mesh.state.tick(1.0)
    due = mesh.state.begin_plan(1.0)
    assert due is not None
    target, planning = due
    made = with_fallback()(replace(planning, policy=failing))
    assert mesh.state.take_plan(target, made, 1.0) == []
    assert mesh.commit(prefix_len=6, now=1.1).said(TokensNotice, CLIENT) != []
