"""Prompts are read in pieces beside streams that decode, not twice, and give a first token."""

from __future__ import annotations

from dataclasses import replace

from nodes.engine.sampling import Sampling
from nodes.target.events import Committed, ReadBeside
from nodes.worker.events import Ready
from nodes.worker.stream import StreamId
from tests.nodes.builders import make_spec
from tests.nodes.target.script import (
    ONE,
    TWO,
    alone,
    make_state,
    pieces_of,
    run,
    text_of,
    tokens_of,
    verify,
)


def test_a_long_prompt_goes_in_small_pieces_beside_a_decoding_stream() -> None:
    state, model = make_state()
    spec = make_spec(max_tokens=40)
    state.open(spec)
    run(state)
    state.lease(ONE, 1, 3, 40)
    state.open(make_spec(2, prompt=tuple(range(1, 91))))
    del model.passes[:]
    events = [state.step() for _ in range(3)]
    pieces = [len(s.token_ids) for spans in model.passes for s in spans if s.num_outputs == 0]
    assert pieces == [32, 32, 25]
    # Who predicts passes is told of them.
    beside = [[e.num_tokens for e in es if isinstance(e, ReadBeside)] for es in events]
    assert beside == [[32], [32], [25]]
    # Every pass gave the decoding stream its token, and the last made the other one ready.
    assert [len(tokens_of([e for e in es if isinstance(e, Committed)])) for es in events] == [1] * 3
    assert events[2][-1] == Ready(TWO, 1, 89)


def test_a_long_prompt_stalls_others_by_a_piece_a_pass() -> None:
    state, model = make_state(num_cells=8192)
    spec = make_spec(max_tokens=300)
    state.open(spec)
    run(state)
    state.lease(ONE, 1, 3, 300)
    state.open(make_spec(2, prompt=tuple(range(1, 81)) * 50))
    del model.passes[:]
    events = []
    while Ready(TWO, 1, 3999) not in events:
        events += state.step()
    assert max(sum(len(s.token_ids) for s in spans) for spans in model.passes) == 1 + 32
    # Each pass went on with the stream that decodes.
    assert len(model.passes) == 125
    assert tokens_of([e for e in events if isinstance(e, Committed)]) == alone(spec).token_ids[:125]


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    state, _ = make_state(num_cells=8192)
    state.open(make_spec(1, max_tokens=300))
    run(state)
    state.lease(ONE, 1, 3, 300)
    state.open(make_spec(2, prompt=tuple(range(1, 81)) * 50))
    state.step()
    state.open(make_spec(3, prompt=tuple(range(1, 61))))
    ready = [Ready(StreamId(3), 1, 59) in state.step() for _ in range(4)]
    # Two pieces of its own, each after one of the long prompt's.
    assert ready == [False, False, False, True]


def test_a_long_prompt_gets_on_however_many_short_ones_come() -> None:
    state, model = make_state(num_cells=8192)
    state.open(make_spec(1, max_tokens=300))
    run(state)
    state.lease(ONE, 1, 3, 300)
    state.open(make_spec(2, prompt=tuple(range(1, 81)) * 10))
    del model.passes[:]
    for stream_id in range(3, 43):
        state.open(make_spec(stream_id, prompt=tuple(range(1, 34))))
        state.step()
        for other in list(state._streams.values()):
            if other.announced and other.spec.stream_id > TWO:
                state.close(other.spec.stream_id, 1)
    pieces = pieces_of(model)
    assert sum(piece.get(1, 0) for piece in pieces) >= 40 // 2 * 32
    assert all(sum(piece.values()) <= 32 for piece in pieces)


# -- what is read already --------------------------------------------------------------------------


def test_streams_of_one_owner_share_the_prefill_of_a_common_prefix() -> None:
    state, model = make_state()
    prompt = tuple(range(1, 61))
    sampling = Sampling(temperature=1.0, seed=1, choice=1)
    first = make_spec(1, prompt=prompt, owner="me")
    second = make_spec(2, prompt=prompt, owner="me", sampling=sampling)
    assert state.open(first) + state.open(second) == []
    events = []
    while state.has_work():
        events += state.step()
    assert events == [Ready(ONE, 1, 59), Ready(TWO, 1, 0)]
    assert sum(len(s.token_ids) for spans in model.passes for s in spans) == 59
    state.lease(ONE, 1, 60, 8)
    state.lease(TWO, 1, 60, 8)
    commits = run(state)
    assert tokens_of(commits, ONE) == alone(first).token_ids
    assert tokens_of(commits, TWO) == alone(second).token_ids


