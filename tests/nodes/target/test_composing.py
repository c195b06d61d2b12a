"""A target that takes guesses into its passes by what these cost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodes.engine.sampling import Sampling
from nodes.engine.toy import ToyConfig, ToyTokenizer
from nodes.messages import MAX_GAMMA
from nodes.target.events import Committed
from nodes.target.state import TargetState
from nodes.worker.stream import StreamSpec
from policies.latency import CostTable, NodeCosts
from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.target.script import ONE, TWO, RecordingModel, alone, tokens_of

FLAT = NodeCosts(CostTable((1, 64), (0.010, 0.011)), CostTable((32,), (0.01,)))
STEEP = NodeCosts(CostTable((1, 64), (0.010, 0.640)), CostTable((32,), (0.01,)))
SAMPLED = Sampling(temperature=1.0, seed=5)


def make(costs: NodeCosts = FLAT, **changes: int) -> tuple[TargetState, RecordingModel]:
    model = RecordingModel(ToyConfig(**changes))
    return TargetState(model, ToyTokenizer(96), costs=costs), model


def opened(state: TargetState, spec: StreamSpec) -> tuple[int, ...]:
    """Open a stream that may go on to its end; returns what it is to become."""
    state.open(replace(spec, num_leased=spec.max_tokens))
    return alone(spec).token_ids


def guess(state: TargetState, token_ids: tuple[int, ...], start: int, sure: float = 0.9) -> None:
    state.guess(ONE, (1, 1), start, token_ids, [sure] * len(token_ids))


def commits_of(state: TargetState) -> list[Committed]:
    return [event for event in state.step() if isinstance(event, Committed)]


@pytest.mark.parametrize("sampling", [Sampling(), SAMPLED])
def test_right_guesses_are_committed_in_one_pass(sampling: Sampling) -> None:
    state, _ = make()
    text = opened(state, make_spec(sampling=sampling, max_tokens=20, ignore_eog=True))
    (first,) = commits_of(state)
    length = len(PROMPT) + len(first.token_ids)
    guess(state, text[len(first.token_ids) :][:5], length)
    (commit,) = commits_of(state)
    assert (commit.num_draft_tokens, commit.num_accepted_tokens) == (5, 5)
    assert (*first.token_ids, *commit.token_ids) == text[:7]
    assert (commit.num_compared, commit.num_right) == (5, 5)


def test_where_a_token_costs_a_pass_guesses_stay_out_and_are_judged_all_the_same() -> None:
    state, _ = make(STEEP)
    text = opened(state, make_spec(max_tokens=20, ignore_eog=True))
    commits_of(state)
    guess(state, text[1:6], len(PROMPT) + 1)
    (commit,) = commits_of(state)
    assert commit.token_ids == text[1:2]
    assert commit.num_draft_tokens == 0
    assert (commit.num_compared, commit.num_right) == (1, 1)


def test_a_client_that_chose_a_number_gets_that_many_whatever_they_cost() -> None:
    state, _ = make(STEEP)
    spec = make_spec(max_tokens=20, ignore_eog=True, num_guesses=3)
    text = opened(state, spec)
    commits_of(state)
    guess(state, text[1:6], len(PROMPT) + 1)
    assert commits_of(state)[0].num_draft_tokens == 3


def test_guesses_of_several_passes_go_on_from_one_to_the_next() -> None:
    """What a pass did not take is there for the next one."""
    state, _ = make()
    text = opened(state, make_spec(max_tokens=60, ignore_eog=True))
    commits_of(state)
    guess(state, text[1:31], len(PROMPT) + 1, sure=1.0)
    first, second = commits_of(state)[0], commits_of(state)[0]
    assert first.num_draft_tokens == MAX_GAMMA
    assert second.num_draft_tokens == 30 - (MAX_GAMMA + 1)
    assert first.token_ids + second.token_ids == text[1:32]


def test_the_last_token_of_a_text_is_never_a_guess() -> None:
    state, _ = make()
    text = opened(state, make_spec(max_tokens=4, ignore_eog=True))
    commits_of(state)
    guess(state, (*text[1:], 1, 1), len(PROMPT) + 1)
    (commit,) = commits_of(state)
    assert commit.num_draft_tokens == 2
    assert commit.finish_reason == "length"


def test_guesses_take_free_cells_only() -> None:
    """Two streams that just fit are not parked for guesses of one of them."""
    state, model = make(num_cells=80)
    specs = [make_spec(k, max_tokens=10, ignore_eog=True) for k in (1, 2)]
    texts = [opened(state, spec) for spec in specs]
    commits = commits_of(state)
    model.free_cells = lambda: 3  # type: ignore[method-assign]
    guess(state, texts[0][1:9], len(PROMPT) + 1)
    found = {c.stream_id: c.num_draft_tokens for c in commits_of(state)}
    assert found == {ONE: 1, TWO: 0}
    assert len(commits) == 2


def test_texts_are_those_of_plain_decoding_whatever_is_guessed() -> None:
    state, _ = make()
    spec = make_spec(sampling=SAMPLED, max_tokens=30, ignore_eog=True)
    text = opened(state, spec)
    commits: list[Committed] = []
    chain = 0
    while state.has_work():
        commits += commits_of(state)
        chain += 1
        length = len(tokens_of(commits))
        # Right as far as the third, wrong from there on.
        token_ids = (*text[length : length + 2], 0, 0)
        state.guess(ONE, (1, chain), len(PROMPT) + length, token_ids, [0.9] * len(token_ids))
    assert tokens_of(commits) == text
    assert any(c.num_accepted_tokens for c in commits)


def test_tokens_outside_the_vocabulary_are_wrong_guesses() -> None:
    state, _ = make()
    text = opened(state, make_spec(max_tokens=10, ignore_eog=True))
    commits_of(state)
    state.guess(ONE, (1, 1), len(PROMPT) + 1, (text[1], 5000), [0.9, 0.9])
    assert commits_of(state)[0].token_ids == text[1:3]
    state.guess(TWO, (1, 1), 3, (1,), [0.9])
    assert state.num_stale == 1


def test_a_target_learns_what_its_passes_take() -> None:
    """Passes turn out to be steep: guesses of middling chance are not worth it any more."""
    state, _ = make(NodeCosts(CostTable((1, 2, 64), (0.01, 0.0101, 0.011)), FLAT.prefill))
    text = opened(state, make_spec(max_tokens=400, ignore_eog=True))
    taken = []
    length = 0
    for chain in range(1, 120):
        (commit,) = commits_of(state)
        taken.append(commit.num_draft_tokens)
        state.passed(0.010 * (1 + commit.num_draft_tokens))
        length += len(commit.token_ids)
        state.guess(ONE, (1, chain), len(PROMPT) + length, (text[length],), [0.5])
    assert taken[1] == 1
    assert taken[-1] == 0
