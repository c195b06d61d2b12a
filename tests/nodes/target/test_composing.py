"""A target takes guesses into a pass if they are worth what they cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airdraft.nodes.messages import MAX_GAMMA, HoldEntry
from airdraft.nodes.target.state import TargetState
from airdraft.nodes.target.stream import Committed
from airdraft.nodes.worker.stream import StreamId
from airdraft.policies.latency import CostTable, NodeCosts
from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.target.script import ONE, THREE, TWO, alone, commits_in, guess, make_state

FLAT = NodeCosts(CostTable((1, 64), (0.010, 0.011)), CostTable((32,), (0.01,)))
STEEP = NodeCosts(CostTable((1, 64), (0.010, 0.640)), CostTable((32,), (0.01,)))
START = len(PROMPT) + 1


def begun(costs: NodeCosts = FLAT, **changes: Any) -> tuple[TargetState, tuple[int, ...]]:
    """A stream that may go on to its end, after its first token; with all that it becomes."""
    state, _ = make_state(costs=costs)
    spec = make_spec(**({"max_tokens": 20, "ignore_eog": True} | changes))
    state.open(replace(spec, num_leased=spec.max_tokens))
    state.step()
    return state, alone(spec).token_ids


def commit_of(state: TargetState) -> Committed:
    (commit,) = commits_in(state.step())
    return commit


@pytest.mark.parametrize(("chosen", "num_taken"), [(-1, 0), (3, 3)])
def test_where_a_token_costs_a_pass_only_guesses_that_a_client_chose_go_in_and_all_are_judged(
    chosen: int, num_taken: int
) -> None:
    state, text = begun(STEEP, num_guesses=chosen)
    guess(state, ONE, START, text[1:6])
    commit = commit_of(state)
    assert commit.entry.num_draft_tokens == num_taken
    assert commit.token_ids == text[1 : 2 + num_taken]
    assert (commit.entry.num_compared, commit.entry.num_right) == (1 + num_taken, 1 + num_taken)


def test_guesses_of_several_passes_go_on_from_one_to_the_next() -> None:
    """What a pass did not take is there for the next one."""
    state, text = begun(max_tokens=60)
    guess(state, ONE, START, text[1:31], sure=1.0)
    first, second = commit_of(state), commit_of(state)
    assert first.entry.num_draft_tokens == MAX_GAMMA
    assert second.entry.num_draft_tokens == 30 - (MAX_GAMMA + 1)
    assert first.token_ids + second.token_ids == text[1:32]


def test_guesses_take_free_cells_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two streams that just fit are not parked for guesses of one of them."""
    state, model = make_state(costs=FLAT, num_cells=80)
    specs = [make_spec(k, max_tokens=10, ignore_eog=True, num_leased=10) for k in (1, 2)]
    for spec in specs:
        state.open(spec)
    assert len(commits_in(state.step())) == 2
    monkeypatch.setattr(model, "free_cells", lambda: 3)
    guess(state, ONE, START, alone(specs[0]).token_ids[1:9])
    found = {c.entry.stream_id: c.entry.num_draft_tokens for c in commits_in(state.step())}
    assert found == {ONE: 1, TWO: 0}


def test_a_guess_without_a_free_cell_is_reported_with_its_chance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state, model = make_state(costs=FLAT, num_cells=80)
    spec = make_spec(max_tokens=10, ignore_eog=True, num_leased=10)
    state.open(spec)
    state.step()
    guess(state, ONE, START, alone(spec).token_ids[1:2], sure=0.5)
    monkeypatch.setattr(model, "free_cells", lambda: 1)
    entry = commit_of(state).entry
    assert (entry.num_draft_tokens, entry.num_offered, entry.best_percent) == (0, 1, 50)


def test_a_target_learns_what_its_passes_take() -> None:
    """Passes turn out to be steep: guesses of middling chance are not worth it any more."""
    cheap = NodeCosts(CostTable((1, 2, 64), (0.01, 0.0101, 0.011)), FLAT.prefill)
    state, text = begun(cheap, max_tokens=400)
    taken = []
    length = 1
    for _ in range(120):
        guess(state, ONE, len(PROMPT) + length, (text[length],), sure=0.5)
        commit = commit_of(state)
        taken.append(commit.entry.num_draft_tokens)
        state.passed(0.010 * (1 + commit.entry.num_draft_tokens))
        length += len(commit.token_ids)
    assert taken[0] == 1
    assert taken[-1] == 0


@pytest.mark.parametrize(("num_waiting", "num_taken"), [(0, 1), (1, 1), (4, 0)])
def test_a_guess_has_to_be_worth_the_delay_of_streams_whose_prompts_are_read(
    num_waiting: int, num_taken: int
) -> None:
    """The more of them wait, the more tokens the same delay costs."""
    table = CostTable((1, 64), (0.010, 0.010 + 63 * 0.003))
    state, text = begun(NodeCosts(table, table))
    for number in range(num_waiting):
        state.open(make_spec(2 + number, prompt=tuple(range(1, 65))))
    guess(state, ONE, START, text[1:2], sure=0.5)
    assert commit_of(state).entry.num_draft_tokens == num_taken


# -- streams that wait for their guesses -----------------------------------------------------------


HALF_A_SECOND_US = 500_000


def make(num_streams: int, *held: StreamId, num_guesses: int = 2) -> TargetState:
    """Streams that have begun, the last token of each committed at 10.0; some wait for guesses."""
    state, _ = make_state()
    for number in range(1, num_streams + 1):
        state.open(make_spec(number, max_tokens=30, ignore_eog=True, num_leased=30))
    assert state.schedule_pass(10.0) == 0.0
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
    assert state.schedule_pass(10.1) == pytest.approx(0.4)
    guessed(state, ONE, 1)
    assert state.schedule_pass(10.2) == pytest.approx(0.3)
    assert state.schedule_pass(10.6) == 0.0
    assert going(state) == {ONE}


def test_it_waits_no_more_once_they_are_there_or_the_hold_is_gone() -> None:
    state = make(1, ONE)
    guessed(state, ONE, 2)
    assert state.schedule_pass(10.1) == 0.0
    assert going(state) == {ONE}
    state = make(1, ONE)
    state.hold(HoldEntry(ONE, 1, 0, 0, 0))
    assert state.schedule_pass(10.1) == 0.0
    # A hold of another placement is stale.
    state.hold(HoldEntry(ONE, 7, 1, 2, HALF_A_SECOND_US))
    assert state.schedule_pass(10.1) == 0.0


def test_those_of_a_group_go_together_and_nobody_else_waits_for_them() -> None:
    state = make(3, ONE, TWO, num_guesses=1)
    guessed(state, ONE, 1)
    assert state.schedule_pass(10.1) == 0.0
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
    assert state.schedule_pass(10.1) == pytest.approx(0.4)
    state.close(ONE, 1)
    assert state.schedule_pass(10.1) == 0.0


def test_prompts_are_read_while_others_wait() -> None:
    state = make(1, ONE)
    state.open(make_spec(2, prompt=tuple(range(1, 80)), max_tokens=5))
    assert state.schedule_pass(10.1) == 0.0
    assert going(state) == set()
