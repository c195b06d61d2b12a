"""A drafter on a toy model that keeps the sizes of its passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nodes.draft.state import ModelDrafter
from nodes.draft.stream import Event
from nodes.engine.protocol import Logits, Span
from nodes.engine.sampling import Sampling
from nodes.engine.toy import ToyConfig, ToyModel
from nodes.stream import StreamId
from tests.nodes.builders import PROMPT
from tests.nodes.reference import reference

ONE = StreamId(1)
TWO = StreamId(2)
SAMPLED = Sampling(temperature=1.0, top_k=20, seed=3)


class RecordingModel(ToyModel):
    """Keeps the number of tokens of every pass."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.sizes: list[list[int]] = []

    def forward(self, spans: Sequence[Span]) -> Logits:
        self.sizes.append([len(s.token_ids) for s in spans])
        return super().forward(spans)


def make_drafter(**changes: Any) -> tuple[ModelDrafter, RecordingModel]:
    model = RecordingModel(ToyConfig(**changes))
    return ModelDrafter(model), model


def run(drafter: ModelDrafter) -> list[Event]:
    events: list[Event] = []
    while drafter.has_work():
        events += drafter.step()
    return events


def expected(prompt: tuple[int, ...] = PROMPT, sampling: Sampling = SAMPLED) -> tuple[int, ...]:
    """What a target of the same seed says; a draft of agreement 1 guesses it."""
    return reference(ToyConfig(), prompt, sampling, max_tokens=20).token_ids
