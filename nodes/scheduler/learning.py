"""What one scheduler learns from passes, commits and trials."""

from __future__ import annotations

from collections.abc import Mapping

from nodes.messages import CommitEntry, CommitReply
from nodes.scheduler.cycle import CycleState
from nodes.scheduler.drafting import trials
from nodes.scheduler.drafting.drafts import DraftPool
from nodes.scheduler.observe import cells_of_unread, pass_size, unread, used_cells
from nodes.scheduler.rounds import Round
from nodes.scheduler.stream import Stream, Verifying
from nodes.scheduler.target import TargetCosts
from nodes.scheduler.watching.watch import Watch
from nodes.stream import PROMPT_PIECE_TOKENS, StreamId


class Learning:
    """Shares streams, draft nodes and plan with the scheduler."""

    def __init__(
        self,
        streams: Mapping[StreamId, Stream],
        drafts: DraftPool,
        cycle: CycleState,
        target: TargetCosts | None,
        rounds: Mapping[int, Round],
        watch: Watch,
    ) -> None:
        self._streams = streams
        self._drafts = drafts
        self._cycle = cycle
        self._target = target
        self._rounds = rounds
        self._watch = watch
        # Whether the last pass had a whole piece of a prompt, of which there may be more.
        self._is_in_pieces = False

    def predicted_pass_s(self, num_tokens: int, own: float) -> float:
        """Seconds of a pass that is about to be; own: mean cells of the sequences of its tokens.

        0.0 if not known.
        """
        if self._target is None:
            return 0.0
        cells = used_cells(self._streams.values())
        return self._target.pass_s(num_tokens, cells, own) + self.prompts_s(num_tokens)

    def prompts_s(self, num_tokens: int) -> float:
        """Seconds that prompts which wait to be read add now to a pass of so many other tokens."""
        if self._target is None:
            return 0.0
        lengths = unread(self._streams.values())
        return self._target.prompts_s(lengths, num_tokens, is_in_pieces=self._is_in_pieces)

    def pass_done(self, reply: CommitReply, now: float) -> float:
        """Learn what a pass took; returns what was predicted, 0.0 where that is not known."""
        self._is_in_pieces = reply.num_read_tokens >= PROMPT_PIECE_TOKENS
        # How long a prompt takes that has the target for itself is another table's.
        if self._target is None or reply.num_read_tokens > PROMPT_PIECE_TOKENS:
            return 0.0
        streams = self._streams.values()
        cells = used_cells(streams)
        is_beside_trial = False
        for entry in reply.entries:
            stream = self._streams.get(StreamId(entry.stream_id))
            is_beside_trial |= stream is not None and trials.is_under_way(stream)
        num_tokens, own = pass_size(reply.entries)
        # As plans count: prompts are a share of the time, whether or not this pass read some.
        planned_s = self._target.expected_s(num_tokens, cells, own, now)
        if reply.num_read_tokens:
            attended = num_tokens * own + reply.num_read_tokens * cells_of_unread(streams)
            num_tokens += reply.num_read_tokens
            own = attended / num_tokens
        predicted_s = self._target.pass_s(num_tokens, cells, own)
        # Where a stream ends, the target also saves what it had in the cache.
        if any(entry.finish_reason for entry in reply.entries):
            return predicted_s
        self._cycle.pass_done(reply.pass_s, planned_s)
        # A draft node on the same machine slows the passes that it guesses beside, and the cells of
        # what is still to be read are counted, but not there.
        is_pure = not (reply.num_read_tokens or cells_of_unread(streams) or is_beside_trial)
        if is_pure:
            self._target.pass_seen(num_tokens, reply.pass_s, cells, own)
        return predicted_s

    def commit(self, stream: Stream, entry: CommitEntry) -> None:
        """What a pass did for a stream tells of the stream and of its draft node."""
        num_asked = self.num_asked(stream, entry)
        stream.count(entry, num_asked)
        placement = stream.draft
        # A node that took the stream over since has made none of these guesses.
        if placement is not None and placement.gamma and not stream.is_by_lookup:
            acceptance = self._drafts[placement.node].acceptance
            acceptance.observe(entry.num_draft_tokens, entry.num_accepted_tokens, num_asked)

    def num_asked(self, stream: Stream, entry: CommitEntry) -> int:
        """Guesses that a commit tells of."""
        phase = stream.phase
        current = self._rounds.get(phase.round_id) if isinstance(phase, Verifying) else None
        return current.num_asked(stream.spec.stream_id, entry) if current is not None else 0

    def trial(self, stream: Stream, now: float) -> None:
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
