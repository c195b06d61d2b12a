"""Rules and scores on target and draft; tests/nodes/test_law1.py has texts of many more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airdraft.mesh.codec import encode
from airdraft.nodes.draft.state import DraftState
from airdraft.nodes.engine.rules import Grammar, LogitBias, LogitRules
from airdraft.nodes.engine.sampling import Sampling
from airdraft.nodes.engine.toy import ToyConfig, ToyModel, ToyTokenizer
from airdraft.nodes.messages import (
    MAX_GAMMA,
    MAX_TOP_LOGPROBS,
    CommitReply,
    PromptScoresNotice,
    StreamFailedNotice,
    StreamReadyNotice,
)
from airdraft.nodes.target.node import messages_of
from airdraft.nodes.target.stream import Event
from airdraft.nodes.worker.stream import StreamId, StreamSpec
from airdraft.policies.acceptance import Calibration, DraftCalibration
from tests.nodes.builders import make_spec
from tests.nodes.draft.script import guessed_of
from tests.nodes.draft.script import run as run_draft
from tests.nodes.reference import toy_grammars
from tests.nodes.target.script import (
    ONE,
    TWO,
    alone,
    commits_in,
    make_state,
    run,
    steps,
    tokens_of,
    verify,
)

ENDING = Grammar("gbnf", 'root ::= (" 1" | " 2"){4} " 3"')
# After a 7 there is nothing that the toy can spell.
DEAD = Grammar("gbnf", 'root ::= " 7" "x"')
BAD = Grammar("gbnf", "root ::= (")
LONG = tuple(range(1, 91))


def spec_with(grammar: Grammar, **changes: Any) -> StreamSpec:
    return make_spec(sampling=Sampling(rules=LogitRules(grammar=grammar)), **changes)


def make_draft() -> DraftState:
    sure = Calibration((), (0.9,))
    return DraftState(ToyModel(ToyConfig()), DraftCalibration(sure, sure), toy_grammars(96))


def check_prompt_scores(events: list[Event], spec: StreamSpec) -> None:
    """Each position once, in order, and before the stream is ready or has output."""
    mine = [e for e in events if getattr(e, "stream_id", None) == spec.stream_id]
    scored = [e for e in mine if isinstance(e, PromptScoresNotice)]
    assert mine[: len(scored)] == scored
    position = 1
    for event in scored:
        assert event.position == position
        position += len(event.scores)
    assert sum((e.scores for e in scored), ()) == alone(spec).prompt_scores


# -- grammars --------------------------------------------------------------------------------------


def test_guesses_of_a_draft_with_the_same_rules_are_accepted() -> None:
    rules = LogitRules((LogitBias(2, 1.5),), 0.4, 0.3, ENDING)
    sampling = Sampling(temperature=1.0, seed=3, rules=rules)
    spec = make_spec(sampling=sampling, max_tokens=20)
    state, _ = make_state()
    drafter = make_draft()
    for node in (state, drafter):
        node.open(spec)
    run(state)
    guesses = guessed_of(run_draft(drafter))
    # The last one ends the text: after it there is none.
    assert guesses == (*alone(spec).token_ids, 0)
    verify(state, ONE, 1, 3, guesses)
    (commit,) = run(state)
    assert commit.entry.num_accepted_tokens == commit.entry.num_draft_tokens == len(guesses)
    assert (commit.token_ids, commit.entry.finish_reason) == (alone(spec).token_ids, "stop")


def test_a_text_that_cannot_go_on_fails_its_stream_and_leaves_the_others() -> None:
    state, model = make_state()
    state.open(spec_with(DEAD))
    other = make_spec(2)
    state.open(other)
    run(state)
    state.lease(ONE, 1, 3, 5)
    state.lease(TWO, 1, 3, 100)
    events = steps(state)
    (failed,) = [e for e in events if isinstance(e, StreamFailedNotice)]
    assert isinstance(failed, StreamFailedNotice)
    assert (failed.stream_id, failed.code) == (ONE, "bad_request")
    assert "no token of the model's vocabulary can come next" in failed.reason
    assert tokens_of(events, TWO) == alone(other).token_ids
    assert (state.num_streams, model.free_cells()) == (0, model.config.num_cells)


@pytest.mark.parametrize("guesses", [(), (7,), (7, 5)])
def test_a_stop_string_before_a_dead_end_ends_the_text_whoever_guessed(
    guesses: tuple[int, ...],
) -> None:
    state, model = make_state()
    state.open(spec_with(DEAD, stops=("7",)))
    run(state)
    verify(state, ONE, 1, 3, guesses)
    (commit,) = commits_in(steps(state))
    assert (commit.token_ids, commit.entry.finish_reason, commit.entry.text) == ((7,), "stop", b" ")
    assert (state.num_streams, model.free_cells()) == (0, model.config.num_cells)


def test_guesses_before_a_dead_end_are_committed_before_it_is_told() -> None:
    state, _ = make_state()
    state.open(spec_with(DEAD))
    run(state)
    verify(state, ONE, 1, 3, (7,))
    (commit,) = commits_in(steps(state))
    assert commit.token_ids == (7,)
    assert (commit.entry.num_accepted_tokens, commit.entry.finish_reason) == (1, "")
    state.lease(ONE, 1, 4, 1)
    (failed,) = steps(state)
    assert isinstance(failed, StreamFailedNotice)
    assert failed.code == "bad_request"


def test_a_draft_without_grammars_refuses_the_stream_and_keeps_its_room() -> None:
    drafter = DraftState(ToyModel(ToyConfig(max_sequences=1)))
    reason = "this engine has no grammars"
    assert drafter.open(spec_with(ENDING)) == [StreamFailedNotice(ONE, 1, reason, "unavailable")]
    assert drafter.open(make_spec(2, prompt=(9,))) == [StreamReadyNotice(TWO, 1)]


def test_a_draft_that_was_told_of_another_text_gives_the_stream_up() -> None:
    drafter = make_draft()
    drafter.open(spec_with(ENDING))
    run_draft(drafter)
    drafter.committed(ONE, 1, 3, (50,))
    (failed,) = run_draft(drafter)
    assert isinstance(failed, StreamFailedNotice)
    assert failed.reason.startswith("the grammar cannot go on")
    assert drafter.num_streams == 0


def test_a_draft_whose_grammar_cannot_go_on_leaves_the_others_their_guesses() -> None:
    grammar = Grammar("gbnf", 'root ::= " 5" "x" | " 6" " 6"')
    drafter = make_draft()
    bias = LogitRules((LogitBias(5, 100.0),), grammar=grammar)
    drafter.open(make_spec(1, sampling=Sampling(rules=bias)))
    other = make_spec(2)
    drafter.open(other)
    events = run_draft(drafter)
    (failed,) = [event for event in events if isinstance(event, StreamFailedNotice)]
    assert failed.stream_id == ONE
    # All but the last token, which is never guessed.
    assert guessed_of(events, TWO) == alone(other).token_ids[:-1]


# -- log-probabilities -----------------------------------------------------------------------------


def test_the_scores_of_a_pass_fit_a_message_and_every_stream_has_some() -> None:
    """If all guesses of so many streams were scored, and they are right, it would be too much."""
    num_streams = 255
    state, _ = make_state(max_sequences=num_streams, max_batch_tokens=5000, num_cells=100_000)
    for number in range(1, num_streams + 1):
        spec = make_spec(number, max_tokens=90, num_logprobs=MAX_TOP_LOGPROBS)
        state.open(replace(spec, owner="one"))
    run(state)
    right = alone(spec).token_ids[:MAX_GAMMA]
    for number in range(1, num_streams + 1):
        verify(state, StreamId(number), 1, 3, right)
    commits = commits_in(state.step())
    assert {commit.entry.stream_id for commit in commits} == set(range(1, num_streams + 1))
    token_ids = tuple(t for commit in commits for t in commit.token_ids)
    assert encode(CommitReply(0.1, tuple(commit.entry for commit in commits), token_ids))


@pytest.mark.parametrize("num_bytes", [256, 4096])
def test_scores_of_tokens_with_long_pieces_fit_their_messages(
    monkeypatch: pytest.MonkeyPatch, num_bytes: int
) -> None:
    """As of a vocabulary with tokens for long rows of dashes."""
    monkeypatch.setattr(ToyTokenizer, "piece", lambda _, _id: b"-" * num_bytes)
    state, _ = make_state()
    spec = make_spec(prompt=LONG, num_logprobs=MAX_TOP_LOGPROBS, scores_prompt=True, max_tokens=20)
    right = alone(spec).token_ids[:MAX_GAMMA]
    numbers = [StreamId(number) for number in range(1, 17)]
    for number in numbers:
        state.open(replace(spec, stream_id=number))
    scored = [event for event in steps(state) if isinstance(event, PromptScoresNotice)]
    assert all(encode(event) for event in scored)
    assert sum(len(event.scores) for event in scored) == len(numbers) * (len(LONG) - 1)
    for number in numbers:
        verify(state, number, 1, len(LONG), right)
    served = set()
    while state.has_work():
        (reply,) = messages_of(state.step(), 0.1)
        assert encode(reply)
        served |= {entry.stream_id for entry in reply.entries}
    assert served == set(numbers)


# -- prompts ---------------------------------------------------------------------------------------


def test_a_prompt_is_scored_in_pieces_while_it_is_read() -> None:
    state, model = make_state()
    spec = make_spec(prompt=LONG, num_logprobs=2, scores_prompt=True)
    events = [*state.open(spec), *steps(state)]
    pieces = [(e.position, len(e.scores)) for e in events if isinstance(e, PromptScoresNotice)]
    assert pieces == [(1, 32), (33, 32), (65, 25)]
    check_prompt_scores(events, spec)
    assert events[-1] == StreamReadyNotice(ONE, 1, 89)
    assert max(s.num_outputs for spans in model.passes for s in spans) == 32


@pytest.mark.parametrize("is_cached", [False, True])
def test_a_prompt_that_is_scored_is_read_anew_and_then_serves_other_choices(
    is_cached: bool,
) -> None:
    state, model = make_state(prefix_cache_bytes=100_000)
    if is_cached:
        state.open(make_spec(1, prompt=LONG, owner="me"))
        steps(state)
        model.passes.clear()
    scored = make_spec(2, prompt=LONG, owner="me", scores_prompt=True)
    copied = make_spec(3, prompt=LONG, owner="me")
    events = [*state.open(scored), *state.open(copied), *steps(state)]
    check_prompt_scores(events, scored)
    ready = [event for event in events if isinstance(event, StreamReadyNotice)]
    copies = StreamReadyNotice(StreamId(3), 1, 0)
    assert sorted(ready, key=lambda event: event.stream_id) == [
        StreamReadyNotice(TWO, 1, 89),
        copies,
    ]
    assert sum(map(sum, model.sizes)) == 89
