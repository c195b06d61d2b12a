"""Texts that partly repeat themselves, guessed by lookup, on a simulated target.

The scheduler and the planner are the live ones, the guesses real: token ids are drawn, some of them
copied from earlier ones, and the target accepts what its text has. What passes take comes from a
table; the target begins its next pass as soon as one has ended, as the real one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from statistics import fmean
from typing import Any

from bench.sim.events import Clock
from nodes.engine.sampling import Sampling
from nodes.messages import CommitEntry, CommitReply, LeaseRequest, OpenStreamRequest, VerifyRequest
from nodes.scheduler import SchedulerState
from nodes.scheduler.instructions import Emit, Finish, Instruction, ToTarget
from nodes.stream import StreamId, StreamSpec
from policies.joint import joint_plan
from policies.latency import CostTable, NodeCosts
from policies.plan import Link

# Seconds of a pass by its tokens. Shapes: one that hardly grows up to 16 tokens; one of a device
# for which memory is all; one where the second token costs more than the first.
TABLES = {
    "orin-like": CostTable(
        (1, 2, 4, 8, 16, 32, 64, 128),
        (36e-3, 37e-3, 38e-3, 41e-3, 44e-3, 49e-3, 80e-3, 147e-3),
    ),
    "flat": CostTable(
        (1, 8, 32, 64, 128, 256, 512), (10e-3, 10.5e-3, 11e-3, 12e-3, 14e-3, 18e-3, 28e-3)
    ),
    "steep": CostTable(
        (1, 2, 3, 4, 6, 8, 12, 16, 24, 32),
        (10.1e-3, 27.7e-3, 31.6e-3, 33.3e-3, 45e-3, 45.6e-3, 55.3e-3, 62.4e-3, 87.8e-3, 111e-3),
    ),
}
# Tokens of what is copied and of what is new, on average, by turns of a coin.
TEXTS = {"mostly copied": (15, 8), "partly copied": (6, 15), "hardly copied": (3, 40)}
_VOCABULARY = 2000
_PROMPT_TOKENS = 200
# Messages that are sent one after the other are there together.
_TOGETHER_S = 1e-5
_TICK_S = 0.05
_LIMIT_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Streams that begin together, each with a text of its own. table, text: names of TABLES and
    TEXTS. num_plain: so many of them may make no guesses. rtt_s: to the target and back."""

    table: str
    text: str
    num_streams: int
    num_plain: int = 0
    rtt_s: float = 3e-4
    max_tokens: int = 200
    seed: int = 1


@dataclass(slots=True)
class _Held:
    text: Sequence[int]
    length: int
    lease: int = 0
    guesses: tuple[int, ...] | None = None


@dataclass(slots=True)
class Outcome:
    """seconds: from the beginning to each stream's end. texts: what was committed of each."""

    seconds: dict[StreamId, float] = field(default_factory=dict)
    texts: dict[StreamId, list[int]] = field(default_factory=dict)
    expected: dict[StreamId, list[int]] = field(default_factory=dict)
    num_guesses: int = 0

    @property
    def mean_s(self) -> float:
        return fmean(self.seconds.values())


def copied_text(random: Random, count: int, copied: int, fresh: int) -> list[int]:
    """Token ids; copied, fresh: mean lengths of what is copied from before and of what is new."""
    ids = [random.randrange(_VOCABULARY) for _ in range(60)]
    while len(ids) < count:
        if random.random() < 0.5:
            length = max(3, int(random.expovariate(1 / copied)))
            start = random.randrange(max(1, len(ids) - length - 1))
            ids += ids[start : start + length]
        else:
            length = max(1, int(random.expovariate(1 / fresh)))
            ids += [random.randrange(_VOCABULARY) for _ in range(length)]
    return ids[:count]


def run_copies(copies: Copies, *, lookup: bool) -> Outcome:
    """All streams to their ends. lookup: False decodes plainly."""
    return _World(copies, lookup=lookup).run()


def gain(copies: Copies, seeds: Sequence[int]) -> float:
    """How much sooner the mean stream ends by lookup than plainly, on average over seeds."""
    drawn = [replace(copies, seed=seed) for seed in seeds]
    return fmean(
        run_copies(each, lookup=False).mean_s / run_copies(each, lookup=True).mean_s
        for each in drawn
    )


