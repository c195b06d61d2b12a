"""The streams of one target at the coordinator, where guesses flow. Pure.

Events and `now` in, instructions out; the simulator and the live coordinator run this same code.
The journal of a stream is here: what has been committed is what this state holds, whatever a node
says later. A draft node follows a stream and guesses ahead of it without being asked; guesses are
passed on to the target, commits to the draft node. The target decodes as far as it may by itself,
and decides in every pass which guesses it takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from nodes.flow.drafts import DraftNode, Drafts
from nodes.flow.planning import NO_WAIT, Wait, changed
from nodes.flow.stream import Follow, Running, Stream
from nodes.messages import (
    MAX_GAMMA,
    MAX_STREAMS_PER_MESSAGE,
    AddedEntry,
    ChainPart,
    CloseStreamNotice,
    CommitEntry,
    CommitNotice,
    CommitReply,
    GuessNotice,
    HoldEntry,
    HoldRequest,
    LeaseEntry,
    LeaseRequest,
)
from nodes.scheduler.instructions import (
    Abort,
    Emit,
    Finish,
    Instruction,
    ToDraft,
    ToTarget,
    open_request,
)
from nodes.scheduler.silences import Silences
from nodes.scheduler.stream import Figures, Opening
from nodes.stream import StreamId, StreamSpec
from nodes.target.stream import cells_soon
from policies.latency import NodeCosts
from policies.plan import Link

# Tokens that a target may decode without hearing from the coordinator, and how many of them are
# left when it is told to go on: at 20 to 100 tokens a second more than any round trip, and little
# to have decoded in vain when the coordinator or the client is gone.
_LEASE_TOKENS: Final = 64
_LEASE_LOW_TOKENS: Final = 32
# Tokens of a stream without one guess that could be compared, after which its draft node is taken
# away from it: it is silent, or so late that its guesses begin where the text has long been.
_SILENT_TOKENS: Final = 64
# Draft nodes that may die with a stream before it goes without.
_MOST_DRAFT_LOSSES: Final = 2
# Without a token in between a stream is opened anew so many times.
_MOST_REOPENED: Final = 3
# A stream is reopened under a generation above that of a parking of which nothing was heard yet.
_GENERATIONS: Final = 2
# Streams that read their text at another draft node at a time: meanwhile each is decoded plainly.
_MOST_MOVING: Final = 2
# Silence of a target about a stream that has been allowed to go on, in seconds: passes of machines
# that swap take that long.
_SILENT_S: Final = 60.0
_SILENT_A_TOKEN_S: Final = 0.1


@dataclass(slots=True)
class FlowState:
    """drafts: of the whole mesh. usable: names of those that may draft for this target. costs,
    link: of the target. looks_up: it guesses from texts that it has had, too."""

    drafts: Drafts
    costs: NodeCosts | None = None
    link: Link = field(default_factory=Link)
    token_bits: int = 32
    looks_up: bool = False
    streams: dict[StreamId, Stream] = field(default_factory=dict)
    usable: set[str] = field(default_factory=set)
    ended: dict[StreamId, tuple[Figures, str]] = field(default_factory=dict)
    # What streams wait for by the plan in force.
    waits: dict[int, Wait] = field(default_factory=dict)
    num_stale: int = 0
    num_parked: int = 0
    num_reopened: int = 0
    # Streams by the draft node that has not been told all of them.
    _untold: dict[str, dict[StreamId, None]] = field(default_factory=dict)
    _silences: Silences[StreamId] = field(default_factory=Silences)

    # -- streams come and go -------------------------------------------------------------------

    def admit(
        self, spec: StreamSpec, fixed_gamma: int | None, weight: float = 1.0
    ) -> list[Instruction]:
        """Open a stream on the target, and have a draft node follow it."""
        num_guesses = -1 if fixed_gamma is None else fixed_gamma
        looks_up = self.looks_up and fixed_gamma != 0
        spec = replace(spec, weight=weight, num_guesses=num_guesses, looks_up=looks_up)
        return self._take_in(Stream(spec, list(spec.token_ids), fixed_gamma, weight))

    def adopt(self, stream: Stream) -> list[Instruction]:
        """Go on with a stream that another target had."""
        stream.spec = stream.current_spec(stream.spec.generation + 1)
        stream.phase, stream.is_parked, stream.num_reopened = Opening(), False, 0
        stream.refusals.clear()
        return self._take_in(stream)

    def _take_in(self, stream: Stream) -> list[Instruction]:
        self.streams[stream.spec.stream_id] = stream
        return [*self._open(stream), *self._find_follower(stream)]

    def _open(self, stream: Stream) -> list[Instruction]:
        """Open it on the target, which may decode as soon as it has read the text."""
        request = open_request(replace(stream.spec, num_leased=_LEASE_TOKENS))
        return [ToTarget(request)]

    def release(self, stream_id: StreamId, now: float) -> tuple[Stream, list[Instruction]]:
        """Let a stream go to another target, with its journal. Raises KeyError."""
        stream = self.streams[stream_id]
        notice = CloseStreamNotice(stream_id, stream.spec.generation)
        return stream, [ToTarget(notice), *self._detach(stream)]

    def release_all(self, now: float) -> tuple[list[Stream], list[Instruction]]:
        """The target is gone: every stream, and what draft nodes are told."""
        streams = list(self.streams.values())
        return streams, [each for stream in streams for each in self._detach(stream)]

    def cancel(self, stream_id: StreamId, now: float) -> list[Instruction]:
        stream = self.streams.get(stream_id)
        if stream is None:
            return []
        notice = CloseStreamNotice(stream_id, stream.spec.generation)
        return [ToTarget(notice), *self._remove(stream), Finish(stream_id, "cancelled")]

    def _remove(self, stream: Stream) -> list[Instruction]:
        """Take out a stream that has ended, and keep what it did."""
        self.ended[stream.spec.stream_id] = (stream.figures, stream.plain_reason)
        return self._detach(stream)

    def _detach(self, stream: Stream) -> list[Instruction]:
        del self.streams[stream.spec.stream_id]
        self.waits.pop(stream.spec.stream_id, None)
        return self._unfollow(stream)

    def take_figures(self, stream_id: StreamId) -> tuple[Figures, str]:
        """What an ended stream did and why it was decoded plainly; asked for once."""
        return self.ended.pop(stream_id, (Figures(), ""))

    # -- who follows ---------------------------------------------------------------------------

    def _find_follower(self, stream: Stream) -> list[Instruction]:
        if stream.follow is not None or not stream.wants_follower:
            return []
        if stream.num_draft_losses >= _MOST_DRAFT_LOSSES:
            stream.plain_reason = "draft off: the draft nodes of this text were lost with it"
            return []
        length = len(stream.token_ids)
        refused = stream.refusals.at(length)
        node = self.drafts.best_for(self.usable, refused, length, stream.tokens_left)
        if node is None:
            stream.plain_reason = "draft off: no draft node has room for this text"
            return []
        return self._follow(stream, node)

    def _follow(self, stream: Stream, node: DraftNode) -> list[Instruction]:
        length = len(stream.token_ids)
        stream.last_number += 1
        told = min(length, node.piece_tokens)
        stream.follow = Follow(node.name, stream.last_number, told, compared_at=length)
        node.followed.add(stream.spec.stream_id)
        node.num_unread += length
        if told < length:
            self._untold.setdefault(node.name, {})[stream.spec.stream_id] = None
        stream.plain_reason = f"draft off: {node.name} still reads the text"
        spec = replace(
            stream.spec,
            generation=stream.last_number,
            token_ids=tuple(stream.token_ids[:told]),
            num_known=length if told < length else 0,
        )
        return [ToDraft(node.name, open_request(spec))]

    def _unfollow(self, stream: Stream) -> list[Instruction]:
        """Take the draft node away from a stream; what it still sends is stale."""
        follow, stream.follow = stream.follow, None
        if follow is None:
            return []
        node = self.drafts.get(follow.node)
        if node is None:
            return []
        node.followed.discard(stream.spec.stream_id)
        if not follow.is_ready:
            node.num_unread = max(0, node.num_unread - len(stream.token_ids))
        notice = CloseStreamNotice(stream.spec.stream_id, follow.number)
        return [ToDraft(node.name, notice)]

    def draft_joined(self, node: DraftNode) -> list[Instruction]:
        """A draft node may follow streams of this target."""
        if node.name not in self.drafts:
            self.drafts.add(node)
        self.usable.add(node.name)
        out: list[Instruction] = []
        for stream in self.streams.values():
            stream.refusals.forget(node.name)
            out += self._find_follower(stream)
        return out + self.rebalance()

    def draft_lost(self, name: str, now: float, *, has_died: bool = True) -> list[Instruction]:
        """A draft node is gone. has_died: it did not leave of its own accord."""
        self.usable.discard(name)
        self.drafts.remove(name)
        out: list[Instruction] = []
        for stream in self.streams.values():
            if stream.follow is not None and stream.follow.node == name:
                stream.follow = None
                stream.num_draft_losses += has_died
                out += self._find_follower(stream)
        return out

    def rebalance(self) -> list[Instruction]:
        """Move streams to draft nodes that answer much sooner, a few at a time."""
        reading = [s for s in self.streams.values() if s.follow and not s.follow.is_ready]
        out: list[Instruction] = []
        num_moving = len(reading)
        for stream in self.streams.values():
            if num_moving >= _MOST_MOVING:
                break
            follow = stream.follow
            if follow is None or not follow.is_ready:
                continue
            refused = stream.refusals.at(len(stream.token_ids))
            known = len(stream.token_ids), stream.tokens_left
            present = self.drafts[follow.node]
            node = self.drafts.better_for(self.usable, refused, present, *known)
            if node is not None:
                out += [*self._unfollow(stream), *self._follow(stream, node)]
                num_moving += 1
        return out

    def draft_ready(self, name: str, stream_id: StreamId, number: int) -> None:
        """A draft node has read a text."""
        stream = self._followed(name, stream_id, number)
        if stream is None or stream.follow is None or stream.follow.is_ready:
            return
        stream.follow.is_ready = True
        stream.follow.compared_at = len(stream.token_ids)
        stream.plain_reason = ""
        node = self.drafts[name]
        node.num_unread = max(0, node.num_unread - len(stream.token_ids))

    def draft_failed(
        self, name: str, stream_id: StreamId, number: int, reason: str, *, for_good: bool
    ) -> list[Instruction]:
        """A draft node has given a stream up."""
        stream = self._followed(name, stream_id, number)
        if stream is None:
            return []
        stream.refusals.add(name, len(stream.token_ids), for_good=for_good)
        self._unfollow(stream)
        stream.plain_reason = f"draft off: {name}: {reason}"
        return self._find_follower(stream)

    def guessed(
        self, name: str, parts: Iterable[tuple[ChainPart, tuple[int, ...]]]
    ) -> list[Instruction]:
        """Pass on guesses of streams that the draft node follows."""
        passed: list[ChainPart] = []
        token_ids: list[int] = []
        for part, guesses in parts:
            stream = self._followed(name, StreamId(part.stream_id), part.follow)
            if stream is None:
                continue
            stream.num_draft_losses = 0
            passed.append(part)
            token_ids += guesses
        return [ToTarget(GuessNotice(tuple(passed), tuple(token_ids)))] if passed else []

    def _followed(self, name: str, stream_id: StreamId, number: int) -> Stream | None:
        stream = self.streams.get(stream_id)
        follow = stream.follow if stream is not None else None
        if follow is None or (follow.node, follow.number) != (name, number):
            self.num_stale += 1
            return None
        return stream

    # -- the target ----------------------------------------------------------------------------

    def target_ready(
        self, stream_id: StreamId, generation: int, *, has_begun: bool = False
    ) -> list[Instruction]:
        """It has read a text. has_begun: it goes on by what it was allowed when it was opened."""
        stream = self._current(stream_id, generation)
        if stream is None or not isinstance(stream.phase, Opening):
            return []
        length = len(stream.token_ids)
        stream.is_parked = False
        known = [stream] if stream_id in self.waits else []
        if has_begun:
            stream.phase = Running(length + min(_LEASE_TOKENS, stream.tokens_left))
            return self._tell_waits(known)
        stream.phase = Running(length)
        return [*self._tell_waits(known), *self._allow([stream])]

    def target_parked(self, stream_id: StreamId, generation: int) -> list[Instruction]:
        """It had no cells left for a stream, and says ready when it goes on."""
        stream = self._current(stream_id, generation)
        if stream is not None:
            stream.phase, stream.is_parked = Opening(), True
            stream.spec = replace(stream.spec, generation=generation + 1)
            self.num_parked += 1
        return []

    def target_failed(
        self, stream_id: StreamId, generation: int, reason: str, code: str = "unavailable"
    ) -> list[Instruction]:
        """It cannot serve a stream; code: whose fault it is, as in RequestFailedNotice."""
        stream = self._current(stream_id, generation)
        if stream is None:
            return []
        return [*self._remove(stream), Abort(stream_id, reason, code)]

    def _current(self, stream_id: StreamId, generation: int) -> Stream | None:
        stream = self.streams.get(stream_id)
        if stream is None or stream.spec.generation != generation:
            self.num_stale += 1
            return None
        return stream

    def committed(self, reply: CommitReply, now: float) -> list[Instruction]:
        """Take what one pass committed; what does not follow the journal is dropped."""
        out: list[Instruction] = []
        added: list[Stream] = []
        offset = 0
        for entry in reply.entries:
            token_ids = reply.token_ids[offset : offset + entry.num_tokens]
            offset += entry.num_tokens
            out += self._commit(entry, token_ids, added, now)
        out += self._look_at_followers(added)
        return [*out, *self._allow(added), *self.tell_followers(now)]

    def _commit(
        self,
        entry: CommitEntry,
        token_ids: tuple[int, ...],
        added: list[Stream],
        now: float,
    ) -> list[Instruction]:
        """One entry; streams that go on are added."""
        stream = self._current(StreamId(entry.stream_id), entry.generation)
        if stream is None:
            return []
        length = len(stream.token_ids)
        if entry.prefix_len != length:
            self.num_stale += 1
            if entry.prefix_len > length:
                return self._reopen(stream, "tokens of the target were lost on the way")
            return []
        if len(token_ids) > stream.tokens_left:
            return self._abort(stream, "the target committed more tokens than were asked for")
        if len(entry.scores) != (len(token_ids) if stream.spec.num_logprobs >= 0 else 0):
            return self._abort(stream, "the target did not score what it committed")
        out: list[Instruction] = []
        position = stream.num_output
        stream.token_ids += token_ids
        if token_ids:
            stream.num_reopened = 0
        stream.count(entry, now)
        follow = stream.follow
        if follow is not None:
            self._untold.setdefault(follow.node, {})[stream.spec.stream_id] = None
            follow.num_used += entry.num_draft_tokens - entry.num_looked_up
            follow.num_offered += entry.num_offered
            if entry.num_compared:
                follow.compared_at = len(stream.token_ids)
        if token_ids or entry.text:
            # A guess that ends the text was right and is no token of it.
            num_accepted = min(entry.num_accepted_tokens, len(token_ids))
            counts = entry.num_draft_tokens, num_accepted
            told = token_ids, entry.text, *counts, entry.scores, bool(entry.finish_reason)
            out.append(Emit(stream.spec.stream_id, position, *told))
        if entry.finish_reason:
            finish = Finish(stream.spec.stream_id, entry.finish_reason)
            return [*out, *self._remove(stream), finish]
        if stream.tokens_left <= 0:
            return [*out, *self._abort(stream, "the target did not say how the text ended")]
        if isinstance(stream.phase, Opening):
            # That it is ready was lost on the way, or comes behind: this tells it, too.
            stream.phase, stream.is_parked = Running(length + _LEASE_TOKENS), False
        added.append(stream)
        return out

    def _look_at_followers(self, streams: Iterable[Stream]) -> list[Instruction]:
        """Take draft nodes away from streams of which they guess nothing that could be used."""
        out: list[Instruction] = []
        for stream in streams:
            follow, length = stream.follow, len(stream.token_ids)
            if follow is None or not follow.is_ready:
                continue
            if length - follow.compared_at > _SILENT_TOKENS:
                stream.refusals.add(follow.node, length)
                out += self._unfollow(stream)
                stream.plain_reason = f"draft off: {follow.node} guesses nothing, or too late"
                out += self._find_follower(stream)
        return out

    def tell_followers(self, now: float) -> list[Instruction]:
        """Tell draft nodes what was committed, and of long texts the next piece: one message to
        each whose link is free."""
        out: list[Instruction] = []
        for name in list(self._untold):
            node = self.drafts.get(name)
            if node is None:
                del self._untold[name]
            elif now >= node.free_at:
                out += self._tell(node, now)
        return out

    def _tell(self, node: DraftNode, now: float) -> list[Instruction]:
        """One message with as much of what a draft node has not been told as it may hold."""
        entries: list[AddedEntry] = []
        token_ids: list[int] = []
        waiting = list(self._untold.pop(node.name))
        # Who has had a piece of a long text comes after all others the next time.
        rest: list[StreamId] = []
        again: list[StreamId] = []
        for place, stream_id in enumerate(waiting):
            stream = self.streams.get(stream_id)
            follow = stream.follow if stream is not None else None
            if stream is None or follow is None or follow.node != node.name:
                continue
            most = node.piece_tokens - len(token_ids)
            if len(entries) == MAX_STREAMS_PER_MESSAGE or most <= 0:
                rest = waiting[place:]
                break
            new = stream.token_ids[follow.told :][:most]
            if new:
                use = min(MAX_GAMMA, follow.num_used), min(MAX_GAMMA, follow.num_offered)
                entries.append(AddedEntry(stream_id, follow.number, follow.told, len(new), *use))
                token_ids += new
                follow.told += len(new)
                follow.num_used = follow.num_offered = 0
            if follow.told < len(stream.token_ids):
                again.append(stream_id)
        if rest or again:
            self._untold[node.name] = dict.fromkeys([*rest, *again])
        if not entries:
            return []
        node.free_at = now + node.message_s(len(entries), len(token_ids))
        return [ToDraft(node.name, CommitNotice(tuple(entries), tuple(token_ids)))]

    def _allow(self, streams: Iterable[Stream]) -> list[Instruction]:
        """Let the target go on with streams before it has come to where it must stop."""
        entries = []
        for stream in streams:
            phase, length = stream.phase, len(stream.token_ids)
            if not isinstance(phase, Running) or phase.until - length > _LEASE_LOW_TOKENS:
                continue
            until = length + min(_LEASE_TOKENS, stream.tokens_left)
            if until <= phase.until:
                continue
            stream.phase = Running(until)
            spec = stream.spec
            entries.append(LeaseEntry(spec.stream_id, spec.generation, length, until - length))
        return [ToTarget(LeaseRequest(tuple(entries)))] if entries else []

    def wait(self, waits: dict[int, Wait]) -> list[Instruction]:
        """Have streams wait for guesses by a new plan, which says so of all that shall."""
        others = changed(self.waits, waits)
        self.waits = waits
        found = (self.streams.get(StreamId(stream_id)) for stream_id in others)
        return self._tell_waits(stream for stream in found if stream is not None)

    def _tell_waits(self, streams: Iterable[Stream]) -> list[Instruction]:
        """Tell the target what these wait for, as far as it has read them."""
        entries = []
        for stream in streams:
            if not isinstance(stream.phase, Running):
                continue
            spec, wait = stream.spec, self.waits.get(stream.spec.stream_id, NO_WAIT)
            hold_us = round(wait.most_s * 1e6)
            known = spec.stream_id, spec.generation
            entries.append(HoldEntry(*known, wait.group, wait.num_guesses, hold_us))
        return [ToTarget(HoldRequest(tuple(entries)))] if entries else []

    # -- what goes wrong -----------------------------------------------------------------------

    def _reopen(self, stream: Stream, error: str) -> list[Instruction]:
        """Go on from the journal, or end with an error where that has not helped."""
        if stream.num_reopened >= _MOST_REOPENED:
            return self._abort(stream, error)
        stream_id, generation = stream.spec.stream_id, stream.spec.generation
        stream.spec = stream.current_spec(generation + _GENERATIONS)
        stream.phase, stream.is_parked = Opening(), False
        stream.num_reopened += 1
        self.num_reopened += 1
        # The target may have parked it: it closes a later generation than it was told of, too.
        return [ToTarget(CloseStreamNotice(stream_id, generation)), *self._open(stream)]

    def _abort(self, stream: Stream, error: str) -> list[Instruction]:
        stream_id = stream.spec.stream_id
        notice = CloseStreamNotice(stream_id, stream.spec.generation)
        return [ToTarget(notice), *self._remove(stream), Abort(stream_id, error)]

    def tick(self, now: float) -> list[Instruction]:
        """What is due by now, though nobody said anything."""
        out = self.tell_followers(now)
        waiting = (
            (stream_id, (s.spec.generation, len(s.token_ids), s.phase))
            for stream_id, s in self.streams.items()
        )
        if not self._silences.is_due(now):
            return out
        for stream_id in self._silences.overdue(waiting, self._patience_s, now):
            error = "the target did not go on with it, though it was asked to again and again"
            out += self._reopen(self.streams[stream_id], error)
        for stream in self.streams.values():
            out += self._find_follower(stream)
        return out + self.rebalance()

    def _patience_s(self, stream_id: StreamId) -> float:
        """Seconds of silence about a stream that its target may need at most."""
        used = sum(len(stream.token_ids) for stream in self.streams.values())
        wanted_s = _SILENT_S + _SILENT_A_TOKEN_S * used
        return float(wanted_s * 2 ** self.streams[stream_id].num_reopened)

    def next_deadline(self) -> float | None:
        """When `tick` must be called at the latest."""
        nodes = (self.drafts.get(name) for name in self._untold)
        return min((node.free_at for node in nodes if node is not None), default=None)

    # -- what others ask -----------------------------------------------------------------------

    @property
    def cells(self) -> int:
        """Cells that admission counts for all streams, those that are parked included."""
        return sum(cells_soon(len(s.token_ids), s.tokens_left) for s in self.streams.values())
