"""The state of a draft node: it guesses ahead, and goes back after a wrong guess.

It is pure except for the engine that it calls: it has no clock, no sockets and no asyncio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from airdraft.nodes.draft.branches import Branches
from airdraft.nodes.draft.chances import Chances
from airdraft.nodes.draft.followed import Chain, Followed, Guesses, cells_of
from airdraft.nodes.draft.output_limit import OutputLimit
from airdraft.nodes.draft.text_order import Ended, TextOrder
from airdraft.nodes.engine.grammar import Grammars
from airdraft.nodes.engine.masks import MaskMissingError, MaskService
from airdraft.nodes.engine.protocol import Sequences, Span, StreamError
from airdraft.nodes.messages import StreamFailedNotice, StreamReadyNotice
from airdraft.nodes.worker.engine_thread import Worker
from airdraft.nodes.worker.mask_waits import MaskWaits
from airdraft.nodes.worker.stream import (
    PROMPT_PIECE_TOKENS,
    StreamId,
    StreamSpec,
    failed_by,
    sampler_of,
)
from airdraft.policies.acceptance import DraftCalibration
from airdraft.policies.guesses import Ahead, extended
from airdraft.policies.latency import CostTable

# After a wrong guess a recurrent model computes again what follows its kept state. If that is more
# than so many tokens, it first waits until all guesses are committed, and keeps its state anew.
_MOST_AGAIN: Final = 64


@dataclass(frozen=True, slots=True)
class Guessed:
    """The guesses of a step, for all its streams.

    live: the numbers of the chains of each stream whose guesses may still be right.
    """

    parts: tuple[Guesses, ...]
    live: Mapping[int, frozenset[int]] = field(default_factory=dict)


Event = StreamReadyNotice | StreamFailedNotice | Guessed


class DraftState(Worker):
    """Follows streams with a small model; each pass extends those whose guesses are likely enough.

    grammars: None if it has none; streams with a grammar then fail here. limit: receives the tokens
    that are committed; or None. costs: seconds of steps by their tokens; without them there are no
    guesses for other outcomes.
    """

    def __init__(
        self,
        model: Sequences,
        calibration: DraftCalibration | None = None,
        grammars: Grammars | None = None,
        limit: OutputLimit | None = None,
        costs: CostTable | None = None,
    ) -> None:
        self._model = model
        self._limit = limit
        self._chances = Chances(calibration)
        self.grammars = grammars
        self._masks = MaskWaits(can_take_back=True)
        self._streams: dict[StreamId, Followed] = {}
        self._free_seqs = list(range(model.info.max_sequences))[::-1]
        self._ended = Ended(model)
        self._text_order = TextOrder(model)
        self.branches = Branches(model, self._chances, costs)
        # Tokens of the last pass if it read no texts, otherwise 0.
        self._step_tokens = 0

    def compute_masks_by(self, service: MaskService) -> None:
        """Have the masks of streams that are yet to be opened computed by a service."""
        self._masks.service = service

    @property
    def num_threads(self) -> int:
        return self._model.num_threads

    @property
    def num_streams(self) -> int:
        return len(self._streams)

    def followed(self, stream_id: StreamId) -> Followed | None:
        """Returns the state of a stream; None if it is not followed (any longer)."""
        return self._streams.get(stream_id)

    # -- streams and commits -------------------------------------------------------------------

    def open(self, spec: StreamSpec) -> list[Event]:
        """Follow a stream, or return the reason why it fails. An older following is replaced."""
        known = self._streams.get(spec.stream_id)
        if known is not None:
            if known.spec.generation >= spec.generation:
                return []
            self._forget(known)
        reason, code = self._refusal(spec)
        if reason:
            return [StreamFailedNotice(spec.stream_id, spec.generation, reason, code)]
        try:
            sampler = sampler_of(
                spec, self._model.info.num_vocab, self.grammars, self._masks.service
            )
        except StreamError as error:
            return [failed_by(spec.stream_id, spec.generation, error)]
        sampler.ask()
        kept = self._ended.take(spec.owner, spec.token_ids)
        seq_id, num_cached = kept or (self._free_seq(), 0)
        stream = Followed(spec, list(spec.token_ids), Chain(seq_id, num_cached), sampler)
        self._streams[spec.stream_id] = stream
        return self._announce(stream)

    def _refusal(self, spec: StreamSpec) -> tuple[str, str]:
        """Returns the reason why a stream cannot be followed, with its code, or two ""."""
        info = self._model.info
        needed = cells_of(spec, len(spec.token_ids))
        if needed > info.num_cells:
            reason = f"{info.model} has {info.num_cells} cells, this text needs {needed}"
            return reason, "bad_request"
        held = sum(stream.cells_soon for stream in self._streams.values())
        has_seq = bool(self._free_seqs or self._ended)
        if not has_seq or held + needed > info.num_cells:
            reason = f"{info.model} is full: {self.num_streams} streams, {needed} cells needed"
            return reason, "unavailable"
        if max(spec.token_ids, default=info.num_vocab) >= info.num_vocab:
            return f"token ids outside the vocabulary of {info.model}", "unavailable"
        return "", ""

    def close(self, stream_id: StreamId, follow: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None and stream.spec.generation == follow:
            self._forget(stream)

    def forget_all(self) -> None:
        """Drop every stream, because the coordinator that welcomed this node anew knows none."""
        for stream in list(self._streams.values()):
            self._forget(stream)
        while self._ended:
            self._free_seqs.append(self._ended.drop())

    def committed(
        self, stream_id: StreamId, follow: int, prefix_len: int, token_ids: tuple[int, ...]
    ) -> list[Event]:
        """Append tokens that were committed after prefix_len others.

        The stream fails if tokens in between are missing.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.spec.generation != follow:
            return []
        length = len(stream.token_ids)
        if prefix_len > length:
            return self._give_up(
                stream, f"the message with tokens {length} to {prefix_len} is lost"
            )
        new = token_ids[length - prefix_len :]
        if not new:
            return []
        if max(new) >= self._model.info.num_vocab:
            return self._give_up(
                stream, f"a token outside the vocabulary of {self._model.info.model}"
            )
        self._chances.learn(stream, new)
        if self._limit is not None:
            self._limit.committed(new)
        gone, heir = stream.advance(new)
        stream.sampler.ask()
        self._cut(stream)
        self.branches.release(gone)
        if heir is not None:
            self.branches.inherit(stream, heir)
        return []

    def _cut(self, stream: Followed) -> None:
        """Take from the engine what a stream does not have any more."""
        if self._model.length(stream.seq_id) > stream.cached:
            self._model.truncate(stream.seq_id, stream.cached)

    def read_again(self, stream_id: StreamId, length: int) -> None:
        """Drop the guesses of a stream, and what was computed of its tokens from `length` on."""
        stream = self._streams.get(stream_id)
        if stream is not None and stream.cached > length:
            if stream.guesses:
                self.branches.release(stream.drop_guesses())
            stream.chain.cached = length
            self._cut(stream)

    def _give_up(self, stream: Followed, reason: str) -> list[Event]:
        self._forget(stream)
        return [StreamFailedNotice(stream.spec.stream_id, stream.spec.generation, reason)]

    def _forget(self, stream: Followed) -> None:
        del self._streams[stream.spec.stream_id]
        self.branches.release(stream.branches)
        # Its guesses may be wrong, and are no part of the text.
        read = stream.token_ids[: stream.cached]
        if read:
            self._model.truncate(stream.seq_id, len(read))
        self._free_seqs += self._ended.put(stream.spec.owner, read, stream.seq_id)

    # -- passes --------------------------------------------------------------------------------

    def has_work(self) -> bool:
        streams = self._streams.values()
        return any(s.is_behind or self._may_guess(s) for s in streams) or any(
            not s.announced and s.is_known for s in streams
        )

    def _may_guess(self, stream: Followed) -> bool:
        """Whether one more guess is possible and likely enough."""
        return self.is_ready(stream) and bool(self._extended([stream]))

    def is_ready(self, stream: Followed) -> bool:
        """Whether a step may guess for a stream."""
        # The step that guesses can also read a few missing tokens.
        if stream.num_missing > (PROMPT_PIECE_TOKENS if stream.announced else 0):
            return False
        if not stream.is_known or not stream.has_room(stream.chain):
            return False
        if self._masks.sits_out(stream.sampler):
            return False
        info = self._model.info
        is_far = stream.cached - stream.kept > _MOST_AGAIN
        if stream.guesses and is_far and not info.can_cut:
            return False
        has_ended = bool(stream.guesses) and stream.guesses[-1].token_id in info.eog_token_ids
        return not (has_ended and stream.spec.ends_at_eog)

    def _extended(self, streams: Sequence[Followed]) -> list[Followed]:
        """Returns those of these streams that the next step extends by a guess."""
        self._make_room()
        views = [Ahead(s.chance, len(s.guesses), s.length - s.cached) for s in streams]
        # Guesses take free cells only, and lose them where a text has to be read.
        most = min(self._model.info.max_batch_tokens, self._model.free_cells())
        return [streams[k] for k in extended(views, most_tokens=most)]

    def step(self) -> list[Event]:
        """Run at most one forward pass."""
        streams = list(self._streams.values())
        # This comes first, because it copies tokens that then need not be run.
        waiting = self.find_readers()
        guessing = self._extended([stream for stream in streams if self.is_ready(stream)])
        waiting = [each for each in waiting if not any(each is other for other in guessing)]
        budget = self._model.info.max_batch_tokens
        if guessing or any(stream.announced for stream in streams):
            # So guesses never keep a text from being read, and a text delays them little. While no
            # text has been read yet, a step reads all that fits.
            budget = PROMPT_PIECE_TOKENS
        events = self.advance(guessing, waiting, budget, has_branches=True)
        unsent = [part for stream in self._streams.values() for part in stream.take_unsent()]
        if not unsent:
            return events
        live = {int(s.spec.stream_id): s.live for s in self._streams.values()}
        return [*events, Guessed(tuple(unsent), live)]

    def find_readers(self) -> list[Followed]:
        """Copy what can be copied of unread texts, and return the streams whose texts a step may
        read, in order."""
        return self._text_order.choose(list(self._streams.values()))

    def advance(
        self,
        guessing: Sequence[Followed],
        waiting: Sequence[Followed],
        most_read: int,
        *,
        has_branches: bool = False,
    ) -> list[Event]:
        """Run at most one forward pass, which adds a guess to some streams and reads texts of
        others.

        most_read: most tokens of the pass while it reads texts. has_branches: whether it may also
        make guesses for other outcomes.
        """
        streams = list(self._streams.values())
        self._make_room()
        events: list[Event] = []
        while not self._fits(spans := self._spans(guessing, waiting, most_read)):
            if guessing and waiting:
                # Texts can be read in a later step without guesses.
                waiting = []
            elif not self._drop_guesses(guessing):
                youngest = list(self._streams.values())[-1]
                reason = f"{self._model.info.model} is full: {self.num_streams - 1} other streams"
                events += self._give_up(youngest, f"{reason}, no cells left")
                guessing = [stream for stream in guessing if stream is not youngest]
                waiting = [stream for stream in waiting if stream is not youngest]
            else:
                guessing = []
        turns = [(stream, stream.chain, span) for stream, span in spans]
        if has_branches and not waiting:
            num_tokens = sum(len(span.token_ids) for _, span in spans)
            ends = self.branches.wanted(self._streams.values(), num_tokens)
            turns += self.branches.begin(ends, num_tokens)
        if turns:
            events += self._run(turns)
        for stream in streams:
            events += self._announce(stream)
        return events

    def _spans(
        self, guessing: Sequence[Followed], waiting: Sequence[Followed], most_read: int
    ) -> list[tuple[Followed, Span]]:
        """Returns the spans of guesses, followed by pieces of waiting texts as far as they fit."""
        budget = self._model.info.max_batch_tokens
        spans = []
        for stream in guessing:
            ids, start = stream.uncached, stream.cached
            if keeps := not stream.guesses:
                stream.kept = start
            spans.append((stream, Span(stream.seq_id, start, ids, 1, keeps=keeps)))
            budget -= len(ids)
        budget = min(budget, most_read)
        for stream in waiting:
            start = stream.cached
            ids = stream.token_ids[start : min(start + budget, len(stream.token_ids) - 1)]
            if ids:
                spans.append((stream, Span(stream.seq_id, start, ids, 0)))
                budget -= len(ids)
        return spans

    def _free_seq(self) -> int:
        return self._free_seqs.pop() if self._free_seqs else self._ended.drop()

    def _make_room(self) -> None:
        """Have cells for a whole pass, if texts that have ended take them."""
        while self._ended and self._model.free_cells() < self._model.info.max_batch_tokens:
            self._free_seqs.append(self._ended.drop())

    def _fits(self, spans: Sequence[tuple[Followed, Span]]) -> bool:
        wanted = sum(len(span.token_ids) for _, span in spans)
        return wanted <= self._model.free_cells()

    def _drop_guesses(self, guessing: Sequence[Followed]) -> bool:
        """Free the cells of guesses; returns False if there were none."""
        found = bool(guessing)
        for stream in self._streams.values():
            if stream.cached >= len(stream.token_ids):
                self.branches.release(stream.drop_guesses())
                self._cut(stream)
                found = True
        return found

    def _run(self, turns: Sequence[tuple[Followed, Chain, Span]]) -> list[Event]:
        logits = self._model.forward([span for *_, span in turns])
        self._masks.settle(stream.sampler for stream, _, span in turns if span.num_outputs)
        only_guesses = all(span.num_outputs for *_, span in turns)
        self._step_tokens = sum(len(span.token_ids) for *_, span in turns) * only_guesses
        events: list[Event] = []
        row = 0
        for stream, chain, span in turns:
            chain.cached += len(span.token_ids)
            if not span.num_outputs:
                continue
            try:
                place = logits[row], stream.end_of(chain)
                has_others = self.branches.may_have(stream)
                guess = self._chances.guess(stream, *place, has_others=has_others)
                if chain is stream.chain:
                    stream.add(guess)
                    stream.sampler.ask()
                else:
                    chain.guesses.append(guess)
            except MaskMissingError:
                # The last token runs again when the mask is there.
                stream.chain.cached -= 1
                self._cut(stream)
            except StreamError as error:
                self._forget(stream)
                spec = stream.spec
                events.append(failed_by(spec.stream_id, spec.generation, error))
            row += 1
        return events

    def passed(self, seconds: float, now: float) -> None:
        self._masks.pass_s = seconds
        if self._step_tokens:
            self.branches.stepped(self._step_tokens, seconds)
            self._step_tokens = 0

    def _announce(self, stream: Followed) -> list[Event]:
        is_alive = self._streams.get(stream.spec.stream_id) is stream
        if stream.announced or stream.is_behind or not stream.is_known or not is_alive:
            return []
        stream.announced = True
        return [StreamReadyNotice(stream.spec.stream_id, stream.spec.generation)]