class _World:
    def __init__(self, copies: Copies, *, lookup: bool) -> None:
        self._copies = copies
        self._table = TABLES[copies.table]
        prefill = CostTable((32,), (self._table.at(32),))
        self._scheduler = SchedulerState(joint_plan, NodeCosts(self._table, prefill), lookup=lookup)
        self._scheduler.target_link(Link(rtt_s=copies.rtt_s))
        self._clock = Clock()
        self._held: dict[StreamId, _Held] = {}
        self._is_busy = False
        self.outcome = Outcome()

    def run(self) -> Outcome:
        copies, random = self._copies, Random(self._copies.seed)
        end = _PROMPT_TOKENS + copies.max_tokens
        for number in range(1, copies.num_streams + 1):
            stream_id = StreamId(number)
            text = copied_text(random, end, *TEXTS[copies.text])
            self._held[stream_id] = _Held(text, _PROMPT_TOKENS)
            self.outcome.texts[stream_id] = []
            self.outcome.expected[stream_id] = text[_PROMPT_TOKENS:]
            spec = StreamSpec(
                stream_id=stream_id,
                generation=1,
                owner="",
                sampling=Sampling(),
                max_tokens=copies.max_tokens,
                stops=(),
                ignore_eog=True,
                num_prompt_tokens=_PROMPT_TOKENS,
                token_ids=tuple(text[:_PROMPT_TOKENS]),
            )
            gamma = 0 if number <= copies.num_plain else None
            self._carry_out(self._scheduler.admit(spec, gamma))
            self._carry_out(self._scheduler.target_ready(stream_id, 1, 0.0))
        self._clock.after(_TICK_S, self._tick)
        while len(self.outcome.seconds) < copies.num_streams:
            if self._clock.now > _LIMIT_S:
                raise RuntimeError("streams do not end")
            self._clock.run(self._clock.now + 1.0)
        return self.outcome

    def _tick(self) -> None:
        self._carry_out(self._scheduler.tick(self._clock.now))
        if self._held:
            self._clock.after(_TICK_S, self._tick)

    def _carry_out(self, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case ToTarget(message=message):
                    self._clock.after(self._copies.rtt_s / 2, partial(self._receive, message))
                case Emit(stream_id=stream_id, token_ids=token_ids):
                    self.outcome.texts[stream_id] += token_ids
                case Finish(stream_id=stream_id):
                    self.outcome.seconds[stream_id] = self._clock.now

    def _receive(self, message: Any) -> None:
        match message:
            case VerifyRequest(entries=entries, draft_token_ids=draft_token_ids):
                offset = 0
                for entry in entries:
                    guesses = draft_token_ids[offset : offset + entry.num_draft_tokens]
                    offset += entry.num_draft_tokens
                    held = self._held.get(StreamId(entry.stream_id))
                    if held is not None and held.length == entry.prefix_len:
                        held.guesses = guesses
            case LeaseRequest(entries=leases):
                for lease in leases:
                    held = self._held.get(StreamId(lease.stream_id))
                    if held is not None:
                        held.lease = max(held.lease, lease.prefix_len + lease.num_tokens)
            case OpenStreamRequest():
                return
        self._clock.after(_TOGETHER_S, self._begin)

    def _begin(self) -> None:
        going = [
            (stream_id, held, held.guesses or ())
            for stream_id, held in self._held.items()
            if held.guesses is not None or held.lease > held.length
        ]
        if self._is_busy or not going:
            return
        self._is_busy = True
        num_tokens = sum(1 + len(guesses) for _, _, guesses in going)
        self.outcome.num_guesses += num_tokens - len(going)
        seconds = self._table.at(num_tokens)
        self._clock.after(seconds, partial(self._end, going, seconds))

    def _end(self, going: list[tuple[StreamId, _Held, tuple[int, ...]]], seconds: float) -> None:
        self._is_busy = False
        entries: list[CommitEntry] = []
        token_ids: list[int] = []
        for stream_id, held, guesses in going:
            before, text = held.length, held.text
            likely = guesses[: max(0, len(text) - before - 1)]
            wrong = (k for k, guess in enumerate(likely) if text[before + k] != guess)
            num_accepted = next(wrong, len(likely))
            held.length += num_accepted + 1
            held.guesses = None
            token_ids += text[before : held.length]
            reason = "length" if held.length == len(text) else ""
            counts = num_accepted + 1, len(likely), num_accepted
            entries.append(CommitEntry(stream_id, 1, before, *counts, reason, b"x"))
            if reason:
                del self._held[stream_id]
        reply = CommitReply(seconds, tuple(entries), tuple(token_ids))
        self._clock.after(self._copies.rtt_s / 2, partial(self._hear, reply))
        self._begin()

    def _hear(self, reply: CommitReply) -> None:
        self._carry_out(self._scheduler.committed(reply, self._clock.now))
