"""Guesses for outcomes that were not expected."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.nodes.draft.state import DraftState, Event
from airdraft.nodes.engine.protocol import Span
from airdraft.nodes.engine.rules import LogitRules
from airdraft.nodes.engine.sampling import Sampling
from airdraft.nodes.engine.toy import ToyConfig, ToyModel
from airdraft.nodes.messages import ChainPart
from airdraft.nodes.target.guess_buffer import GuessBuffer
from airdraft.policies.acceptance import Calibration, DraftCalibration
from airdraft.policies.latency import CostTable
from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.draft.script import ONE, SAMPLED, parts_of, run
from tests.nodes.reference import reference

# A step of eight sequences takes 1.07 times one of one.
COSTS = CostTable((1, 32), (1e-3, 1.3e-3))
GREEDY = Sampling(temperature=0.0)
# Wrong in three of ten contexts, and then its next choice is the right one.
DRAFT = ToyConfig(agreement=0.7, swapped=1.0, num_branches=8, eog_rate=0.0)


def make(config: ToyConfig = DRAFT, costs: CostTable | None = COSTS) -> DraftState:
    sure = DraftCalibration(*[Calibration((), (0.7,))] * 2)
    return DraftState(ToyModel(config), sure, costs=costs)


def follow(state: DraftState, stream_id: int = 1, sampling: Sampling = GREEDY) -> list[Event]:
    spec = make_spec(stream_id, sampling=sampling, max_tokens=300, ignore_eog=True)
    return [*state.open(spec), *run(state)]


def text_of(sampling: Sampling = GREEDY, num_tokens: int = 250) -> tuple[int, ...]:
    return reference(
        ToyConfig(), PROMPT, sampling, max_tokens=num_tokens, ignore_eog=True
    ).token_ids


def num_without(state: DraftState, sampling: Sampling) -> int:
    """How many tokens of a text a target has no guesses for, if a guess takes as long to come as
    one token of the text."""
    on_the_way, buffer, known = follow(state, sampling=sampling), GuessBuffer(), [*PROMPT]
    events: list[Event] = []
    num_found = 0
    for token_id in text_of(sampling):
        for part, token_ids in parts_of(events):
            buffer.take(part, token_ids, known)
        num_found += not buffer.after(len(known))[0]
        start = len(known)
        known.append(token_id)
        buffer.compare(known)
        state.committed(ONE, 1, start, (token_id,))
        events, on_the_way = on_the_way, run(state)
    return num_found


@pytest.mark.parametrize(
    ("sampling", "agreement"), [(GREEDY, 0.7), (SAMPLED, 0.0)], ids=["greedy", "sampled"]
)
def test_after_most_wrong_guesses_another_chain_goes_on(
    sampling: Sampling, agreement: float
) -> None:
    draft = replace(DRAFT, agreement=agreement)
    assert num_without(make(draft), sampling) <= num_without(make(draft, None), sampling) / 2


def test_a_text_that_takes_another_way_goes_on_in_the_chain_for_it() -> None:
    """So nothing is sent again that the target has."""
    state, text = make(), text_of()
    events = follow(state)
    sent: dict[int, tuple[int, ...]] = {}
    for part, token_ids in parts_of(events):
        sent[part.chain] = sent.get(part.chain, ()) + token_ids
    wrong = next(k for k, (a, b) in enumerate(zip(sent[1], text, strict=False)) if a != b)
    right = {n for n, tokens in sent.items() if tokens[: wrong + 1] == text[: wrong + 1]}
    assert right
    state.committed(ONE, 1, len(PROMPT), text[: wrong + 1])
    goes_on = [part for part, _ in parts_of(run(state)) if part.chain in right]
    assert goes_on
    for number in {part.chain for part in goes_on}:
        first = next(part for part in goes_on if part.chain == number)
        assert first.start == len(PROMPT) + len(sent[number])


def test_there_are_none_that_nobody_would_be_glad_of() -> None:
    """Streams with rules, shared media, recurrent models: one chain, as ever."""
    penalties = Sampling(rules=LogitRules(presence_penalty=0.5))
    forbidden = make()
    forbidden.branches.forbid()
    cannot = make(ToyConfig(agreement=0.7, swapped=1.0))
    for state, sampling in ((make(), penalties), (forbidden, GREEDY), (cannot, GREEDY)):
        events = follow(state, sampling=sampling)
        assert {part.chain for part, _ in parts_of(events)} == {1}


def test_a_step_that_branches_would_make_longer_has_none() -> None:
    state = make(costs=CostTable((1, 2, 32), (1e-3, 1.4e-3, 1e-2)))
    assert {part.chain for part, _ in parts_of(follow(state))} == {1}


def test_streams_share_the_branches_and_give_all_of_them_back() -> None:
    state = make(ToyConfig(agreement=0.7, swapped=1.0, num_branches=3))
    for stream_id in range(1, 40):
        events = follow(state, stream_id)
        assert len({part.chain for part, _ in parts_of(events, stream_id)}) == 4
        state.close(make_spec(stream_id).stream_id, 1)


class Told:
    """The chains of a stream as a target would have them."""

    def __init__(self) -> None:
        self.chains: dict[int, tuple[int, list[int]]] = {}

    def add(self, part: ChainPart, token_ids: tuple[int, ...], known: list[int]) -> None:
        if part.chain not in self.chains:
            assert part.chain > max(self.chains, default=0)
            assert part.start <= len(known)
            self.chains[part.chain] = part.start, [*known[: part.start]]
        _, tokens = self.chains[part.chain]
        assert part.start == len(tokens)
        tokens += token_ids


@given(
    seed=st.integers(0, 2**32),
    num_cells=st.sampled_from([150, 220, 4096]),
    num_branches=st.sampled_from([1, 3, 8]),
)
def test_every_guess_is_one_of_the_best_choices_after_what_stands_before_it(
    seed: int, num_cells: int, num_branches: int
) -> None:
    """Whatever is committed, reads or ends beside it, and however little room the cache has."""
    source = random.Random(seed)
    config = ToyConfig(
        agreement=0.7, swapped=1.0, num_branches=num_branches, num_cells=num_cells, max_sequences=3
    )
    state, alone = make(config), ToyModel(ToyConfig(agreement=0.7, swapped=1.0))
    known = {1: [*PROMPT], 2: [*PROMPT, 5]}
    told = {1: Told(), 2: Told()}
    for stream_id, text in known.items():
        spec = make_spec(
            stream_id, prompt=tuple(text), sampling=GREEDY, max_tokens=40, ignore_eog=True
        )
        state.open(spec)
    for _ in range(60):
        events: list[Event] = []
        for _ in range(source.randrange(4)):
            if state.has_work():
                events += state.step()
        for number, text in known.items():
            for part, token_ids in parts_of(events, number):
                start = len(told[number].chains.get(part.chain, (0, []))[1])
                told[number].add(part, token_ids, text)
                _, tokens = told[number].chains[part.chain]
                for place in range(max(start, part.start), len(tokens)):
                    alone.truncate(0, 0)
                    (row,) = alone.forward([Span(0, 0, tokens[:place], 1)])
                    assert tokens[place] in sorted(range(96), key=lambda t: (-row[t], t))[:4]
        number = source.choice([1, 2])
        text, start = known[number], len(known[number])
        live = [tokens for _, tokens in told[number].chains.values() if tokens[:start] == text]
        ahead = source.choice(live)[start : start + source.randrange(1, 4)] if live else []
        new = ahead if ahead and source.random() < 0.8 else [source.randrange(1, 96)]
        if start + len(new) < 70:
            known[number] = text + new
            state.committed(make_spec(number).stream_id, 1, start, tuple(new))
        if source.random() < 0.05:
            state.read_again(make_spec(number).stream_id, source.randrange(1, start))
    state.forget_all()
    assert not state.has_work()
