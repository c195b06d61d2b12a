"""If the planner fails, all streams are decoded plainly, and the log says why once."""

from __future__ import annotations

import logging

import pytest

from nodes.coordinator.service import NO_PLAN, with_fallback
from nodes.scheduler.planning import Planning, promises
from policies.plan import Observation, Plan, StreamView


def failing(_: Observation) -> Plan:
    raise IndexError("index 203 is out of bounds")


def test_a_policy_that_fails_leaves_all_plain(caplog: pytest.LogCaptureFixture) -> None:
    make = with_fallback()
    seen = Observation((StreamView(1, 0.5, 9), StreamView(2, 0.5, 9)))
    with caplog.at_level(logging.ERROR):
        made = [make(Planning(seen, failing)) for _ in range(3)]
    assert {each.grouped.plain for each in made} == {(1, 2)}
    assert made[0].grouped.reasons == {1: NO_PLAN, 2: NO_PLAN}
    (record,) = caplog.records
    assert "2 streams: IndexError: index 203" in record.message
    assert record.exc_info
    assert not promises(made[0])


def test_what_ends_processes_is_not_held_up() -> None:
    def interrupted(_: Observation) -> Plan:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with_fallback()(Planning(Observation(()), interrupted))
