"""Answers that have begun and are read anew: faster than prompts, and in front of them."""

from __future__ import annotations

import pytest

from nodes.messages import StreamReadyNotice
from nodes.target.stream import midway_tokens
from policies.latency import CostTable
from tests.nodes.builders import make_spec
from tests.nodes.target.script import ONE, TWO, commits_in, decoding, pieces_of

LONG = tuple(range(1, 81)) * 5


def test_an_answer_that_has_begun_is_read_in_larger_pieces() -> None:
    state, model = decoding(midway=128)
    state.open(make_spec(2, prompt=LONG[:301], num_prompt_tokens=200, max_tokens=200))
    events = [state.step() for _ in range(3)]
    assert [sum(piece.values()) for piece in pieces_of(model)] == [128, 128, 44]
    assert StreamReadyNotice(TWO, 1, 300) in events[2]
    # Nobody else stood still.
    assert all(commits_in(of_pass) for of_pass in events)


def test_prompts_keep_to_their_pieces_and_to_their_turns() -> None:
    state, model = decoding(midway=128)
    state.open(make_spec(2, prompt=LONG))
    state.open(make_spec(3, prompt=LONG[:301], num_prompt_tokens=200, max_tokens=200))
    for _ in range(4):
        state.step()
    pieces = pieces_of(model)
    # In every other pass the older prompt comes first; the answer has all the rest.
    assert [piece.get(1, 0) for piece in pieces] == [0, 32, 0, 32]
    assert [piece.get(2, 0) for piece in pieces] == [128, 96, 76, 0]


@pytest.mark.parametrize(
    ("token_s", "wanted"), [(1e-4, 128), (0.25 / 128, 128), (0.25 / 100, 96), (0.1, 32)]
)
def test_no_pass_is_made_longer_than_a_quarter_of_a_second(token_s: float, wanted: int) -> None:
    assert midway_tokens(CostTable((1, 256), (token_s, 256 * token_s))) == wanted


def test_every_fourth_time_a_short_prompt_comes_before_answers_that_have_begun() -> None:
    state, model = decoding(midway=128)
    for stream_id in range(2, 8):
        state.open(make_spec(stream_id, prompt=LONG, num_prompt_tokens=200, max_tokens=300))
    state.open(make_spec(8, prompt=LONG[7:57]))
    for _ in range(8):
        state.step()
    # Every other time the oldest answer is first, and between these, in turns, answers and it.
    read = [piece[7] for piece in pieces_of(model) if 7 in piece]
    assert read == [32, 17]


def test_prompts_that_are_scored_leave_the_others_what_they_do_not_read() -> None:
    state, model = decoding(midway=128)
    for stream_id in (2, 3):
        state.open(make_spec(stream_id, prompt=LONG, scores_prompt=True, num_logprobs=0))
    state.open(make_spec(4, prompt=LONG[7:]))
    state.close(ONE, 1)
    state.step()
    (piece,) = pieces_of(model)
    assert piece[3] > 100
