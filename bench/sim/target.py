"""A simulated target node: it answers the scheduler's messages after what work takes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.sim.devices import ALONE, Engine, Send, Text
from nodes.messages import (
    CloseStreamNotice,
    CommitEntry,
    CommitReply,
    LeaseRequest,
    OpenStreamRequest,
    StreamReadyNotice,
    VerifyRequest,
)
from nodes.target.rhythm import Rhythm

# As the real one does: small pieces of prompts beside other work and where some may come at any
# moment, large ones without.
_BESIDE, _BETWEEN = 32, 64


@dataclass(slots=True)
class _Held:
    generation: int
    start: int
    length: int
    end: int
    unread: int
    num_read: int
    lease: int = 0
    beside_rounds: bool = False
    guesses: int = -1


class SimTarget:
    """Verifies guesses and decodes leased streams, all in one pass, prompts in pieces beside."""

    def __init__(self, engine: Engine, texts: Mapping[int, Text], send: Send) -> None:
        self._engine, self._texts, self._send = engine, texts, send
        self._streams: dict[int, _Held] = {}
        self._reading: deque[int] = deque()
        # Tokens of each prompt that were read of it before.
        self._known: dict[int, int] = {}
        self._rhythm = Rhythm()
        # Rounds that came during the pass under way: when, and of which streams.
        self._came: list[tuple[float, list[int]]] = []
        self.num_passes = 0

    def receive(self, message: Any) -> None:
        match message:
            case VerifyRequest(entries=entries):
                queued = []
                for entry in entries:
                    held = self._streams.get(entry.stream_id)
                    if held is not None and held.length == entry.prefix_len:
                        held.guesses = entry.num_draft_tokens
                        queued.append(entry.stream_id)
                if queued:
                    self._came.append((self._engine.clock.now, queued))
            case LeaseRequest(entries=leases):
                for lease in leases:
                    held = self._streams.get(lease.stream_id)
                    if held is not None:
                        held.lease = max(held.lease, lease.prefix_len + lease.num_tokens)
                        held.beside_rounds = lease.beside_rounds
            case OpenStreamRequest():
                length = len(message.token_ids)
                num_read = length
                prompt = self._texts[message.stream_id].prompt
                if prompt is not None:
                    num_read -= min(length - 1, self._known.get(prompt, 0))
                    self._known[prompt] = message.num_prompt_tokens
                self._streams[message.stream_id] = _Held(
                    message.generation,
                    message.num_prompt_tokens,
                    length,
                    message.num_prompt_tokens + message.max_tokens,
                    num_read,
                    num_read,
                )
                self._reading.append(message.stream_id)
            case CloseStreamNotice(stream_id=stream_id):
                self._streams.pop(stream_id, None)
        self._begin()

    def _begin(self) -> None:
        if self._engine.is_busy:
            return
        for came in self._came:
            self._rhythm.round_came(*came)
        self._came.clear()
        going = []
        num_tokens = cells = 0
        for stream_id, held in self._streams.items():
            cells += held.length - held.unread
            if held.unread:
                continue
            if held.guesses >= 0:
                guesses = max(0, min(held.guesses, held.end - held.length - 1))
            elif held.lease > held.length:
                guesses = 0
            else:
                continue
            going.append((stream_id, held, guesses))
            num_tokens += guesses + 1
        reading, piece = self._next_piece(bool(going))
        if not going and not piece:
            return
        if self._waits_for_a_round([held for _, held, _ in going]):
            return
        self.num_passes += 1
        started = self._engine.clock.now
        self._engine.run_pass(
            num_tokens, piece, cells, lambda: self._end(going, reading, piece, started)
        )

    def _waits_for_a_round(self, going: list[_Held]) -> bool:
        """Whether all there is to do goes along with guesses that will soon be there."""
        now, clock = self._engine.clock.now, self._engine.clock
        if any(held.guesses >= 0 or not held.beside_rounds for held in going):
            return False
        awaited = [
            stream_id
            for stream_id, held in self._streams.items()
            if not held.unread and held.lease <= held.length
        ]
        unread = sum(held.unread for held in self._streams.values())
        plain_s = self._engine.costs.decode.at(len(going) + unread) if going else math.inf
        until = now
        if unread <= _BESIDE:
            until = self._rhythm.patient_until(now, awaited, len(going), plain_s)
        if until <= now:
            return False
        clock.at(until, self._begin)
        return True

    def _next_piece(self, is_shared: bool) -> tuple[int, int]:
        while self._reading:
            held = self._streams.get(self._reading[0])
            if held is not None and held.unread:
                others = any(not held.unread for held in self._streams.values())
                limit = _BESIDE if is_shared else _BETWEEN if others else ALONE
                return self._reading[0], min(held.unread, limit)
            self._reading.popleft()
        return -1, 0

    def _end(
        self, going: list[tuple[int, _Held, int]], reading: int, piece: int, started: float
    ) -> None:
        self._engine.is_busy = False
        in_rounds = {stream_id for stream_id, held, _ in going if held.guesses >= 0}
        entries = []
        total = 0
        for stream_id, held, guesses in going:
            # Cancelled streams are gone meanwhile.
            if self._streams.get(stream_id) is not held:
                continue
            accepted = self._accept(stream_id, held, guesses)
            before, count = held.length, accepted + 1
            held.length += count
            held.guesses = -1
            ended = held.length >= held.end
            if ended:
                del self._streams[stream_id]
            reason = "length" if ended else ""
            entries.append(
                CommitEntry(
                    stream_id, held.generation, before, count, guesses, accepted, reason, b""
                )
            )
            total += count
        if in_rounds:
            to_rounds = sum(e.num_tokens for e in entries if e.stream_id in in_rounds)
            now = self._engine.clock.now
            self._rhythm.round_done(now, now - started, in_rounds, to_rounds)
        if entries:
            seconds = self._engine.clock.now - started
            self._send(CommitReply(seconds, tuple(entries), (0,) * total, piece))
        read = self._streams.get(reading)
        if read is not None and piece:
            read.unread -= piece
            if not read.unread:
                self._send(StreamReadyNotice(reading, read.generation, read.num_read))
        self._begin()

    def _accept(self, stream_id: int, held: _Held, guesses: int) -> int:
        text = self._texts[stream_id]
        at = held.length - held.start
        wrong = (p for p in range(guesses) if not text.is_right(at + p, p))
        return next(wrong, guesses)
