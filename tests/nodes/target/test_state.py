"""Streams of a target: which messages count, what leases and guesses commit, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airdraft.mesh.codec import decode, encode
from airdraft.nodes.engine.toy import ToyTokenizer
from airdraft.nodes.messages import MAX_GAMMA, StreamFailedNotice, StreamReadyNotice
from airdraft.nodes.target.node import messages_of
from airdraft.nodes.target.stream import Committed
from airdraft.nodes.worker.stream import StreamId, StreamSpec
from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.target.script import (
    ONE,
    TWO,
    alone,
    commits_in,
    make_state,
    run,
    text_of,
    tokens_of,
    verify,
)


def test_an_older_or_equal_generation_is_ignored_and_a_newer_one_replaces() -> None:
    state, _ = make_state()
    state.open(make_spec(generation=3))
    assert state.open(make_spec(generation=3)) == state.open(make_spec(generation=2)) == []
    assert state.num_streams == 1
    newer = make_spec(generation=4, token_ids=(9,), num_prompt_tokens=1)
    assert state.open(newer) == [StreamReadyNotice(ONE, 4)]
    assert state.num_streams == 1


def test_messages_of_another_generation_or_stream_change_nothing() -> None:
    state, _ = make_state()
    state.open(make_spec(generation=2))
    run(state)
    state.lease(ONE, 1, 3, 5)
    # A lease from beyond the stream.
    state.lease(ONE, 2, 9, 4)
    state.close(ONE, 1)
    state.close(TWO, 1)
    assert state.num_streams == 1
    assert not state.has_work()


def test_a_lease_counts_by_position_so_a_repeated_one_adds_nothing() -> None:
    state, _ = make_state()
    spec = make_spec(max_tokens=20)
    state.open(spec)
    state.lease(ONE, 1, 3, 4)
    state.lease(ONE, 1, 3, 4)
    state.lease(ONE, 1, 3, 2)
    assert tokens_of(run(state)) == alone(spec).token_ids[:4]
    state.lease(ONE, 1, 3, 4)
    assert not state.has_work()
    state.lease(ONE, 1, 3, 6)
    assert tokens_of(run(state)) == alone(spec).token_ids[4:6]


@pytest.mark.parametrize("num_right", [2, 4])
def test_guesses_up_to_the_first_wrong_one_and_one_more_token_come_of_one_pass(
    num_right: int,
) -> None:
    state, model = make_state()
    spec = make_spec(max_tokens=20)
    expected = alone(spec).token_ids
    state.open(spec)
    run(state)
    passes = model.num_forward_passes
    guesses = [*expected[:num_right], 1 + expected[num_right] % 90, *expected[3:]][:4]
    verify(state, ONE, 1, 3, guesses)
    (commit,) = run(state)
    end = num_right + 1
    assert (commit.token_ids, commit.entry.text) == (expected[:end], text_of(expected[:end]))
    assert (commit.entry.num_draft_tokens, commit.entry.num_accepted_tokens) == (4, num_right)
    assert (commit.entry.num_compared, commit.entry.num_right) == (min(4, end), num_right)
    assert commit.entry.num_offered == 4
    assert model.num_forward_passes == passes + 1
    assert model.length(0) == len(PROMPT) + num_right
    state.lease(ONE, 1, 3 + end, 1)
    assert tokens_of(run(state)) == expected[end : end + 1]


def test_guesses_outside_the_vocabulary_are_wrong_not_fatal() -> None:
    spec = make_spec(max_tokens=4)
    state, model = make_state()
    state.open(spec)
    run(state)
    right = alone(spec).token_ids[0]
    verify(state, ONE, 1, 3, (right, model.info.num_vocab, right))
    (commit,) = run(state)
    assert commit.token_ids == alone(spec).token_ids[:2]
    assert (commit.entry.num_draft_tokens, commit.entry.num_accepted_tokens) == (1, 1)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (make_spec(prompt=()), "the prompt is empty"),
        (make_spec(num_prompt_tokens=4), "the prompt is empty"),
        (make_spec(prompt=(96,)), "the prompt has token ids outside the model's vocabulary"),
        (make_spec(max_tokens=182), "the request needs 201 cells, toy-1 has 200"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(spec: StreamSpec, reason: str) -> None:
    state, _ = make_state(num_cells=200)
    assert state.open(spec) == [StreamFailedNotice(ONE, 1, reason)]
    assert state.num_streams == 0


def test_sequences_and_cells_come_back_when_a_stream_is_closed() -> None:
    state, model = make_state(max_sequences=2, num_cells=60)
    full = "all 2 sequences of toy-1 are taken"
    state.open(make_spec(1, prompt=(1,), max_tokens=10))
    state.open(make_spec(2, prompt=(1,), max_tokens=10))
    assert state.open(make_spec(3)) == [StreamFailedNotice(StreamId(3), 1, full)]
    state.close(ONE, 1)
    state.open(make_spec(3, max_tokens=14))
    assert state.num_streams == 2
    run(state)
    state.forget_all()
    assert state.num_streams == 0
    assert model.free_cells() == 60


def test_a_pass_too_small_for_all_starves_nobody() -> None:
    state, _ = make_state(max_batch_tokens=2)
    for stream_id in (1, 2, 3):
        state.open(make_spec(stream_id, max_tokens=40))
    run(state)
    for stream_id in (1, 2, 3):
        state.lease(StreamId(stream_id), 1, len(PROMPT), 40)
    served = [[c.entry.stream_id for c in commits_in(state.step())] for _ in range(3)]
    assert served == [[1, 2], [3, 1], [2, 3]]


# -- where texts end -------------------------------------------------------------------------------


WHOLE = alone(make_spec(max_tokens=20))


def decoded(spec: StreamSpec, **toy: float) -> list[Committed]:
    """All that a target commits of a stream, which is over then."""
    state, _ = make_state(**toy)
    state.open(replace(spec, num_leased=spec.max_tokens))
    commits = run(state)
    assert state.num_streams == 0
    return commits


def moved(spec: StreamSpec) -> StreamSpec:
    """A stream of which five tokens were committed elsewhere."""
    return replace(spec, generation=2, token_ids=PROMPT + WHOLE.token_ids[:5])


def test_a_stop_string_ends_the_text_before_it() -> None:
    stop = WHOLE.text[6:9].decode()
    spec = make_spec(max_tokens=20, stops=(stop,))
    commits = decoded(spec)
    text = b"".join(c.entry.text for c in commits)
    assert text == WHOLE.text[: WHOLE.text.index(stop.encode())]
    assert tokens_of(commits) == alone(spec).token_ids
    assert [c.entry.finish_reason for c in commits if c.entry.finish_reason] == ["stop"]


def test_a_moved_stream_goes_on_where_it_was_and_knows_the_text_before() -> None:
    # A stop string that begins in what was committed elsewhere.
    text = text_of(WHOLE.token_ids[:5])
    stop = (text[-2:] + text_of(WHOLE.token_ids[5:6])[:2]).decode()
    spec = make_spec(max_tokens=20, stops=(stop,))
    expected = alone(spec)
    assert len(expected.token_ids) == 6
    (commit,) = decoded(moved(spec))
    assert (commit.token_ids, commit.entry.finish_reason) == (expected.token_ids[5:], "stop")


def test_text_that_another_target_held_back_comes_out_after_the_move() -> None:
    # A stop string may begin at the end of what was committed elsewhere, but does not go on.
    shown = text_of(WHOLE.token_ids[:5])
    spec = make_spec(max_tokens=20, stops=(shown[-2:].decode() + "x",))
    text = b"".join(commit.entry.text for commit in decoded(moved(spec)))
    assert text == shown[-2:] + WHOLE.text[len(shown) :]


def test_max_tokens_ends_a_stream_whatever_was_guessed() -> None:
    state, _ = make_state()
    expected = WHOLE.token_ids
    state.open(make_spec(max_tokens=3))
    run(state)
    verify(state, ONE, 1, 3, expected[:8])
    (commit,) = run(state)
    assert (commit.token_ids, commit.entry.text) == (expected[:3], text_of(expected[:3]))
    # The last token is never a guess.
    assert (commit.entry.num_draft_tokens, commit.entry.num_accepted_tokens) == (2, 2)
    assert commit.entry.finish_reason == "length"
    assert state.num_streams == 0


def test_a_pass_of_the_longest_pieces_is_a_message_that_can_be_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of a vocabulary with a token for a long row of dashes."""
    monkeypatch.setattr(ToyTokenizer, "piece", lambda _, _id: b"-" * 4096)
    state, _ = make_state()
    state.open(make_spec(max_tokens=20, stops=("-" * 255 + "x",)))
    run(state)
    verify(state, ONE, 1, 3, WHOLE.token_ids[:MAX_GAMMA])
    (reply,) = messages_of(state.step(), 0.1)
    assert len(reply.token_ids) == MAX_GAMMA + 1
    assert decode(encode(reply)).message == reply


@pytest.mark.parametrize("is_ignored", [False, True])
def test_end_of_text_ends_a_stream_unless_it_is_ignored(is_ignored: bool) -> None:
    spec = make_spec(max_tokens=30)
    expected = alone(spec, eog_rate=0.3)
    assert expected.finish_reason == "stop"
    commits = decoded(replace(spec, ignore_eog=is_ignored), eog_rate=0.3)
    token_ids = tokens_of(commits)
    assert token_ids[: len(expected.token_ids)] == expected.token_ids
    assert commits[-1].entry.finish_reason == ("length" if is_ignored else "stop")
    assert len(token_ids) == (30 if is_ignored else len(expected.token_ids))
