"""The streams of one target at the coordinator. Pure.

The state takes events and `now` and returns instructions; the simulator and the live coordinator
run this code. It holds the journal of each stream, which decides what is committed: no later
message of a node changes it. A draft node follows a stream and sends guesses without a request for
each. The state forwards guesses to the target and commits to the draft node. The target decodes by
itself as far as its lease allows, and chooses in every pass which guesses it takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from nodes.messages import (
    CloseStreamNotice,
    CommitEntry,
    CommitReply,
    HoldEntry,
    HoldNotice,
    LeaseEntry,
    LeaseRequest,
)
from nodes.scheduler.commits import tell_followers
from nodes.scheduler.comparison import Speculation
from nodes.scheduler.drafts import Drafts
from nodes.scheduler.following import (
    find_follower,
    leave_full,
    leave_silent,
    rebalance,
    unfollow,
)
from nodes.scheduler.instructions import (
    Abort,
    Emit,
    Finish,
    Instruction,
    ToTarget,
    open_request,
)
from nodes.scheduler.planning import NO_WAIT, Wait, changed
from nodes.scheduler.silences import Silences
from nodes.scheduler.stream import Figures, Opening, Running, Stream
from nodes.worker.cells import cells_soon
from nodes.worker.stream import StreamId, StreamSpec
from policies.acceptance import AcceptanceEstimate
from policies.plan import Link

# Tokens of a lease, and the number left at which it is renewed. At 20 to 100 tokens a second both
# last longer than any round trip, and little work is lost when the coordinator or client is gone.
_LEASE_TOKENS: Final = 64
_LEASE_LOW_TOKENS: Final = 32
# A stream is reopened at most this many times without a new token in between.
_MOST_REOPENED: Final = 3
# A reopening raises the generation by 2. A parking raises it by 1, and the target may have parked
# the stream in a notice that has not arrived yet.
_GENERATION_STEP: Final = 2
# The duration of a pass that is assumed before one was observed, and how fast its average follows.
_UNSEEN_PASS_S: Final = 0.05
_PASS_RATE: Final = 0.05
# How often a draft node is right for a target is averaged over some 200 commits.
_ALPHA_MEMORY: Final = 0.995
# Seconds without progress after which a stream counts as stuck. Passes of machines that swap can
# take that long.
_SILENT_S: Final = 60.0
# Further seconds for each token of all texts, which the target may have to read first. Slow boards
# need that long.
_SILENT_S_PER_TOKEN: Final = 0.1


@dataclass(slots=True)
class SchedulerState:
    """The streams of one target and what is known of its draft nodes.

    drafts: all draft nodes of the mesh. usable: names of those that may draft for this target.
    link: the target's link. looks_up: the target also guesses from earlier texts. has_followers:
    draft nodes may follow its streams. speculation: whether they guess now.
    """

    drafts: Drafts
    link: Link = field(default_factory=Link)
    token_bits: int = 32
    looks_up: bool = False
    has_followers: bool = True
    speculation: Speculation = Speculation.ON
    streams: dict[StreamId, Stream] = field(default_factory=dict)
    usable: set[str] = field(default_factory=set)
    ended: dict[StreamId, tuple[Figures, str]] = field(default_factory=dict)
    # The average seconds of a pass, and by draft node how often its guesses are right here.
    pass_s: float = _UNSEEN_PASS_S
    alphas: dict[str, AcceptanceEstimate] = field(default_factory=dict)
    # By stream: what it waits for under the plan in force.
    waits: dict[int, Wait] = field(default_factory=dict)
    num_stale: int = 0
    num_reopened: int = 0
    # By draft node: the streams of which it has not yet been sent all tokens.
    untold: dict[str, dict[StreamId, None]] = field(default_factory=dict)
    _silences: Silences[StreamId] = field(default_factory=Silences)

    # -- opening and closing streams -----------------------------------------------------------

    def admit(
        self, spec: StreamSpec, fixed_gamma: int | None, weight: float = 1.0
    ) -> list[Instruction]:
        """Open a stream on the target and choose a draft node to follow it."""
        num_guesses = -1 if fixed_gamma is None else fixed_gamma
        looks_up = self.looks_up and fixed_gamma != 0
        spec = replace(spec, weight=weight, num_guesses=num_guesses, looks_up=looks_up)
        return self._take_in(Stream(spec, list(spec.token_ids), fixed_gamma, weight))

    def adopt(self, stream: Stream) -> list[Instruction]:
        """Open a stream here from its journal, after another target has served it."""
        stream.spec = stream.current_spec(stream.spec.generation + 1)
        stream.phase, stream.is_parked, stream.num_reopened = Opening(), False, 0
        stream.backoff.clear()
        return self._take_in(stream)

    def _take_in(self, stream: Stream) -> list[Instruction]:
        self.streams[stream.spec.stream_id] = stream
        return [*self._open(stream), *find_follower(self, stream)]

    def _open(self, stream: Stream) -> list[Instruction]:
        """Open a stream on the target with a lease, so that it decodes once the text is read."""
        request = open_request(replace(stream.spec, num_leased=_LEASE_TOKENS))
        return [ToTarget(request)]

    def release(self, stream_id: StreamId) -> tuple[Stream, list[Instruction]]:
        """Remove a stream and return it with its journal, for another target. Raises KeyError."""
        stream = self.streams[stream_id]
        notice = CloseStreamNotice(stream_id, stream.spec.generation)
        return stream, [ToTarget(notice), *self._detach(stream)]

    def release_all(self) -> tuple[list[Stream], list[Instruction]]:
        """The target is lost: return all its streams, and instructions for draft nodes."""
        streams = list(self.streams.values())
        return streams, [each for stream in streams for each in self._detach(stream)]

    def cancel(self, stream_id: StreamId) -> list[Instruction]:
        stream = self.streams.get(stream_id)
        if stream is None:
            return []
        notice = CloseStreamNotice(stream_id, stream.spec.generation)
        return [ToTarget(notice), *self._remove(stream), Finish(stream_id, "cancelled")]

    def _remove(self, stream: Stream) -> list[Instruction]:
        """Remove a stream that has ended, but keep its figures."""
        self.ended[stream.spec.stream_id] = (stream.figures, stream.plain_reason)
        return self._detach(stream)

    def _detach(self, stream: Stream) -> list[Instruction]:
        del self.streams[stream.spec.stream_id]
        self.waits.pop(stream.spec.stream_id, None)
        return unfollow(self, stream)

    def take_figures(self, stream_id: StreamId) -> tuple[Figures, str]:
        """Remove and return an ended stream's figures and the reason why it had no draft node."""
        return self.ended.pop(stream_id, (Figures(), ""))

    # -- the target ----------------------------------------------------------------------------

    def target_ready(
        self, stream_id: StreamId, generation: int, *, has_begun: bool = False
    ) -> list[Instruction]:
        """The target has read a text. has_begun: it already decodes under the opening's lease."""
        stream = self._current(stream_id, generation)
        if stream is None or not isinstance(stream.phase, Opening):
            return []
        length = len(stream.token_ids)
        stream.is_parked = False
        known = [stream] if stream_id in self.waits else []
        if has_begun:
            stream.phase = Running(length + min(_LEASE_TOKENS, stream.tokens_left))
            return self._send_waits(known)
        stream.phase = Running(length)
        return [*self._send_waits(known), *self._allow([stream])]

    def target_parked(self, stream_id: StreamId, generation: int) -> list[Instruction]:
        """The target lacked cells and parked a stream; it sends ready when it has room again."""
        stream = self._current(stream_id, generation)
        if stream is not None:
            stream.phase, stream.is_parked = Opening(), True
            stream.spec = replace(stream.spec, generation=generation + 1)
        return []

    def target_failed(
        self, stream_id: StreamId, generation: int, reason: str, code: str = "unavailable"
    ) -> list[Instruction]:
        """The target cannot serve a stream. code: the kind of error, as in RequestFailedNotice."""
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
        """Append what one pass committed; entries that do not follow the journal are dropped."""
        if not reply.num_read_tokens and reply.pass_s > 0.0:
            self.pass_s += _PASS_RATE * (reply.pass_s - self.pass_s)
        out: list[Instruction] = []
        added: list[Stream] = []
        offset = 0
        for entry in reply.entries:
            token_ids = reply.token_ids[offset : offset + entry.num_tokens]
            offset += entry.num_tokens
            out += self._commit(entry, token_ids, added, now)
        out += leave_silent(self, added)
        return [*out, *self._allow(added), *tell_followers(self, now)]

    def _commit(
        self,
        entry: CommitEntry,
        token_ids: tuple[int, ...],
        added: list[Stream],
        now: float,
    ) -> list[Instruction]:
        """Handle one entry of a pass. A stream that continues is appended to `added`."""
        stream = self._current(StreamId(entry.stream_id), entry.generation)
        if stream is None:
            return []
        length = len(stream.token_ids)
        if entry.prefix_len != length:
            self.num_stale += 1
            if entry.prefix_len > length:
                return self._reopen(stream, "messages with tokens of the target were lost")
            return []
        if len(token_ids) > stream.tokens_left:
            return self._abort(stream, "the target committed more tokens than max_tokens allows")
        if len(entry.scores) != (len(token_ids) if stream.spec.num_logprobs >= 0 else 0):
            return self._abort(
                stream, "the target sent another number of log-probabilities than of tokens"
            )
        out: list[Instruction] = []
        position = stream.num_output
        stream.token_ids += token_ids
        if token_ids:
            stream.num_reopened = 0
        stream.count(entry, now)
        follow = stream.follow
        if follow is not None:
            self.untold.setdefault(follow.node, {})[stream.spec.stream_id] = None
            follow.num_used += max(0, entry.num_draft_tokens - entry.num_looked_up)
            follow.num_offered += entry.num_offered
            if entry.num_compared:
                follow.compared_at = len(stream.token_ids)
                seen = self.alphas.setdefault(follow.node, AcceptanceEstimate(memory=_ALPHA_MEMORY))
                seen.observe(entry.num_compared, entry.num_right)
        if token_ids or entry.text:
            # An accepted end-of-text guess is not a token of the text.
            num_accepted = min(entry.num_accepted_tokens, len(token_ids))
            counts = entry.num_draft_tokens, num_accepted
            output = token_ids, entry.text, *counts, entry.scores, bool(entry.finish_reason)
            out.append(Emit(stream.spec.stream_id, position, *output))
        if entry.finish_reason:
            finish = Finish(stream.spec.stream_id, entry.finish_reason)
            return [*out, *self._remove(stream), finish]
        if stream.tokens_left <= 0:
            error = "the target sent the last token without a finish reason"
            return [*out, *self._abort(stream, error)]
        if isinstance(stream.phase, Opening):
            # The notice that the stream is ready was lost or overtaken; a commit implies it.
            stream.phase, stream.is_parked = Running(length + _LEASE_TOKENS), False
        added.append(stream)
        return out

    def _allow(self, streams: Iterable[Stream]) -> list[Instruction]:
        """Renew those leases of these streams that have few tokens left."""
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
        """Put the waits of a new plan in force; streams that it does not name no longer wait."""
        # Some streams may have left while the plan was made.
        waits = {s: wait for s, wait in waits.items() if StreamId(s) in self.streams}
        others = changed(self.waits, waits)
        self.waits = waits
        return self._send_waits(self.streams[StreamId(stream_id)] for stream_id in others)

    def _send_waits(self, streams: Iterable[Stream]) -> list[Instruction]:
        """Send the target the waits of these streams, except those that it has not read yet."""
        entries = []
        for stream in streams:
            if not isinstance(stream.phase, Running):
                continue
            spec, wait = stream.spec, self.waits.get(stream.spec.stream_id, NO_WAIT)
            hold_us = round(wait.most_s * 1e6)
            known = spec.stream_id, spec.generation
            entries.append(HoldEntry(*known, wait.group, wait.num_guesses, hold_us))
        return [ToTarget(HoldNotice(tuple(entries)))] if entries else []

    # -- failures and time ---------------------------------------------------------------------

    def _reopen(self, stream: Stream, error: str) -> list[Instruction]:
        """Open a stream anew from its journal, or abort it where that has not helped."""
        if stream.num_reopened >= _MOST_REOPENED:
            return self._abort(stream, error)
        stream_id, generation = stream.spec.stream_id, stream.spec.generation
        stream.spec = stream.current_spec(generation + _GENERATION_STEP)
        stream.phase, stream.is_parked = Opening(), False
        stream.num_reopened += 1
        self.num_reopened += 1
        # The target may have parked it and raised its generation; the close covers that as well.
        return [ToTarget(CloseStreamNotice(stream_id, generation)), *self._open(stream)]

    def _abort(self, stream: Stream, error: str) -> list[Instruction]:
        stream_id = stream.spec.stream_id
        notice = CloseStreamNotice(stream_id, stream.spec.generation)
        return [ToTarget(notice), *self._remove(stream), Abort(stream_id, error)]

    def tick(self, now: float) -> list[Instruction]:
        """Return what is due at `now` without an event."""
        out = tell_followers(self, now)
        waiting = (
            (stream_id, (s.spec.generation, len(s.token_ids), s.phase))
            for stream_id, s in self.streams.items()
        )
        if not self._silences.is_due(now):
            return out
        for stream_id in self._silences.overdue(waiting, self._patience_s, now):
            error = "the target sent no tokens of this stream, even after it was opened again"
            out += self._reopen(self.streams[stream_id], error)
        out += leave_full(self)
        for stream in self.streams.values():
            out += find_follower(self, stream)
        return out + rebalance(self)

    def _patience_s(self, stream_id: StreamId) -> float:
        """Returns the seconds without progress after which a stream counts as stuck."""
        used = sum(len(stream.token_ids) for stream in self.streams.values())
        wanted_s = _SILENT_S + _SILENT_S_PER_TOKEN * used
        return float(wanted_s * 2 ** self.streams[stream_id].num_reopened)

    # -- figures -------------------------------------------------------------------------------

    @property
    def cells(self) -> int:
        """The cells that admission counts for all streams, including parked ones."""
        return sum(cells_soon(len(s.token_ids), s.tokens_left) for s in self.streams.values())
