"""Two groups of streams in turns on an engine of several machines: when, and the same texts."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airdraft.nodes.engine.protocol import Logits, SavedPrefix, SequencesLostError, Span
from airdraft.nodes.engine.toy import ToyConfig, ToyTokenizer
from airdraft.nodes.messages import StreamParkedNotice
from airdraft.nodes.target.state import TargetState
from airdraft.nodes.target.stream import Committed, Event
from airdraft.nodes.worker.stream import StreamId
from airdraft.policies.latency import CostTable, NodeCosts
from tests.nodes.builders import make_spec
from tests.nodes.target.script import RecordingModel, alone, commits_in, guess

# Half of the streams take 0.6 of the time of all.
STEEP = NodeCosts(CostTable((1, 16), (0.2, 1.0)), CostTable((32,), (0.01,)))
FLAT = NodeCosts(CostTable((1, 16), (0.9, 1.0)), CostTable((32,), (0.01,)))
NUM = 8
SHARED = tuple(range(2, 22))


class Chain(RecordingModel):
    """A toy on several machines. Nothing may touch a sequence of a pass that is under way."""

    def __init__(self, config: ToyConfig, own_share: float) -> None:
        super().__init__(config)
        self.own_share, self.piece_tokens = own_share, 16
        self.under_way = deque[Sequence[Span]]()
        self.most = 0
        self.fails = False

    def begin(self, spans: Sequence[Span]) -> None:
        for span in spans:
            self._free(span.seq_id)
        assert sum(len(span.token_ids) for span in spans) <= max(self.piece_tokens, len(spans))
        self.under_way.append(spans)
        self.most = max(self.most, len(self.under_way))

    def finish(self) -> Logits:
        if self.fails:
            self.fails = False
            self.under_way.clear()
            for seq_id in range(self.info.max_sequences):
                self.truncate(seq_id, 0)
            raise SequencesLostError("a stage was lost")
        return super().forward(self.under_way.popleft())

    def forward(self, spans: Sequence[Span]) -> Logits:
        assert not self.under_way
        return super().forward(spans)

    def _free(self, *seq_ids: int) -> None:
        busy = {span.seq_id for spans in self.under_way for span in spans}
        assert not busy & set(seq_ids)

    def truncate(self, seq_id: int, length: int) -> None:
        self._free(seq_id)
        super().truncate(seq_id, length)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        self._free(source, target)
        super().copy_prefix(source, target, length)

    def save(self, seq_id: int) -> SavedPrefix:
        self._free(seq_id)
        return super().save(seq_id)


def chain_of(
    costs: NodeCosts = STEEP, own_share: float = 0.5, **changes: Any
) -> tuple[TargetState, Chain]:
    config = ToyConfig(**changes)
    model = Chain(config, own_share)
    return TargetState(model, ToyTokenizer(config.num_vocab), 1 << 20, costs=costs), model


def opened(state: TargetState, count: int = NUM, max_tokens: int = 12) -> None:
    for number in range(1, count + 1):
        spec = spec_of(number, max_tokens)
        state.open(spec)
    finish(state)
    for number in range(1, count + 1):
        state.lease(StreamId(number), 1, len(SHARED) + 1, max_tokens)


def spec_of(number: int, max_tokens: int = 12) -> Any:
    """Texts of one owner, which begin alike."""
    return make_spec(number, prompt=(*SHARED, 1 + number), max_tokens=max_tokens)


def finish(state: TargetState) -> list[Event]:
    events: list[Event] = []
    while state.has_work():
        assert state.schedule_pass(0.0) == 0.0
        events += state.step()
        state.passed(0.01)
    return events


def texts(events: Sequence[Event]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for commit in commits_in(events):
        found.setdefault(commit.entry.stream_id, []).extend(commit.token_ids)
    return found


def test_two_groups_take_turns_and_have_the_texts_of_streams_alone() -> None:
    state, model = chain_of()
    opened(state)
    model.passes.clear()
    events = finish(state)
    for number, token_ids in texts(events).items():
        assert tuple(token_ids) == alone(spec_of(number)).token_ids
    assert model.most == 2
    assert {len(spans) for spans in model.passes[:20]} == {NUM // 2}
    assert not state.num_streams


@pytest.mark.parametrize(
    ("costs", "own_share"),
    [(FLAT, 0.5), (STEEP, 0.9), (STEEP, 0.1), (STEEP, 0.0)],
    ids=["half costs as much", "this one is slow", "another one is slow", "not known yet"],
)
def test_one_pass_for_all_streams_where_two_groups_gain_nothing(
    costs: NodeCosts, own_share: float
) -> None:
    state, model = chain_of(costs, own_share)
    opened(state)
    model.passes.clear()
    events = finish(state)
    assert (model.most, len(model.passes[0])) == (0, NUM)
    assert len(texts(events)) == NUM


def test_guesses_fill_no_more_than_a_piece_that_the_machines_pass_on() -> None:
    state, model = chain_of(
        NodeCosts(CostTable((1, 4, 7, 8, 16), (0.2, 0.4, 0.42, 0.8, 0.9)), STEEP.prefill)
    )
    model.piece_tokens = 7
    opened(state)
    for number in range(1, NUM + 1):
        right = alone(spec_of(number)).token_ids
        guess(state, StreamId(number), len(SHARED) + 1, right[:6])
    model.passes.clear()
    events = finish(state)
    sizes = [sum(len(span.token_ids) for span in spans) for spans in model.passes]
    assert (model.most, len(model.passes[0]), sizes[0]) == (2, NUM // 2, 7)
    for number, token_ids in texts(events).items():
        assert tuple(token_ids) == alone(spec_of(number)).token_ids


def test_a_lost_stage_parks_all_streams_and_their_texts_go_on() -> None:
    state, model = chain_of()
    opened(state)
    events = [event for _ in range(4) for event in state.step()]
    assert model.under_way
    model.fails = True
    lost = state.step()
    assert len([event for event in lost if isinstance(event, StreamParkedNotice)]) == NUM
    before = texts(events)
    for number in range(1, NUM + 1):
        assert tuple(before[number]) == alone(spec_of(number)).token_ids[: len(before[number])]
    # They are read again; the coordinator sends leases once it hears that they are ready.
    finish(state)
    for number in range(1, NUM + 1):
        state.lease(StreamId(number), 2, len(SHARED) + 1 + len(before[number]), 12)
    after = texts(finish(state))
    for number in range(1, NUM + 1):
        whole = (*before[number], *after[number])
        assert whole == alone(spec_of(number)).token_ids


@given(st.data())
def test_whatever_happens_between_steps_texts_are_those_of_streams_alone(data: Any) -> None:
    state, _ = chain_of(agreement=1.0, max_sequences=6, num_cells=240)
    found: dict[int, list[int]] = {}
    newest = 0

    def note(events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Committed):
                found.setdefault(event.entry.stream_id, []).extend(event.token_ids)

    for _ in range(data.draw(st.integers(5, 60))):
        action = data.draw(st.sampled_from("oooclllgssssss"))
        number = data.draw(st.integers(max(1, newest - 7), max(1, newest)))
        known = found.get(number, [])
        if action == "o":
            newest += 1
            note(state.open(spec_of(newest, 20)))
        elif action == "c":
            for generation in range(1, 5):
                state.close(StreamId(number), generation)
        elif action == "l":
            for each, generation in itertools.product(range(1, newest + 1), range(1, 5)):
                state.lease(
                    StreamId(each), generation, len(SHARED) + 1 + len(found.get(each, [])), 6
                )
        elif action == "g":
            right = alone(spec_of(number, 20)).token_ids[len(known) : len(known) + 3]
            guess(state, StreamId(number), len(SHARED) + 1 + len(known), [*right[:2], 90])
        elif state.has_work():
            note(state.step())
            state.passed(0.01)
    note(finish(state))
    for number, token_ids in found.items():
        assert tuple(token_ids) == alone(spec_of(number, 20)).token_ids[: len(token_ids)]
