"""A text ends at the same place, whatever was guessed, held back or committed elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodes.target.stream import Committed
from nodes.worker.stream import StreamSpec
from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.target.script import ONE, alone, make_state, run, text_of, tokens_of, verify

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
