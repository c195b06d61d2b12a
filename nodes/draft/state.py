"""The draft's side of streams: catch up with what was committed, then guess ahead.

Pure but for the engine it is given: no clock, no sockets, no asyncio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nodes.draft.passes import Pass
from nodes.draft.reading import Reading
from nodes.draft.stream import Drafted, DraftStream, Event, Guess, Job, cells_of
from nodes.engine.grammar import Grammars
from nodes.engine.protocol import Logits, Model, Span, StreamError
from nodes.engine.sampling import probability
from nodes.stream import StreamId, StreamSpec
from nodes.target.events import Failed, Ready, failed_by
from nodes.target.stream import cells_needed
from policies.confidence import DraftCalibration

# A piece beside each step of a round makes it longer for all of its streams; between rounds the
# next one may come at any moment, and waits for the pass that is under way.
_PREFILL_TOKENS_BESIDE_DRAFTS = 16
_PREFILL_TOKENS_BETWEEN_DRAFTS = 32


@dataclass(slots=True)
class _Round:
    round_id: int
    streams: list[DraftStream]
    asked_at: float
    goes_ahead: bool = False
    num_ready: int = 0
    num_wasted: int = 0


class ModelDrafter:
    """Guesses by a small model, all streams of all rounds in one pass a step.

    One thread owns it.
    """

    def __init__(
        self,
        model: Model,
        calibration: DraftCalibration | None = None,
        grammars: Grammars | None = None,
    ) -> None:
        """grammars: None where it has none; such streams go plainly, or to other nodes."""
        self._model = model
        self.grammars = grammars
        self._calibration = calibration or DraftCalibration()
        self._streams: dict[StreamId, DraftStream] = {}
        self._rounds: list[_Round] = []
        self._free_seqs = list(range(model.info.max_sequences))[::-1]
        self._reading = Reading(model)
        self.num_stale = 0

    @property
    def num_streams(self) -> int:
        return len(self._streams)

    def open(self, spec: StreamSpec) -> list[Event]:
        known = self._streams.get(spec.stream_id)
        if known is not None:
            if known.spec.generation >= spec.generation:
                self.num_stale += 1
                return []
            self._forget(known)
        info, needed = self._model.info, cells_of(spec, len(spec.token_ids))
        if (most := cells_needed(spec)) > info.num_cells:
            reason = f"{info.model} has {info.num_cells} cells, this text may need {most}"
            return [Failed(spec.stream_id, spec.generation, reason, "bad_request")]
        held = sum(stream.cells_soon for stream in self._streams.values())
        if not self._free_seqs or held + needed > info.num_cells:
            reason = f"{info.model} is full: {self.num_streams} streams, {needed} cells wanted"
            return [Failed(spec.stream_id, spec.generation, reason)]
        if max(spec.token_ids, default=info.num_vocab) >= info.num_vocab:
            reason = f"token ids outside the vocabulary of {info.model}"
            return [Failed(spec.stream_id, spec.generation, reason)]
        try:
            sampler = spec.sampler(info.num_vocab, self.grammars)
        except StreamError as error:
            return [failed_by(spec, spec.generation, error)]
        stream = DraftStream(spec, self._free_seqs.pop(), list(spec.token_ids), sampler)
        self._streams[spec.stream_id] = stream
        return self._announce(stream)

    def close(self, stream_id: StreamId, generation: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None and stream.spec.generation == generation:
            self._forget(stream)

    def forget_all(self) -> None:
        """Drop every stream: a coordinator that welcomes this node anew knows none of them."""
        for stream in list(self._streams.values()):
            self._forget(stream)
        self._rounds.clear()

    def _forget(self, stream: DraftStream) -> None:
        del self._streams[stream.spec.stream_id]
        self._model.truncate(stream.seq_id, 0)
        self._free_seqs.append(stream.seq_id)
        for waiting in self._rounds:
            waiting.streams = [s for s in waiting.streams if s is not stream]

    def draft(
        self, round_id: int, jobs: Sequence[Job], *, ahead: bool = False, asked_at: float = 0.0
    ) -> list[Event]:
        """Begin a round. A stream whose prefix does not fit what this node knows is left out.

        It ends when all its streams have their guesses; with gamma 0, once they have caught up.
        ahead: while nothing else is to be done, go on as if all guesses were accepted.
        asked_at: when it was asked for, by the caller's clock.
        """
        begun = _Round(round_id, [], asked_at, goes_ahead=ahead)
        events: list[Event] = []
        for job in jobs:
            stream = self._streams.get(job.stream_id)
            if stream is None or stream.spec.generation != job.generation:
                self.num_stale += 1
                continue
            if job.prefix_len != len(stream.token_ids):
                self._forget(stream)
                reason = f"out of step: at {len(stream.token_ids)} tokens, not {job.prefix_len}"
                events.append(Failed(job.stream_id, job.generation, reason))
                continue
            if max(job.new_token_ids, default=0) >= self._model.info.num_vocab:
                self._forget(stream)
                reason = f"a token outside the vocabulary of {self._model.info.model}"
                events.append(Failed(job.stream_id, job.generation, reason))
                continue
            # A stream is in one round at a time; a newer round replaces an abandoned one.
            for waiting in self._rounds:
                waiting.streams = [s for s in waiting.streams if s is not stream]
            num_ahead = stream.ahead.num_drafted
            try:
                self._catch_up(stream, job)
            except StreamError as error:
                events += self._fail(stream, error)
                continue
            begun.streams.append(stream)
            begun.num_ready += len(stream.guesses)
            begun.num_wasted += max(0, num_ahead - len(stream.guesses) - bool(stream.guesses))
        self._rounds.append(begun)
        return events + self._finished_rounds()

    def _fail(self, stream: DraftStream, error: StreamError) -> list[Event]:
        """Its target goes on without guesses, or with those of another node."""
        self._forget(stream)
        return [failed_by(stream.spec, stream.spec.generation, error)]

    def _catch_up(self, stream: DraftStream, job: Job) -> None:
        stream.sampler.cut(len(stream.token_ids))
        stream.sampler.extend(job.new_token_ids)
        calibration = self._calibration.of(stream.spec.sampling.temperature)
        stream.outlook.learn(calibration, job.new_token_ids)
        stream.outlook.begin(job.stop)
        ready = stream.ahead.after(stream.guesses, job.new_token_ids)
        stream.token_ids += job.new_token_ids
        stream.guesses = []
        stream.gamma = job.gamma
        for token_id, confidence in ready[: job.gamma]:
            if not stream.outlook.takes(token_id, confidence, calibration):
                break
            stream.guesses.append(token_id)
            stream.sampler.push(token_id)
        # What proved right is in the cache already: only the rest is run again. At least the last
        # token is, because its logits are what the next guess comes from.
        wanted = stream.token_ids + stream.guesses
        limit = min(len(stream.cached), len(wanted) - 1)
        # Up to prefix_len - 1 both are committed tokens and equal.
        keep = min(max(0, job.prefix_len - 1), limit)
        while keep < limit and stream.cached[keep] == wanted[keep]:
            keep += 1
        if keep < len(stream.cached):
            self._model.truncate(stream.seq_id, keep)
            del stream.cached[keep:]

    @property
    def has_rounds(self) -> bool:
        """Whether an answer is awaited."""
        return bool(self._rounds)

    def has_work(self) -> bool:
        return bool(self._rounds) or any(
            s.is_behind or s.ahead.goes_on for s in self._streams.values()
        )

    def step(self) -> list[Event]:
        """At most one forward pass."""
        streams = list(self._streams.values())
        behind = [stream for stream in streams if stream.is_behind]
        # First, for what it copies is not run.
        waiting = self._reading.order(streams)
        events: list[Event] = []
        while not self._fits(work := self._next_pass(waiting)):
            if work.is_mixed:
                # What is read beside guesses can wait for a pass of its own.
                waiting = []
            elif not self._drop_ahead():
                events.append(self._give_up_youngest(work))
                waiting = [stream for stream in waiting if self._holds(stream)]
        if work.spans:
            events += self._run(work)
        elif not behind:
            events += self._go_ahead(self._model.info.max_batch_tokens)
        # Those in a round as well, and those that were copied.
        for stream in [*work.streams, *behind]:
            events += self._announce(stream)
        return events + self._finished_rounds()

    def _next_pass(self, waiting: Sequence[DraftStream]) -> Pass:
        """Guesses of all rounds, then what is to be read, as far as it goes."""
        eog = self._model.info.eog_token_ids
        work = Pass(self._model.info.max_batch_tokens)
        in_rounds = [s for r in self._rounds for s in r.streams if s.drafting(eog)]
        for stream in in_rounds:
            work.add(stream, stream.token_ids + stream.guesses, guess=True)
        num_guessing = len(work.spans)
        if num_guessing or any(stream.announced for stream in self._streams.values()):
            is_beside = num_guessing > 0
            limit = _PREFILL_TOKENS_BESIDE_DRAFTS if is_beside else _PREFILL_TOKENS_BETWEEN_DRAFTS
            work.budget = min(work.budget, limit)
        for stream in waiting:
            if not any(stream is other for other in in_rounds):
                work.add(stream, stream.token_ids[:-1], guess=False)
        work.is_mixed = 0 < num_guessing < len(work.spans)
        return work

    # -- cells -----------------------------------------------------------------------------------

    def _holds(self, stream: DraftStream) -> bool:
        return self._streams.get(stream.spec.stream_id) is stream

    def _fits(self, work: Pass) -> bool:
        return sum(len(span.token_ids) for span in work.spans) <= self._model.free_cells()

    def _drop_ahead(self) -> bool:
        """Give up what was drafted ahead; False if nothing was."""
        found = False
        for stream in self._streams.values():
            stream.ahead.stop()
            keep = len(stream.token_ids) + len(stream.guesses)
            if keep < len(stream.cached):
                self._model.truncate(stream.seq_id, keep)
                del stream.cached[keep:]
                found = True
        return found

    def _give_up_youngest(self, work: Pass) -> Failed:
        """Others may hold it, or this node again when there is room."""
        of_use = [
            stream
            for stream in self._streams.values()
            if stream.cached or any(stream is other for other in work.streams)
        ]
        youngest = of_use[-1]
        self._forget(youngest)
        info, spec = self._model.info, youngest.spec
        reason = f"{info.model} is full: {self.num_streams} other streams, no cells left"
        return Failed(spec.stream_id, spec.generation, reason)

    # -- passes ----------------------------------------------------------------------------------

    def _run(self, work: Pass) -> list[Event]:
        logits = self._model.forward(work.spans)
        failed: list[tuple[DraftStream, StreamError]] = []
        row = 0
        for stream, span in zip(work.streams, work.spans, strict=True):
            stream.cached += span.token_ids
            if span.num_outputs:
                try:
                    self._guess(stream, logits[row])
                except StreamError as error:
                    failed.append((stream, error))
                row += 1
        return [event for stream, error in failed for event in self._fail(stream, error)]

    def _guess(self, stream: DraftStream, logits: Logits) -> None:
        sampling = stream.spec.sampling
        position = len(stream.token_ids) + len(stream.guesses)
        token_id = stream.sampler.sample(logits, position)
        calibration = self._calibration.of(sampling.temperature)
        if stream.outlook.takes(token_id, probability(logits, token_id), calibration):
            stream.guesses.append(token_id)
            stream.sampler.push(token_id)

    def _go_ahead(self, budget: int) -> list[Event]:
        """One step of all streams that are drafted ahead: nothing else is to be done."""
        going = [s for s in self._streams.values() if s.ahead.goes_on][:budget]
        if not going:
            return []
        spans = []
        for stream in going:
            start = len(stream.cached)
            wanted = stream.token_ids + stream.guesses + stream.ahead.token_ids
            spans.append(Span(stream.seq_id, start, wanted[start:], 1))
        # What is not asked for takes nobody's place.
        if sum(len(span.token_ids) for span in spans) > self._model.free_cells():
            for stream in going:
                stream.ahead.stop()
            return []
        logits = self._model.forward(spans)
        events: list[Event] = []
        for stream, span, row in zip(going, spans, logits, strict=True):
            stream.cached += span.token_ids
            sampling = stream.spec.sampling
            try:
                token_id = stream.sampler.sample(row, len(stream.cached))
                stream.sampler.push(token_id)
            except StreamError as error:
                events += self._fail(stream, error)
                continue
            confidence = probability(row, token_id)
            chance = self._calibration.of(sampling.temperature).chance(confidence)
            ends = token_id in self._model.info.eog_token_ids and stream.spec.ends_at_eog
            stream.ahead.add(token_id, confidence, chance, is_end=ends)
        return events

    def _announce(self, stream: DraftStream) -> list[Event]:
        is_alive = self._streams.get(stream.spec.stream_id) is stream
        if stream.announced or stream.is_behind or not is_alive:
            return []
        stream.announced = True
        return [Ready(stream.spec.stream_id, stream.spec.generation)]

    def _finished_rounds(self) -> list[Event]:
        eog = self._model.info.eog_token_ids
        events: list[Event] = []
        for waiting in list(self._rounds):
            if any(s.drafting(eog) or s.is_behind for s in waiting.streams):
                continue
            self._rounds.remove(waiting)
            guesses = []
            for stream in waiting.streams:
                guesses.append(
                    Guess(
                        stream.spec.stream_id,
                        stream.spec.generation,
                        len(stream.token_ids),
                        tuple(stream.guesses),
                    )
                )
                if waiting.goes_ahead and stream.guesses and not stream.has_ended(eog):
                    stream.ahead.begin(stream.outlook, stream.gamma)
                stream.gamma = 0
            figures = waiting.num_ready, waiting.num_wasted, waiting.asked_at
            events.append(Drafted(waiting.round_id, tuple(guesses), *figures))
        return events
