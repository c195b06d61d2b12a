"""The round scheduler of one target: events and `now` in, instructions out.

Who is drafted and verified when. It knows messages, not sockets; the simulator and the live
coordinator run this same code. The journal of a stream (its tokens) is here: what has been
committed is what this state holds, whatever a node says later.

The plan in force cuts the guessing streams into batches that circulate, each with at most one
round of its own in flight. A batch starts when all its members are back; where the target would
idle, those that are back go and the rest joins the next round. All other streams are leased to
the target, which decodes them plainly in every pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
from nodes.scheduler.cycle import Circulating, CycleState
from nodes.scheduler.drafts import DraftNode, DraftPool
from nodes.scheduler.instructions import (
    Abort,
    Emit,
    Finish,
    Instruction,
    ToDraft,
    ToTarget,
    open_request,
)
from nodes.scheduler.rounds import Round, Share
from nodes.scheduler.stream import (
    Drafting,
    DraftPlacement,
    Figures,
    Idle,
    Leased,
    Opening,
    Stream,
    Verifying,
)
from nodes.stream import StreamId, StreamSpec
from policies.acceptance import AcceptanceEstimate
from policies.latency import Load, NodeCosts, TableRefit
from policies.plan import Link, Observation, Plan, Policy

LEASE_TOKENS = 8
# Renewed this early, so that the target never waits for the next lease.
LEASE_LOW_TOKENS = 4
# A stream whose draft node is about to be ready goes plainly in small steps until then.
LEASE_WHILE_OPENING_TOKENS = 2
# Each late round costs its deadline: a draft node that keeps doing so is done without.
_MAX_LATE_ROUNDS = 3
# Prompts are read in pieces of this size beside other work.
_PIECE_TOKENS = 32
# Decoding goes on beside any number of prompts.
_MAX_PREFILL_SHARE = 0.8


class SchedulerState:
    """All streams of one target.

    policy: plans the cycle. acceptance: estimate that a stream begins with, given its draft node's
    prior; for simulations in which acceptance is known.
    """

    def __init__(
        self,
        policy: Policy,
        target_costs: NodeCosts | None,
        acceptance: Callable[[StreamId], AcceptanceEstimate] | None = None,
    ) -> None:
        self._cycle = CycleState(policy)
        self._target_costs = target_costs
        self._decode = TableRefit(target_costs.decode) if target_costs is not None else None
        self._acceptance = acceptance
        self._prompts = Load()
        self._streams: dict[StreamId, Stream] = {}
        self._drafts = DraftPool()
        self._rounds: dict[int, Round] = {}
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

    @property
    def plan_in_force(self) -> Plan:
        return self._cycle.plan

    def admit(self, spec: StreamSpec, fixed_gamma: int | None) -> list[Instruction]:
        """Place a stream on the target and, if there is one, on the draft node that suits best."""
        stream = Stream(spec, list(spec.token_ids), fixed_gamma)
        if self._acceptance is not None:
            stream.acceptance = self._acceptance(spec.stream_id)
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
        self._cycle.members_changed()
        stream_id = stream.spec.stream_id
        reason = stream.plain_reason or self._cycle.why_plain(stream_id)
        self._ended[stream_id] = (stream.figures, reason)
        out: list[Instruction] = []
        placement = self._displace(stream)
        if placement is not None:
            out.append(ToDraft(placement.node, CloseStreamNotice(stream_id, placement.generation)))
        return out + self._leave_round(stream)

    def _displace(self, stream: Stream) -> DraftPlacement | None:
        """Take a stream off its draft node, which may be gone already."""
        placement, stream.draft = stream.draft, None
        if placement is not None and placement.node in self._drafts:
            self._drafts[placement.node].num_streams -= 1
        return placement

    def _leave_round(self, stream: Stream) -> list[Instruction]:
        phase = stream.phase
        if not isinstance(phase, Drafting | Verifying):
            return []
        current = self._rounds.get(phase.round_id)
        if current is None:
            return []
        current.stream_ids.remove(stream.spec.stream_id)
        if not current.stream_ids:
            current.drop_all()
            del self._rounds[phase.round_id]
            return []
        # A draft node that has no other stream of the round is not waited for.
        placements = (self._streams[s].draft for s in current.stream_ids)
        needed = {p.node for p in placements if p is not None}
        for name in set(current.shares) - needed:
            current.drop_share(name)
        return self._verify_if_complete(current)

    # -- draft nodes -------------------------------------------------------------------------

    def draft_joined(
        self, node: str, costs: NodeCosts, link: Link | None = None
    ) -> list[Instruction]:
        self._drafts.add(DraftNode(node, costs, link or Link()))
        for stream in self._streams.values():
            # A node that starts anew may have room now.
            stream.refused_by.discard(node)
        homeless = [s for s in self._streams.values() if s.draft is None]
        return [instruction for s in homeless for instruction in self._place_draft(s)]

    def draft_lost(self, node: str, now: float) -> list[Instruction]:
        """Its rounds go on with the guesses at hand; its streams look for another node."""
        if not self._drafts.remove(node):
            return []
        self._cycle.members_changed()
        out: list[Instruction] = []
        for stream in self._streams.values():
            if stream.draft is not None and stream.draft.node == node:
                stream.draft = None
                out += self._place_draft(stream)
        for current in list(self._rounds.values()):
            if current.drop_share(node) is not None:
                out += self._verify_if_complete(current)
        return [*out, *self.plan(now)]

    def _place_draft(self, stream: Stream) -> list[Instruction]:
        if stream.fixed_gamma == 0:
            return []
        node = self._drafts.choose(stream.refused_by)
        if node is None:
            return []
        node.num_streams += 1
        if stream.acceptance.is_untried and self._acceptance is None:
            stream.acceptance = node.prior()
        stream.draft_generation += 1
        known = len(stream.token_ids)
        stream.draft = DraftPlacement(node.name, stream.draft_generation, known)
        return [ToDraft(node.name, open_request(stream.current_spec(stream.draft_generation)))]

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
        self._displace(stream)
        self._cycle.members_changed()
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
            self._count_prompt(stream, now)
            self._cycle.members_changed()
        return self.plan(now)

    def _count_prompt(self, stream: Stream, now: float) -> None:
        """Note what a prompt took of the target: its pieces went along with passes of others."""
        if self._decode is not None:
            decode, others = self._decode.table, max(1, len(self._streams) - 1)
            piece_s = decode.at(others + _PIECE_TOKENS) - decode.at(others)
            self._prompts.add(len(stream.token_ids) / _PIECE_TOKENS * max(0.0, piece_s), now)

    def target_failed(self, stream_id: StreamId, generation: int, reason: str) -> list[Instruction]:
        stream = self._streams.get(stream_id)
        if stream is None or stream.spec.generation != generation:
            self.num_stale += 1
            return []
        return [*self._remove(stream), Abort(stream_id, reason)]

    def committed(self, reply: CommitReply, now: float) -> list[Instruction]:
        """Take what one target pass committed; what does not follow the journal is dropped."""
        out: list[Instruction] = []
        self._learn_pass(reply, now)
        offset = 0
        for entry in reply.entries:
            token_ids = reply.token_ids[offset : offset + entry.num_tokens]
            offset += entry.num_tokens
            out += self._commit_one(entry, token_ids, now)
        guessed = [self._streams.get(StreamId(e.stream_id)) for e in reply.entries]
        self._cycle.round_done(
            (s.spec.stream_id, s.acceptance.alpha) for s in guessed if s is not None
        )
        return out + self.plan(now)

    def _learn_pass(self, reply: CommitReply, now: float) -> None:
        """Refit the target's costs, unless pieces of prompts were in the pass as well."""
        if self._decode is None:
            return
        num_tokens = sum(entry.num_draft_tokens + 1 for entry in reply.entries)
        cells = self._used_cells()
        predicted_s = self._decode.table.at(num_tokens, cells)
        self._cycle.pass_done(reply.pass_s, predicted_s / (1.0 - self._prefill_share(now)))
        if not self._is_reading():
            self._decode.observe(num_tokens, reply.pass_s, cells)

    def _prefill_share(self, now: float) -> float:
        return min(_MAX_PREFILL_SHARE, self._prompts.share(now))

    def _is_reading(self) -> bool:
        """Whether the target has prompts to read, which makes passes longer than planned."""
        return any(isinstance(stream.phase, Opening) for stream in self._streams.values())

    def _used_cells(self) -> int:
        return sum(len(stream.token_ids) for stream in self._streams.values())

    def _commit_one(
        self, entry: CommitEntry, token_ids: tuple[int, ...], now: float
    ) -> list[Instruction]:
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
        if stream.draft is not None and entry.num_draft_tokens:
            node = self._drafts[stream.draft.node]
            node.acceptance.observe(entry.num_draft_tokens, entry.num_accepted_tokens)
        if token_ids or entry.text:
            out.append(Emit(stream.spec.stream_id, position, token_ids, entry.text))
        if entry.finish_reason:
            return [*out, *self._remove(stream), Finish(stream.spec.stream_id, entry.finish_reason)]
        phase = stream.phase
        if isinstance(phase, Verifying):
            current = self._rounds.get(phase.round_id)
            self._leave_round(stream)
            if current is not None and not current.stream_ids:
                self._cycle.lap_done(now - current.started, current.predicted_s, now)
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
        """Start what may start, then plan anew if that is due, while the target is at work."""
        out = self._dispatch(now)
        if self._cycle.is_due:
            self._cycle.replan(self._observe(now))
            out += self._dispatch(now)
        return out

    def _observe(self, now: float) -> Observation:
        target = self._target_costs
        if target is not None and self._decode is not None:
            target = NodeCosts(self._decode.table, target.prefill)
        active = [s for s in self._streams.values() if not isinstance(s.phase, Opening)]
        for node in self._drafts:
            node.used_cells = 0
        for stream in active:
            if stream.draft is not None:
                self._drafts[stream.draft.node].used_cells += len(stream.token_ids)
        return Observation(
            streams=tuple(stream.view() for stream in active),
            target=target,
            drafts=self._drafts.views(),
            used_cells=self._used_cells(),
            prefill_share=self._prefill_share(now),
            overrun=self._cycle.overrun(now),
        )

    def _dispatch(self, now: float) -> list[Instruction]:
        """Renew leases of plain streams, start the batches that may go."""
        leases = [
            stream.take_lease(self._lease_tokens(stream))
            for stream_id in self._cycle.plain
            if (stream := self._streams.get(StreamId(stream_id))) is not None
            and stream.wants_lease(LEASE_LOW_TOKENS)
        ]
        rounds: list[Instruction] = []
        behind: list[Stream] = []
        num_started = 0
        for batch in self._cycle.batches:
            drafted = []
            for stream in self._ready_members(batch, now):
                gamma = min(batch.gammas[stream.spec.stream_id], stream.tokens_left - 1)
                if gamma > 0:
                    drafted.append((stream, gamma))
            for stream_id in batch.gammas:
                member = self._streams.get(stream_id)
                if member is None or not member.wants_lease(LEASE_LOW_TOKENS):
                    continue
                # Who cannot guess any more, or not yet, or wants but one token, goes plainly.
                if member.is_behind or not member.can_guess or member.tokens_left <= 1:
                    leases.append(member.take_lease(self._lease_tokens(member)))
                    behind += [member] if member.is_behind else []
            if drafted and num_started:
                # Batches that start together are drafted and verified together from then on.
                batch.not_before = now + num_started * self._cycle.phase_s
            elif drafted:
                batch.round_id = self._next_round
                batch.not_before = now + self._cycle.plan.min_cycle_s
                is_whole = len(drafted) == len(batch.gammas)
                rounds += self._draft_round(drafted, now, is_whole)
            num_started += bool(drafted)
        rounds += self._catch_up([s for s in behind if s.draft and not s.draft.catching_up])
        return [ToTarget(LeaseRequest(tuple(leases))), *rounds] if leases else rounds

    def _lease_tokens(self, stream: Stream) -> int:
        """Short where the stream is about to guess."""
        opening = stream.draft is not None and not stream.draft.is_ready
        return LEASE_WHILE_OPENING_TOKENS if opening or stream.is_behind else LEASE_TOKENS

    def _catch_up(self, streams: Sequence[Stream]) -> list[Instruction]:
        """Tell draft nodes what was decoded plainly, for streams that shall guess."""
        by_node: dict[str, list[Stream]] = {}
        for stream in streams:
            assert stream.draft is not None
            stream.draft.catching_up = True
            by_node.setdefault(stream.draft.node, []).append(stream)
        out: list[Instruction] = []
        for name, members in by_node.items():
            new_token_ids: list[int] = []
            entries = tuple(stream.draft_entry(0, new_token_ids) for stream in members)
            request = DraftRequest(self._next_round, entries, tuple(new_token_ids))
            self._next_round += 1
            out.append(ToDraft(name, request))
        return out

    def _ready_members(self, batch: Circulating, now: float) -> Sequence[Stream]:
        """Who of a batch starts now: all that are back, or nobody yet.

        Streams that run out a lease are left behind. Members still in rounds of an older plan are
        waited for, unless the target would idle.
        """
        if batch.round_id in self._rounds or now < batch.not_before:
            return []
        if not self._cycle.plan.overlap and self._rounds:
            return []
        members = [self._streams[s] for s in batch.gammas if s in self._streams]
        is_away = any(stream.is_away for stream in members)
        if is_away and any(current.is_verifying for current in self._rounds.values()):
            return []
        return [
            stream
            for stream in members
            if isinstance(stream.phase, Idle) and stream.can_guess and not stream.is_behind
        ]

    def _draft_round(
        self, drafted: list[tuple[Stream, int]], now: float, is_whole: bool
    ) -> list[Instruction]:
        round_id = self._next_round
        self._next_round += 1
        by_node: dict[str, list[tuple[Stream, int]]] = {}
        for stream, gamma in drafted:
            assert stream.draft is not None
            by_node.setdefault(stream.draft.node, []).append((stream, gamma))
            stream.phase = Drafting(round_id)
            stream.plain_reason = ""
        out: list[Instruction] = []
        shares = {}
        for name, members in by_node.items():
            node = self._drafts[name]
            entries = []
            new_token_ids: list[int] = []
            num_first = 0
            for stream, gamma in members:
                num_first += stream.catch_up()
                entries.append(stream.draft_entry(gamma, new_token_ids))
            out.append(ToDraft(name, DraftRequest(round_id, tuple(entries), tuple(new_token_ids))))
            gammas = [gamma for _, gamma in members]
            times = node.draft_s(gammas, num_first), node.link_s(gammas, len(new_token_ids))
            shares[name] = Share(node, *times, is_alone=node.num_waiting == 0)
            node.num_waiting += 1
        members_of_round = [stream.spec.stream_id for stream, _ in drafted]
        predicted_s = self._cycle.cycle_s if is_whole else 0.0
        self._rounds[round_id] = Round(round_id, members_of_round, shares, now, predicted_s)
        return out

    def drafted(self, node: str, reply: DraftReply, now: float) -> list[Instruction]:
        current = self._rounds.get(reply.round)
        if current is None or node not in current.shares:
            return self.plan(now) if self._on_other_answer(node, reply) else []
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
        current.answered(node, now)
        return self._verify_if_complete(current)

    def _verify_if_complete(self, current: Round) -> list[Instruction]:
        if current.shares or current.is_verifying:
            return []
        current.is_verifying = True
        entries = []
        draft_token_ids: list[int] = []
        for stream_id in current.stream_ids:
            stream = self._streams[stream_id]
            # Whoever has no guesses takes a plain step in the same pass.
            guesses = current.guesses.get(stream_id, ())
            draft_token_ids += guesses
            stream.phase = Verifying(current.round_id)
            entries.append(
                GuessEntry(stream_id, stream.spec.generation, len(stream.token_ids), len(guesses))
            )
        request = VerifyRequest(current.round_id, tuple(entries), tuple(draft_token_ids))
        return [ToTarget(request)]

    def next_deadline(self) -> float | None:
        """When `tick` must be called at the latest."""
        pending = [r.deadline for r in self._rounds.values() if r.shares]
        pending += [
            batch.not_before
            for batch in self._cycle.batches
            if batch.not_before and batch.round_id not in self._rounds
        ]
        return min(pending, default=None)

    def tick(self, now: float) -> list[Instruction]:
        """Leave late draft nodes behind, start batches that were held back for plain streams."""
        out: list[Instruction] = []
        for current in list(self._rounds.values()):
            if current.shares and now >= current.deadline:
                out += self._note_late(current)
                current.drop_all()
                out += self._verify_if_complete(current)
        due = [b for b in self._cycle.batches if b.not_before and now >= b.not_before]
        for batch in due:
            batch.not_before = 0.0
        return [*out, *self.plan(now)] if due or out else out

    def _note_late(self, current: Round) -> list[Instruction]:
        out: list[Instruction] = []
        self._cycle.members_changed()
        for stream_id in current.stream_ids:
            stream = self._streams[stream_id]
            placement = stream.draft
            if placement is None or placement.node not in current.shares:
                continue
            placement.is_late = True
            placement.num_late += 1
            if placement.num_late < _MAX_LATE_ROUNDS:
                stream.plain_reason = f"draft off: {placement.node} is late"
                continue
            self._displace(stream)
            notice = CloseStreamNotice(stream_id, placement.generation)
            out.append(ToDraft(placement.node, notice))
            stream.refused_by.add(placement.node)
            stream.plain_reason = f"draft off: {placement.node} was late {_MAX_LATE_ROUNDS} times"
            out += self._place_draft(stream)
        return out

    def _on_other_answer(self, node: str, reply: DraftReply) -> bool:
        """An answer to no round: of a node that has caught up, or that was late but works.

        Its streams may guess (again). False if that is not so.
        """
        found = False
        for entry in reply.entries:
            placement = self._placement(node, entry.stream_id, entry.generation)
            if placement is not None and (placement.is_late or placement.catching_up):
                self._cycle.members_changed()
                placement.is_late = placement.catching_up = False
                found = True
        self.num_stale += not found
        return found
