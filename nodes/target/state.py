"""The target's side of streams: which tokens go into the next pass, what a pass commits.

Pure but for the engine it is given: no clock, no sockets, no asyncio.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from nodes.engine.protocol import InvalidInputError, Logits, Model, Span, Tokenizer
from nodes.engine.sampling import sample_rows
from nodes.messages import MAX_GAMMA
from nodes.stream import PROMPT_PIECE_TOKENS, StopMatcher, StreamId, StreamSpec

# Guesses of others may come at any moment, and wait for the pass that is under way.
_PREFILL_TOKENS_BETWEEN_ROUNDS = 64
# A shorter common prefix is run again rather than waited for.
_MIN_SHARED_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Ready:
    stream_id: StreamId
    generation: int


@dataclass(frozen=True, slots=True)
class Failed:
    stream_id: StreamId
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Committed:
    """Tokens of one stream that one pass added after prefix_len; fields as in CommitEntry."""

    stream_id: StreamId
    generation: int
    prefix_len: int
    token_ids: tuple[int, ...]
    num_draft_tokens: int
    num_accepted_tokens: int
    finish_reason: str
    text: bytes


Event = Ready | Failed | Committed


@dataclass(slots=True)
class _Stream:
    spec: StreamSpec
    seq_id: int
    token_ids: list[int]
    stops: StopMatcher
    lease: int = 0
    guesses: tuple[int, ...] | None = None
    announced: bool = False

    @property
    def num_output(self) -> int:
        return len(self.token_ids) - self.spec.num_prompt_tokens


class TargetState:
    """Streams on one target engine. Each `step` runs at most one forward pass."""

    def __init__(self, model: Model, tokenizer: Tokenizer) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._streams: dict[StreamId, _Stream] = {}
        self._free_seqs = list(range(model.info.max_sequences))[::-1]
        self._reserved = 0
        self.num_stale = 0

    @property
    def num_streams(self) -> int:
        return len(self._streams)

    def open(self, spec: StreamSpec) -> list[Event]:
        """Take a stream in, or say why not. An older generation of it is replaced."""
        known = self._streams.get(spec.stream_id)
        if known is not None:
            if known.spec.generation >= spec.generation:
                self.num_stale += 1
                return []
            self._forget(known)
        reason = self._refusal(spec)
        if reason:
            return [Failed(spec.stream_id, spec.generation, reason)]
        stream = _Stream(spec, self._free_seqs.pop(), list(spec.token_ids), StopMatcher(spec.stops))
        # A stream that was moved here has shown this text already.
        for token_id in spec.token_ids[spec.num_prompt_tokens :]:
            stream.stops.push(self._tokenizer.piece(token_id))
        self._reserved += cells_needed(spec)
        self._streams[spec.stream_id] = stream
        return self._announce(stream)

    def _refusal(self, spec: StreamSpec) -> str:
        info = self._model.info
        if not spec.token_ids or not 0 < spec.num_prompt_tokens <= len(spec.token_ids):
            return "the prompt is empty"
        if max(spec.token_ids) >= info.num_vocab:
            return "the prompt has token ids outside the model's vocabulary"
        if not self._free_seqs:
            return f"all {info.max_sequences} sequences of {info.model} are taken"
        needed = cells_needed(spec)
        if self._reserved + needed > info.num_cells:
            return (
                f"{needed} cells wanted, {info.num_cells - self._reserved} of "
                f"{info.num_cells} free on {info.model}"
            )
        return ""

    def close(self, stream_id: StreamId, generation: int) -> None:
        stream = self._current(stream_id, generation)
        if stream is not None:
            self._forget(stream)

    def forget_all(self) -> None:
        """Drop every stream: a coordinator that welcomes this node anew knows none of them."""
        for stream in list(self._streams.values()):
            self._forget(stream)

    def _forget(self, stream: _Stream) -> None:
        del self._streams[stream.spec.stream_id]
        self._model.truncate(stream.seq_id, 0)
        self._free_seqs.append(stream.seq_id)
        self._reserved -= cells_needed(stream.spec)

    def lease(self, stream_id: StreamId, generation: int, prefix_len: int, num_tokens: int) -> None:
        """Let a stream decode plainly until it has prefix_len + num_tokens tokens."""
        stream = self._current(stream_id, generation)
        if stream is None:
            return
        if prefix_len > len(stream.token_ids):
            self.num_stale += 1
            return
        # Positions, not increments: a repeated lease adds nothing.
        stream.lease = max(stream.lease, prefix_len + num_tokens)

    def verify(
        self, stream_id: StreamId, generation: int, prefix_len: int, guesses: Sequence[int]
    ) -> None:
        """Queue guesses that follow exactly the stream's committed tokens."""
        stream = self._current(stream_id, generation)
        if stream is None:
            return
        if prefix_len != len(stream.token_ids) or len(guesses) > MAX_GAMMA:
            self.num_stale += 1
            return
        # A padded vocabulary of the draft may be larger: such a guess is wrong, not fatal.
        num_vocab = self._model.info.num_vocab
        known = itertools.takewhile(lambda token_id: token_id < num_vocab, guesses)
        stream.guesses = tuple(known)

    def _current(self, stream_id: StreamId, generation: int) -> _Stream | None:
        stream = self._streams.get(stream_id)
        if stream is None or stream.spec.generation != generation:
            self.num_stale += 1
            return None
        return stream

    def _missing(self, stream: _Stream) -> int:
        """Tokens to prefill; the last token always goes in with the next decode."""
        return len(stream.token_ids) - 1 - self._model.length(stream.seq_id)

    def _wants_decode(self, stream: _Stream) -> bool:
        return self._missing(stream) == 0 and (
            stream.guesses is not None or stream.lease > len(stream.token_ids)
        )

    def has_work(self) -> bool:
        return any(self._wants_decode(s) or self._missing(s) for s in self._streams.values())

    def step(self) -> list[Event]:
        """One pass: every stream that may decode, and a piece of one waiting prompt."""
        spans: list[Span] = []
        decoding: list[_Stream] = []
        budget = self._model.info.max_batch_tokens
        for stream in self._streams.values():
            if not self._wants_decode(stream):
                continue
            token_ids = [stream.token_ids[-1], *self._useful_guesses(stream)]
            if len(token_ids) > budget:
                break
            budget -= len(token_ids)
            start = len(stream.token_ids) - 1
            spans.append(Span(stream.seq_id, start, token_ids, len(token_ids)))
            decoding.append(stream)
        prefilling = self._prefill_spans(spans, budget)
        if not spans:
            return [event for stream in prefilling for event in self._announce(stream)]
        logits = self._model.forward(spans)
        events: list[Event] = []
        row = 0
        for stream, span in zip(decoding, spans, strict=False):
            rows = logits[row : row + span.num_outputs]
            row += span.num_outputs
            events.append(self._commit(stream, rows, span.token_ids[1:]))
        for stream in decoding:
            if self._is_alive(stream):
                self._model.truncate(stream.seq_id, len(stream.token_ids) - 1)
        for stream in prefilling:
            events += self._announce(stream)
        # Move those served to the back: a pass that cannot hold all must not starve the rest.
        if budget < MAX_GAMMA + 1:
            for stream in decoding:
                if self._is_alive(stream):
                    self._streams[stream.spec.stream_id] = self._streams.pop(stream.spec.stream_id)
        return events

    def _is_alive(self, stream: _Stream) -> bool:
        return self._streams.get(stream.spec.stream_id) is stream

    def _useful_guesses(self, stream: _Stream) -> tuple[int, ...]:
        left = stream.spec.max_tokens - stream.num_output
        return (stream.guesses or ())[: max(0, left - 1)]

    def _prefill_spans(self, spans: list[Span], budget: int) -> list[_Stream]:
        """Add pieces of waiting prompts, oldest first; small ones where others decode."""
        if spans:
            budget = min(budget, PROMPT_PIECE_TOKENS)
        elif any(stream.announced for stream in self._streams.values()):
            budget = min(budget, _PREFILL_TOKENS_BETWEEN_ROUNDS)
        prefilling = []
        for stream in self._streams.values():
            if budget <= 0:
                break
            if not self._missing(stream) or self._waits_for_donor(stream):
                continue
            # Nothing may be missing after the donor's copy: then it is only announced.
            start = self._model.length(stream.seq_id)
            count = min(self._missing(stream), budget)
            if count == 0:
                prefilling.append(stream)
                continue
            spans.append(Span(stream.seq_id, start, stream.token_ids[start : start + count]))
            prefilling.append(stream)
            budget -= count
        return prefilling

    def _waits_for_donor(self, stream: _Stream) -> bool:
        """Copy what another stream of the same owner has in the cache of this one's prefix.

        True while that stream is still being prefilled and will have more to give: the choices
        of one request are prefilled once.
        """
        if self._model.length(stream.seq_id) > 0:
            return False
        wanted = stream.token_ids[:-1]
        best, donor = 0, None
        is_earlier = True
        for other in self._streams.values():
            if other is stream:
                is_earlier = False
                continue
            if other.spec.owner != stream.spec.owner:
                continue
            shared = _common_prefix(wanted, other.token_ids[:-1])
            if shared < _MIN_SHARED_TOKENS:
                continue
            cached = self._model.length(other.seq_id)
            # Only for earlier ones, so that no two wait for each other.
            if shared > cached and is_earlier:
                return True
            if min(shared, cached) > best:
                best, donor = min(shared, cached), other
        if donor is not None:
            self._model.copy_prefix(donor.seq_id, stream.seq_id, best)
        return False

    def _announce(self, stream: _Stream) -> list[Event]:
        if stream.announced or self._missing(stream):
            return []
        stream.announced = True
        return [Ready(stream.spec.stream_id, stream.spec.generation)]

    def _commit(self, stream: _Stream, logits: Logits, guesses: Sequence[int]) -> Committed:
        spec = stream.spec
        prefix_len = len(stream.token_ids)
        token_ids, num_accepted = sample_rows(logits, spec.sampling, prefix_len, guesses)
        kept, text, reason = self._until_end(stream, token_ids)
        stream.token_ids += kept
        stream.guesses = None
        if reason:
            self._forget(stream)
        return Committed(
            spec.stream_id,
            spec.generation,
            prefix_len,
            tuple(kept),
            len(guesses),
            num_accepted,
            reason,
            text,
        )

    def _until_end(self, stream: _Stream, token_ids: list[int]) -> tuple[list[int], bytes, str]:
        """Tokens up to the end of the text, their bytes, and why it ended ("" if it did not)."""
        eog = self._model.info.eog_token_ids
        kept: list[int] = []
        text = b""
        for token_id in token_ids:
            if token_id in eog and not stream.spec.ignore_eog:
                return kept, text + stream.stops.flush(), "stop"
            kept.append(token_id)
            shown, stopped = stream.stops.push(self._tokenizer.piece(token_id))
            text += shown
            if stopped:
                return kept, text, "stop"
            if stream.num_output + len(kept) >= stream.spec.max_tokens:
                return kept, text + stream.stops.flush(), "length"
        return kept, text, ""


def _common_prefix(a: list[int], b: list[int]) -> int:
    low, high = 0, min(len(a), len(b))
    # Comparing slices runs in C: a binary search beats a loop over long prompts.
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def cells_needed(spec: StreamSpec) -> int:
    """Cells a stream may come to hold: prompt, output, and guesses under verification.

    Raises InvalidInputError for a stream without room for a token.
    """
    if spec.max_tokens < 1:
        raise InvalidInputError(f"max_tokens {spec.max_tokens} is below 1")
    return spec.num_prompt_tokens + spec.max_tokens + MAX_GAMMA
