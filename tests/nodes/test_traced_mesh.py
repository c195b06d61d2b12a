"""What a client that traces a mesh is told of it, in virtual time."""

from __future__ import annotations

from collections import Counter

import pytest

from nodes.messages import TraceReply, TraceRequest
from nodes.telemetry.trace.records import FollowRecord, GuessRecord, PassRecord, Record, from_line
from tests.nodes.builders import make_submit
from tests.nodes.machine.setup import Setup, draft
from tests.nodes.machine.world import World


def trace(world: World) -> list[Record]:
    """What was recorded since somebody asked last."""
    admin = world.admin
    last = next((r.last for r in reversed(admin.replies) if isinstance(r, TraceReply)), -1)
    num_replies = len(admin.replies)
    admin.send(TraceRequest(1, last))
    while len(admin.replies) == num_replies:
        world.move()
    reply = admin.replies[-1]
    assert (reply.num_lost, reply.has_more) == (0, False)
    return [from_line(line) for line in reply.records.splitlines()]


@pytest.mark.parametrize("seed", range(5))
def test_records_of_a_run_add_up(seed: int) -> None:
    """Every token of every text is in one pass, and no text is another for being recorded."""
    world = World(Setup(target_cells=(1000,), drafts=(draft(0.8, num_cells=1000),), seed=seed))
    client = world.join()
    records = trace(world)
    for number, gamma in enumerate((4, -1, 0), start=1):
        prompt = (2 + number, 6, 7)
        submit = make_submit(
            number, prompt_token_ids=prompt, max_tokens=60, ignore_eog=True, gamma=gamma
        )
        world.submit(client, submit)
    while world.open_requests():
        world.go_on(100)
        world.upset_guesses()
        records += trace(world)
    world.settle()
    assert all(each.is_whole for each in client.asked.values())
    committed, accepted, taken = Counter[int](), Counter[int](), Counter[int]()
    for record in records:
        for part in record.streams if isinstance(record, PassRecord) else ():
            committed[part.stream_id] += part.num_tokens
            accepted[part.stream_id] += part.num_accepted_tokens
            taken[part.stream_id] += part.num_draft_tokens
            assert part.num_accepted_tokens <= part.num_draft_tokens
            assert part.num_draft_tokens - part.num_looked_up <= part.num_offered
    assert committed == {1: 60, 2: 60, 3: 60}
    assert taken[3] == 0 < accepted[1]
    ((_, scheduler),) = world.coordinator.state.roster.schedulers()
    counts = scheduler.counts
    assert (counts.num_tokens, counts.guesses["taken"]) == (180, taken.total())
    messages = [record for record in records if isinstance(record, GuessRecord)]
    assert len(messages) == counts.num_messages
    times = [record.at_s for record in records]
    assert times == sorted(times)
    # The draft node follows until each text ends; nobody follows the stream that wants no guesses.
    follows = {r.stream_id: r.node for r in records if isinstance(r, FollowRecord)}
    assert follows == {1: "", 2: ""}
