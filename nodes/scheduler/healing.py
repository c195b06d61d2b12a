"""Streams that go on from the journal where a message was lost, on the target that they are on.

A commit that was lost shows by the next one, or by silence: of a stream that was opened, leased or
verified while its target answers heartbeats. Silence of draft nodes ends, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nodes.messages import MAX_GAMMA, CloseStreamNotice
from nodes.scheduler.cycle import CycleState
from nodes.scheduler.dispatch import Dispatcher
from nodes.scheduler.drafting.drafts import DraftPool
from nodes.scheduler.instructions import Instruction, ToTarget, open_request
from nodes.scheduler.silences import Silences
from nodes.scheduler.stream import Leased, Opening, Stream, Verifying
from nodes.scheduler.target import TargetCosts
from nodes.scheduler.watching.watch import Watch
from nodes.stream import StreamId

# Of a stream, without a token in between.
MOST_REOPENED = 3
# A stream is reopened under a generation above that of a parking of which nothing was heard yet.
_GENERATIONS = 2
# A wait is too long beyond so many times what is predicted to be before it, and this; passes that
# are not predicted, of a machine that swaps say, take seconds.
_FACTOR = 5.0
_LEAST_S, _LEAST_OF_DRAFT_S = 10.0, 30.0
# Where nothing is known of costs.
_UNKNOWN_S = 120.0
# What a token of a text takes on the slowest way to a target; what a grammar takes to compile.
_TOKEN_ON_LINK_S = 1e-3
_GRAMMAR_S = 5.0


@dataclass(frozen=True, slots=True)
class _Work:
    """What the target has to do at most, in seconds: for one step of all its streams, to read all
    texts, until the others have ended; and what texts wait for before they are read."""

    step_s: float
    reading_s: float
    rest_s: float
    before_s: float


class Healing:
    """Of one target, whose streams, draft nodes and plan it shares with the scheduler.

    num_cells: of the target; 0 where that is not known.
    """

    def __init__(
        self,
        streams: Mapping[StreamId, Stream],
        drafts: DraftPool,
        cycle: CycleState,
        target: TargetCosts | None,
        dispatcher: Dispatcher,
        watch: Watch,
        num_cells: int,
    ) -> None:
        self._streams = streams
        self._drafts = drafts
        self._cycle = cycle
        self._target = target
        self._dispatcher = dispatcher
        self._watch = watch
        self._num_cells = num_cells
        self._of_target = Silences[StreamId]()
        self._of_drafts = Silences[StreamId]()
        self._work: _Work | None = None

    def reopen(self, stream: Stream, now: float) -> list[Instruction]:
        """Open a stream anew on its target, from the journal; what was said under its old
        generation is stale."""
        stream_id, generation = stream.spec.stream_id, stream.spec.generation
        left = self._dispatcher.leave(stream, now)
        stream.spec = stream.current_spec(generation + _GENERATIONS)
        stream.phase, stream.is_parked = Opening(), False
        stream.num_reopened += 1
        stream.drop_trial()
        self._watch.counts.num_reopened += 1
        self._cycle.members_changed()
        # The target may have parked it: it closes a later generation than it was told of, too.
        closed = ToTarget(CloseStreamNotice(stream_id, generation))
        return [*left, closed, ToTarget(open_request(stream.spec))]

    def overdue(self, now: float) -> tuple[list[Stream], list[Stream]]:
        """Streams of which the target, and of which a draft node, has said nothing for too long."""
        self._work = None
        at_target = self._of_target.overdue(self._at_target(), self._patience_s, now)
        at_drafts = self._of_drafts.overdue(self._at_drafts(), self._patience_with_draft_s, now)
        silent = [self._streams[stream_id] for stream_id in at_target]
        # Who is not read yet may wait for the cells of those that are stuck.
        stuck = [stream for stream in silent if not isinstance(stream.phase, Opening)]
        return stuck or silent, [self._streams[stream_id] for stream_id in at_drafts]

    def _at_target(self) -> Iterator[tuple[StreamId, object]]:
        for stream_id, stream in self._streams.items():
            if isinstance(stream.phase, Opening | Leased | Verifying):
                state = stream.spec.generation, len(stream.token_ids), stream.phase
                yield stream_id, state

    def _at_drafts(self) -> Iterator[tuple[StreamId, object]]:
        for stream_id, stream in self._streams.items():
            held = stream.draft
            if held is None or stream.is_by_lookup or stream.is_away:
                continue
            if not stream.can_guess or held.catching_up:
                flags = held.is_ready, held.is_late, held.catching_up
                yield stream_id, (held.node, held.generation, held.known, *flags)

    def _patience_s(self, stream_id: StreamId) -> float:
        """Seconds of silence about a stream that its target may need at most."""
        stream = self._streams[stream_id]
        if self._target is None:
            wanted_s = _UNKNOWN_S
        else:
            if self._work is None:
                self._work = self._all_work(self._target)
            work = self._work
            wanted_s = _LEAST_S + _FACTOR * (work.step_s + self._dispatcher.leases.target_rtt_s)
            if isinstance(stream.phase, Opening):
                wanted_s += _FACTOR * (work.reading_s + work.rest_s) + work.before_s
        # Should it be as slow as that after all.
        return float(wanted_s * 2**stream.num_reopened)

    def _all_work(self, target: TargetCosts) -> _Work:
        streams = self._streams.values()
        opening = [stream for stream in streams if isinstance(stream.phase, Opening)]
        num_unread = sum(len(stream.token_ids) for stream in opening)
        num_decoding = len(streams) - len(opening)
        used = sum(len(stream.token_ids) for stream in streams)
        own = used / max(1, len(streams))
        each_s = target.longest_s(len(streams), used, own)
        most_left = max((stream.tokens_left for stream in streams), default=0)
        # Where all fit to their ends, none waits for another's cells.
        wanted = used + sum(stream.tokens_left + MAX_GAMMA for stream in streams)
        num_grammars = sum(bool(s.spec.sampling.rules.grammar.kind) for s in opening)
        return _Work(
            step_s=target.longest_s(len(streams) * (MAX_GAMMA + 1), used, own),
            reading_s=target.reading_s(num_unread, max(1, num_decoding)),
            rest_s=0.0 if wanted <= self._num_cells else most_left * each_s,
            before_s=num_unread * _TOKEN_ON_LINK_S + num_grammars * _GRAMMAR_S,
        )

    def _patience_with_draft_s(self, stream_id: StreamId) -> float:
        stream = self._streams[stream_id]
        assert stream.draft is not None
        node = self._drafts[stream.draft.node]
        return _LEAST_OF_DRAFT_S + _FACTOR * node.reading_s(len(stream.token_ids))
