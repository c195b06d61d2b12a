"""A simulated draft node: it answers the scheduler's messages after what work takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.sim.devices import ALONE, Engine, Send, Text
from nodes.messages import (
    CloseStreamNotice,
    DraftEntry,
    DraftReply,
    DraftRequest,
    GuessEntry,
    OpenStreamRequest,
    StreamReadyNotice,
)

# As the real one does: small pieces of prompts beside rounds and between them.
_BESIDE, _BETWEEN = 16, 32


@dataclass(slots=True)
class _Drafting:
    round_id: int
    entries: list[GuessEntry]
    left: list[int]
    catch_up: int
    cells: int
    asked_at: float
    ahead: bool = False
    num_ready: int = 0


@dataclass(slots=True)
class _Lag:
    """A request to catch up: answered once that many tokens are read."""

    round_id: int
    entries: tuple[GuessEntry, ...]
    unread: int


@dataclass(slots=True)
class _Prefix:
    """num_guessed: guesses of its last answer. num_ahead: tokens drafted beyond them since."""

    generation: int
    unread: int
    start: int
    gamma: int = 0
    num_guessed: int = 0
    num_ahead: int = 0
    ahead_wanted: int = 0


class SimDraft:
    """Guesses for all rounds it holds at once, a token a stream and step, prompts beside."""

    def __init__(self, engine: Engine, texts: Mapping[int, Text], send: Send) -> None:
        self._engine, self._texts, self._send = engine, texts, send
        self._rounds: list[_Drafting] = []
        self._prefixes: dict[int, _Prefix] = {}
        self._reading: deque[int] = deque()
        self._lagging: deque[_Lag] = deque()
        self.is_alive = True

    def receive(self, message: Any) -> None:
        if not self.is_alive:
            return
        match message:
            case DraftRequest(round=round_id, entries=entries):
                guesses = [
                    GuessEntry(
                        e.stream_id,
                        e.generation,
                        e.prefix_len + e.num_new_tokens,
                        self._num_guesses(e),
                    )
                    for e in entries
                ]
                if not any(entry.gamma for entry in entries):
                    unread = sum(entry.num_new_tokens for entry in entries)
                    self._lagging.append(_Lag(round_id, tuple(guesses), unread))
                    for entry in entries:
                        self._catch_up(entry)
                    self._begin()
                    return
                cells = sum(entry.prefix_len for entry in guesses)
                ready = [self._num_ready(entry) for entry in entries]
                # The guess that is kept back has cost its step.
                left = [
                    max(0, min(entry.gamma, guess.num_draft_tokens + 1) - made)
                    for entry, guess, made in zip(entries, guesses, ready, strict=True)
                ]
                catch_up = sum(map(self._catch_up, entries, ready, left))
                now = self._engine.clock.now
                drafting = _Drafting(round_id, guesses, left, catch_up, cells, now, message.ahead)
                drafting.num_ready = sum(ready)
                if any(left):
                    self._rounds.append(drafting)
                else:
                    self._finish(drafting)
            case OpenStreamRequest(stream_id=stream_id, generation=generation, token_ids=ids):
                start = message.num_prompt_tokens
                self._prefixes[stream_id] = _Prefix(generation, len(ids), start)
                self._reading.append(stream_id)
            case CloseStreamNotice(stream_id=stream_id):
                self._prefixes.pop(stream_id, None)
        self._begin()

    def _num_guesses(self, entry: DraftEntry) -> int:
        prefix, text = self._prefixes.get(entry.stream_id), self._texts.get(entry.stream_id)
        if prefix is None or text is None:
            return entry.gamma
        token = entry.prefix_len + entry.num_new_tokens - prefix.start
        return text.num_likely(token, entry.gamma, entry.stop_percent / 100.0)

    def _guesses(self, entry: GuessEntry) -> list[int]:
        prefix, text = self._prefixes.get(entry.stream_id), self._texts.get(entry.stream_id)
        count = entry.num_draft_tokens
        if prefix is None or text is None:
            return [0] * count
        at = entry.prefix_len - prefix.start
        return [int(not text.is_right(at + p, p)) for p in range(count)]

    def _num_ready(self, entry: DraftEntry) -> int:
        """Guesses that were made before they are asked for."""
        prefix, text = self._prefixes.get(entry.stream_id), self._texts.get(entry.stream_id)
        if prefix is None or text is None:
            return 0
        made, prefix.num_ahead, prefix.ahead_wanted = prefix.num_ahead, 0, 0
        bonus = entry.prefix_len + prefix.num_guessed - prefix.start
        is_hit = made > 0 and entry.num_new_tokens == prefix.num_guessed + 1
        if not is_hit or not text.is_right(bonus, prefix.num_guessed):
            return 0
        return min(entry.gamma, made - 1)

    def _catch_up(self, entry: DraftEntry, num_ready: int = 0, left: int = 1) -> int:
        """Tokens to run before the first guess: those accepted are in the cache already."""
        prefix = self._prefixes.get(entry.stream_id)
        if num_ready or not left:
            if prefix is not None:
                prefix.gamma = entry.gamma
            return min(1, left)
        guessed = prefix.gamma if prefix is not None else 0
        if prefix is not None:
            prefix.gamma = entry.gamma
        if entry.num_new_tokens <= guessed:
            return 1
        # All accepted: the last guess was never run. More than that: decoded plainly meanwhile.
        return 2 if entry.num_new_tokens == guessed + 1 else entry.num_new_tokens

    def _begin(self) -> None:
        if self._engine.is_busy:
            return
        # As the real node: small pieces of prompts beside rounds and between them.
        others = any(not prefix.unread for prefix in self._prefixes.values())
        limit = _BETWEEN if others else ALONE
        if self._rounds:
            limit = _BESIDE
        reading, piece = -1, 0
        while self._reading:
            prefix = self._prefixes.get(self._reading[0])
            if prefix is not None and prefix.unread:
                reading, piece = self._reading[0], min(prefix.unread, limit)
                break
            self._reading.popleft()
        if reading < 0 and self._lagging:
            piece = min(self._lagging[0].unread, limit)
        if not self._rounds and not piece:
            self._go_ahead()
            return
        num_tokens = cells = 0
        for drafting in self._rounds:
            num_tokens += drafting.catch_up or sum(1 for left in drafting.left if left)
            cells += drafting.cells
        rounds = list(self._rounds)
        self._engine.run_pass(num_tokens, piece, cells, lambda: self._end(rounds, reading, piece))

    def _go_ahead(self) -> None:
        """A step of streams whose guesses are being verified, as there is nothing else to do."""
        going = [p for p in self._prefixes.values() if p.num_ahead < p.ahead_wanted]
        if not going:
            return

        def done() -> None:
            self._engine.is_busy = False
            for prefix in going:
                # Unless it was of no use by then.
                prefix.num_ahead += prefix.num_ahead < prefix.ahead_wanted
            self._begin()

        self._engine.run_pass(len(going), 0, 0, done)

    def _finish(self, drafting: _Drafting) -> None:
        for entry in drafting.entries:
            prefix = self._prefixes.get(entry.stream_id)
            if prefix is None:
                continue
            prefix.num_guessed, prefix.num_ahead = entry.num_draft_tokens, 0
            is_whole = 0 < entry.num_draft_tokens == prefix.gamma
            prefix.ahead_wanted = prefix.gamma + 1 if drafting.ahead and is_whole else 0
        entries = tuple(drafting.entries)
        draft_us = round(1e6 * (self._engine.clock.now - drafting.asked_at))
        num_ready = drafting.num_ready
        token_ids = tuple(guess for entry in entries for guess in self._guesses(entry))
        self._answer(DraftReply(drafting.round_id, entries, token_ids, num_ready, 0, draft_us))

    def _end(self, rounds: list[_Drafting], reading: int, piece: int) -> None:
        self._engine.is_busy = False
        for drafting in rounds:
            drafting.catch_up = 0
            drafting.left = [max(0, left - 1) for left in drafting.left]
            if not any(drafting.left):
                self._rounds.remove(drafting)
                self._finish(drafting)
        prefix = self._prefixes.get(reading)
        if reading < 0 and piece:
            lag = self._lagging[0]
            lag.unread -= piece
            if not lag.unread:
                self._answer(DraftReply(lag.round_id, self._lagging.popleft().entries, ()))
        elif prefix is not None and piece:
            prefix.unread -= piece
            if not prefix.unread:
                self._answer(StreamReadyNotice(reading, prefix.generation))
        self._begin()

    def _answer(self, message: Any) -> None:
        if self.is_alive:
            self._send(message)
