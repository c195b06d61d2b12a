"""The round scheduler of one target: events and `now` in, instructions out.

Who is drafted and verified when. It knows messages, not sockets; the simulator and the live
coordinator run this same code. The journal of a stream (its tokens) is here: what has been
committed is what this state holds, whatever a node says later.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nodes.instructions import Abort, Emit, Finish, Instruction, ToDraft, ToTarget, open_request
from nodes.messages import (
    CloseStreamNotice,
    CommitEntry,
    CommitReply,
    DraftReply,
    DraftRequest,
    GuessEntry,
    LeaseRequest,
    VerifyRequest,
)
from nodes.scheduler_stream import (
    Drafting,
    DraftNode,
    DraftPlacement,
    Figures,
    Idle,
    Leased,
    Opening,
    Stream,
    Verifying,
)
from nodes.stream import StreamId, StreamSpec
from policies.latency import NodeCosts
from policies.plan import Batch, Observation, Policy

LEASE_TOKENS = 32
# Renewed this early, so that the target never waits for the next lease.
LEASE_LOW_TOKENS = 16
# A stream whose draft node is about to be ready goes plainly in small steps until then.
LEASE_WHILE_OPENING_TOKENS = 4
_MIN_DRAFT_DEADLINE_S = 0.25
_DEADLINE_FACTOR = 6.0
# Each late round costs its deadline: a draft node that keeps doing so is done without.
_MAX_LATE_ROUNDS = 3


@dataclass(slots=True)
class _Round:
    stream_ids: list[StreamId]
    waiting_for: set[str]
    deadline: float
    guesses: dict[StreamId, tuple[int, ...]] = field(default_factory=dict)
    is_verifying: bool = False


class SchedulerState:
    """All streams of one target."""

    def __init__(self, policy: Policy, target_costs: NodeCosts | None) -> None:
        self._policy = policy
        self._target_costs = target_costs
        self._streams: dict[StreamId, Stream] = {}
        self._drafts: dict[str, DraftNode] = {}
        self._rounds: dict[int, _Round] = {}
        self._next_round = 1
        # Of streams that ended, until the coordinator has told their clients.
        self._ended: dict[StreamId, tuple[Figures, str]] = {}
        self.num_stale = 0

    @property
    def num_streams(self) -> int:
        return len(self._streams)

    def stream(self, stream_id: StreamId) -> Stream | None:
        return self._streams.get(stream_id)

    # -- streams come and go ---------------------------------------------------------------

    def admit(self, spec: StreamSpec, fixed_gamma: int | None) -> list[Instruction]:
        """Place a stream on the target and, if there is one, on the least loaded draft node."""
        stream = Stream(spec, list(spec.token_ids), fixed_gamma)
        self._streams[spec.stream_id] = stream
        return [ToTarget(open_request(spec)), *self._place_draft(stream)]

    def cancel(self, stream_id: StreamId, now: float) -> list[Instruction]:
        stream = self._streams.get(stream_id)
        if stream is None:
            return []
        notice = CloseStreamNotice(stream_id, stream.spec.generation)
        out = [ToTarget(notice), *self._remove(stream), Finish(stream_id, "cancelled")]
        # Others may have waited for a round that held only this stream.
        return [*out, *self.plan(now)]

    def take_figures(self, stream_id: StreamId) -> tuple[Figures, str]:
        """What an ended stream did and why it was last decoded plainly; asked for once."""
        return self._ended.pop(stream_id, (Figures(), ""))

    def _remove(self, stream: Stream) -> list[Instruction]:
        del self._streams[stream.spec.stream_id]
        self._ended[stream.spec.stream_id] = (stream.figures, stream.plain_reason)
        out: list[Instruction] = []
        placement = stream.draft
        if placement is not None:
            self._drafts[placement.node].num_streams -= 1
            notice = CloseStreamNotice(stream.spec.stream_id, placement.generation)
            out.append(ToDraft(placement.node, notice))
        return out + self._leave_round(stream)

    def _leave_round(self, stream: Stream) -> list[Instruction]:
        phase = stream.phase
        if not isinstance(phase, Drafting | Verifying):
            return []
        current = self._rounds.get(phase.round_id)
        if current is None:
            return []
        current.stream_ids.remove(stream.spec.stream_id)
        if not current.stream_ids:
            del self._rounds[phase.round_id]
            return []
        # A draft node that has no other stream of the round is not waited for.
        placements = (self._streams[s].draft for s in current.stream_ids)
        current.waiting_for &= {p.node for p in placements if p is not None}
        return self._verify_if_complete(phase.round_id, current)

    # -- draft nodes -------------------------------------------------------------------------

    def draft_joined(self, node: str, costs: NodeCosts) -> list[Instruction]:
        self._drafts[node] = DraftNode(costs)
        for stream in self._streams.values():
            # A node that starts anew may have room now.
            stream.refused_by.discard(node)
        homeless = [s for s in self._streams.values() if s.draft is None]
        return [instruction for s in homeless for instruction in self._place_draft(s)]

    def draft_lost(self, node: str, now: float) -> list[Instruction]:
        """Its rounds go on with the guesses at hand; its streams look for another node."""
        if self._drafts.pop(node, None) is None:
            return []
        out: list[Instruction] = []
        for stream in self._streams.values():
            if stream.draft is not None and stream.draft.node == node:
                stream.draft = None
                out += self._place_draft(stream)
        for round_id, current in list(self._rounds.items()):
            if node in current.waiting_for:
                current.waiting_for.discard(node)
                out += self._verify_if_complete(round_id, current)
        return out

    def _place_draft(self, stream: Stream) -> list[Instruction]:
        candidates = [n for n in self._drafts if n not in stream.refused_by]
        if not candidates or stream.fixed_gamma == 0:
            return []
        node = min(candidates, key=lambda n: self._drafts[n].num_streams)
        self._drafts[node].num_streams += 1
        stream.draft_generation += 1
        known = len(stream.token_ids)
        stream.draft = DraftPlacement(node, stream.draft_generation, known)
        return [ToDraft(node, open_request(stream.current_spec(stream.draft_generation)))]

    def draft_ready(
        self, node: str, stream_id: StreamId, generation: int, now: float
    ) -> list[Instruction]:
        placement = self._placement(node, stream_id, generation)
        if placement is None:
            return []
        placement.is_ready = True
        return self.plan(now)

    def draft_failed(
        self, node: str, stream_id: StreamId, generation: int, reason: str, now: float
    ) -> list[Instruction]:
        """A draft node cannot hold the stream: it goes plainly, or to another node."""
        if self._placement(node, stream_id, generation) is None:
            return []
        stream = self._streams[stream_id]
        self._drafts[node].num_streams -= 1
        stream.draft = None
        stream.refused_by.add(node)
        stream.plain_reason = f"draft off: {reason}"
        return [*self._place_draft(stream), *self.plan(now)]

    def _placement(self, node: str, stream_id: int, generation: int) -> DraftPlacement | None:
        stream = self._streams.get(StreamId(stream_id))
        placement = stream.draft if stream is not None else None
        if placement is None or (placement.node, placement.generation) != (node, generation):
            self.num_stale += 1
            return None
        return placement

    # -- the target ----------------------------------------------------------------------------

    def target_ready(self, stream_id: StreamId, generation: int, now: float) -> list[Instruction]:
        stream = self._streams.get(stream_id)
        if stream is None or stream.spec.generation != generation:
            self.num_stale += 1
            return []
        if isinstance(stream.phase, Opening):
            stream.phase = Idle()
        return self.plan(now)

    def target_failed(self, stream_id: StreamId, generation: int, reason: str) -> list[Instruction]:
        stream = self._streams.get(stream_id)
        if stream is None or stream.spec.generation != generation:
            self.num_stale += 1
            return []
        return [*self._remove(stream), Abort(stream_id, reason)]

    def committed(self, reply: CommitReply, now: float) -> list[Instruction]:
        """Take what one target pass committed; what does not follow the journal is dropped."""
        out: list[Instruction] = []
        offset = 0
        for entry in reply.entries:
            token_ids = reply.token_ids[offset : offset + entry.num_tokens]
            offset += entry.num_tokens
            out += self._commit_one(entry, token_ids)
        return out + self.plan(now)

    def _commit_one(self, entry: CommitEntry, token_ids: tuple[int, ...]) -> list[Instruction]:
        stream = self._streams.get(StreamId(entry.stream_id))
        if (
            stream is None
            or stream.spec.generation != entry.generation
            or entry.prefix_len != len(stream.token_ids)
        ):
            self.num_stale += 1
            return self._check_gap(stream, entry)
        if len(token_ids) > stream.tokens_left:
            return self._abort(stream, "the target committed more tokens than were asked for")
        out: list[Instruction] = []
        position = len(stream.token_ids) - stream.spec.num_prompt_tokens
        stream.token_ids += token_ids
        stream.count(entry)
        if token_ids or entry.text:
            out.append(Emit(stream.spec.stream_id, position, token_ids, entry.text))
        if entry.finish_reason:
            return [*out, *self._remove(stream), Finish(stream.spec.stream_id, entry.finish_reason)]
        phase = stream.phase
        if isinstance(phase, Verifying):
            self._leave_round(stream)
            stream.phase = Idle()
        elif isinstance(phase, Leased) and len(stream.token_ids) >= phase.end:
            stream.phase = Idle()
        return out

    def _check_gap(self, stream: Stream | None, entry: CommitEntry) -> list[Instruction]:
        """A commit beyond the journal's end means that one was lost: it can never be filled."""
        if (
            stream is None
            or stream.spec.generation != entry.generation
            or entry.prefix_len < len(stream.token_ids)
        ):
            return []
        return self._abort(stream, "tokens of the target were lost on the way")

    def _abort(self, stream: Stream, error: str) -> list[Instruction]:
        stream_id = stream.spec.stream_id
        notice = CloseStreamNotice(stream_id, stream.spec.generation)
        return [ToTarget(notice), *self._remove(stream), Abort(stream_id, error)]

    # -- rounds --------------------------------------------------------------------------------

    def plan(self, now: float) -> list[Instruction]:
        """Ask the policy what the ready streams do next, and start it."""
        ready = [s for s in self._streams.values() if s.wants_plan(LEASE_LOW_TOKENS)]
        if not ready:
            return []
        others = sum(len(r.stream_ids) for r in self._rounds.values())
        observation = Observation(
            ready=tuple(s.view(self._drafts) for s in ready),
            target=self._target_costs,
            num_rounds_in_flight=len(self._rounds),
            num_others=others,
        )
        plan = self._policy(observation)
        for stream_id, reason in plan.reasons.items():
            self._streams[StreamId(stream_id)].explain_plain(reason)
        out: list[Instruction] = []
        for batch in plan.batches:
            out += self._start(batch, now)
        return out

    def _start(self, batch: Batch, now: float) -> list[Instruction]:
        leases = []
        drafted: list[tuple[Stream, int]] = []
        for stream_id, gamma in zip(batch.stream_ids, batch.gammas, strict=True):
            stream = self._streams[StreamId(stream_id)]
            if gamma == 0:
                opening = stream.draft is not None and not stream.draft.is_ready
                count = LEASE_WHILE_OPENING_TOKENS if opening else LEASE_TOKENS
                leases.append(stream.take_lease(count))
            elif isinstance(stream.phase, Idle):
                drafted.append((stream, gamma))
            # A leased stream that shall guess from now on runs its lease out first.
        out: list[Instruction] = [ToTarget(LeaseRequest(tuple(leases)))] if leases else []
        return out + (self._draft_round(drafted, now) if drafted else [])

    def _draft_round(self, drafted: list[tuple[Stream, int]], now: float) -> list[Instruction]:
        round_id = self._next_round
        self._next_round += 1
        by_node: dict[str, list[tuple[Stream, int]]] = {}
        for stream, gamma in drafted:
            assert stream.draft is not None
            by_node.setdefault(stream.draft.node, []).append((stream, gamma))
            stream.phase = Drafting(round_id)
            stream.plain_reason = ""
        out: list[Instruction] = []
        longest = 0.0
        for node, members in by_node.items():
            entries = []
            new_token_ids: list[int] = []
            for stream, gamma in members:
                entries.append(stream.draft_entry(gamma, new_token_ids))
            out.append(ToDraft(node, DraftRequest(round_id, tuple(entries), tuple(new_token_ids))))
            longest = max(longest, self._predicted_draft_s(node, members, len(new_token_ids)))
        self._rounds[round_id] = _Round(
            stream_ids=[stream.spec.stream_id for stream, _ in drafted],
            waiting_for=set(by_node),
            deadline=now + max(_MIN_DRAFT_DEADLINE_S, _DEADLINE_FACTOR * longest),
        )
        return out

    def _predicted_draft_s(
        self, node: str, members: list[tuple[Stream, int]], num_new_tokens: int
    ) -> float:
        costs = self._drafts[node].costs
        gamma = max(gamma for _, gamma in members)
        return gamma * costs.decode.at(len(members)) + costs.decode.at(max(1, num_new_tokens))

    def drafted(self, node: str, reply: DraftReply, now: float) -> list[Instruction]:
        current = self._rounds.get(reply.round)
        if current is None or node not in current.waiting_for:
            self.num_stale += 1
            self._on_late_answer(node, reply)
            return []
        offset = 0
        for entry in reply.entries:
            guesses = reply.draft_token_ids[offset : offset + entry.num_draft_tokens]
            offset += entry.num_draft_tokens
            stream = self._streams.get(StreamId(entry.stream_id))
            if (
                stream is None
                or self._placement(node, entry.stream_id, entry.generation) is None
                or entry.prefix_len != len(stream.token_ids)
            ):
                continue
            current.guesses[stream.spec.stream_id] = guesses
        current.waiting_for.discard(node)
        return self._verify_if_complete(reply.round, current)

    def _verify_if_complete(self, round_id: int, current: _Round) -> list[Instruction]:
        if current.waiting_for or current.is_verifying:
            return []
        current.is_verifying = True
        entries = []
        draft_token_ids: list[int] = []
        for stream_id in current.stream_ids:
            stream = self._streams[stream_id]
            # Whoever has no guesses takes a plain step in the same pass.
            guesses = current.guesses.get(stream_id, ())
            draft_token_ids += guesses
            stream.phase = Verifying(round_id)
            entries.append(
                GuessEntry(stream_id, stream.spec.generation, len(stream.token_ids), len(guesses))
            )
        return [ToTarget(VerifyRequest(round_id, tuple(entries), tuple(draft_token_ids)))]

    def next_deadline(self) -> float | None:
        """When `tick` must be called at the latest."""
        pending = (r.deadline for r in self._rounds.values() if r.waiting_for)
        return min(pending, default=None)

    def tick(self, now: float) -> list[Instruction]:
        """Leave late draft nodes behind: their streams take a plain step in this round."""
        out: list[Instruction] = []
        for round_id, current in list(self._rounds.items()):
            if current.waiting_for and now >= current.deadline:
                out += self._note_late(current)
                current.waiting_for.clear()
                out += self._verify_if_complete(round_id, current)
        return out

    def _note_late(self, current: _Round) -> list[Instruction]:
        out: list[Instruction] = []
        for stream_id in current.stream_ids:
            stream = self._streams[stream_id]
            placement = stream.draft
            if placement is None or placement.node not in current.waiting_for:
                continue
            placement.is_late = True
            placement.num_late += 1
            if placement.num_late < _MAX_LATE_ROUNDS:
                stream.plain_reason = f"draft off: {placement.node} is late"
                continue
            self._drafts[placement.node].num_streams -= 1
            notice = CloseStreamNotice(stream_id, placement.generation)
            out.append(ToDraft(placement.node, notice))
            stream.refused_by.add(placement.node)
            stream.plain_reason = f"draft off: {placement.node} was late {_MAX_LATE_ROUNDS} times"
            stream.draft = None
            out += self._place_draft(stream)
        return out

    def _on_late_answer(self, node: str, reply: DraftReply) -> None:
        """The node works after all: its streams may guess again."""
        for entry in reply.entries:
            placement = self._placement(node, entry.stream_id, entry.generation)
            if placement is not None:
                placement.is_late = False
