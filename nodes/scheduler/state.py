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

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from mesh.grants import Air
from nodes.messages import (
    CloseStreamNotice,
    CommitEntry,
    CommitReply,
    DraftReply,
)
from nodes.scheduler import trials
from nodes.scheduler.cycle import CycleState
from nodes.scheduler.dispatch import Dispatcher
from nodes.scheduler.drafts import DraftNode, DraftPool
from nodes.scheduler.forecast import Forecast
from nodes.scheduler.instructions import (
    Abort,
    Emit,
    Finish,
    Instruction,
    ToDraft,
    ToTarget,
    open_request,
)
from nodes.scheduler.lookup import Lookup
from nodes.scheduler.observe import is_reading, observe, own_cells, pass_size, used_cells
from nodes.scheduler.recorder import Recorder
from nodes.scheduler.rounds import Round, RoundIds, guesses_of
from nodes.scheduler.stage_errors import StageErrors
from nodes.scheduler.stream import (
    DraftPlacement,
    Figures,
    Idle,
    Leased,
    Opening,
    Stream,
    Verifying,
)
from nodes.scheduler.target import TargetCosts
from nodes.scheduler.tries import Tries
from nodes.scheduler.watch import Watch
from nodes.stream import StreamId, StreamSpec
from nodes.target.stream import cells_soon
from policies.acceptance import AcceptanceEstimate
from policies.confidence import Spread
from policies.drafter import expected_acceptance, plain_token_s, token_s
from policies.latency import NodeCosts
from policies.plan import Link, Plan, Policy

# Each late round costs its deadline: a draft node that keeps doing so is done without.
_MAX_LATE_ROUNDS = 3
# Tokens of a stream between two looks at who drafts for it.
_RECONSIDER_TOKENS = 16


