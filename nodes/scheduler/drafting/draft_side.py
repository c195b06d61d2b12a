"""The draft nodes of one target's streams: who drafts for whom, and who is left behind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nodes.messages import MAX_STREAMS_PER_MESSAGE, CloseStreamNotice, DraftReply
from nodes.scheduler.cycle import CycleState
from nodes.scheduler.dispatch import Dispatcher
from nodes.scheduler.drafting import trials, worth
from nodes.scheduler.drafting.draft_node import DraftNode
from nodes.scheduler.drafting.drafts import MOST_MOVING, DraftPool
from nodes.scheduler.drafting.pace import Pace
from nodes.scheduler.instructions import Instruction, ToDraft
from nodes.scheduler.learning import Learning
from nodes.scheduler.observe import own_cells
from nodes.scheduler.rounds import Round, guesses_of
from nodes.scheduler.stream import DraftPlacement, Stream
from nodes.scheduler.target import TargetCosts
from nodes.scheduler.watching.watch import Watch
from nodes.stream import StreamId
from policies.confidence import Spread
from policies.drafter import MOVE_GAIN, expected_acceptance, plain_token_s
from policies.latency import NodeCosts
from policies.plan import Link

# Each late round costs its deadline: a draft node that keeps doing so is done without.
_MAX_LATE_ROUNDS = 3
# More than these do not leave a node on a shared medium at once after one late round.
_MOST_LEAVING = 2
# Of a stream, decoded before a draft node whose guesses pay for nobody is told of it: then it is
# tried at once, whatever it may gain at best (`tries.py`).
_LATE_TOKENS = 256
# Tokens of a stream between two looks at who drafts for it.
_RECONSIDER_TOKENS = 16
# And of streams that are looked at after the same pass: the others wait for the next one, and not
# all tokens for all looks.
_LOOKS_A_PASS = 4


class DraftSide:
    """What a scheduler hears of and tells draft nodes, but for rounds. It shares its streams, draft
    nodes and plan with the scheduler.
    """

    def __init__(
        self,
        streams: Mapping[StreamId, Stream],
        drafts: DraftPool,
        cycle: CycleState,
        dispatcher: Dispatcher,
        target: TargetCosts | None,
        learning: Learning,
        watch: Watch,
        token_bits: int,
    ) -> None:
        self._streams = streams
        self._drafts = drafts
        self._cycle = cycle
        self._dispatcher = dispatcher
        self._target = target
        self._learning = learning
        self._watch = watch
        self._token_bits = token_bits
        self.num_stale = 0

    def joined(
        self,
        node: str,
        costs: NodeCosts,
        link: Link | None = None,
        spread: Spread | None = None,
        pace: Pace | None = None,
        model_hash: str = "",
        max_streams: int = MAX_STREAMS_PER_MESSAGE,
    ) -> list[Instruction]:
        """As SchedulerState.draft_joined."""
        draft = DraftNode(
            node,
            costs,
            link or Link(),
            token_bits=self._token_bits,
            max_streams=max_streams,
            pace=pace or Pace(),
            model=(model := self._drafts.model(model_hash)),
        )
        if spread is not None and self._target is not None:
            target = self._target.now(own_cells(self._streams.values())).decode
            together = max(1, len(self._streams))
            model.expect(expected_acceptance(target, draft.view(), spread, together))
        self._drafts.add(draft)
        for stream in self._streams.values():
            # A node that starts anew may have room now.
            stream.refusals.forget(node)
        # Where a client chose how much to guess, lookup only stands in for a draft node.
        stood_in = [s for s in self._streams.values() if s.is_by_lookup and s.fixed_gamma]
        for stream in stood_in:
            self._drafts.displace(stream)
        homeless = [s for s in self._streams.values() if s.draft is None]
        return [instruction for s in homeless for instruction in self.place(s)]

    def link(self, node: str, link: Link) -> None:
        """What is known by now of the way to a draft node: no part of what it takes to guess."""
        if node in self._drafts:
            self._drafts[node].link = link

    def lost(self, node: str, now: float, *, has_died: bool) -> list[Instruction] | None:
        """Its rounds go on with the guesses at hand; its streams look for another node, unless
        they may be what nodes die of.

        None if it was not known.
        """
        if not self._drafts.remove(node):
            return None
        self._cycle.members_changed()
        out: list[Instruction] = []
        for stream in self._streams.values():
            if stream.draft is not None and stream.draft.node == node:
                self._drafts.displace(stream)
                stream.num_draft_losses += has_died
                off = f"draft off: {stream.num_draft_losses} draft nodes died with it"
                stream.plain_reason = off if stream.is_off_drafts else ""
                out += self.place(stream)
        for current in list(self._dispatcher.rounds.values()):
            if current.drop_share(node) is not None:
                self._watch.given_up(current, (node,), now)
                out += self._dispatcher.verify_if_complete(current, now)
        return out

    def place(self, stream: Stream) -> list[Instruction]:
        """Open a stream on the draft node that suits it best, if there is one, and unless that is
        for later."""
        self._cycle.members_changed()
        node = self._drafts.chosen_for(stream)
        if node is not None and self._can_wait(stream, node):
            stream.plain_reason = f"draft off: {node.name} guesses in vain"
            return self._drafts.place_by_lookup(stream)
        out = self._drafts.place(stream)
        placement = stream.draft
        if stream.tries is not None and placement is not None and self._target is not None:
            costs = self._target.now(len(stream.token_ids)).decode
            node = self._drafts[placement.node]
            worth.expect(stream.tries, node, stream.acceptance, costs, len(self._streams))
        return out

    def _can_wait(self, stream: Stream, node: DraftNode) -> bool:
        """Whether the draft node that would be told of a stream guesses in vain, for all that is
        known: reading texts and trying it takes time of the target's where they share cores. One
        stream at a time, of those that come, finds out whether that is still so; long ones do.
        """
        if stream.tries is None or self._target is None or node.name in stream.known:
            return False
        if stream.num_output >= _LATE_TOKENS:
            return False
        costs = self._target.now(len(stream.token_ids)).decode
        if not worth.pays_nobody(node, costs, len(self._streams)):
            return False
        others = self._streams.values()
        return stream.num_output > 0 or any(other.is_untried_by(node.name) for other in others)

    def ready(self, node: str, stream_id: StreamId, generation: int) -> bool:
        """A draft node has read a stream's text; False if that is of the past."""
        if node in self._drafts:
            self._drafts[node].is_silent = False
        placement = self.placement(node, stream_id, generation)
        if placement is None:
            return False
        placement.is_ready = True
        placement.asked_at = None
        if placement.is_late:
            placement.is_late = False
            self._cycle.members_changed()
        return True

    def failed(
        self, node: str, stream_id: StreamId, generation: int, reason: str, *, for_good: bool
    ) -> list[Instruction] | None:
        """A draft node cannot hold the stream: it goes plainly, or to another node. for_good: nor
        will it be able to later.

        None if that is of the past.
        """
        if self.placement(node, stream_id, generation) is None:
            return None
        stream = self._streams[stream_id]
        self._drafts.displace(stream)
        stream.keep_off(node, for_good=for_good)
        stream.plain_reason = f"draft off: {reason}"
        return self.place(stream)

    def placement(self, node: str, stream_id: int, generation: int) -> DraftPlacement | None:
        """A stream's, if it is the one that is spoken of; else it is counted as stale."""
        stream = self._streams.get(StreamId(stream_id))
        placement = stream.draft if stream is not None else None
        if placement is None or (placement.node, placement.generation) != (node, generation):
            self.num_stale += 1
            return None
        return placement

    def given_up(self, stream: Stream) -> list[Instruction]:
        """A stream's draft node says nothing, though it is there: another may do better."""
        assert stream.draft is not None
        self._drafts[stream.draft.node].is_silent = True
        reason = f"draft off: {stream.draft.node} does not answer"
        return self._replace(stream, stream.draft, reason)

    def _replace(self, stream: Stream, placement: DraftPlacement, reason: str) -> list[Instruction]:
        """Take a stream off its draft node."""
        self._drafts.displace(stream)
        notice = CloseStreamNotice(stream.spec.stream_id, placement.generation)
        stream.keep_off(placement.node)
        stream.plain_reason = reason
        return [ToDraft(placement.node, notice), *self.place(stream)]

    def left_behind(self, current: Round) -> list[Instruction]:
        """Nodes that are late for a round are not asked until they answer, or done without."""
        out: list[Instruction] = []
        self._cycle.members_changed()
        for name, share in list(current.shares.items()):
            self._drafts[name].is_silent = True
            late = [self._streams[s] for s in share.stream_ids if s in current.stream_ids]
            held = [(s, s.draft) for s in late if s.draft is not None and s.draft.node == name]
            for stream, placement in held:
                placement.is_late = True
                placement.num_late += 1
                stream.plain_reason = f"draft off: {name} is late"
                if not self._must_leave(stream, placement, len(held)):
                    continue
                reason = f"draft off: {name} was late {placement.num_late} times"
                out += self._replace(stream, placement, reason)
        return out

    def _must_leave(self, stream: Stream, placement: DraftPlacement, num_late: int) -> bool:
        """Whether a late node is done without: at once where another one is there.

        Texts of many would be in one another's way on a medium: a node that is late for once
        answers, and one that does not is left a few at a time (`DraftPool.rebalance`).
        """
        if placement.num_late >= _MAX_LATE_ROUNDS:
            return True
        if num_late > _MOST_LEAVING and self._drafts[placement.node].link.medium:
            return False
        return self._drafts.choose(stream.refused_by | {placement.node}) is not None

    def drafted(
        self, current: Round, node: str, reply: DraftReply, now: float
    ) -> list[Instruction]:
        """A node's share of a round: its guesses."""
        self._count(node, reply)
        for entry, guesses in guesses_of(reply):
            stream = self._streams.get(StreamId(entry.stream_id))
            if stream is not None:
                stream.num_draft_losses = 0
            if (
                stream is None
                or self.placement(node, entry.stream_id, entry.generation) is None
                or entry.prefix_len != len(stream.token_ids)
            ):
                continue
            current.guesses[stream.spec.stream_id] = guesses
        share = current.shares[node]
        draft_s = reply.draft_us / 1e6
        made_s = current.answered(node, now, draft_s, reply.num_ready)
        ahead = reply.num_ready, reply.num_wasted
        self._watch.drafted(current, share, made_s, draft_s, now, ahead)
        return self._dispatcher.verify_if_complete(current, now)

    def other_answer(self, node: str, reply: DraftReply, now: float) -> bool:
        """An answer to no round: guesses on trial, or of a node that has caught up, or that was
        late but works.

        Its streams may guess (again). False if it tells of none of these.
        """
        self._count(node, reply)
        tried = trials.answered(self._streams, node, reply)
        if tried:
            rtt_s = self._drafts[node].link.rtt_s
            self._watch.trial_answered(reply.round, node, reply.draft_us / 1e6, rtt_s, now)
            for stream in tried:
                stream.num_draft_losses = 0
                self._learning.trial(stream, now)
            return True
        found = False
        for entry in reply.entries:
            placement = self.placement(node, entry.stream_id, entry.generation)
            if placement is not None and (placement.is_late or placement.catching_up):
                self._cycle.members_changed()
                placement.has_caught_up = placement.catching_up
                placement.is_late = placement.catching_up = False
                placement.asked_at = None
                found = True
        self.num_stale += not found
        return found

    def _count(self, node: str, reply: DraftReply) -> None:
        if node in self._drafts:
            self._drafts[node].is_silent = False
        # Of nobody's streams all targets hear.
        if any(StreamId(entry.stream_id) in self._streams for entry in reply.entries):
            self._watch.counts.num_ahead_used += reply.num_ready
            self._watch.counts.num_ahead_wasted += reply.num_wasted

    def reconsider(self, streams: Iterable[Stream]) -> list[Instruction]:
        """Now and then: is a stream better served by lookup, by a draft node again, by another, and
        is there room by now for one that found none?

        streams: those that a pass has told of; those that have waited longest are looked at.
        """
        waited = {
            stream.spec.stream_id: len(stream.token_ids) - stream.reconsidered_at
            for stream in streams
            if not stream.is_away and (stream.draft is not None or stream.wants_draft)
        }
        due = [stream_id for stream_id, num in waited.items() if num >= _RECONSIDER_TOKENS]
        longest = sorted(due, key=waited.__getitem__, reverse=True)[:_LOOKS_A_PASS]
        return [said for stream_id in longest for said in self._look(self._streams[stream_id])]

    def _look(self, stream: Stream) -> list[Instruction]:
        stream.reconsidered_at = len(stream.token_ids)
        before, moved = stream.draft, list[Instruction]()
        if self._drafts.lookup is not None and self._target is not None:
            costs = self._target.now(len(stream.token_ids)).decode
            moved = self._drafts.move(stream, costs, len(self._streams))
        if stream.draft is before:
            # Those that have just come are read anyway.
            num_moving = sum(s.is_moving for s in self._streams.values())
            # Where a client chose how much to guess, lookup only stands in for a draft node.
            is_stood_in = stream.is_by_lookup and stream.fixed_gamma is not None
            if before is not None and not is_stood_in:
                moved = self._drafts.rebalance(stream, num_moving)
            elif num_moving < MOST_MOVING and self._is_worth_telling(stream):
                self._drafts.displace(stream)
                moved = self.place(stream)
                self._drafts.settle(stream)
        if stream.draft is not before:
            stream.plain_reason = ""
            self._cycle.members_changed()
        return moved

    def _is_worth_telling(self, stream: Stream) -> bool:
        """Whether a draft node has room for a stream under way, and it enough to come."""
        node = self._drafts.taker_of(stream)
        if node is None or self._target is None or stream.fixed_gamma is not None:
            return node is not None
        if self._can_wait(stream, node):
            return False
        costs = self._target.now(len(stream.token_ids)).decode
        left_s = stream.tokens_left * plain_token_s(costs, len(self._streams))
        return node.reading_s(len(stream.token_ids)) < MOVE_GAIN * left_s
