"""Prompts are read in pieces beside streams that decode, and give a first token. Answers that have
begun and are read anew go faster, and in front of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airdraft.nodes.messages import (
    CommitReply,
    PromptScoresNotice,
    StreamParkedNotice,
    StreamReadyNotice,
)
from airdraft.nodes.target.node import messages_of
from airdraft.nodes.target.prompt_reader import midway_tokens
from airdraft.nodes.target.stream import Beside, Committed
from airdraft.nodes.worker.stream import StreamSpec
from airdraft.policies.latency import CostTable
from tests.nodes.builders import make_spec
from tests.nodes.target.script import (
    ONE,
    THREE,
    TWO,
    alone,
    decoding,
    guess,
    make_desk,
    make_state,
    pieces_of,
    run,
    tokens_of,
)

LONG = tuple(range(1, 81)) * 5
BEGUN: dict[str, Any] = {"prompt": LONG[:301], "num_prompt_tokens": 200, "max_tokens": 200}


@pytest.mark.parametrize(
    ("specs", "pieces"),
    [
        ([make_spec(2, prompt=LONG[:90])], [{1: 32}, {1: 32}, {1: 25}]),
        # An answer that has begun is read in larger pieces.
        ([make_spec(2, **BEGUN)], [{1: 128}, {1: 128}, {1: 44}]),
        # In every other pass the older prompt comes first; the answer has all the rest.
        (
            [make_spec(2, prompt=LONG), make_spec(3, **BEGUN)],
            [{2: 128}, {1: 32, 2: 96}, {2: 76}, {1: 32}],
        ),
    ],
    ids=["a prompt", "an answer that has begun", "both"],
)
def test_texts_are_read_in_pieces_beside_a_stream_that_decodes(
    specs: list[StreamSpec], pieces: list[dict[int, int]]
) -> None:
    state, model = decoding()
    for spec in specs:
        state.open(spec)
    events = [state.step() for _ in pieces]
    assert pieces_of(model) == pieces
    # Who predicts passes is told of them, and every pass gave the decoding stream its token.
    beside = [[e.num_read for e in of_pass if isinstance(e, Beside)] for of_pass in events]
    assert beside == [[sum(piece.values())] for piece in pieces]
    assert [len(tokens_of(of_pass)) for of_pass in events] == [1] * len(pieces)


def test_a_pass_is_told_with_its_seconds_its_tokens_and_what_it_read_besides() -> None:
    state, _ = decoding()
    first = alone(make_spec(max_tokens=300)).token_ids
    state.open(make_spec(2, prompt=tuple(range(1, 91))))
    (reply,) = messages_of(state.step(), 0.25)
    assert (reply.pass_s, reply.token_ids, reply.num_read_tokens) == (0.25, first[:1], 32)


def test_the_seconds_of_a_pass_are_not_those_of_a_text_that_is_only_scored() -> None:
    """From a reply's seconds and streams a coordinator learns what a pass of so many costs."""
    state, _ = decoding()
    events = state.open(make_spec(2, prompt=LONG[:60], max_tokens=0, scores_prompt=True))
    replies = []
    for _ in range(2):
        sent = messages_of([*events, *state.step()], 0.25)
        replies += [message for message in sent if isinstance(message, CommitReply)]
        events = state.open(make_spec(3, max_tokens=0))
    found = [(r.pass_s, [e.stream_id for e in r.entries], r.num_read_tokens) for r in replies]
    assert found == [(0.25, [1], 32), (0.25, [1], 27), (0.0, [3, 2], 0)]


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    state, _ = decoding()
    state.open(make_spec(2, prompt=tuple(range(1, 81)) * 50))
    state.step()
    state.open(make_spec(3, prompt=tuple(range(1, 61))))
    ready = [StreamReadyNotice(THREE, 1, 59) in state.step() for _ in range(4)]
    # Two pieces of its own, each after one of the long prompt's.
    assert ready == [False, False, False, True]


def test_a_long_prompt_gets_on_however_many_short_ones_come() -> None:
    state, model = decoding()
    state.open(make_spec(2, prompt=tuple(range(1, 81)) * 10))
    for stream_id in range(3, 43):
        events = state.open(make_spec(stream_id, prompt=tuple(range(1, 34))))
        for event in [*events, *state.step()]:
            if isinstance(event, StreamReadyNotice) and event.stream_id > TWO:
                state.close(event.stream_id, 1)
    pieces = pieces_of(model)
    assert sum(piece.get(1, 0) for piece in pieces) >= 40 // 2 * 32
    assert all(sum(piece.values()) <= 32 for piece in pieces)


def test_a_prompt_is_read_beside_streams_whose_guesses_would_fill_every_pass() -> None:
    state, model = make_state(max_batch_tokens=40)
    spec = make_spec(max_tokens=100, ignore_eog=True, num_leased=100)
    expected = alone(spec).token_ids
    for stream_id in (ONE, TWO, THREE):
        state.open(replace(spec, stream_id=stream_id))
    events = state.step()
    model.passes.clear()
    state.open(make_spec(4, prompt=LONG[:65]))
    for _ in range(2):
        for stream_id in (ONE, TWO, THREE):
            num_known = len(tokens_of(events, stream_id))
            guess(state, stream_id, 3 + num_known, expected[num_known:][:16])
        events += state.step()
    assert pieces_of(model) == [{3: 32}, {3: 32}]
    assert all(sum(sizes) == 40 for sizes in model.sizes)