class SchedulerState:
    """All streams of one target.

    policy: plans the cycle. acceptance: estimate that a stream begins with, given its draft node's
    prior; for simulations in which acceptance is known. lookup: guess from the streams' own texts
    too, where that is better than a draft node or there is none. trials: try a draft node's guesses
    beside plain passes before they are verified in rounds. air: turns on shared media, of all
    targets. token_bits: what a token id takes on a link. round_ids, draft_load: what schedulers
    share whose targets share draft nodes.
    """

    def __init__(
        self,
        policy: Policy,
        target_costs: NodeCosts | None,
        acceptance: Callable[[StreamId], AcceptanceEstimate] | None = None,
        *,
        lookup: bool = False,
        trials: bool = False,
        air: Air | None = None,
        token_bits: int = 32,
        round_ids: RoundIds | None = None,
        draft_load: Counter[str] | None = None,
    ) -> None:
        self._has_trials = trials
        self._cycle = CycleState(policy)
        self._target = TargetCosts(target_costs) if target_costs is not None else None
        self._acceptance = acceptance
        self._streams: dict[StreamId, Stream] = {}
        # Where acceptance is given, no node's prior takes its place.
        self._lookup = Lookup() if lookup else None
        self._drafts = DraftPool(
            gives_priors=acceptance is None, lookup=self._lookup, load=draft_load
        )
        self._token_bits = token_bits
        self._watch = Watch(self._predicted_pass_s)
        self._dispatcher = Dispatcher(
            self._streams,
            self._drafts,
            self._cycle,
            air or Air(),
            self._watch,
            round_ids or RoundIds(),
        )
        self.forecast = Forecast(self._streams, self._drafts, self._cycle, self._target, token_bits)
        self._rounds = self._dispatcher.rounds
        # Of streams that ended, until the coordinator has told their clients.
        self._ended: dict[StreamId, tuple[Figures, str]] = {}
        self.num_stale = 0

    @property
    def num_streams(self) -> int:
        return len(self._streams)

    @property
    def cells(self) -> int:
        """Cells that admission counts for all streams, those that are parked included."""
        streams = self._streams.values()
        return sum(cells_soon(len(s.token_ids), s.tokens_left) for s in streams)

    def stream(self, stream_id: StreamId) -> Stream | None:
        return self._streams.get(stream_id)

    @property
    def plan_in_force(self) -> Plan:
        return self._cycle.plan

    @property
    def stage_errors(self) -> StageErrors:
        """How far predicted times have been from observed ones."""
        return self._watch.errors

    def record(self, recorder: Recorder | None, now: float) -> None:
        """Tell a recorder of plans and rounds from now on; None: nobody any more."""
        self._watch.record(recorder, now)

    # -- streams come and go ---------------------------------------------------------------

    def admit(
        self, spec: StreamSpec, fixed_gamma: int | None, weight: float = 1.0
    ) -> list[Instruction]:
        """Place a stream on the target and, if there is one, on the draft node that suits best."""
        stream = Stream(spec, list(spec.token_ids), fixed_gamma, weight)
        if self._has_trials and fixed_gamma is None:
            stream.tries = Tries()
        if self._acceptance is not None:
            stream.acceptance = self._acceptance(spec.stream_id)
        return self._take_in(stream)

    def adopt(self, stream: Stream) -> list[Instruction]:
        """Go on with a stream that another target's scheduler released."""
        stream.spec = stream.current_spec(stream.spec.generation + 1)
        stream.phase = Opening()
        stream.refused_by.clear()
        return self._take_in(stream)

    def _take_in(self, stream: Stream) -> list[Instruction]:
        spec = stream.spec
        self._streams[spec.stream_id] = stream
        if self._lookup is not None and stream.fixed_gamma != 0:
            self._lookup.open(spec)
        return [ToTarget(open_request(spec)), *self._place(stream)]

    def release(self, stream_id: StreamId, now: float) -> tuple[Stream, list[Instruction]]:
        """Let a stream go to another target, with its journal; what this one still says of it is
        stale. Raises KeyError."""
        stream = self._streams[stream_id]
        notice = CloseStreamNotice(stream_id, stream.spec.generation)
        out = [ToTarget(notice), *self._detach(stream, now)]
        return stream, [*out, *self.plan(now)]

    def release_all(self, now: float) -> tuple[list[Stream], list[Instruction]]:
        """The target is gone: every stream, and what draft nodes are to be told."""
        streams = list(self._streams.values())
        told = [instruction for stream in streams for instruction in self._detach(stream, now)]
        return streams, [i for i in told if isinstance(i, ToDraft)]

    def cancel(self, stream_id: StreamId, now: float) -> list[Instruction]:
        stream = self._streams.get(stream_id)
        if stream is None:
            return []
        notice = CloseStreamNotice(stream_id, stream.spec.generation)
        out = [ToTarget(notice), *self._remove(stream, now), Finish(stream_id, "cancelled")]
        # Others may have waited for a round that held only this stream.
        return [*out, *self.plan(now)]

    def take_figures(self, stream_id: StreamId) -> tuple[Figures, str]:
        """What an ended stream did and why it was last decoded plainly; asked for once."""
        return self._ended.pop(stream_id, (Figures(), ""))

    def _remove(self, stream: Stream, now: float) -> list[Instruction]:
        stream_id = stream.spec.stream_id
        reason = stream.plain_reason or self._cycle.why_plain(stream_id)
        if stream.is_on_probation:
            reason = "draft off: the text ended before its guesses were tried"
        self._ended[stream_id] = (stream.figures, reason)
        return self._detach(stream, now)

    def _detach(self, stream: Stream, now: float) -> list[Instruction]:
        stream_id = stream.spec.stream_id
        del self._streams[stream_id]
        self._cycle.members_changed()
        out: list[Instruction] = []
        if self._lookup is not None:
            self._lookup.close(stream_id)
        was_by_lookup = stream.is_by_lookup
        placement = self._drafts.displace(stream)
        if placement is not None and not was_by_lookup:
            out.append(ToDraft(placement.node, CloseStreamNotice(stream_id, placement.generation)))
        return out + self._dispatcher.leave(stream, now)

    # -- draft nodes -------------------------------------------------------------------------

    def draft_joined(
        self,
        node: str,
        costs: NodeCosts,
        link: Link | None = None,
        spread: Spread | None = None,
    ) -> list[Instruction]:
        """spread: how sure its draft model was where it was measured, if it was."""
        draft = DraftNode(node, costs, link or Link(), token_bits=self._token_bits)
        if spread is not None and self._target is not None:
            target = self._target.now(own_cells(self._streams.values())).decode
            together = max(1, len(self._streams))
            draft.acceptance = expected_acceptance(target, draft.view(), spread, together)
        self._drafts.add(draft)
        for stream in self._streams.values():
            # A node that starts anew may have room now.
            stream.refused_by.discard(node)
        # Where a client chose how much to guess, lookup only stands in for a draft node.
        stood_in = [s for s in self._streams.values() if s.is_by_lookup and s.fixed_gamma]
        for stream in stood_in:
            self._drafts.displace(stream)
        homeless = [s for s in self._streams.values() if s.draft is None]
        return [instruction for s in homeless for instruction in self._place(s)]

    def target_link(self, rtt_s: float) -> None:
        """What is known by now of the way to the target."""
        self._dispatcher.target_rtt_s = rtt_s

    def draft_link(self, node: str, link: Link) -> None:
        """What is known by now of the way to a draft node: no part of what it takes to guess."""
        if node in self._drafts:
            self._drafts[node].link = link

    def draft_lost(self, node: str, now: float) -> list[Instruction]:
        """Its rounds go on with the guesses at hand; its streams look for another node."""
        if not self._drafts.remove(node):
            return []
        self._cycle.members_changed()
        out: list[Instruction] = []
        for stream in self._streams.values():
            if stream.draft is not None and stream.draft.node == node:
                self._drafts.displace(stream)
                stream.plain_reason = ""
                out += self._place(stream)
        for current in list(self._rounds.values()):
            if current.drop_share(node) is not None:
                self._watch.given_up(current, (node,), now)
                out += self._dispatcher.verify_if_complete(current, now)
        return [*out, *self.plan(now)]

    def _place(self, stream: Stream) -> list[Instruction]:
        self._cycle.members_changed()
        out = self._drafts.place(stream)
        placement = stream.draft
        if stream.tries is not None and placement is not None and self._target is not None:
            costs, crowd = self._target.now(len(stream.token_ids)).decode, len(self._streams)
            node = self._drafts[placement.node]
            guessing_s = token_s(costs, node.view(), stream.acceptance, crowd)
            gain = plain_token_s(costs, crowd) / guessing_s
            stream.tries.expect(1.0 if node.acceptance.is_untried else gain)
        return out

    def draft_ready(
        self, node: str, stream_id: StreamId, generation: int, now: float
    ) -> list[Instruction]:
        placement = self._placement(node, stream_id, generation)
        if placement is None:
            return []
        placement.is_ready = True
        placement.asked_at = None
        if placement.is_late:
            placement.is_late = False
            self._cycle.members_changed()
        return self.plan(now)

    def draft_failed(
        self, node: str, stream_id: StreamId, generation: int, reason: str, now: float
    ) -> list[Instruction]:
        """A draft node cannot hold the stream: it goes plainly, or to another node."""
        if self._placement(node, stream_id, generation) is None:
            return []
        stream = self._streams[stream_id]
        self._drafts.displace(stream)
        stream.refused_by.add(node)
        stream.plain_reason = f"draft off: {reason}"
        return [*self._place(stream), *self.plan(now)]

    def _placement(self, node: str, stream_id: int, generation: int) -> DraftPlacement | None:
        stream = self._streams.get(StreamId(stream_id))
        placement = stream.draft if stream is not None else None
        if placement is None or (placement.node, placement.generation) != (node, generation):
            self.num_stale += 1
            return None
        return placement

    # -- the target ----------------------------------------------------------------------------

    def target_ready(
        self, stream_id: StreamId, generation: int, now: float, num_read: int | None = None
    ) -> list[Instruction]:
        """num_read: tokens the target ran for it; None for all of its text."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.spec.generation != generation:
            self.num_stale += 1
            return []
        if isinstance(stream.phase, Opening):
            stream.phase = Idle()
            if self._target is not None:
                length = len(stream.token_ids)
                num_read = length if num_read is None else min(num_read, length)
                self._target.prompt_read(num_read, length, len(self._streams) - 1, now)
            self._cycle.members_changed()
        return self.plan(now)

    def target_parked(self, stream_id: StreamId, generation: int, now: float) -> list[Instruction]:
        """The target had no cells left for a stream. It says ready when it goes on.

        What was sent meanwhile under the old generation is void: the target drops it.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.spec.generation != generation:
            self.num_stale += 1
            return []
        out = self._dispatcher.leave(stream, now)
        stream.phase = Opening()
        stream.spec = replace(stream.spec, generation=generation + 1)
        stream.drop_trial()
        self._cycle.members_changed()
        return [*out, *self.plan(now)]

    def target_failed(
        self, stream_id: StreamId, generation: int, reason: str, now: float
    ) -> list[Instruction]:
        stream = self._streams.get(stream_id)
        if stream is None or stream.spec.generation != generation:
            self.num_stale += 1
            return []
        return [*self._remove(stream, now), Abort(stream_id, reason)]

    def committed(self, reply: CommitReply, now: float) -> list[Instruction]:
        """Take what one target pass committed; what does not follow the journal is dropped."""
        out: list[Instruction] = []
        self._dispatcher.pass_done(reply.pass_s)
        predicted_s = self._learn_pass(reply, now)
        self._watch.committed(reply, predicted_s, self._streams, now)
        offset = 0
        for entry in reply.entries:
            token_ids = reply.token_ids[offset : offset + entry.num_tokens]
            offset += entry.num_tokens
            out += self._commit_one(entry, token_ids, now)
        guessed = [self._streams.get(StreamId(e.stream_id)) for e in reply.entries]
        self._cycle.committed(
            (s.spec.stream_id, s.acceptance.alpha) for s in guessed if s is not None
        )
        return out + self.plan(now)

    def _predicted_pass_s(self, num_tokens: int, own: float, now: float) -> float:
        if self._target is None:
            return 0.0
        return self._target.predicted_s(num_tokens, used_cells(self._streams.values()), own, now)

    def _learn_pass(self, reply: CommitReply, now: float) -> float:
        """Learn what a pass took; returns what was predicted, 0.0 where that is not known."""
        if self._target is None:
            return 0.0
        streams = self._streams.values()
        cells = used_cells(streams)
        is_beside_trial = False
        for entry in reply.entries:
            stream = self._streams.get(StreamId(entry.stream_id))
            is_beside_trial |= stream is not None and trials.is_under_way(stream)
        num_tokens, own = pass_size(reply.entries)
        predicted_s = self._target.predicted_s(num_tokens, cells, own, now)
        # Where a stream ends, the target also saves what it had in the cache.
        if any(entry.finish_reason for entry in reply.entries):
            return predicted_s
        self._cycle.pass_done(reply.pass_s, predicted_s)
        # A draft node on the same machine slows the passes that it guesses beside.
        if not is_reading(streams) and not is_beside_trial:
            self._target.pass_seen(num_tokens, reply.pass_s, cells, own)
        return predicted_s

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
            return self._check_gap(stream, entry, now)
        if len(token_ids) > stream.tokens_left:
            reason = "the target committed more tokens than were asked for"
            return self._abort(stream, reason, now)
        out: list[Instruction] = []
        position = len(stream.token_ids) - stream.spec.num_prompt_tokens
        was_on_probation = stream.is_on_probation
        stream.token_ids += token_ids
        self._learn_trial(stream, now)
        if was_on_probation and not stream.is_on_probation:
            self._cycle.members_changed()
        if self._lookup is not None:
            self._lookup.commit(stream.spec.stream_id, token_ids)
        num_asked = self._num_asked(stream, entry)
        stream.count(entry, num_asked)
        placement = stream.draft
        # A node that took the stream over since has made none of these guesses.
        if placement is not None and placement.gamma and not stream.is_by_lookup:
            acceptance = self._drafts[placement.node].acceptance
            acceptance.observe(entry.num_draft_tokens, entry.num_accepted_tokens, num_asked)
        if token_ids or entry.text:
            out.append(Emit(stream.spec.stream_id, position, token_ids, entry.text))
        if entry.finish_reason:
            finish = Finish(stream.spec.stream_id, entry.finish_reason)
            return [*out, *self._remove(stream, now), finish]
        if stream.tokens_left <= 0:
            reason = "the target did not say how the text ended"
            return [*out, *self._abort(stream, reason, now)]
        phase = stream.phase
        if isinstance(phase, Verifying):
            current = self._rounds.get(phase.round_id)
            self._dispatcher.leave(stream, now)
            if current is not None and not current.stream_ids:
                lap_s = now - current.started
                self._cycle.lap_done(lap_s, current.predicted_s, now, ahead=current.ahead)
                self._watch.lap_done(current, now)
            stream.phase = Idle()
        elif isinstance(phase, Leased) and len(stream.token_ids) >= phase.end:
            stream.phase = Idle()
        return out + self._reconsider(stream)

    def _learn_trial(self, stream: Stream, now: float) -> None:
        """What a decided round on trial tells; after the first ones a stream may go in rounds."""
        was_on_probation = stream.is_on_probation
        over = trials.decided(stream)
        if over is None or stream.draft is None:
            return
        trial, num_right = over
        self._watch.trial_decided(stream.spec.stream_id, trial, num_right, now)
        seen = len(trial.guesses or ()), num_right, trial.num_asked
        stream.acceptance.observe(*seen)
        self._drafts[stream.draft.node].acceptance.observe(*seen)
        if was_on_probation and not stream.is_on_probation:
            self._cycle.members_changed()

    def _reconsider(self, stream: Stream) -> list[Instruction]:
        """Now and then: is a stream better served by lookup, by a draft node again, by another?"""
        if stream.is_away or len(stream.token_ids) < stream.reconsidered_at + _RECONSIDER_TOKENS:
            return []
        stream.reconsidered_at = len(stream.token_ids)
        before, moved = stream.draft, list[Instruction]()
        if self._lookup is not None and self._target is not None:
            costs = self._target.now(len(stream.token_ids)).decode
            moved = self._drafts.move(stream, costs, len(self._streams))
        if stream.draft is before:
            placed = [s.draft for s in self._streams.values() if s.draft is not None]
            num_moving = sum(not placement.is_ready for placement in placed)
            moved = self._drafts.rebalance(stream, num_moving)
        if stream.draft is not before:
            stream.plain_reason = ""
            self._cycle.members_changed()
        return moved

    def _num_asked(self, stream: Stream, entry: CommitEntry) -> int:
        phase = stream.phase
        current = self._rounds.get(phase.round_id) if isinstance(phase, Verifying) else None
        return current.num_asked(stream.spec.stream_id, entry) if current is not None else 0

    def _check_gap(
        self, stream: Stream | None, entry: CommitEntry, now: float
    ) -> list[Instruction]:
        """A commit beyond the journal's end means that one was lost: it can never be filled."""
        if (
            stream is None
            or stream.spec.generation != entry.generation
            or entry.prefix_len < len(stream.token_ids)
        ):
            return []
        return self._abort(stream, "tokens of the target were lost on the way", now)

    def _abort(self, stream: Stream, error: str, now: float) -> list[Instruction]:
        stream_id = stream.spec.stream_id
        notice = CloseStreamNotice(stream_id, stream.spec.generation)
        return [ToTarget(notice), *self._remove(stream, now), Abort(stream_id, error)]

    # -- rounds --------------------------------------------------------------------------------

    def plan(self, now: float) -> list[Instruction]:
        """Start what may start, then plan anew if that is due, while the target is at work."""
        out = self._dispatcher.start(now)
        if self._cycle.is_due:
            streams = self._streams.values()
            seen = observe(streams, self._drafts, self._target, now)
            overruns = self._cycle.overrun(now), self._cycle.ahead_overrun(now)
            seen = replace(
                seen,
                overrun=overruns[0],
                ahead_overrun=overruns[1],
                token_bits=self._token_bits,
            )
            self._cycle.replan(seen, now)
            self._watch.planned(seen, self._cycle.plan, now)
            out += self._dispatcher.start(now)
        return out

    def drafted(self, node: str, reply: DraftReply, now: float) -> list[Instruction]:
        if node in self._drafts:
            self._drafts[node].num_ready += reply.num_ready
            self._drafts[node].num_wasted += reply.num_wasted
        current = self._rounds.get(reply.round)
        if current is None or node not in current.shares:
            tried = trials.answered(self._streams, node, reply)
            if tried:
                rtt_s = self._drafts[node].link.rtt_s
                self._watch.trial_answered(reply.round, node, reply.draft_s, rtt_s, now)
            for trying in tried:
                self._learn_trial(trying, now)
            return self.plan(now) if tried or self._on_other_answer(node, reply) else []
        for entry, guesses in guesses_of(reply):
            stream = self._streams.get(StreamId(entry.stream_id))
            if (
                stream is None
                or self._placement(node, entry.stream_id, entry.generation) is None
                or entry.prefix_len != len(stream.token_ids)
            ):
                continue
            current.guesses[stream.spec.stream_id] = guesses
        share = current.shares[node]
        made_s = current.answered(node, now, reply.num_ready)
        self._watch.drafted(current, share, made_s, reply.draft_s, now)
        return self._dispatcher.verify_if_complete(current, now)

    def next_deadline(self) -> float | None:
        """When `tick` must be called at the latest."""
        return self._dispatcher.next_deadline()

    def tick(self, now: float) -> list[Instruction]:
        """Leave late draft nodes behind, start batches that were held back for plain streams."""
        out: list[Instruction] = []
        for current in list(self._rounds.values()):
            if current.shares and now >= current.deadline:
                out += self._note_late(current)
                self._watch.given_up(current, current.shares, now)
                current.give_up(now)
                out += self._dispatcher.verify_if_complete(current, now)
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
            elsewhere = self._drafts.choose(stream.refused_by | {placement.node})
            if placement.num_late < _MAX_LATE_ROUNDS and elsewhere is None:
                stream.plain_reason = f"draft off: {placement.node} is late"
                continue
            self._drafts.displace(stream)
            notice = CloseStreamNotice(stream_id, placement.generation)
            out.append(ToDraft(placement.node, notice))
            stream.refused_by.add(placement.node)
            stream.plain_reason = f"draft off: {placement.node} was late {placement.num_late} times"
            out += self._place(stream)
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
                placement.has_caught_up = placement.catching_up
                placement.is_late = placement.catching_up = False
                placement.asked_at = None
                found = True
        self.num_stale += not found
        return found
