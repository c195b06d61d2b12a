"""Streams that wait for their guesses, as a plan has it, and go together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodes.engine.toy import ToyConfig, ToyTokenizer
from nodes.target.composing import Hold
from nodes.target.events import Committed
from nodes.target.state import TargetState
from nodes.worker.stream import StreamId
from policies.latency import CostTable, NodeCosts
from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.target.script import ONE, TWO, RecordingModel, alone

FLAT = NodeCosts(CostTable((1, 64), (0.010, 0.011)), CostTable((32,), (0.01,)))
THREE = StreamId(3)


def make(num_streams: int) -> TargetState:
    """Streams that have begun, the last token of each committed at 10.0."""
    state = TargetState(RecordingModel(ToyConfig()), ToyTokenizer(96), costs=FLAT)
    for number in range(1, num_streams + 1):
        spec = make_spec(number, max_tokens=30, ignore_eog=True)
        state.open(replace(spec, num_leased=30))
    assert state.patience_s(10.0) == 0.0
    state.step()
    state.passed(0.01, 10.0)
    return state


def going(state: TargetState) -> set[int]:
    return {event.stream_id for event in state.step() if isinstance(event, Committed)}


def guess(state: TargetState, stream_id: StreamId, num_guesses: int) -> None:
    text = alone(make_spec(stream_id, max_tokens=30, ignore_eog=True)).token_ids
    token_ids = text[1 : 1 + num_guesses]
    state.guess(stream_id, (1, 1), len(PROMPT) + 1, token_ids, [0.9] * num_guesses)


def test_a_stream_waits_for_its_guesses_and_no_longer_than_it_may() -> None:
    state = make(1)
    state.hold(ONE, 1, Hold(1, 2, 0.5))
    assert state.patience_s(10.1) == pytest.approx(0.4)
    guess(state, ONE, 1)
    assert state.patience_s(10.2) == pytest.approx(0.3)
    assert state.patience_s(10.6) == 0.0
    assert going(state) == {ONE}


def test_it_goes_as_soon_as_they_are_there() -> None:
    state = make(1)
    state.hold(ONE, 1, Hold(1, 2, 0.5))
    guess(state, ONE, 2)
    assert state.patience_s(10.1) == 0.0
    assert going(state) == {ONE}


def test_those_of_a_group_go_together_and_nobody_else_waits_for_them() -> None:
    state = make(3)
    state.hold(ONE, 1, Hold(1, 1, 0.5))
    state.hold(TWO, 1, Hold(1, 1, 0.5))
    guess(state, ONE, 1)
    assert state.patience_s(10.1) == 0.0
    assert going(state) == {THREE}
    guess(state, TWO, 1)
    assert going(state) == {ONE, TWO, THREE}


def test_without_a_hold_it_waits_for_nothing_any_more() -> None:
    state = make(1)
    state.hold(ONE, 1, Hold(1, 2, 0.5))
    state.hold(ONE, 1, None)
    assert state.patience_s(10.1) == 0.0


def test_prompts_are_read_while_others_wait() -> None:
    state = make(1)
    state.hold(ONE, 1, Hold(1, 2, 0.5))
    state.open(make_spec(2, prompt=tuple(range(1, 80)), max_tokens=5))
    assert state.patience_s(10.1) == 0.0
    assert going(state) == set()


def test_a_hold_of_another_placement_is_stale() -> None:
    state = make(1)
    state.hold(ONE, 7, Hold(1, 2, 0.5))
    assert state.patience_s(10.1) == 0.0
    assert state.num_stale == 1
