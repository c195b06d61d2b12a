"""Grammars whose masks come late: their streams sit passes out, and no others."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from airdraft.nodes.engine.masks import GrammarText, MasksAtOnce
from airdraft.nodes.engine.rules import Grammar, LogitRules
from airdraft.nodes.engine.sampling import Sampling
from airdraft.nodes.engine.toy import ToyConfig, ToyTokenizer
from airdraft.nodes.target.state import TargetState
from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.target.script import FLAT, ONE, TWO, RecordingModel, alone, guess, run, tokens_of

WORDS = Grammar("gbnf", 'root ::= (" " [1-3] [0-9]?)+ " 4"')
RULED = Sampling(temperature=1.0, seed=5, rules=LogitRules(grammar=WORDS))


class Masks(MasksAtOnce):
    """Those of one owner are computed when the test says so, all others at once."""

    def __init__(self, slow_owner: str = "owner-1") -> None:
        self._slow_owner = slow_owner
        self.waiting: list[GrammarText] = []

    def ask(self, text: GrammarText) -> None:
        if text.owner == self._slow_owner:
            self.waiting.append(text)
        else:
            text.compute()

    def compute(self) -> None:
        while self.waiting:
            self.waiting.pop().compute()


def serving(masks: MasksAtOnce, *, can_cut: bool = True) -> tuple[TargetState, RecordingModel]:
    """A target with two streams that may decode to their ends, both with grammars."""
    model = RecordingModel(ToyConfig())
    model.info = replace(model.info, can_cut=can_cut)
    state = TargetState(model, ToyTokenizer(96), costs=FLAT, masks=masks)
    for stream_id in (ONE, TWO):
        spec = make_spec(stream_id, max_tokens=12, sampling=RULED)
        state.open(spec)
        state.lease(stream_id, 1, len(PROMPT), 12)
    return state, model


@pytest.mark.parametrize("can_cut", [True, False])
def test_a_stream_whose_masks_are_late_delays_no_other_and_has_the_same_text(can_cut: bool) -> None:
    masks = Masks()
    state, model = serving(masks, can_cut=can_cut)
    expected = alone(make_spec(max_tokens=12, sampling=RULED)).token_ids
    events = []
    while state.has_work():
        for stream_id in (ONE, TWO):
            state.lease(stream_id, 1, len(PROMPT), 12)
        events += state.step()
    assert tokens_of(events, TWO) == expected
    assert tokens_of(events, ONE) == ()
    # Only where a token can be run again did a pass run the first one in vain.
    in_passes = [span.start for spans in model.passes for span in spans if span.num_outputs]
    assert in_passes.count(0) == 1 + can_cut
    assert state.num_streams == 1
    while state.num_streams:
        masks.compute()
        assert state.has_work()
        state.lease(ONE, 1, len(PROMPT), 12)
        events += state.step()
    assert tokens_of(events, ONE) == expected


class Sometimes(MasksAtOnce):
    """Computes masks by chance, at once, while a pass runs, or later."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._waiting: list[GrammarText] = []

    def ask(self, text: GrammarText) -> None:
        self._waiting.append(text)
        self.compute()

    def settle(self, texts: object, seconds: float) -> None:
        self.compute()

    def compute(self) -> None:
        while self._waiting and self._random.random() < 0.5:
            self._waiting.pop(0).compute()


@pytest.mark.parametrize("seed", range(20))
def test_texts_are_the_same_whenever_masks_come_and_whatever_was_guessed(seed: int) -> None:
    masks, chance = Sometimes(seed), random.Random(seed)
    state, _ = serving(masks)
    expected = alone(make_spec(max_tokens=12, sampling=RULED)).token_ids
    events = []
    for _ in range(1_000):
        if not state.num_streams:
            break
        for stream_id in (ONE, TWO):
            done = len(tokens_of(events, stream_id))
            state.lease(stream_id, 1, len(PROMPT), 12)
            guesses = [t if chance.random() < 0.8 else 1 for t in expected[done : done + 3]]
            guess(state, stream_id, len(PROMPT) + done, guesses)
        events += state.step()
        masks.compute()
    assert tokens_of(events, ONE) == tokens_of(events, TWO) == expected
    assert run(state) == []
