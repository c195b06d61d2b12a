"""Simulated target and draft nodes: they answer the scheduler's messages after what work takes.

Tokens are not computed: every one is 0, a wrong guess is 1, and a guess is right with the
probability that its stream has at its position. What a pass takes comes from the true cost tables
of the scenario, which the scheduler need not know, with log-normal noise.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from bench.sim.events import Clock
from nodes.messages import (
    CloseStreamNotice,
    CommitEntry,
    CommitReply,
    DraftEntry,
    DraftReply,
    DraftRequest,
    GuessEntry,
    LeaseRequest,
    OpenStreamRequest,
    StreamReadyNotice,
    VerifyRequest,
)
from policies.latency import NodeCosts

# As the real nodes do: small pieces of prompts beside other work and where some may come at any
# moment, large ones without. Of the target, then of draft nodes.
_BESIDE, _BETWEEN = 32, 64
_DRAFT_BESIDE, _DRAFT_BETWEEN = 16, 32
_ALONE = 256


Send = Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Text:
    """How hard a stream's tokens are to guess.

    alphas: chance of a guess by its position in a round. luck: (max_tokens,) of each token of the
    output, in [0, 1): a guess of it is accepted if that is below alpha. The same for every policy,
    as the text itself is by law 1. chances: (max_tokens,) of each token of the output, where some
    are harder than others and the draft knows it; () where all are alike.
    """

    alphas: tuple[float, ...]
    luck: tuple[float, ...]
    chances: tuple[float, ...] = ()

    def is_right(self, token: int, position: int) -> bool:
        """Whether the guess of an output token, at a position of its round, is accepted."""
        if self.chances:
            return self.luck[token] < self.chances[token]
        return self.luck[token] < self.alphas[min(position, len(self.alphas) - 1)]

    def num_likely(self, token: int, gamma: int, stop: float) -> int:
        """Guesses from an output token on until they are all right with a chance below `stop`."""
        chance = 1.0
        for position, each in enumerate(self.chances[token : token + gamma]):
            chance *= each
            if chance < stop:
                return position
        return gamma


@dataclass(slots=True)
class _Held:
    generation: int
    start: int
    length: int
    end: int
    unread: int
    lease: int = 0
    guesses: int = -1


class Engine:
    """One device: a pass at a time, each taking what the tables say and some noise."""

    def __init__(self, clock: Clock, costs: NodeCosts, noise: float, random: Random) -> None:
        self.clock, self.costs, self.noise, self.random = clock, costs, noise, random
        self.busy_s = 0.0
        self.is_busy = False

    def run_pass(
        self, num_decode: int, num_prefill: int, cells: int, done: Callable[[], None]
    ) -> None:
        # Tokens cost what tokens cost, whichever sequences of one pass they belong to.
        if num_decode:
            seconds = self.costs.decode.at(num_decode + num_prefill, cells)
        else:
            seconds = self.costs.prefill.at(num_prefill, cells)
        seconds *= self.random.lognormvariate(0.0, self.noise)
        self.busy_s += seconds
        self.is_busy = True
        self.clock.after(seconds, done)


class SimTarget:
    """Verifies guesses and decodes leased streams, all in one pass, prompts in pieces beside."""

    def __init__(self, engine: Engine, texts: Mapping[int, Text], send: Send) -> None:
        self._engine, self._texts, self._send = engine, texts, send
        self._streams: dict[int, _Held] = {}
        self._reading: deque[int] = deque()
        self.num_passes = 0

    def receive(self, message: Any) -> None:
        match message:
            case VerifyRequest(entries=entries):
                for entry in entries:
                    held = self._streams.get(entry.stream_id)
                    if held is not None and held.length == entry.prefix_len:
                        held.guesses = entry.num_draft_tokens
            case LeaseRequest(entries=leases):
                for lease in leases:
                    held = self._streams.get(lease.stream_id)
                    if held is not None:
                        held.lease = max(held.lease, lease.prefix_len + lease.num_tokens)
            case OpenStreamRequest():
                length = len(message.token_ids)
                self._streams[message.stream_id] = _Held(
                    message.generation,
                    message.num_prompt_tokens,
                    length,
                    message.num_prompt_tokens + message.max_tokens,
                    length,
                )
                self._reading.append(message.stream_id)
            case CloseStreamNotice(stream_id=stream_id):
                self._streams.pop(stream_id, None)
        self._begin()

    def _begin(self) -> None:
        if self._engine.is_busy:
            return
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
        self.num_passes += 1
        started = self._engine.clock.now
        self._engine.run_pass(
            num_tokens, piece, cells, lambda: self._end(going, reading, piece, started)
        )

    def _next_piece(self, is_shared: bool) -> tuple[int, int]:
        while self._reading:
            held = self._streams.get(self._reading[0])
            if held is not None and held.unread:
                others = any(not held.unread for held in self._streams.values())
                limit = _BESIDE if is_shared else _BETWEEN if others else _ALONE
                return self._reading[0], min(held.unread, limit)
            self._reading.popleft()
        return -1, 0

    def _end(
        self, going: list[tuple[int, _Held, int]], reading: int, piece: int, started: float
    ) -> None:
        self._engine.is_busy = False
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
        if entries:
            seconds = self._engine.clock.now - started
            self._send(CommitReply(seconds, tuple(entries), (0,) * total, piece))
        read = self._streams.get(reading)
        if read is not None and piece:
            read.unread -= piece
            if not read.unread:
                self._send(StreamReadyNotice(reading, read.generation))
        self._begin()

    def _accept(self, stream_id: int, held: _Held, guesses: int) -> int:
        text = self._texts[stream_id]
        at = held.length - held.start
        wrong = (p for p in range(guesses) if not text.is_right(at + p, p))
        return next(wrong, guesses)


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
        limit = _DRAFT_BETWEEN if others else _ALONE
        if self._rounds:
            limit = _DRAFT_BESIDE
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
