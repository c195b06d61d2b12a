"""Logits that are not numbers end the stream that they are of, and nobody else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from airdraft.nodes.draft.state import DraftState
from airdraft.nodes.engine.load import TOY_COSTS
from airdraft.nodes.engine.protocol import Logits, Span
from airdraft.nodes.engine.toy import ToyConfig, ToyModel, ToyTokenizer
from airdraft.nodes.messages import ProbeReply, StreamFailedNotice
from airdraft.nodes.target.state import TargetState
from tests.nodes.builders import make_spec
from tests.nodes.draft.script import guessed_of
from tests.nodes.draft.script import run as run_draft
from tests.nodes.target.script import ONE, TWO, alone, steps, tokens_of


class FaultyModel(ToyModel):
    """Computes no numbers for its first sequence."""

    def forward(self, spans: Sequence[Span]) -> Logits:
        rows = super().forward(spans).copy()
        row = 0
        for span in spans:
            if span.seq_id == 0:
                rows[row : row + span.num_outputs] = np.nan
            row += span.num_outputs
        return rows


def test_a_target_goes_on_with_the_other_streams() -> None:
    state = TargetState(FaultyModel(ToyConfig()), ToyTokenizer(96), costs=TOY_COSTS)
    bad, good = make_spec(1, num_leased=20), make_spec(2, num_leased=20)
    for spec in (bad, good):
        state.open(spec)
    events = steps(state)
    (failed,) = [event for event in events if isinstance(event, StreamFailedNotice)]
    assert (failed.stream_id, failed.code) == (ONE, "internal")
    assert "not numbers" in failed.reason
    assert tokens_of(events, TWO) == alone(good).token_ids
    assert state.num_streams == 0


def test_a_target_answers_a_probe_whose_tokens_have_no_logits() -> None:
    """Probes are of random tokens. Without an answer it could not join this coordinator."""
    faulty, sound = (
        TargetState(model(ToyConfig()), ToyTokenizer(96), costs=TOY_COSTS).probe(5)
        for model in (FaultyModel, ToyModel)
    )
    assert isinstance(faulty[0], ProbeReply)
    assert faulty != sound


def test_a_draft_goes_on_with_the_other_streams() -> None:
    drafter = DraftState(FaultyModel(ToyConfig()))
    drafter.open(make_spec(1))
    drafter.open(make_spec(2))
    events = run_draft(drafter)
    assert [event.stream_id for event in events if isinstance(event, StreamFailedNotice)] == [ONE]
    assert guessed_of(events, ONE) == ()
    guessed = guessed_of(events, TWO)
    assert guessed
    assert guessed == alone(make_spec(2)).token_ids[: len(guessed)]