# -- the first token -------------------------------------------------------------------------------


def test_the_first_token_comes_with_the_end_of_the_prompt() -> None:
    state, model = make_state()
    spec = make_spec(prompt=tuple(range(1, 41)), num_leased=1)
    state.open(spec)
    events = state.step()
    assert model.sizes[0] == [40]
    ready, committed = events[:2]
    assert ready == StreamReadyNotice(ONE, 1, 39, has_begun=True)
    assert isinstance(committed, Committed)
    assert (committed.entry.prefix_len, committed.token_ids) == (40, alone(spec).token_ids[:1])
    # Of the pass, 39 tokens were read: the last is there to be decoded.
    assert events[2:] == [Beside(39, 0.0)]
    assert not state.has_work()
    state.lease(ONE, 1, 41, 7)
    assert tokens_of([committed, *run(state)]) == alone(spec).token_ids


def test_a_text_may_end_with_its_first_token() -> None:
    state, _ = make_state()
    state.open(make_spec(max_tokens=1, num_leased=1))
    ready, committed, _read = state.step()
    assert ready == StreamReadyNotice(ONE, 1, 2, has_begun=True)
    assert isinstance(committed, Committed)
    assert committed.entry.finish_reason == "length"
    assert state.num_streams == 0


def test_choices_of_a_prompt_that_was_read_begin_with_one_token_each() -> None:
    state, model = make_state()
    prompt = tuple(range(1, 61))
    for number in (1, 2):
        state.open(make_spec(number, prompt=prompt, owner="x", num_leased=1))
    events = [event for _ in range(2) for event in state.step()]
    assert {e.stream_id for e in events if isinstance(e, StreamReadyNotice) and e.has_begun} == {
        ONE,
        TWO,
    }
    assert sum(map(sum, model.sizes)) == 60 + 1


def test_a_lease_from_the_start_ends_where_the_pass_is_full() -> None:
    state, model = make_state(max_batch_tokens=20)
    state.open(make_spec(prompt=tuple(range(1, 22)), num_leased=1))
    # 20 tokens are read, and there is no room for the last one.
    assert state.step() == [StreamReadyNotice(ONE, 1, 20)]
    assert not state.has_work()
    assert len(model.passes) == 1


def test_a_stream_parked_before_its_prompt_was_read_is_reported_and_still_gets_its_tokens() -> None:
    """The coordinator opens a stream anew that is silent without a reason."""
    desk, _ = make_desk(num_cells=3700)
    desk.open(make_spec(1, max_tokens=250))
    desk.step()
    late = make_spec(2, prompt=LONG * 9, max_tokens=8, num_leased=1)
    desk.open(late)
    events = desk.run()
    told = [e for e in events if isinstance(e, StreamReadyNotice | StreamParkedNotice)]
    assert told == [
        StreamReadyNotice(ONE, 1, 2),
        StreamParkedNotice(TWO, 1),
        StreamReadyNotice(TWO, 2, 3599),
    ]
    assert tokens_of(events, TWO) == alone(late).token_ids


# -- answers that have begun and are read anew -----------------------------------------------------


@pytest.mark.parametrize(
    ("token_s", "wanted"), [(1e-4, 128), (0.25 / 128, 128), (0.25 / 100, 96), (0.1, 32)]
)
def test_no_pass_is_made_longer_than_a_quarter_of_a_second(token_s: float, wanted: int) -> None:
    assert midway_tokens(CostTable((1, 256), (token_s, 256 * token_s))) == wanted


def test_every_fourth_time_a_short_prompt_comes_before_answers_that_have_begun() -> None:
    state, model = decoding()
    for stream_id in range(2, 8):
        state.open(make_spec(stream_id, prompt=LONG, num_prompt_tokens=200, max_tokens=300))
    state.open(make_spec(8, prompt=LONG[7:57]))
    for _ in range(8):
        state.step()
    # Every other time the oldest answer is first, and between these, in turns, answers and it.
    read = [piece[7] for piece in pieces_of(model) if 7 in piece]
    assert read == [32, 17]


def test_prompts_that_are_scored_leave_the_others_what_they_do_not_read() -> None:
    state, model = decoding()
    for stream_id in (2, 3):
        state.open(make_spec(stream_id, prompt=LONG, scores_prompt=True, num_logprobs=0))
    state.open(make_spec(4, prompt=LONG[7:]))
    state.close(ONE, 1)
    state.step()
    (piece,) = pieces_of(model)
    assert piece[3] > 100


def test_scores_of_a_prompt_come_in_notices_that_are_read_in_a_short_time() -> None:
    state, _ = decoding()
    prompt = LONG[:150]
    events = state.open(
        make_spec(2, prompt=prompt, max_tokens=0, scores_prompt=True, num_logprobs=20)
    )
    while state.has_work() and state.num_streams > 1:
        events += state.step()
    notices = [event for event in events if isinstance(event, PromptScoresNotice)]
    position = 1
    for notice in notices:
        assert notice.position == position
        assert 0 < sum(1 + len(each.top) for each in notice.scores) <= 512
        position += len(notice.scores)
    chosen = [each.chosen.token_id for notice in notices for each in notice.scores]
    assert tuple(chosen) == prompt[1:]
