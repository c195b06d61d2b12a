"""Texts that partly repeat themselves, looked up by a target, beside lookup in rounds.

The texts, tables and figures are those of `copies`; the target's state is the real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from random import Random
from statistics import fmean
from typing import Any, Final

import numpy as np

from bench.sim.copies import TABLES, TEXTS, Copies, copied_text
from bench.sim.devices import Engine
from bench.sim.events import Clock
from bench.sim.real_nodes import SimNode, to_target
from bench.sim.scripted import ScriptedTokenizer, Work
from nodes.engine.protocol import EngineInfo, Logits, SavedPrefix, Span
from nodes.engine.sampling import Sampling
from nodes.flow.drafts import Drafts
from nodes.flow.state import FlowState
from nodes.messages import CommitReply
from nodes.scheduler.instructions import Finish, Instruction, ToTarget
from nodes.stream import StreamId, StreamSpec
from nodes.target.events import Committed, Ready
from nodes.target.node import commit_entry
from nodes.target.state import TargetState
from policies.latency import CostTable, NodeCosts
from policies.plan import Link

_PROMPT_TOKENS: Final = 200
_VOCABULARY: Final = 2000
# By so many of its first tokens a text is known.
_KEY_TOKENS: Final = 8
_NUM_CELLS: Final = 1 << 20
_LIMIT_S: Final = 3600.0


class TextModel:
    """A target whose texts are given: it says what stands next."""

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


def run_flow_copies(copies: Copies, *, lookup: bool) -> float:
    """Mean seconds from a stream's prompt to its end. lookup: False decodes plainly."""
    return _World(copies, lookup=lookup).run()


def gain_in_flow(copies: Copies, seeds: Sequence[int]) -> float:
    """How much sooner the mean stream ends by lookup than plainly, on average over seeds."""
    drawn = [replace(copies, seed=seed) for seed in seeds]
    return fmean(
        run_flow_copies(each, lookup=False) / run_flow_copies(each, lookup=True) for each in drawn
    )


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
        self._flow = FlowState(Drafts(), Link(rtt_s=copies.rtt_s), looks_up=lookup)
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
            self._carry_out(self._flow.admit(spec, None))
        while len(self._seconds) < len(self._texts):
            if self._clock.now > _LIMIT_S:
                raise RuntimeError("streams do not end")
            self._clock.run(self._clock.now + 1.0)
        return fmean(self._seconds)

    def _carry_out(self, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case ToTarget(message=message):
                    self._clock.after(self._rtt_s / 2, partial(self._target.receive, message))
                case Finish(stream_id=stream_id):
                    self._seconds.append(self._clock.now - self._read_at[stream_id])

    def _from_target(self, events: Sequence[object], seconds: float) -> None:
        for event in events:
            if isinstance(event, Ready):
                self._clock.after(self._rtt_s / 2, partial(self._on_ready, event))
        commits = [event for event in events if isinstance(event, Committed)]
        if commits:
            token_ids = tuple(t for commit in commits for t in commit.token_ids)
            reply: Any = CommitReply(seconds, tuple(map(commit_entry, commits)), token_ids)
            self._clock.after(self._rtt_s / 2, partial(self._on_committed, reply))

    def _on_ready(self, event: Ready) -> None:
        self._read_at[event.stream_id] = self._clock.now
        told = event.stream_id, event.generation
        self._carry_out(self._flow.target_ready(*told, has_begun=event.has_begun))

    def _on_committed(self, reply: CommitReply) -> None:
        self._carry_out(self._flow.committed(reply, self._clock.now))
