"""A target's state over a toy that keeps its passes, and what its streams become alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from nodes.engine.protocol import Logits, Span
from nodes.engine.toy import ToyConfig, ToyModel, ToyTokenizer
from nodes.target.events import Committed
from nodes.target.state import TargetState
from nodes.worker.stream import StreamId, StreamSpec
from policies.latency import CostTable, NodeCosts
from tests.nodes.reference import Reference, reference

ONE = StreamId(1)
TWO = StreamId(2)
# Passes take as long whatever is in them: all guesses that are there are worth it.
FLAT = NodeCosts(CostTable((1, 512), (0.01, 0.01)), CostTable((32,), (0.01,)))
_chains = itertools.count(1)


def verify(
    state: TargetState, stream_id: StreamId, generation: int, start: int, guesses: Sequence[int]
) -> None:
    """Send guesses of a chain of its own for the positions from start on, and allow a pass."""
    chances = [0.99] * len(guesses)
    state.guess(stream_id, (1, next(_chains)), start, guesses, chances)
    state.lease(stream_id, generation, start, 1)


class RecordingModel(ToyModel):
    """Keeps the spans of every pass."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.passes: list[list[Span]] = []

    def forward(self, spans: Sequence[Span]) -> Logits:
        self.passes.append(list(spans))
        return super().forward(spans)


def make_state(prefix_cache_bytes: int = 0, **changes: Any) -> tuple[TargetState, RecordingModel]:
    config = ToyConfig(**changes)
    model = RecordingModel(config)
    tokenizer = ToyTokenizer(config.num_vocab)
    return TargetState(model, tokenizer, prefix_cache_bytes, costs=FLAT), model


def alone(spec: StreamSpec, **changes: Any) -> Reference:
    return reference(
        ToyConfig(**changes),
        spec.token_ids[: spec.num_prompt_tokens],
        spec.sampling,
        max_tokens=spec.max_tokens,
        stops=spec.stops,
        ignore_eog=spec.ignore_eog,
    )


def run(state: TargetState) -> list[Committed]:
    """All passes there are to run."""
    commits = []
    while state.has_work():
        commits += [e for e in state.step() if isinstance(e, Committed)]
    return commits


def tokens_of(commits: Sequence[Committed], stream_id: StreamId = ONE) -> tuple[int, ...]:
    return tuple(t for c in commits if c.stream_id == stream_id for t in c.token_ids)


def pieces_of(model: RecordingModel) -> list[dict[int, int]]:
    """Tokens of prompts in each pass, by sequence."""
    return [
        {s.seq_id: len(s.token_ids) for s in spans if s.num_outputs == 0} for spans in model.passes
    ]


def text_of(token_ids: Sequence[int]) -> bytes:
    return b"".join(ToyTokenizer(96).piece(t) for t in token_ids)
