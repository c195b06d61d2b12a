"""A target's state over a toy that keeps its passes, and what its streams become alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from airdraft.nodes.engine.protocol import Logits, Model, Span, Tokenizer
from airdraft.nodes.engine.toy import ToyConfig, ToyModel, ToyTokenizer
from airdraft.nodes.messages import (
    CHANCE_STEPS,
    ChainPart,
    StreamFailedNotice,
    StreamParkedNotice,
    StreamReadyNotice,
)
from airdraft.nodes.target.state import TargetState
from airdraft.nodes.target.stream import Committed, Event
from airdraft.nodes.worker.stream import StreamId, StreamSpec
from airdraft.policies.latency import CostTable, NodeCosts
from tests.nodes.builders import make_spec
from tests.nodes.reference import Reference, reference

ONE = StreamId(1)
TWO = StreamId(2)
THREE = StreamId(3)
# Passes take as long whatever is in them: all guesses that are there are worth it.
FLAT = NodeCosts(CostTable((1, 512), (0.01, 0.01)), CostTable((32,), (0.01,)))
_chains = itertools.count(1)


def guess(
    state: TargetState, stream_id: StreamId, start: int, guesses: Sequence[int], sure: float = 0.99
) -> None:
    """Send guesses of a chain of its own for the positions from start on."""
    chances = bytes([round(CHANCE_STEPS * sure)] * len(guesses))
    state.guess(ChainPart(stream_id, 1, next(_chains), start, chances), guesses)


def verify(
    state: TargetState, stream_id: StreamId, generation: int, start: int, guesses: Sequence[int]
) -> None:
    """Send guesses for the positions from start on, and allow a pass."""
    guess(state, stream_id, start, guesses)
    state.lease(stream_id, generation, start, 1)


class RecordingModel(ToyModel):
    """Keeps the spans of every pass."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.passes: list[list[Span]] = []

    def forward(self, spans: Sequence[Span]) -> Logits:
        self.passes.append(list(spans))
        return super().forward(spans)

    @property
    def sizes(self) -> list[list[int]]:
        """Tokens of each span of each pass."""
        return [[len(span.token_ids) for span in spans] for spans in self.passes]

    def num_read(self) -> int:
        """Tokens of prompts that were run."""
        return sum(sum(piece.values()) for piece in pieces_of(self))


def make_state(
    prefix_cache_bytes: int = 0, costs: NodeCosts = FLAT, **changes: Any
) -> tuple[TargetState, RecordingModel]:
    """changes: of the toy."""
    config = ToyConfig(**changes)
    model = RecordingModel(config)
    tokenizer = ToyTokenizer(config.num_vocab)
    return TargetState(model, tokenizer, prefix_cache_bytes, costs=costs), model


def alone(spec: StreamSpec, **changes: Any) -> Reference:
    return reference(
        ToyConfig(**changes),
        spec.token_ids[: spec.num_prompt_tokens],
        spec.sampling,
        max_tokens=spec.max_tokens,
        stops=spec.stops,
        ignore_eog=spec.ignore_eog,
        num_logprobs=spec.num_logprobs,
        scores_prompt=spec.scores_prompt,
    )


def steps(state: TargetState) -> list[Event]:
    """All passes there are to run."""
    events: list[Event] = []
    while state.has_work():
        events += state.step()
    return events


def commits_in(events: Sequence[Event]) -> list[Committed]:
    return [event for event in events if isinstance(event, Committed)]


def run(state: TargetState) -> list[Committed]:
    return commits_in(steps(state))


def tokens_of(events: Sequence[Event], stream_id: StreamId = ONE) -> tuple[int, ...]:
    return tuple(
        t for c in commits_in(events) if c.entry.stream_id == stream_id for t in c.token_ids
    )


def decoding() -> tuple[TargetState, RecordingModel]:
    """A target on which one stream decodes."""
    state, model = make_state(num_cells=8192)
    state.open(make_spec(max_tokens=300))
    run(state)
    state.lease(ONE, 1, 3, 300)
    model.passes.clear()
    return state, model


def pieces_of(model: RecordingModel) -> list[dict[int, int]]:
    """Tokens of prompts in each pass, by sequence; streams get sequences in their order."""
    return [
        {s.seq_id: len(s.token_ids) for s in spans if s.num_outputs == 0} for spans in model.passes
    ]


def text_of(token_ids: Sequence[int]) -> bytes:
    return b"".join(ToyTokenizer(96).piece(t) for t in token_ids)


class Desk:
    """What a coordinator knows of the streams of a target. Who is ready may decode to its end.

    ready: the generation of each stream that was said to be ready, until it is parked. lengths: of
    all texts. events: everything that was told.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        prefix_cache_bytes: int = 0,
        costs: NodeCosts = FLAT,
    ) -> None:
        self.state = TargetState(model, tokenizer, prefix_cache_bytes, costs=costs)
        self.ready: dict[StreamId, int] = {}
        self.lengths: dict[StreamId, int] = {}
        self.events: list[Event] = []

    def open(self, *specs: StreamSpec) -> None:
        for spec in specs:
            self.lengths[spec.stream_id] = len(spec.token_ids)
            self._take(self.state.open(spec))

    def step(self, num_leased: int = 10_000) -> list[Event]:
        for stream_id, generation in self.ready.items():
            self.state.lease(stream_id, generation, self.lengths[stream_id], num_leased)
        return self._take(self.state.step())

    def run(self) -> list[Event]:
        """All passes there are to run; returns what was told from the beginning on."""
        while self.ready or self.state.has_work():
            self.step()
        return self.events

    def until_parked(self) -> None:
        while not any(isinstance(event, StreamParkedNotice) for event in self.step()):
            pass

    def _take(self, events: Sequence[Event]) -> list[Event]:
        for event in events:
            match event:
                case StreamReadyNotice(stream_id=stream_id, generation=generation):
                    self.ready[stream_id] = generation
                case Committed(entry=entry):
                    stream_id = StreamId(entry.stream_id)
                    self.lengths[stream_id] += len(event.token_ids)
                    if entry.finish_reason:
                        self.ready.pop(stream_id, None)
                case (
                    StreamParkedNotice(stream_id=stream_id)
                    | StreamFailedNotice(stream_id=stream_id)
                ):
                    self.ready.pop(stream_id, None)
        self.events += events
        return list(events)


def make_desk(prefix_cache_bytes: int = 0, **changes: Any) -> tuple[Desk, RecordingModel]:
    model = RecordingModel(ToyConfig(**changes))
    return Desk(model, ToyTokenizer(model.config.num_vocab), prefix_cache_bytes), model
