"""The streams of one target at the coordinator. Pure.

The scheduler takes events and `now` and returns instructions; the simulator and the live
coordinator run this code. It holds the journal of each stream, which decides what is committed: no
later message of a node changes it. A draft node follows a stream and sends guesses without a
request for each. The scheduler forwards guesses to the target and commits to the draft node. The
target decodes by itself as far as its lease allows, and chooses in every pass which guesses it
takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from airdraft.nodes.messages import (
    MAX_STREAMS_PER_MESSAGE,
    ChainPart,
    CommitReply,
    GuessNotice,
    LeaseEntry,
    LeaseRequest,
    with_tokens,
)
from airdraft.nodes.scheduler import following, in_force, passes
from airdraft.nodes.scheduler.commits import commit, tell_followers
from airdraft.nodes.scheduler.comparison import Speculation
from airdraft.nodes.scheduler.drafts import DraftRecord, Drafts
from airdraft.nodes.scheduler.endings import (
    LEASE_TOKENS,
    closing,
    every_second,
    finish,
    opening,
    remove,
)
from airdraft.nodes.scheduler.instructions import Abort, Instruction, ToTarget
from airdraft.nodes.scheduler.planning import MODES, OPEN_FLOW_PLAN, Mode
from airdraft.nodes.scheduler.state import SchedulerState, TargetCosts, find_current
from airdraft.nodes.scheduler.stream import NodeBackoff, ReadingText, Running, Stream
from airdraft.nodes.telemetry.counts import Counts
from airdraft.nodes.worker.stream import StreamId, StreamSpec
from airdraft.policies.latency import NodeCosts
from airdraft.policies.plan import Link


class Scheduler(SchedulerState):
    """Serves the streams of one target: events in, instructions out."""

    def __init__(
        self,
        target_costs: NodeCosts,
        drafts: Drafts,
        *,
        token_bits: int = 32,
        looks_up: bool = False,
        name: str = "",
        counts: Counts | None = None,
        mode: Mode = MODES["open"],
    ) -> None:
        """looks_up: the target also guesses from earlier texts."""
        counts = counts if counts is not None else Counts()
        super().__init__(TargetCosts(target_costs), drafts, token_bits, name, counts, mode)
        self.looks_up = looks_up and mode.has_guesses
        self.is_grouped = bool(mode.is_grouped)

    # -- streams -----------------------------------------------------------------------------------

    def admit(self, spec: StreamSpec) -> list[Instruction]:
        """Open a stream on the target and choose a draft node to follow it."""
        spec = replace(spec, looks_up=self.looks_up and spec.num_guesses != 0)
        return self._take_in(Stream(spec, list(spec.token_ids)))

    def adopt(self, stream: Stream) -> list[Instruction]:
        """Open a stream here from its journal, after another target has served it."""
        stream.spec = stream.current_spec(stream.spec.generation + 1)
        stream.phase, stream.is_parked, stream.num_reopened = ReadingText(), False, 0
        stream.backoff = NodeBackoff()
        # The seconds between its commits are those of another target, or of none.
        stream.committed_at, stream.interval_s = None, 0.0
        return self._take_in(stream)

    def _take_in(self, stream: Stream) -> list[Instruction]:
        self.streams[stream.spec.stream_id] = stream
        return [opening(stream), *following.find_follower(self, stream)]

    def release(self, stream_id: StreamId) -> tuple[Stream, list[Instruction]]:
        """Remove a stream and return it with its journal, for another target. Raises KeyError."""
        stream = self.streams[stream_id]
        return stream, [closing(stream), *remove(self, stream)]

    def release_all(self) -> tuple[list[Stream], list[Instruction]]:
        """The target is lost: return all its streams, and instructions for draft nodes."""
        streams = list(self.streams.values())
        out = [each for stream in streams for each in remove(self, stream)]
        self.drafts.give_back(self.name)
        return streams, out

    def close(self, stream_id: StreamId) -> list[Instruction]:
        """Close a stream without a Finish, if it is still here."""
        stream = self.streams.get(stream_id)
        return [] if stream is None else [closing(stream), *remove(self, stream)]

    def cancel(self, stream_id: StreamId) -> list[Instruction]:
        """Close a stream with a Finish, if it is still here."""
        stream = self.streams.get(stream_id)
        return [] if stream is None else [closing(stream), *finish(self, stream, "cancelled")]

    # -- draft nodes -------------------------------------------------------------------------------

    def draft_joined(
        self,
        node: str,
        costs: NodeCosts,
        link: Link | None = None,
        max_streams: int = MAX_STREAMS_PER_MESSAGE,
    ) -> list[Instruction]:
        """A draft node may follow streams of this target."""
        if node not in self.drafts:
            known = costs, link or Link(), max_streams, self.token_bits
            self.drafts[node] = DraftRecord(node, *known)
        self.usable.add(node)
        out: list[Instruction] = []
        for stream in self.streams.values():
            stream.backoff.forget(node)
            out += following.find_follower(self, stream)
        return out + following.rebalance(self)

    def draft_link(self, node: str, link: Link) -> None:
        record = self.drafts.get(node)
        if record is not None:
            record.link = link
            self.drafts.allot(link.medium)

    def draft_lost(self, name: str, *, has_died: bool = True) -> list[Instruction]:
        """A draft node is gone. has_died: it was lost and did not leave by itself."""
        self.usable.discard(name)
        self.no_draft = f"draft node {name} has left, and there is no other"
        # Another one of that name may have another model.
        self.alphas.pop(name, None)
        node = self.drafts.pop(name, None)
        if node is not None:
            self.drafts.allot(node.link.medium)
        out: list[Instruction] = []
        for stream in self.streams.values():
            if stream.follow is not None and stream.follow.node == name:
                stream.follow = None
                stream.num_draft_losses += has_died
                out += following.find_follower(self, stream)
        return out

    def draft_ready(self, name: str, stream_id: StreamId, number: int) -> None:
        """A draft node has read a text. number: of the following."""
        stream = self._find_followed(name, stream_id, number)
        if stream is not None:
            following.ready(self, stream)

    def draft_failed(
        self, name: str, stream_id: StreamId, number: int, reason: str, code: str = "unavailable"
    ) -> list[Instruction]:
        """A draft node cannot follow a stream any longer. number: of the following."""
        stream = self._find_followed(name, stream_id, number)
        if stream is None:
            return []
        # A request that is invalid for a node stays invalid.
        return following.leave(self, stream, reason, for_good=code == "bad_request")

    def guessed(
        self, name: str, parts: Sequence[tuple[ChainPart, tuple[int, ...]]], now: float
    ) -> list[Instruction]:
        """Forward guesses for streams that the draft node follows; others count as stale."""
        num_tokens = sum(len(token_ids) for _, token_ids in parts)
        self.counts.guessed(name, num_tokens, now)
        forwarded: list[ChainPart] = []
        token_ids: list[int] = []
        for part, guesses in parts:
            stream = self._find_followed(name, StreamId(part.stream_id), part.follow)
            if stream is not None:
                stream.num_draft_losses = 0
                forwarded.append(part)
                token_ids += guesses
        return [ToTarget(GuessNotice(tuple(forwarded), tuple(token_ids)))] if forwarded else []

    def _find_followed(self, name: str, stream_id: StreamId, number: int) -> Stream | None:
        stream = self.streams.get(stream_id)
        follow = stream.follow if stream is not None else None
        if follow is None or (follow.node, follow.number) != (name, number):
            self.num_stale += 1
            return None
        return stream

    # -- the target --------------------------------------------------------------------------------

    def target_ready(
        self,
        stream_id: StreamId,
        generation: int,
        num_read: int | None = None,
        *,
        has_begun: bool = False,
    ) -> list[Instruction]:
        """The target has read a text.

        num_read: tokens that it had to read; None for all. has_begun: it already decodes under the
        opening's lease.
        """
        stream = find_current(self, stream_id, generation)
        if stream is None or not isinstance(stream.phase, ReadingText):
            return []
        length = len(stream.token_ids)
        num_read = length if num_read is None else min(num_read, length)
        self.counts.text_read(num_read, length)
        if length == stream.spec.num_prompt_tokens:
            # The first pass of the answer runs the last token.
            stream.figures.num_cached_tokens = max(0, length - num_read - 1)
        stream.is_parked = False
        known = [stream] if stream_id in self.holds else []
        if has_begun:
            stream.phase = Running(length + min(LEASE_TOKENS, stream.tokens_left))
            return in_force.send_holds(self, known)
        stream.phase = Running(length)
        return [*in_force.send_holds(self, known), *self.allow([stream])]

    def target_parked(self, stream_id: StreamId, generation: int) -> list[Instruction]:
        """The target lacked cells and parked a stream; it sends ready when it has room again."""
        stream = find_current(self, stream_id, generation)
        if stream is not None:
            stream.phase, stream.is_parked = ReadingText(), True
            stream.spec = replace(stream.spec, generation=generation + 1)
        return []

    def target_failed(
        self, stream_id: StreamId, generation: int, reason: str, code: str = "unavailable"
    ) -> list[Instruction]:
        """The target cannot serve a stream. code: the kind of error, as in RequestFailedNotice."""
        stream = find_current(self, stream_id, generation)
        if stream is None:
            return []
        return [*remove(self, stream), Abort(stream_id, reason, code)]

    def committed(self, reply: CommitReply, now: float) -> list[Instruction]:
        """Append what one pass committed; entries that do not follow the journal are dropped."""
        self.predicted_s = passes.learn(self, reply, now)
        out: list[Instruction] = []
        added: list[Stream] = []
        for entry, token_ids in with_tokens(reply.entries, reply.token_ids):
            out += commit(self, entry, token_ids, added, now)
        out += following.leave_silent(self, added)
        out += [*self.allow(added), *tell_followers(self, now)]
        return out + passes.speculate(self)

    def allow(self, streams: Iterable[Stream]) -> list[Instruction]:
        """Renew those leases of these streams that have few tokens left."""
        entries = []
        for stream in streams:
            phase, length = stream.phase, len(stream.token_ids)
            if not isinstance(phase, Running) or phase.until - length > LEASE_TOKENS // 2:
                continue
            until = length + min(LEASE_TOKENS, stream.tokens_left)
            if until <= phase.until:
                continue
            stream.phase = Running(until)
            spec = stream.spec
            entries.append(LeaseEntry(spec.stream_id, spec.generation, length, until - length))
        return [ToTarget(LeaseRequest(tuple(entries)))] if entries else []

    # -- failures and time -------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """Returns the time by which tick() must be called; None if no message is waiting."""
        if self.speculation is not Speculation.ON:
            return None
        nodes = (self.drafts.get(name) for name in self.unsent)
        return min((node.free_at for node in nodes if node is not None), default=None)

    def tick(self, now: float) -> list[Instruction]:
        """Returns what is due at `now` without an event."""
        out = tell_followers(self, now)
        if self.silences.is_due(now):
            out += every_second(self, now)
        if now < self.plan_at:
            return out
        self.is_plan_due = True
        passes.take_air(self, now)
        if self.holds and not in_force.has_ready_followers(self):
            # No plan is made without guesses, so the holds of the last plan end here.
            self.plan = OPEN_FLOW_PLAN
            out += in_force.put_in_force(self, {})
        return out
