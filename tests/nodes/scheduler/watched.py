"""A scheduler with one stream, told in few words what its nodes say; for tests of what is shown."""

from __future__ import annotations

from typing import Any

from airdraft.nodes.messages import ChainPart, CommitEntry, CommitReply, LeaseEntry, LeaseRequest
from airdraft.nodes.scheduler.drafts import Drafts
from airdraft.nodes.scheduler.in_force import begin_plan, take_plan
from airdraft.nodes.scheduler.instructions import Instruction, ToDraft, ToTarget
from airdraft.nodes.scheduler.scheduler import Scheduler
from airdraft.nodes.worker.stream import StreamId
from airdraft.policies.latency import CostTable, NodeCosts
from tests.nodes.builders import make_spec

# A pass of one token takes 40 ms by the tables, and each token more 2 ms.
TARGET_COSTS = NodeCosts(CostTable((1, 33), (0.04, 0.104)), CostTable((32,), (0.1,)))
DRAFT_COSTS = NodeCosts(CostTable((1, 33), (0.004, 0.006)), CostTable((32,), (0.006,)))
PASS_S = 0.04
ONE = StreamId(1)


def make_scheduler(*drafts: str, **changes: Any) -> Scheduler:
    """Of the target "big", with these draft nodes."""
    scheduler = Scheduler(TARGET_COSTS, Drafts(), name="big", **changes)
    for name in drafts:
        scheduler.draft_joined(name, DRAFT_COSTS)
    return scheduler


def join(scheduler: Scheduler, name: str, step_s: float = 0.005, **changes: Any) -> Any:
    """A draft node joins. step_s: of one of its steps, whatever it holds."""
    costs = NodeCosts(CostTable((1,), (step_s,)), CostTable((32,), (step_s,)))
    return scheduler.draft_joined(name, costs, **changes)


def admit(
    scheduler: Scheduler, stream_id: int = 1, gamma: int = -1, **changes: Any
) -> list[Instruction]:
    fields = {"max_tokens": 100, "num_guesses": gamma, **changes}
    return scheduler.admit(make_spec(stream_id, **fields))


def ready(scheduler: Scheduler, stream_id: int = 1) -> None:
    """The target has read a stream's text, and its draft node, if it has one."""
    stream = scheduler.streams.get(StreamId(stream_id))
    assert stream is not None
    if stream.follow is not None:
        follow = stream.follow
        scheduler.draft_ready(follow.node, StreamId(stream_id), follow.number)
    scheduler.target_ready(StreamId(stream_id), stream.spec.generation)


def decoding(*drafts: str, **changes: Any) -> Scheduler:
    """A scheduler with one stream that is decoded; changes are of the stream."""
    scheduler = make_scheduler(*drafts)
    admit(scheduler, **changes)
    ready(scheduler)
    return scheduler


def guess(
    scheduler: Scheduler, node: str, num_tokens: int, stream_id: int = 1, now: float = 0.0
) -> list[Instruction]:
    """A message of a draft node with so many guesses of a stream that it follows."""
    stream = scheduler.streams.get(StreamId(stream_id))
    assert stream is not None
    assert stream.follow is not None
    start = len(stream.token_ids)
    part = ChainPart(stream_id, stream.follow.number, 1, start, bytes([200] * num_tokens))
    return scheduler.guessed(node, [(part, (5,) * num_tokens)], now)


def fail(scheduler: Scheduler, node: str, reason: str, stream_id: int = 1) -> list[Instruction]:
    """A draft node gives up a stream that it follows."""
    stream = scheduler.streams.get(StreamId(stream_id))
    assert stream is not None
    assert stream.follow is not None
    told = StreamId(stream_id), stream.follow.number, reason
    return scheduler.draft_failed(node, *told)


def commit(
    scheduler: Scheduler,
    *token_ids: int,
    stream_id: int = 1,
    pass_s: float = PASS_S,
    now: float = 0.0,
    **changes: Any,
) -> list[Instruction]:
    """A pass that adds tokens to a stream; changes are fields of its entry."""
    stream = scheduler.streams.get(StreamId(stream_id))
    assert stream is not None
    fields = {
        "generation": stream.spec.generation,
        "prefix_len": len(stream.token_ids),
        "num_draft_tokens": 0,
        "num_accepted_tokens": 0,
        "finish_reason": "",
        "text": b"",
        **changes,
    }
    entry = CommitEntry(stream_id=stream_id, num_tokens=len(token_ids), **fields)
    return scheduler.committed(CommitReply(pass_s, (entry,), token_ids), now)


def tick(scheduler: Scheduler, now: float) -> list[Instruction]:
    """What is due by now, with the plan that is."""
    out = scheduler.tick(now)
    planning = begin_plan(scheduler, now)
    return out if planning is None else [*out, *take_plan(scheduler, planning.make())]


def to_draft(out: list[Instruction], kind: type) -> list[tuple[str, Any]]:
    """The messages of a kind to draft nodes, with the names of these."""
    messages = [(i.node, i.message) for i in out if isinstance(i, ToDraft)]
    return [(node, message) for node, message in messages if isinstance(message, kind)]


def leases_of(out: list[Instruction]) -> list[LeaseEntry]:
    return [entry for request in to_target(out, LeaseRequest) for entry in request.entries]


def to_target(out: list[Instruction], kind: type) -> list[Any]:
    messages = [i.message for i in out if isinstance(i, ToTarget)]
    return [message for message in messages if isinstance(message, kind)]
