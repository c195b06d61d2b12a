"""The state of a target: it decides which tokens go into a pass and what the pass commits.

It is pure except for the engine that it calls: it has no clock, no sockets and no asyncio.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from airdraft.nodes.engine.grammar import Grammars
from airdraft.nodes.engine.masks import AT_ONCE, MaskService
from airdraft.nodes.engine.protocol import (
    Logits,
    Model,
    SequencesLostError,
    Span,
    StreamError,
    Tokenizer,
)
from airdraft.nodes.engine.selftest import probe_digest
from airdraft.nodes.messages import (
    ChainPart,
    CommitEntry,
    HoldEntry,
    ProbeReply,
    StreamFailedNotice,
    StreamReadyNotice,
)
from airdraft.nodes.target.choosing import Choosing, Flight, Groups, Pipelined
from airdraft.nodes.target.guessing import Guessing, wait_s
from airdraft.nodes.target.prompt_reader import PromptReader, is_decoded, num_read_tokens
from airdraft.nodes.target.residents import PrefixDisk, Residents
from airdraft.nodes.target.stream import NOTHING, Beside, Chosen, Committed, Event, TargetStream
from airdraft.nodes.target.turns import Turns
from airdraft.nodes.worker.mask_waits import MaskWaits
from airdraft.nodes.worker.stream import (
    StopMatcher,
    StreamId,
    StreamSpec,
    failed_by,
    refusal,
    sampler_of,
)
from airdraft.policies.latency import NodeCosts


class TargetState:
    """Streams on one target engine. Each `step` runs at most one forward pass.

    costs: costs of passes, by which guesses are chosen. turns: guesses with a draft model of this
    process, or None. prefix_cache_bytes: host memory for saved prefixes of finished and parked
    streams. disk: where they are after a restart. grammars: None to compile the model's grammars in
    this process, without isolation. masks: computes the masks of grammars.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        prefix_cache_bytes: int = 0,
        grammars: Grammars | None = None,
        *,
        costs: NodeCosts,
        masks: MaskService = AT_ONCE,
        turns: Turns | None = None,
        disk: PrefixDisk | None = None,
    ) -> None:
        self._model = model
        self._masks = MaskWaits(can_take_back=model.info.can_cut, service=masks)
        # When the next pass begins, as the last schedule_pass() call said.
        self._now = 0.0
        # The tokens that the last pass committed, by stream.
        self._in_pass: dict[StreamId, int] = {}
        self._reader = PromptReader(costs.decode)
        self._tokenizer = tokenizer
        self.grammars = grammars or Grammars(
            tokenizer.piece, model.info.num_vocab, model.info.eog_token_ids
        )
        self._streams: dict[StreamId, TargetStream] = {}
        self._residents = Residents(model, prefix_cache_bytes, disk)
        self.fetched, self.forget_others = self._residents.fetched, self._residents.forget_others
        self._guessing = Guessing(model, self._residents, costs.decode, turns)
        self._choosing = Choosing(model.info, self._streams, self._residents, self._guessing)
        self._groups = Groups(model if isinstance(model, Pipelined) else None)
        # The events of passes that had to be finished between two steps.
        self._held: list[Event] = []

    @property
    def num_streams(self) -> int:
        return len(self._streams)

    def open(self, spec: StreamSpec) -> list[Event]:
        """Add a stream, or return the reason why it fails. An older generation is replaced."""
        self._finish_all()
        known = self._streams.get(spec.stream_id)
        if known is not None:
            if known.generation >= spec.generation:
                return []
            self._forget(known)
        model = self._model.info
        if reason := refusal(spec, model, len(self._streams)):
            return [StreamFailedNotice(spec.stream_id, spec.generation, reason)]
        try:
            sampler = sampler_of(spec, model.num_vocab, self.grammars, self._masks.service)
        except StreamError as error:
            return [failed_by(spec.stream_id, spec.generation, error)]
        if spec.num_logprobs >= 0 or spec.scores_prompt:
            self._choosing.limit_scores(self._tokenizer)
        stream = TargetStream(
            spec,
            spec.generation,
            list(spec.token_ids),
            StopMatcher(spec.stops),
            sampler,
            lease=len(spec.token_ids) + min(spec.num_leased, spec.max_tokens - spec.num_committed),
        )
        # The matcher has to know the output that an earlier placement has shown.
        for token_id in spec.token_ids[spec.num_prompt_tokens :]:
            stream.stops.push(self._tokenizer.piece(token_id))
        sampler.ask()
        self._streams[spec.stream_id] = stream
        self._residents.add(stream)
        self._guessing.open(spec)
        resumed = self._residents.resume()
        parked = [stream.park()] if stream.seq_id is None else []
        return [*parked, *(event for entered in resumed for event in self._announce(entered))]

    def attach(self, turns: Turns) -> None:
        """Guess with a draft model of this process from now on."""
        turns.compute_masks_by(self._masks.service)
        self._guessing.attach(turns, self._streams.values())

    def close(self, stream_id: StreamId, generation: int) -> None:
        self._finish_all()
        stream = self._streams.get(stream_id)
        # The coordinator may send the generation before a parking of which it has no notice yet.
        if stream is not None and stream.spec.generation <= generation <= stream.generation:
            self._forget(stream)

    def probe(self, seed: int) -> list[Event]:
        """Compute the probe that a coordinator requests before it opens any streams.

        Where streams are open, the request is a duplicate and is ignored.
        """
        return [] if self._streams else [ProbeReply(seed, probe_digest(self._model, seed))]

    def forget_all(self) -> None:
        """Drop every stream and saved prefix: a new coordinator knows neither them nor owners."""
        self._finish_all()
        self._held.clear()
        for stream in list(self._streams.values()):
            self._forget(stream, num_valid=0)
        self._residents.forget_saved()
        self._guessing.clear()

    def _forget(self, stream: TargetStream, *, num_valid: int | None = None) -> None:
        del self._streams[stream.spec.stream_id]
        self._guessing.ended(stream.spec.stream_id)
        self._residents.leave(stream, num_valid=num_valid)

    # -- leases, holds and guesses -------------------------------------------------------------

    def lease(self, stream_id: StreamId, generation: int, prefix_len: int, num_tokens: int) -> None:
        """Allow a stream to decode until it has prefix_len + num_tokens tokens."""
        stream = self._current(stream_id, generation)
        if stream is not None and prefix_len <= len(stream.token_ids):
            # A lease is a position and not an increment, so a repeated one adds nothing.
            stream.lease = max(stream.lease, prefix_len + num_tokens)

    def hold(self, hold: HoldEntry) -> None:
        """Have a stream wait for guesses from now on; a hold without a group ends that."""
        stream = self._current(StreamId(hold.stream_id), hold.generation)
        if stream is not None:
            stream.hold = hold if hold.group else None

    def schedule_pass(self, now: float) -> float:
        """Set `now` as the time of the next pass.

        Returns 0.0 if any stream can run now; otherwise the seconds until the first hold ends.
        """
        self._now = now
        if self._residents.next_parked() is not None or self._groups or self._held:
            return 0.0
        decoding = []
        for stream in self._residents:
            if self._residents.waits(stream):
                continue
            if not stream.announced or self._residents.missing(stream):
                return 0.0
            if stream.may_decode:
                decoding.append(stream)
        return wait_s(decoding, now)

    def guess(self, part: ChainPart, token_ids: Sequence[int]) -> None:
        """Add guesses of a draft node."""
        stream = self._streams.get(StreamId(part.stream_id))
        if stream is None:
            return
        # The draft's vocabulary may be padded, so it may guess ids that this model lacks. Such a
        # guess is wrong, but not an error.
        num_vocab = self._model.info.num_vocab
        known = list(itertools.takewhile(lambda token_id: token_id < num_vocab, token_ids))
        stream.buffer.take(part, known, stream.token_ids)

    def _current(self, stream_id: StreamId, generation: int) -> TargetStream | None:
        stream = self._streams.get(stream_id)
        return stream if stream is not None and stream.generation == generation else None

    # -- passes --------------------------------------------------------------------------------

    def has_work(self) -> bool:
        self._look_for_masks()
        return (
            any(map(self._residents.has_work, self._residents))
            or self._residents.next_parked() is not None
            or bool(self._groups or self._held)
        )

    def step(self) -> list[Event]:
        """Run one pass over every stream that may decode and pieces of waiting prompts, or a step
        of the draft model in this process, if one pays before that pass."""
        self._look_for_masks()
        decoding, is_full = self._choosing.decoding(self._now)
        if (group := self._next_group(decoding, is_full)) or self._groups:
            return self._step_of_groups(group)
        events, self._held = self._held, []
        if events or self._guessing.take_turn(decoding):
            return events
        resumed = self._residents.resume()
        events = [*self._residents.make_room(), *self._end_without_memory()]
        decoding, is_full = self._choosing.decoding(self._now)
        spans, guesses, budget, score_budget = self._choosing.spans_of(decoding)
        pieces = self._reader.choose_pieces(
            self._residents,
            budget,
            score_budget,
            most_scores=self._choosing.most_scores,
            is_beside_others=bool(spans),
            has_others=any(stream.announced for stream in self._streams.values()),
        )
        reading = [(stream, span) for stream, span in pieces if span is not None]
        num_read = sum(num_read_tokens(stream, span) for stream, span in reading)
        spans += [span for _, span in reading]
        self._guessing.begin(spans, num_read)
        self._in_pass = {}
        if spans:
            turns = [*zip(decoding, guesses, strict=True), *((s, NOTHING) for s, _ in reading)]
            try:
                logits = self._model.forward(spans)
            except SequencesLostError:
                # What this step took says nothing of passes.
                self._guessing.begin((), 0)
                return [*events, *self._residents.park_all()]
            ran = self._committed(spans, turns, len(decoding), logits)
            events += ran
            turn_s = self._guessing.turn_s
            if (num_read or turn_s) and any(isinstance(event, Committed) for event in ran):
                events.append(Beside(num_read, turn_s))
        unannounced = [s for s in self._residents if not (s.announced or s.may_decode)]
        for stream in [*(stream for stream, _ in pieces), *resumed, *unannounced]:
            events += self._announce(stream)
        if is_full:
            # The streams of this pass go to the back, so that a pass that cannot hold all streams
            # does not starve the rest.
            for stream in decoding:
                if self._is_alive(stream):
                    self._streams[stream.spec.stream_id] = self._streams.pop(stream.spec.stream_id)
        return events

    # -- two groups of streams in turns ------------------------------------------------------------

    def _next_group(self, decoding: Sequence[TargetStream], is_full: bool) -> list[TargetStream]:
        """Returns the streams whose pass begins while another one is under way, if that pays."""
        if is_full or self._held or not self._choosing.is_calm(decoding):
            return []
        return self._groups.next_of(decoding, self._guessing.pass_s)

    def _step_of_groups(self, group: Sequence[TargetStream]) -> list[Event]:
        """Let the pass of a group begin, and finish the oldest one if it is not the only one."""
        # What it takes says nothing of a pass alone.
        self._guessing.begin((), 0)
        self._in_pass = {}
        try:
            if group:
                spans, guesses, *_ = self._choosing.spans_of(group, self._groups.most_tokens)
                self._groups.begin(Flight(spans, list(zip(group, guesses, strict=True))))
                if not self._groups.is_full:
                    return []
            flight, logits = self._groups.finish()
        except SequencesLostError:
            self._groups.clear()
            return list(self._residents.park_all())
        return self._committed(flight.spans, flight.turns, len(flight.turns), logits)

    def _finish_all(self) -> None:
        """Finish the passes that are under way, because sequences are about to change."""
        while self._groups:
            self._held += self._step_of_groups(())

    def _end_without_memory(self) -> list[Event]:
        """End the last stream in the cache if the memory that this was to grow into is taken."""
        if self._residents.shortage() <= 0:
            return []
        stream = next(iter(self._residents))
        self._forget(stream)
        reason = f"{self._model.info.model} lacks memory for {len(stream.token_ids)} tokens now"
        return [StreamFailedNotice(stream.spec.stream_id, stream.generation, reason)]

    def _look_for_masks(self) -> None:
        for stream in self._streams.values():
            stream.waits_for_mask = self._masks.sits_out(stream.sampler)

    def passed(self, seconds: float, now: float = 0.0) -> None:
        """Record that the last pass ended at `now`, and correct the cost table by its seconds."""
        if not self._guessing.passed(seconds, self._in_pass):
            return
        self._masks.pass_s = seconds
        for stream_id in self._in_pass:
            if (stream := self._streams.get(stream_id)) is not None:
                stream.last_commit_at = now

    def _committed(
        self,
        spans: Sequence[Span],
        turns: Sequence[tuple[TargetStream, Chosen]],
        num_decoding: int,
        logits: Logits,
    ) -> list[Event]:
        """Commit what a pass has computed. The first num_decoding of its streams decode."""
        self._masks.settle(stream.sampler for stream, _ in turns)
        # The second item is the stream's length before the pass.
        done: list[tuple[TargetStream, int, Committed | StreamFailedNotice | None]] = []
        scored, ready = list[Event](), list[Event]()
        row = 0
        for index, ((stream, chosen), span) in enumerate(zip(turns, spans, strict=True)):
            rows = logits[row : row + span.num_outputs]
            row += span.num_outputs
            if index < num_decoding:
                event = self._commit(stream, rows, chosen)
                done.append((stream, span.start + 1, event))
                if not stream.announced:
                    # Its whole text was in the cache already.
                    ready.append(self._ready(stream, event))
            elif is_decoded(stream, span):
                known = len(stream.token_ids)
                event = self._commit(stream, rows, chosen)
                done.append((stream, known, event))
                ready.append(self._ready(stream, event))
            elif span.num_outputs:
                scored += stream.score(rows, self._tokenizer)
        # From the end of the log of cells on, so that more of them become free again.
        for stream, known, event in reversed(done):
            if isinstance(event, StreamFailedNotice):
                self._forget(stream, num_valid=known)
            elif event is not None and event.entry.finish_reason:
                right = known + event.entry.num_accepted_tokens
                self._forget(stream, num_valid=min(right, len(stream.token_ids)))
            else:
                assert stream.seq_id is not None
                self._model.truncate(stream.seq_id, len(stream.token_ids) - 1)
        return [*scored, *ready, *(event for _, _, event in done if event is not None)]

    def _is_alive(self, stream: TargetStream) -> bool:
        return self._streams.get(stream.spec.stream_id) is stream

    def _announce(self, stream: TargetStream) -> list[Event]:
        """Returns the event that a stream is ready, or that it has ended without a token."""
        spec = stream.spec
        if not self._is_alive(stream):
            return []
        if stream.is_over:
            self._forget(stream)
            length = len(stream.token_ids)
            ended = spec.stream_id, stream.generation, length
            return [Committed(CommitEntry(*ended, 0, 0, 0, "length", b""), ())]
        if stream.announced or self._residents.missing(stream):
            return []
        return [self._ready(stream)]

    def _ready(self, stream: TargetStream, event: Event | None = None) -> StreamReadyNotice:
        """Mark a stream as announced. event: its result in the pass that read its last tokens."""
        stream.announced = True
        has_begun = isinstance(event, Committed)
        if not has_begun:
            # The coordinator sends a new lease when it receives the notice.
            stream.lease = 0
        stream_id = stream.spec.stream_id
        return StreamReadyNotice(stream_id, stream.generation, stream.num_read, has_begun)

    def _commit(
        self, stream: TargetStream, logits: Logits, chosen: Chosen
    ) -> Committed | StreamFailedNotice | None:
        eog = self._model.info.eog_token_ids
        event = stream.commit(logits, chosen, eog, self._tokenizer)
        if isinstance(event, Committed):
            stream.sampler.ask()
            self._guessing.committed(stream.spec.stream_id, event.token_ids)
            self._in_pass[stream.spec.stream_id] = len(event.token_ids)
        return event
