"""What a scheduler is told and what it asks for, in few words; for its tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nodes.messages import (
    CommitEntry,
    CommitReply,
    DraftReply,
    DraftRequest,
    GuessEntry,
    VerifyRequest,
)
from nodes.scheduler import SchedulerState
from nodes.scheduler.instructions import Instruction, ToDraft, ToTarget
from nodes.stream import StreamId
from policies.latency import CostTable, NodeCosts
from policies.plan import Batch, BatchTimes, Observation, Plan, Prediction
from tests.nodes.builders import make_spec
from tests.nodes.pure_mesh import DRAFT_COSTS, TARGET_COSTS

ONE, TWO, THREE, FOUR = (StreamId(number) for number in (1, 2, 3, 4))
LONG = 200
NO_DRAFT = "draft off: no draft node holds it"


@dataclass(slots=True)
class FixedPolicy:
    """Batches of `size` streams that a draft node holds, gamma guesses each; the rest plain.

    cycle_s: predicted, with a price so low that no plan in force is preferred to a new one.
    verify_s: of each batch; without it nothing of batches is predicted.
    """

    gamma: int = 4
    size: int = 100
    min_cycle_s: float = 0.0
    overlap: bool = True
    cycle_s: float | None = None
    verify_s: float = 0.0
    seen: list[Observation] = field(default_factory=list)

    def __call__(self, observation: Observation) -> Plan:
        self.seen.append(observation)
        plain = tuple(v.stream_id for v in observation.streams if v.draft is None)
        guessing = [v.stream_id for v in observation.streams if v.draft is not None]
        cuts = [guessing[k : k + self.size] for k in range(0, len(guessing), self.size)]
        sizes = [len(plain) + len(cut) * (self.gamma + 1) for cut in cuts]
        batches = tuple(BatchTimes(0.0, 0.0, self.verify_s, 0.0, size) for size in sizes)
        made = Prediction(self.cycle_s or 0.0, "", 0.0, 1.0, batches if self.verify_s else ())
        return Plan(
            tuple(Batch(tuple(cut), (self.gamma,) * len(cut)) for cut in cuts),
            plain,
            dict.fromkeys(plain, NO_DRAFT),
            min_cycle_s=self.min_cycle_s,
            overlap=self.overlap,
            prediction=None if self.cycle_s is None else made,
        )


class PlainPolicy(FixedPolicy):
    """Nobody guesses."""

    def __call__(self, observation: Observation) -> Plan:
        plain = tuple(view.stream_id for view in observation.streams)
        return Plan((), plain, dict.fromkeys(plain, NO_DRAFT))


def make_scheduler(*drafts: str, policy: FixedPolicy | None = None) -> SchedulerState:
    scheduler = SchedulerState(policy or FixedPolicy(), TARGET_COSTS)
    for draft in drafts:
        scheduler.draft_joined(draft, DRAFT_COSTS)
    return scheduler


def open_stream(
    scheduler: SchedulerState,
    stream_id: StreamId,
    node: str = "",
    *,
    now: float = 0.0,
    max_tokens: int = LONG,
) -> list[Instruction]:
    """Admit a stream and make it ready on its draft node, then on the target."""
    scheduler.admit(make_spec(stream_id, max_tokens=max_tokens), None)
    if node:
        scheduler.draft_ready(node, stream_id, 1, now)
    return scheduler.target_ready(stream_id, 1, now)


def commit(
    stream_id: StreamId,
    prefix_len: int,
    token_ids: Sequence[int],
    *,
    num_draft_tokens: int = 0,
    finish_reason: str = "",
    pass_s: float = 0.0,
) -> CommitReply:
    accepted = len(token_ids) - 1 if num_draft_tokens else 0
    entry = CommitEntry(
        stream_id, 1, prefix_len, len(token_ids), num_draft_tokens, accepted, finish_reason, b"x"
    )
    return CommitReply(pass_s, (entry,), tuple(token_ids))


def guesses(round_id: int, stream_id: StreamId, prefix_len: int, *token_ids: int) -> DraftReply:
    entry = GuessEntry(stream_id, 1, prefix_len, len(token_ids))
    return DraftReply(round_id, (entry,), token_ids)


def length_of(scheduler: SchedulerState, stream_id: StreamId) -> int:
    stream = scheduler.stream(stream_id)
    assert stream is not None
    return len(stream.token_ids)


def answer(
    scheduler: SchedulerState, round_id: int, node: str, now: float = 0.0
) -> list[Instruction]:
    """A draft node has no guesses for any stream of a round."""
    return scheduler.drafted(node, DraftReply(round_id, (), ()), now)


def commit_one(
    scheduler: SchedulerState, stream_id: StreamId, now: float = 0.0
) -> list[Instruction]:
    """The target commits a token after what the stream has."""
    return scheduler.committed(commit(stream_id, length_of(scheduler, stream_id), [9]), now)


def draft_requests(instructions: Sequence[Instruction]) -> list[tuple[str, DraftRequest]]:
    return [
        (i.node, i.message)
        for i in instructions
        if isinstance(i, ToDraft) and isinstance(i.message, DraftRequest)
    ]


def verify_requests(instructions: Sequence[Instruction]) -> list[VerifyRequest]:
    return [
        i.message
        for i in instructions
        if isinstance(i, ToTarget) and isinstance(i.message, VerifyRequest)
    ]


def started(instructions: Sequence[Instruction]) -> dict[int, list[int]]:
    """Streams of the rounds that begin, by round."""
    rounds: dict[int, list[int]] = {}
    for _, request in draft_requests(instructions):
        members = [entry.stream_id for entry in request.entries]
        rounds.setdefault(request.round, []).extend(members)
    return rounds


def costs(token_s: float) -> NodeCosts:
    """Of a node whose passes take the same time for up to 32 tokens."""
    return NodeCosts(CostTable((1, 32), (token_s, token_s)), CostTable((32,), (token_s,)))
