"""Streams that wait for their guesses, as a plan has it, and go together."""

from __future__ import annotations

import pytest

from nodes.messages import HoldEntry
from nodes.target.state import TargetState
from nodes.worker.stream import StreamId
from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.target.script import ONE, THREE, TWO, alone, commits_in, guess, make_state

HALF_A_SECOND_US = 500_000


def make(num_streams: int, *held: StreamId, num_guesses: int = 2) -> TargetState:
    """Streams that have begun, the last token of each committed at 10.0; some wait for guesses."""
    state, _ = make_state()
    for number in range(1, num_streams + 1):
        state.open(make_spec(number, max_tokens=30, ignore_eog=True, num_leased=30))
    assert state.patience_s(10.0) == 0.0
    state.step()
    state.passed(0.01, 10.0)
    for stream_id in held:
        state.hold(HoldEntry(stream_id, 1, 1, num_guesses, HALF_A_SECOND_US))
    return state


def going(state: TargetState) -> set[int]:
    return {commit.entry.stream_id for commit in commits_in(state.step())}


def guessed(state: TargetState, stream_id: StreamId, num_guesses: int) -> None:
    text = alone(make_spec(stream_id, max_tokens=30, ignore_eog=True)).token_ids
    guess(state, stream_id, len(PROMPT) + 1, text[1 : 1 + num_guesses])


def test_a_stream_waits_for_its_guesses_and_no_longer_than_it_may() -> None:
    state = make(1, ONE)
    assert state.patience_s(10.1) == pytest.approx(0.4)
    guessed(state, ONE, 1)
    assert state.patience_s(10.2) == pytest.approx(0.3)
    assert state.patience_s(10.6) == 0.0
    assert going(state) == {ONE}


def test_it_waits_no_more_once_they_are_there_or_the_hold_is_gone() -> None:
    state = make(1, ONE)
    guessed(state, ONE, 2)
    assert state.patience_s(10.1) == 0.0
    assert going(state) == {ONE}
    state = make(1, ONE)
    state.hold(HoldEntry(ONE, 1, 0, 0, 0))
    assert state.patience_s(10.1) == 0.0
    # A hold of another placement is stale.
    state.hold(HoldEntry(ONE, 7, 1, 2, HALF_A_SECOND_US))
    assert state.patience_s(10.1) == 0.0


def test_those_of_a_group_go_together_and_nobody_else_waits_for_them() -> None:
    state = make(3, ONE, TWO, num_guesses=1)
    guessed(state, ONE, 1)
    assert state.patience_s(10.1) == 0.0
    assert going(state) == {THREE}
    guessed(state, TWO, 1)
    assert going(state) == {ONE, TWO, THREE}


def test_a_parked_stream_comes_back_while_others_wait() -> None:
    state, _ = make_state(num_cells=300)
    state.open(make_spec(1, prompt=tuple(range(1, 81)), max_tokens=100))
    state.open(make_spec(2, max_tokens=5, num_leased=5))
    state.open(make_spec(3, prompt=tuple(range(1, 81)) * 2, max_tokens=100))
    state.step()
    state.passed(0.01, 10.0)
    state.hold(HoldEntry(TWO, 1, 1, 2, HALF_A_SECOND_US))
    assert state.patience_s(10.1) == pytest.approx(0.4)
    state.close(ONE, 1)
    assert state.patience_s(10.1) == 0.0


def test_prompts_are_read_while_others_wait() -> None:
    state = make(1, ONE)
    state.open(make_spec(2, prompt=tuple(range(1, 80)), max_tokens=5))
    assert state.patience_s(10.1) == 0.0
    assert going(state) == set()
