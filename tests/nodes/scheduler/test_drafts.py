"""Draft nodes: what is kept of them, and of streams that they no longer follow."""

from __future__ import annotations

import pytest

from airdraft.nodes.messages import CommitNotice, OpenStreamRequest
from airdraft.policies.plan import Link
from tests.nodes.scheduler.watched import (
    DRAFT_COSTS,
    ONE,
    admit,
    commit,
    decoding,
    fail,
    join,
    make_scheduler,
    ready,
    to_draft,
)


def test_texts_of_streams_that_ended_long_ago_do_not_hold_up_commits() -> None:
    scheduler = make_scheduler()
    join(scheduler, "d", link=Link(1e6))
    # Answers of one token, ten seconds apart, to prompts that take the link a tenth of a second.
    for number in range(2, 402):
        admit(scheduler, number, prompt=tuple(range(1, 3001)))
        ready(scheduler, number)
        commit(scheduler, 7, stream_id=number, now=10.0 * number, finish_reason="stop")
    admit(scheduler, max_tokens=1000)
    ready(scheduler)
    out = commit(scheduler, 7, now=5000.0) + commit(scheduler, 8, now=5000.1)
    out += scheduler.tick(5001.0)
    num_sent = [notice.new_token_ids for _, notice in to_draft(out, CommitNotice)]
    assert num_sent == [(7,), (8,)]


@pytest.mark.parametrize("num_before", [0, 3])
def test_a_node_is_not_judged_by_the_share_that_it_had_beside_others_that_are_gone(
    num_before: int,
) -> None:
    scheduler = make_scheduler()
    drafts = scheduler.drafts
    beside = [f"beside-{number}" for number in range(num_before)]
    for name in ("quick", *beside):
        join(scheduler, name, link=Link(2e5, 0.001, "cell", 0.001))
    for number in range(2, 2 + 8 * num_before):
        admit(scheduler, number, max_tokens=1000)
    for stream_id in sorted(drafts["quick"].followed):
        scheduler.cancel(stream_id)
    assert all(drafts[name].followed for name in beside)
    scheduler.release_all()
    for name in beside:
        scheduler.draft_lost(name)
    join(scheduler, "slow", 0.03)
    out = admit(scheduler, max_tokens=1000)
    assert [node for node, _ in to_draft(out, OpenStreamRequest)] == ["quick"]


def test_a_draft_node_that_comes_back_is_asked_again_for_a_text_that_it_refused() -> None:
    scheduler = decoding("d")
    fail(scheduler, "d", "d is full")
    assert scheduler.streams[ONE].follow is None
    scheduler.draft_lost("d")
    out = scheduler.draft_joined("d", DRAFT_COSTS)
    assert [node for node, _ in to_draft(out, OpenStreamRequest)] == ["d"]


def test_a_node_is_not_judged_by_the_guesses_of_another_one_of_its_name() -> None:
    """Its model may be another one."""
    scheduler = decoding("a", max_tokens=1000)
    for _ in range(30):
        commit(scheduler, 5, num_draft_tokens=1, num_offered=1, num_compared=1)
    scheduler.draft_lost("a")
    scheduler.draft_joined("a", DRAFT_COSTS)
    for name in scheduler.drafts:
        assert name not in scheduler.alphas
