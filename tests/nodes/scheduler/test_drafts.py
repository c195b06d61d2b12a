"""Draft nodes: what is kept of streams that they no longer follow."""

from __future__ import annotations

import pytest

from nodes.messages import CommitNotice, OpenStreamRequest
from nodes.scheduler.drafts import Drafts
from nodes.scheduler.scheduler import Scheduler
from policies.latency import CostTable, NodeCosts
from policies.plan import Link
from tests.nodes.scheduler.watched import TARGET_COSTS, admit, commit, ready, to_draft


def join(scheduler: Scheduler, name: str, step_s: float, link: Link) -> None:
    costs = NodeCosts(CostTable((1,), (step_s,)), CostTable((32,), (step_s,)))
    scheduler.draft_joined(name, costs, link)


def test_texts_of_streams_that_ended_long_ago_do_not_hold_up_commits() -> None:
    scheduler = Scheduler(TARGET_COSTS, Drafts())
    join(scheduler, "d", 0.005, Link(1e6))
    # Answers of one token, ten seconds apart, to prompts that take the link a tenth of a second.
    for number in range(2, 402):
        admit(scheduler, number, prompt=tuple(range(1, 3001)))
        ready(scheduler, number)
        commit(scheduler, 7, stream_id=number, now=10.0 * number, finish_reason="stop")
    admit(scheduler, max_tokens=1000)
    ready(scheduler)
    out = commit(scheduler, 7, now=5000.0) + commit(scheduler, 8, now=5000.1)
    out += scheduler.tick(5001.0)
    told = [notice.new_token_ids for _, notice in to_draft(out, CommitNotice)]
    assert told == [(7,), (8,)]


@pytest.mark.parametrize("num_before", [0, 3])
def test_a_node_is_not_judged_by_the_share_that_it_had_beside_others_that_are_gone(
    num_before: int,
) -> None:
    drafts = Drafts()
    scheduler = Scheduler(TARGET_COSTS, drafts)
    beside = [f"beside-{number}" for number in range(num_before)]
    for name in ("quick", *beside):
        join(scheduler, name, 0.005, Link(2e5, 0.001, "cell", 0.001))
    for number in range(2, 2 + 8 * num_before):
        admit(scheduler, number, max_tokens=1000)
    for stream_id in sorted(drafts["quick"].followed):
        scheduler.cancel(stream_id)
    assert all(drafts[name].followed for name in beside)
    scheduler.release_all()
    for name in beside:
        scheduler.draft_lost(name)
    join(scheduler, "slow", 0.03, Link())
    out = admit(scheduler, max_tokens=1000)
    assert [node for node, _ in to_draft(out, OpenStreamRequest)] == ["quick"]
