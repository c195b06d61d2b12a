"""A draft node's state on a toy model that keeps its passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airdraft.nodes.draft.followed import Guesses
from airdraft.nodes.draft.state import DraftState, Event, Guessed
from airdraft.nodes.engine.grammar import Grammars
from airdraft.nodes.engine.sampling import Sampling
from airdraft.nodes.engine.toy import ToyConfig
from airdraft.nodes.worker.stream import StreamId
from airdraft.policies.acceptance import Calibration, DraftCalibration
from airdraft.policies.latency import CostTable
from tests.nodes.builders import PROMPT
from tests.nodes.reference import reference
from tests.nodes.target.script import RecordingModel

ONE = StreamId(1)
TWO = StreamId(2)
SAMPLED = Sampling(temperature=1.0, top_k=20, seed=3)


def make_draft(
    grammars: Grammars | None = None,
    *,
    chance: float = 0.9,
    costs: CostTable | None = None,
    **changes: Any,
) -> tuple[DraftState, RecordingModel]:
    """chance: at first guesses are taken to be right so often, whatever the model says."""
    model = RecordingModel(ToyConfig(**changes))
    sure = DraftCalibration(*[Calibration((), (chance,))] * 2)
    return DraftState(model, sure, grammars, costs=costs), model


def run(state: DraftState) -> list[Event]:
    """All passes there are to run."""
    events: list[Event] = []
    while state.has_work():
        events += state.step()
    return events


def guessed_of(events: Sequence[object], stream_id: int = ONE) -> tuple[int, ...]:
    """The tokens that were guessed for a stream, of the last chain of it."""
    parts = parts_of(events, stream_id)
    last = max((part.chain for part, _ in parts), default=0)
    return tuple(t for part, token_ids in parts if part.chain == last for t in token_ids)


def parts_of(events: Sequence[object], stream_id: int = ONE) -> list[Guesses]:
    told = [part for event in events if isinstance(event, Guessed) for part in event.parts]
    return [(part, token_ids) for part, token_ids in told if part.stream_id == stream_id]


def text_of(
    prompt: tuple[int, ...] = PROMPT, sampling: Sampling = SAMPLED, num_tokens: int = 200
) -> tuple[int, ...]:
    """What a target of the same seed says; a draft of agreement 1 guesses it."""
    return reference(
        ToyConfig(), prompt, sampling, max_tokens=num_tokens, ignore_eog=True
    ).token_ids
