"""What the target commits, stream by stream: into the journal, or dropped where it does not follow.

What has been committed is what the journal holds, whatever a node says later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nodes.messages import CloseStreamNotice, CommitEntry
from nodes.scheduler.cycle import CycleState
from nodes.scheduler.dispatch import Dispatcher
from nodes.scheduler.drafting.draft_side import DraftSide
from nodes.scheduler.drafting.lookup import Lookup
from nodes.scheduler.healing import MOST_REOPENED, Healing
from nodes.scheduler.instructions import Abort, Emit, Finish, Instruction, ToTarget
from nodes.scheduler.learning import Learning
from nodes.scheduler.stream import Idle, Leased, Opening, Stream, Verifying
from nodes.scheduler.watching.counts import plain_label
from nodes.scheduler.watching.watch import Watch
from nodes.stream import StreamId


class Commits:
    """The streams' tokens, which it shares with the scheduler as all else. remove: takes a stream
    out that has ended; what draft nodes are told of that.
    """

    def __init__(
        self,
        streams: Mapping[StreamId, Stream],
        cycle: CycleState,
        dispatcher: Dispatcher,
        draft_side: DraftSide,
        learning: Learning,
        healing: Healing,
        lookup: Lookup | None,
        watch: Watch,
        remove: Callable[[Stream, float], list[Instruction]],
    ) -> None:
        self._streams = streams
        self._cycle = cycle
        self._dispatcher = dispatcher
        self._draft_side = draft_side
        self._learning = learning
        self._healing = healing
        self._lookup = lookup
        self._watch = watch
        self._remove = remove
        # Entries that spoke of what is past.
        self.num_stale = 0

    def commit_one(
        self, entry: CommitEntry, token_ids: tuple[int, ...], now: float
    ) -> list[Instruction]:
        """What a pass committed of one stream, and what follows from that."""
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
        if len(entry.scores) != (len(token_ids) if stream.spec.num_logprobs >= 0 else 0):
            return self._abort(stream, "the target did not score what it committed", now)
        out: list[Instruction] = []
        is_in_round = isinstance(stream.phase, Verifying)
        label = plain_label(stream)
        self._watch.counts.committed(entry, len(token_ids), label, is_in_round=is_in_round)
        position = stream.num_output
        was_on_probation = stream.is_on_probation
        stream.token_ids += token_ids
        if token_ids:
            stream.num_reopened = 0
        self._learning.trial(stream, now)
        if was_on_probation and not stream.is_on_probation:
            self._cycle.members_changed()
        if self._lookup is not None:
            self._lookup.commit(stream.spec.stream_id, token_ids)
        self._learning.commit(stream, entry)
        if token_ids or entry.text:
            # A guess that ends the text was right and is no token of it.
            num_accepted = min(entry.num_accepted_tokens, len(token_ids))
            counts = entry.num_draft_tokens, num_accepted
            told = token_ids, entry.text, *counts, entry.scores, bool(entry.finish_reason)
            out.append(Emit(stream.spec.stream_id, position, *told))
        if entry.finish_reason:
            finish = Finish(stream.spec.stream_id, entry.finish_reason)
            return [*out, *self._remove(stream, now), finish]
        if stream.tokens_left <= 0:
            reason = "the target did not say how the text ended"
            return [*out, *self._abort(stream, reason, now)]
        phase = stream.phase
        if isinstance(phase, Verifying):
            current = self._dispatcher.rounds.get(phase.round_id)
            self._dispatcher.leave(stream, now)
            if current is not None and not current.stream_ids:
                if current.keeps_step:
                    self._dispatcher.leases.round_done(now - current.started)
                # Plans that come know of the ways: they must not pay for them twice.
                lap_s = now - current.started - current.late_s
                self._cycle.lap_done(lap_s, current.planned_s, now, ahead=current.ahead)
                self._watch.lap_done(current, now)
            stream.phase = Idle()
        elif isinstance(phase, Leased) and len(stream.token_ids) >= phase.end:
            stream.phase = Idle()
        elif isinstance(phase, Opening):
            # That it is ready was lost on the way: this tells it, too.
            stream.phase, stream.is_parked = Idle(), False
            self._cycle.members_changed()
        return out

    def _check_gap(
        self, stream: Stream | None, entry: CommitEntry, now: float
    ) -> list[Instruction]:
        """A commit beyond the journal's end means that one was lost: it has to come again."""
        if (
            stream is None
            or stream.spec.generation != entry.generation
            or entry.prefix_len < len(stream.token_ids)
        ):
            return []
        return self.reopen(stream, "tokens of the target were lost on the way", now)

    def reopen(self, stream: Stream, error: str, now: float) -> list[Instruction]:
        """Go on from the journal, or end with an error where that has not helped."""
        if stream.num_reopened >= MOST_REOPENED:
            return self._abort(stream, error, now)
        return self._healing.reopen(stream, now)

    def _abort(self, stream: Stream, error: str, now: float) -> list[Instruction]:
        stream_id = stream.spec.stream_id
        notice = CloseStreamNotice(stream_id, stream.spec.generation)
        return [ToTarget(notice), *self._remove(stream, now), Abort(stream_id, error)]