def test_the_next_turn_of_a_conversation_is_not_read_from_its_beginning() -> None:
    state, model = make_state(100_000)
    first = make_spec(1, prompt=tuple(range(1, 81)), owner="me", max_tokens=20)
    state.open(first)
    state.lease(ONE, 1, 80, 20)
    said = tokens_of(run(state))
    assert said == alone(first).token_ids
    # Prompt and answer, but for the last token, are known; wrong guesses leave nothing behind.
    second = make_spec(2, prompt=(*first.token_ids, *said, 4, 5, 6), owner="me", max_tokens=20)
    stranger = replace(second, stream_id=StreamId(3), owner="you")
    read = []
    for spec in (second, stranger):
        del model.passes[:]
        state.open(spec)
        run(state)
        verify(state, spec.stream_id, 1, 103, (1, 2, 3))
        run(state)
        state.lease(spec.stream_id, 1, 104, 100)
        read.append(sum(sum(piece.values()) for piece in pieces_of(model)))
        run(state)
    assert read == [3, 102]
    assert state.num_streams == 0


def test_guesses_that_were_rejected_at_the_end_are_not_saved() -> None:
    prompt = tuple(range(1, 81))
    whole = alone(make_spec(prompt=prompt, max_tokens=20)).token_ids
    stop = text_of(whole[4:6]).decode()
    spec = make_spec(prompt=prompt, owner="me", max_tokens=20, stops=(stop,))
    state, _ = make_state(100_000)
    state.open(spec)
    run(state)
    verify(state, ONE, 1, 80, (*whole[:5], 1 + whole[5] % 90, 7))
    (commit,) = run(state)
    assert (commit.token_ids, commit.finish_reason) == (whole[:6], "stop")
    second = make_spec(2, prompt=(*prompt, *whole[:6], 4), owner="me", max_tokens=20)
    state.open(second)
    state.lease(TWO, 1, 87, 20)
    assert tokens_of(run(state), TWO) == alone(second).token_ids


def test_a_new_coordinator_finds_nothing_saved() -> None:
    state, model = make_state(100_000)
    for is_forgotten in (False, True):
        state.open(make_spec(1, prompt=tuple(range(1, 81)), owner="me"))
        state.lease(ONE, 1, 80, 20)
        run(state)
        if is_forgotten:
            state.forget_all()
    del model.passes[:]
    state.open(make_spec(1, prompt=tuple(range(1, 81)), owner="me"))
    run(state)
    assert sum(sum(piece.values()) for piece in pieces_of(model)) == 79


# -- the first token -------------------------------------------------------------------------------


def test_the_first_token_comes_with_the_end_of_the_prompt() -> None:
    state, model = make_state()
    spec = make_spec(prompt=tuple(range(1, 41)), num_leased=1)
    state.open(spec)
    events = state.step()
    assert [len(span.token_ids) for span in model.passes[0]] == [40]
    ready, committed = events[:2]
    assert ready == Ready(ONE, 1, 39, has_begun=True)
    assert isinstance(committed, Committed)
    assert (committed.prefix_len, committed.token_ids) == (40, alone(spec).token_ids[:1])
    # Of the pass, 39 tokens were read: the last is there to be decoded.
    assert events[2:] == [ReadBeside(39)]
    assert not state.has_work()
    state.lease(ONE, 1, 41, 7)
    assert tokens_of([committed, *run(state)]) == alone(spec).token_ids


def test_a_text_may_end_with_its_first_token() -> None:
    state, _ = make_state()
    spec = make_spec(max_tokens=1, num_leased=1)
    state.open(spec)
    ready, committed, _read = state.step()
    assert ready == Ready(ONE, 1, 2, has_begun=True)
    assert isinstance(committed, Committed)
    assert committed.finish_reason == "length"
    assert state.num_streams == 0


def test_choices_of_a_prompt_that_was_read_begin_with_one_token_each() -> None:
    state, model = make_state()
    prompt = tuple(range(1, 61))
    for number in (1, 2):
        state.open(make_spec(number, prompt=prompt, owner="x", num_leased=1))
    events = [event for _ in range(2) for event in state.step()]
    assert {e.stream_id for e in events if isinstance(e, Ready) and e.has_begun} == {ONE, TWO}
    assert sum(len(span.token_ids) for spans in model.passes for span in spans) == 60 + 1


def test_a_lease_from_the_start_ends_where_the_pass_is_full() -> None:
    state, model = make_state(max_batch_tokens=20)
    spec = make_spec(prompt=tuple(range(1, 22)), num_leased=1)
    state.open(spec)
    # 20 tokens are read, and there is no room for the last one.
    assert state.step() == [Ready(ONE, 1, 20)]
    assert not state.has_work()
    assert len(model.passes) == 1


def test_who_is_parked_before_it_was_read_keeps_its_first_token() -> None:
    state, _ = make_state(num_cells=100, max_sequences=2)
    state.open(make_spec(1, prompt=(1, 2, 3), max_tokens=60))
    assert Ready(ONE, 1, 2) in state.step()
    state.lease(ONE, 1, 3, 60)
    late = make_spec(2, prompt=tuple(range(1, 31)), max_tokens=8, num_leased=1)
    state.open(late)
    events = [event for _ in range(200) if state.has_work() for event in state.step()]
    (ready,) = [e for e in events if isinstance(e, Ready) and e.stream_id == TWO]
    assert ready.has_begun
    assert (
        tokens_of([e for e in events if isinstance(e, Committed)], TWO) == alone(late).token_ids[:1]
    )
