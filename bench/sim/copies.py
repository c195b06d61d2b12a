"""Simulation of prompt lookup by a target in texts that partly repeat themselves.

The states of target and scheduler are the real ones. Token ids are drawn, some of them copied from
earlier ones, and the target accepts guesses that equal its text. Times of passes come from a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from statistics import fmean
from typing import Any, Final

import numpy as np

from bench.sim.devices import Engine
from bench.sim.events import Clock
from bench.sim.real_nodes import SimNode, reply_of, to_target
from bench.sim.scripted import ScriptedTokenizer, Work
from nodes.engine.protocol import EngineInfo, Logits, SavedPrefix, Span
from nodes.engine.sampling import Sampling
from nodes.messages import CommitReply
from nodes.scheduler import Scheduler
from nodes.scheduler.drafts import Drafts
from nodes.scheduler.instructions import Emit, Finish, Instruction, ToTarget
from nodes.target.state import TargetState
from nodes.worker.events import Ready
from nodes.worker.stream import StreamId, StreamSpec
from policies.latency import CostTable, NodeCosts
from policies.plan import Link

# Seconds of a pass by its tokens: one table that hardly grows up to 16 tokens, one of a device
# limited by memory alone, and one where the second token costs more than the first.
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
# Mean lengths in tokens of copied and of new pieces; a coin toss decides which comes next.
TEXTS = {"mostly copied": (15, 8), "partly copied": (6, 15), "hardly copied": (3, 40)}
_PROMPT_TOKENS: Final = 200
_VOCABULARY: Final = 2000
# A text is identified by this many of its first tokens.
_KEY_TOKENS: Final = 8
_NUM_CELLS: Final = 1 << 20
_LIMIT_S: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Streams that begin together, each with a text of its own. table, text: keys of TABLES and
    TEXTS. rtt_s: round-trip time to the target."""

    table: str
    text: str
    num_streams: int
    rtt_s: float = 3e-4
    max_tokens: int = 200
    seed: int = 1


def copied_text(random: Random, count: int, copied: int, fresh: int) -> list[int]:
    """Draw `count` token ids. copied, fresh: mean lengths of copied and of new pieces."""
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


class TextModel:
    """A model with given texts: its likeliest next token is the text's next one."""

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        self._texts = {tuple(text[:_KEY_TOKENS]): text for text in texts}
        self._sequences: list[list[int]] = [[] for _ in texts]
        self._work: Work | None = None
        self._info = EngineInfo(
            engine="texts",
            model="texts",
            model_hash="texts",
            vocab_hash="texts",
            num_vocab=_VOCABULARY,
            num_cells=_NUM_CELLS,
            max_sequences=len(texts),
            max_batch_tokens=512,
            context_length=_NUM_CELLS,
            eog_token_ids=frozenset(),
            exact=True,
            numerics_class="texts",
            can_roll_back=True,
            emulated=True,
        )

    @property
    def info(self) -> EngineInfo:
        return self._info

    def take_work(self) -> Work | None:
        work, self._work = self._work, None
        return work

    def forward(self, spans: Sequence[Span]) -> Logits:
        used = _NUM_CELLS - self.free_cells()
        rows = []
        num_decoded = num_read = 0
        for span in spans:
            sequence = self._sequences[span.seq_id]
            first = len(span.token_ids) - span.num_outputs
            for index, token_id in enumerate(span.token_ids):
                sequence.append(token_id)
                if index >= first:
                    rows.append(self._row(sequence))
            if span.num_outputs:
                num_decoded += len(span.token_ids)
            else:
                num_read += len(span.token_ids)
        self._work = Work(num_decoded, num_read, used)
        return np.array(rows, dtype=np.float32).reshape(len(rows), _VOCABULARY)

    def _row(self, sequence: Sequence[int]) -> Logits:
        row = np.zeros(_VOCABULARY, dtype=np.float32)
        text = self._texts[tuple(sequence[:_KEY_TOKENS])]
        if len(sequence) < len(text):
            row[text[len(sequence)]] = 1.0
        return row

    def truncate(self, seq_id: int, length: int) -> None:
        del self._sequences[seq_id][length:]

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        self._sequences[target] = self._sequences[source][:length]

    def save(self, seq_id: int) -> SavedPrefix:
        raise NotImplementedError

    def restore(self, seq_id: int, saved: SavedPrefix, length: int) -> None:
        raise NotImplementedError

    def length(self, seq_id: int) -> int:
        return len(self._sequences[seq_id])

    def free_cells(self) -> int:
        return _NUM_CELLS - sum(map(len, self._sequences))

    def close(self) -> None:
        pass


