"""What a target on a medium takes of it, as its scheduler says."""

from __future__ import annotations

import pytest

from nodes.scheduler import Scheduler
from nodes.scheduler.drafts import DraftRecord, Drafts
from nodes.scheduler.planning import MODES
from nodes.worker.stream import StreamId
from policies.latency import CostTable, NodeCosts
from policies.plan import Link
from tests.nodes.builders import make_spec

COSTS = NodeCosts(CostTable((1, 33), (0.04, 0.1)), CostTable((32,), (0.1,)))
NARROW = Link(50_000.0, 0.002, "cell", 0.0005)


def on_a_cell(*, num_streams: int = 8) -> tuple[Scheduler, Drafts]:
    drafts = Drafts()
    scheduler = Scheduler(COSTS, drafts, mode=MODES["auto"], name="target")
    scheduler.target_link(NARROW)
    for number in range(num_streams):
        scheduler.admit(make_spec(StreamId(number + 1), max_tokens=100), None)
    return scheduler, drafts


def test_answers_of_many_streams_fill_a_narrow_cell_until_the_target_is_gone() -> None:
    scheduler, drafts = on_a_cell()
    scheduler.tick(1.0)
    assert drafts.is_full("cell")
    assert not drafts.is_full("other")
    scheduler.release_all(2.0)
    assert not drafts.is_full("cell")


def test_a_target_without_streams_takes_nothing() -> None:
    scheduler, drafts = on_a_cell(num_streams=0)
    scheduler.tick(1.0)
    node = DraftRecord("d", COSTS, NARROW)
    node.followed.add(StreamId(1))
    drafts.add(node)
    drafts.allot("cell")
    beside = 2 * node.share_up + node.share_down
    drafts.give_back("target")
    assert node.share_up + node.share_down == pytest.approx(beside)
