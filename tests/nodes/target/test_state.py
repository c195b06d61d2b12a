from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from nodes.engine.protocol import Logits, Span
from nodes.engine.sampling import Sampling
from nodes.engine.toy import ToyConfig, ToyModel, ToyTokenizer
from nodes.messages import MAX_GAMMA
from nodes.stream import StreamId, StreamSpec
from nodes.target.events import Committed, Failed, ReadBeside, Ready
from nodes.target.state import TargetState
from tests.nodes.builders import PROMPT, make_spec
from tests.nodes.reference import Reference, reference

ONE = StreamId(1)
TWO = StreamId(2)


class RecordingModel(ToyModel):
    """Keeps the spans of every pass."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.passes: list[list[Span]] = []

    def forward(self, spans: Sequence[Span]) -> Logits:
        self.passes.append(list(spans))
        return super().forward(spans)


def make_state(prefix_cache_bytes: int = 0, **changes: Any) -> tuple[TargetState, RecordingModel]:
    config = ToyConfig(**changes)
    model = RecordingModel(config)
    return TargetState(model, ToyTokenizer(config.num_vocab), prefix_cache_bytes), model


def alone(spec: StreamSpec, **changes: Any) -> Reference:
    return reference(
        ToyConfig(**changes),
        spec.token_ids[: spec.num_prompt_tokens],
        spec.sampling,
        max_tokens=spec.max_tokens,
        stops=spec.stops,
        ignore_eog=spec.ignore_eog,
    )


def run(state: TargetState) -> list[Committed]:
    """All passes there are to run."""
    commits = []
    while state.has_work():
        commits += [e for e in state.step() if isinstance(e, Committed)]
    return commits


def tokens_of(commits: Sequence[Committed], stream_id: StreamId = ONE) -> tuple[int, ...]:
    return tuple(t for c in commits if c.stream_id == stream_id for t in c.token_ids)


def test_a_stream_is_ready_once_its_prefix_is_in_the_cache() -> None:
    state, model = make_state(max_batch_tokens=20)
    assert state.open(make_spec(1, prompt=(9,))) == [Ready(ONE, 1)]
    assert not state.has_work()
    assert state.open(make_spec(2, prompt=(9,) * 50)) == []
    assert [state.step(), state.step(), state.step()] == [[], [], [Ready(TWO, 1, 49)]]
    assert [sum(len(s.token_ids) for s in spans) for spans in model.passes] == [20, 20, 9]
    assert not state.has_work()
    assert state.step() == []


def test_an_older_or_equal_generation_is_counted_and_a_newer_one_replaces() -> None:
    state, _ = make_state()
    state.open(make_spec(generation=3))
    assert state.open(make_spec(generation=3)) == state.open(make_spec(generation=2)) == []
    assert (state.num_stale, state.num_streams) == (2, 1)
    newer = make_spec(generation=4, token_ids=(9,), num_prompt_tokens=1)
    assert state.open(newer) == [Ready(ONE, 4)]
    assert state.num_streams == 1


def test_messages_of_another_generation_or_stream_change_nothing() -> None:
    state, _ = make_state()
    state.open(make_spec(generation=2))
    run(state)
    state.lease(ONE, 1, 3, 5)
    state.verify(ONE, 3, 3, (1,))
    state.close(ONE, 1)
    state.close(TWO, 1)
    assert state.num_stale == 4
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
    assert state.num_stale == 0


def test_a_lease_from_beyond_the_stream_is_counted() -> None:
    state, _ = make_state()
    state.open(make_spec())
    run(state)
    state.lease(ONE, 1, 9, 4)
    assert state.num_stale == 1
    assert not state.has_work()


def test_right_guesses_and_one_more_token_come_of_one_pass() -> None:
    state, model = make_state()
    spec = make_spec(max_tokens=20)
    expected = alone(spec).token_ids
    state.open(spec)
    run(state)
    passes = model.num_forward_passes
    state.verify(ONE, 1, 3, expected[:4])
    commit = Committed(ONE, 1, 3, expected[:5], 4, 4, "", _text(expected[:5]))
    assert run(state) == [commit]
    assert model.num_forward_passes == passes + 1
    assert model.length(0) == len(PROMPT) + 4


def test_guesses_are_taken_up_to_the_first_wrong_one() -> None:
    state, model = make_state()
    spec = make_spec(max_tokens=20)
    expected = alone(spec).token_ids
    state.open(spec)
    run(state)
    wrong = 1 + expected[2] % 90
    state.verify(ONE, 1, 3, (*expected[:2], wrong, *expected[3:5]))
    assert run(state) == [Committed(ONE, 1, 3, expected[:3], 5, 2, "", _text(expected[:3]))]
    assert model.length(0) == len(PROMPT) + 2
    state.verify(ONE, 1, 6, ())
    assert tokens_of(run(state)) == expected[3:4]


def test_guesses_that_do_not_follow_or_are_too_many_are_counted() -> None:
    state, _ = make_state()
    state.open(make_spec())
    run(state)
    state.verify(ONE, 1, 2, (1,))
    state.verify(ONE, 1, 4, (1,))
    state.verify(ONE, 1, 3, (1,) * (MAX_GAMMA + 1))
    assert state.num_stale == 3
    assert not state.has_work()


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


def pieces_of(model: RecordingModel) -> list[dict[int, int]]:
    """Tokens of prompts in each pass, by sequence."""
    return [
        {s.seq_id: len(s.token_ids) for s in spans if s.num_outputs == 0} for spans in model.passes
    ]


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
        state.verify(spec.stream_id, 1, 103, (1, 2, 3))
        run(state)
        state.lease(spec.stream_id, 1, 104, 100)
        read.append(sum(sum(piece.values()) for piece in pieces_of(model)))
        run(state)
    assert read == [3, 102]
    assert state.num_streams == 0


def test_guesses_that_were_rejected_at_the_end_are_not_saved() -> None:
    prompt = tuple(range(1, 81))
    whole = alone(make_spec(prompt=prompt, max_tokens=20)).token_ids
    stop = _text(whole[4:6]).decode()
    spec = make_spec(prompt=prompt, owner="me", max_tokens=20, stops=(stop,))
    state, _ = make_state(100_000)
    state.open(spec)
    run(state)
    state.verify(ONE, 1, 80, (*whole[:5], 1 + whole[5] % 90, 7))
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
    text = _text(whole.token_ids[:5])
    stop = (text[-2:] + _text(whole.token_ids[5:6])[:2]).decode()
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
    shown = _text(whole.token_ids[:5])
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
    state.verify(ONE, 1, 3, expected[:8])
    assert run(state) == [Committed(ONE, 1, 3, expected[:3], 2, 2, "length", _text(expected[:3]))]
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


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (make_spec(prompt=()), "the prompt is empty"),
        (make_spec(num_prompt_tokens=4), "the prompt is empty"),
        (make_spec(prompt=(96,)), "the prompt has token ids outside the model's vocabulary"),
        (make_spec(max_tokens=182), "201 cells wanted, toy-1 has 200"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(spec: StreamSpec, reason: str) -> None:
    state, _ = make_state(num_cells=200)
    assert state.open(spec) == [Failed(ONE, 1, reason)]
    assert state.num_streams == 0


def test_sequences_and_cells_come_back_when_a_stream_is_closed() -> None:
    state, model = make_state(max_sequences=2, num_cells=60)
    full = "all 2 sequences of toy-1 are taken"
    state.open(make_spec(1, prompt=(1,), max_tokens=10))
    state.open(make_spec(2, prompt=(1,), max_tokens=10))
    assert state.open(make_spec(3)) == [Failed(StreamId(3), 1, full)]
    state.close(ONE, 1)
    state.open(make_spec(3, max_tokens=14))
    assert state.num_streams == 2
    run(state)
    state.forget_all()
    assert state.num_streams == 0
    assert model.free_cells() == 60


def test_a_pass_too_small_for_all_starves_nobody() -> None:
    state, _ = make_state(max_batch_tokens=MAX_GAMMA + 1)
    for stream_id in (1, 2, 3):
        state.open(make_spec(stream_id, max_tokens=40))
    run(state)
    for stream_id in (1, 2, 3):
        state.verify(StreamId(stream_id), 1, 3, (1,) * 8)
    served = [e.stream_id for _ in range(3) for e in state.step() if isinstance(e, Committed)]
    assert sorted(served) == [1, 2, 3]


def _text(token_ids: Sequence[int]) -> bytes:
    return b"".join(ToyTokenizer(96).piece(t) for t in token_ids)


def test_guesses_outside_the_vocabulary_are_wrong_not_fatal() -> None:
    spec = make_spec(max_tokens=4)
    state, model = make_state()
    state.open(spec)
    right = alone(spec).token_ids[0]
    state.verify(ONE, 1, 3, (right, model.info.num_vocab, right))
    (commit,) = run(state)
    assert commit.token_ids == alone(spec).token_ids[:2]
    assert (commit.num_draft_tokens, commit.num_accepted_tokens) == (1, 1)


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