def run_copies(copies: Copies, *, lookup: bool) -> float:
    """Return the mean seconds from the end of a stream's prompt to the stream's end.

    lookup: whether the target looks guesses up; otherwise it decodes plainly.
    """
    return _World(copies, lookup=lookup).run()


def gain(copies: Copies, seeds: Sequence[int]) -> float:
    """Return the mean over seeds of the time with plain decoding divided by that with lookup."""
    drawn = [replace(copies, seed=seed) for seed in seeds]
    return fmean(run_copies(each, lookup=False) / run_copies(each, lookup=True) for each in drawn)


class _World:
    def __init__(self, copies: Copies, *, lookup: bool) -> None:
        self._rtt_s = copies.rtt_s
        self._clock = Clock()
        random, end = Random(copies.seed), _PROMPT_TOKENS + copies.max_tokens
        streams = range(copies.num_streams)
        self._texts = [copied_text(random, end, *TEXTS[copies.text]) for _ in streams]
        table = TABLES[copies.table]
        costs = NodeCosts(table, CostTable((32,), (table.at(32),)))
        model = TextModel(self._texts)
        state = TargetState(model, ScriptedTokenizer(), costs=costs)
        engine = Engine(self._clock, costs, 0.0, Random(copies.seed))
        self._target = SimNode(engine, model, state, to_target, self._from_target)
        self._scheduler = Scheduler(None, Drafts(), looks_up=lookup)
        self._scheduler.target_link(Link(rtt_s=copies.rtt_s))
        self._read_at: dict[int, float] = {}
        self._seconds: list[float] = []
        self._max_tokens = copies.max_tokens

    def run(self) -> float:
        for number, text in enumerate(self._texts, 1):
            spec = StreamSpec(
                stream_id=StreamId(number),
                generation=1,
                owner=f"owner-{number}",
                sampling=Sampling(),
                max_tokens=self._max_tokens,
                stops=(),
                ignore_eog=True,
                num_prompt_tokens=_PROMPT_TOKENS,
                token_ids=tuple(text[:_PROMPT_TOKENS]),
            )
            self._carry_out(self._scheduler.admit(spec, None))
        while len(self._seconds) < len(self._texts):
            if self._clock.now > _LIMIT_S:
                raise RuntimeError(f"streams did not end within {_LIMIT_S:g} virtual seconds")
            self._clock.run(self._clock.now + 1.0)
        return fmean(self._seconds)

    def _carry_out(self, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case ToTarget(message=message):
                    self._clock.after(self._rtt_s / 2, partial(self._target.receive, message))
                case Emit(stream_id=stream_id, position=position, token_ids=token_ids):
                    first = _PROMPT_TOKENS + position
                    wanted = self._texts[stream_id - 1][first : first + len(token_ids)]
                    assert list(token_ids) == wanted
                case Finish(stream_id=stream_id):
                    self._seconds.append(self._clock.now - self._read_at[stream_id])

    def _from_target(self, events: Sequence[object], seconds: float) -> None:
        for event in events:
            if isinstance(event, Ready):
                self._clock.after(self._rtt_s / 2, partial(self._on_ready, event))
        reply: Any = reply_of(events, seconds)
        if reply is not None:
            self._clock.after(self._rtt_s / 2, partial(self._on_committed, reply))

    def _on_ready(self, event: Ready) -> None:
        self._read_at[event.stream_id] = self._clock.now
        stream = event.stream_id, event.generation
        self._carry_out(self._scheduler.target_ready(*stream, has_begun=event.has_begun))

    def _on_committed(self, reply: CommitReply) -> None:
        self._carry_out(self._scheduler.committed(reply, self._clock.now))
