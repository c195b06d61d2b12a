"""Where a text ends, whatever was guessed, held back or committed elsewhere."""

from __future__ import annotations

from dataclasses import replace

from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.target.script import ONE, alone, make_state, run, text_of, tokens_of, verify


def test_a_stop_string_ends_the_text_before_it() -> None:
    expected = alone(make_spec(max_tokens=20))
    stop = expected.text[6:9].decode()
    state, _ = make_state()
    spec = make_spec(max_tokens=20, stops=(stop,))
    state.open(spec)
    state.lease(ONE, 1, 3, 20)
    commits = run(state)
    text = b"".join(c.text for c in commits)
    assert text == expected.text[: expected.text.index(stop.encode())]
    assert tokens_of(commits) == alone(spec).token_ids
    assert [c.finish_reason for c in commits if c.finish_reason] == ["stop"]
    assert state.num_streams == 0


def test_a_moved_stream_goes_on_where_it_was_and_knows_the_text_before() -> None:
    whole = alone(make_spec(max_tokens=20))
    # A stop string that begins in what was committed elsewhere.
    text = text_of(whole.token_ids[:5])
    stop = (text[-2:] + text_of(whole.token_ids[5:6])[:2]).decode()
    spec = make_spec(max_tokens=20, stops=(stop,))
    expected = alone(spec)
    assert len(expected.token_ids) == 6
    state, _ = make_state()
    state.open(replace(spec, generation=2, token_ids=PROMPT + whole.token_ids[:5]))
    state.lease(ONE, 2, 8, 20)
    commits = run(state)
    assert tokens_of(commits) == expected.token_ids[5:]
    assert [c.finish_reason for c in commits] == ["stop"]


def test_text_that_another_target_held_back_comes_out_after_the_move() -> None:
    whole = alone(make_spec(max_tokens=20))
    # A stop string may begin at the end of what was committed elsewhere, but does not go on.
    shown = text_of(whole.token_ids[:5])
    stop = shown[-2:].decode() + "x"
    spec = make_spec(max_tokens=20, stops=(stop,))
    state, _ = make_state()
    state.open(replace(spec, generation=2, token_ids=PROMPT + whole.token_ids[:5]))
    state.lease(ONE, 2, 8, 20)
    assert b"".join(commit.text for commit in run(state)) == shown[-2:] + whole.text[len(shown) :]


def test_max_tokens_ends_a_stream_whatever_was_guessed() -> None:
    state, _ = make_state()
    spec = make_spec(max_tokens=3)
    expected = alone(make_spec(max_tokens=9)).token_ids
    state.open(spec)
    run(state)
    verify(state, ONE, 1, 3, expected[:8])
    (commit,) = run(state)
    assert (commit.token_ids, commit.text) == (expected[:3], text_of(expected[:3]))
    assert (commit.num_draft_tokens, commit.num_accepted_tokens) == (2, 2)
    assert commit.finish_reason == "length"
    assert state.num_streams == 0


def test_end_of_text_ends_a_stream_unless_it_is_ignored() -> None:
    rate = {"eog_rate": 0.3}
    spec = make_spec(max_tokens=30)
    expected = alone(spec, **rate)
    assert expected.finish_reason == "stop"
    for ignored in (False, True):
        state, _ = make_state(**rate)
        state.open(replace(spec, ignore_eog=ignored))
        state.lease(ONE, 1, 3, 30)
        commits = run(state)
        assert tokens_of(commits)[: len(expected.token_ids)] == expected.token_ids
        assert commits[-1].finish_reason == ("length" if ignored else "stop")
        assert len(tokens_of(commits)) == (30 if ignored else len(expected.token_ids))
