"""A draft node whose model has another vocabulary than its target guesses the target's tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from nodes.draft.state import DraftState
from nodes.engine.protocol import Logits, Span
from nodes.engine.toy import ToyConfig, ToyModel
from nodes.engine.translated import TranslatedModel
from policies.acceptance import Calibration, DraftCalibration
from tests.engine.words import Words
from tests.nodes.builders import make_spec
from tests.nodes.draft.script import ONE, guessed_of, run

# Both end with a token that neither text has.
OWN = Words([b"", b" the", b" cat", b" sat", b".", b"\n", b"\n\n", b" on", b" mat", b"s"])
TARGET = Words([b"", b" the", b" cats", b" sat", b".\n", b"\n", b" on", b" mat", b".", b" cat"])
TEXT = b" the cats sat on the mat.\n\n the cat sat." * 3


class Reciter(ToyModel):
    """Says a text, whatever it is asked, and sees to it that it is asked with that text."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        super().__init__(ToyConfig(num_vocab=OWN.num_vocab))
        self._text = token_ids

    def forward(self, spans: Sequence[Span]) -> Logits:
        logits = super().forward(spans).copy()
        row = 0
        for span in spans:
            end = span.start + len(span.token_ids)
            assert list(span.token_ids) == self._text[span.start : end]
            if span.num_outputs:
                logits[row] = np.where(np.arange(OWN.num_vocab) == self._text[end], 20.0, 0.0)
                row += 1
        return logits


@pytest.mark.parametrize("num_prompt_tokens", [1, 3, 7])
def test_a_text_that_the_model_knows_is_guessed_in_the_targets_tokens(
    num_prompt_tokens: int,
) -> None:
    """Where the target has one token for two, or two for one, and a guess goes on from each."""
    wanted = tuple(TARGET.inner_tokens(TEXT.decode()))
    own = [
        own_id for piece in map(TARGET.piece, wanted) for own_id in OWN.inner_tokens(piece.decode())
    ]
    state = DraftState(
        TranslatedModel(Reciter(own), OWN, TARGET, "target's"),
        DraftCalibration(*[Calibration((), (0.95,))] * 2),
    )
    prompt = wanted[:num_prompt_tokens]
    guessed = guessed_of([*state.open(make_spec(prompt=prompt, max_tokens=100)), *run(state)])
    assert len(guessed) >= 10
    assert guessed == wanted[num_prompt_tokens:][: len(guessed)]
    # What comes is read as the text that it is, and the next guesses follow it.
    state.committed(ONE, 1, len(prompt), guessed[:4])
    more = guessed_of(run(state))
    start = num_prompt_tokens + len(guessed)
    assert more
    assert more == wanted[start : start + len(more)]
