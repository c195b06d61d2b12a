"""Streams that do not all fit: the oldest go on, the others wait, and no text changes by it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airdraft.nodes.engine.protocol import Logits, SavedPrefix, SequencesLostError, Span
from airdraft.nodes.engine.sampling import Sampling
from airdraft.nodes.messages import (
    HoldEntry,
    StreamFailedNotice,
    StreamParkedNotice,
    StreamReadyNotice,
)
from airdraft.nodes.worker.stream import StreamId, StreamSpec, cells_needed
from tests.nodes.builders import make_spec
from tests.nodes.target.script import (
    ONE,
    THREE,
    TWO,
    Desk,
    RecordingModel,
    alone,
    commits_in,
    guess,
    make_desk,
    make_state,
    run,
    steps,
    tokens_of,
)

LONG = tuple(range(1, 81))
DO_NOT_FIT = (
    make_spec(1, prompt=LONG, max_tokens=200),
    make_spec(2, prompt=LONG[::-1], max_tokens=200, sampling=Sampling(temperature=1.0)),
)


def two_that_do_not_fit(prefix_cache_bytes: int) -> tuple[Desk, RecordingModel]:
    desk, model = make_desk(prefix_cache_bytes, num_cells=400)
    desk.open(*DO_NOT_FIT)
    return desk, model


@pytest.mark.parametrize("prefix_cache_bytes", [0, 100_000])
def test_the_youngest_is_parked_and_goes_on_exactly_once_there_is_room(
    prefix_cache_bytes: int,
) -> None:
    desk, model = two_that_do_not_fit(prefix_cache_bytes)
    events = desk.run()
    for spec in DO_NOT_FIT:
        assert tokens_of(events, spec.stream_id) == alone(spec).token_ids
    before = [commit for commit in commits_in(events) if commit.entry.generation == 1]
    read_again = 0 if prefix_cache_bytes else 79 + len(tokens_of(before, TWO))
    back = StreamReadyNotice(TWO, 2, read_again)
    others = [
        event for event in events if isinstance(event, StreamReadyNotice | StreamParkedNotice)
    ]
    assert others == [
        StreamReadyNotice(ONE, 1, 79),
        StreamReadyNotice(TWO, 1, 79),
        StreamParkedNotice(TWO, 1),
        back,
    ]
    # It came back when the first had ended, and not before.
    meanwhile = commits_in(events[events.index(StreamParkedNotice(TWO, 1)) : events.index(back)])
    assert {commit.entry.stream_id for commit in meanwhile} == {ONE}
    assert meanwhile[-1].entry.finish_reason
    assert model.num_read() == 2 * 79 + read_again
    assert model.free_cells() == 400


def test_without_memory_to_grow_the_cache_streams_take_turns_and_one_too_long_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk, model = make_desk(num_cells=400)
    lengths = range(model.info.max_sequences)
    monkeypatch.setattr(model, "free_cells", lambda: 230 - sum(map(model.length, lengths)))
    short = [make_spec(number, prompt=LONG, max_tokens=100) for number in (1, 2)]
    too_long = make_spec(3, prompt=LONG, max_tokens=200)
    desk.open(*short, too_long)
    events = desk.run()
    for spec in short:
        assert tokens_of(events, spec.stream_id) == alone(spec).token_ids
    notices = [event for event in events if isinstance(event, StreamParkedNotice)]
    assert 0 < len(notices) < 10
    (failure,) = [event for event in events if isinstance(event, StreamFailedNotice)]
    assert failure.stream_id == THREE
    assert "lacks memory for 231 tokens now" in failure.reason
    right = tokens_of(events, THREE)
    assert right == alone(too_long).token_ids[: len(right)]


def test_what_was_sent_before_the_parking_was_known_is_void() -> None:
    desk, _ = two_that_do_not_fit(100_000)
    state = desk.state
    desk.until_parked()
    length = desk.lengths[TWO]
    state.lease(TWO, 1, length, 50)
    state.close(ONE, 1)
    # Its old lease would have let it decode: it is asked to anew.
    assert steps(state) == [StreamReadyNotice(TWO, 2)]
    state.lease(TWO, 2, length, 1)
    (commit,) = run(state)
    assert (commit.entry.prefix_len, len(commit.token_ids)) == (length, 1)


def test_a_parked_stream_waits_for_no_guesses_until_it_is_told_so_anew() -> None:
    """What ended meanwhile is not said again: the coordinator names only the waits in force."""
    desk, _ = two_that_do_not_fit(100_000)
    state = desk.state
    while TWO not in desk.ready:
        desk.step()
    state.hold(HoldEntry(TWO, 1, 1, 2, 1_000_000))
    desk.until_parked()
    state.close(ONE, 1)
    steps(state)
    length = desk.lengths[TWO]
    state.lease(TWO, 2, length, 1)
    assert len(run(state)) == 1
    state.passed(0.01, 10.0)
    state.lease(TWO, 2, length + 1, 1)
    assert state.schedule_pass(10.0) == 0.0


@pytest.mark.parametrize("generation", [1, 2])
def test_a_parked_stream_is_closed_by_who_does_not_know_it_yet_and_by_who_does(
    generation: int,
) -> None:
    desk, model = two_that_do_not_fit(0)
    state = desk.state
    desk.until_parked()
    state.close(TWO, 0)
    state.close(TWO, 3)
    assert state.num_streams == 2
    state.close(TWO, generation)
    assert state.num_streams == 1
    desk.run()
    assert model.free_cells() == 400


def test_a_stream_that_does_not_fit_yet_waits_and_is_not_overtaken() -> None:
    desk, _ = make_desk(num_cells=300)
    first = make_spec(1, prompt=LONG, max_tokens=100)
    large = make_spec(2, prompt=LONG * 2, max_tokens=100)
    small = make_spec(3, max_tokens=5)
    desk.open(first, large, small)
    # The coordinator is told, because it opens a stream anew that is silent without a reason.
    assert desk.events == [StreamParkedNotice(TWO, 1), StreamParkedNotice(THREE, 1)]
    assert desk.step() == [StreamReadyNotice(ONE, 1, 79)]
    events = desk.run()
    # Small and large fit together, and the small prompt is read sooner.
    assert [e.stream_id for e in events if isinstance(e, StreamReadyNotice)] == [ONE, THREE, TWO]
    for spec in (first, large, small):
        assert tokens_of(events, spec.stream_id) == alone(spec).token_ids


def test_nobody_waits_for_output_that_may_never_come() -> None:
    state, _ = make_state(num_cells=1000)
    for stream_id in range(1, 9):
        spec = make_spec(stream_id, max_tokens=900)
        assert state.open(spec) + state.step() == [StreamReadyNotice(spec.stream_id, 1, 2)]


def test_a_waiting_stream_of_one_token_is_ready_as_soon_as_there_is_room() -> None:
    state, _ = make_state(num_cells=120)
    state.open(make_spec(1, max_tokens=90))
    assert state.open(make_spec(2, prompt=(4,), max_tokens=90)) == [StreamParkedNotice(TWO, 1)]
    state.close(ONE, 1)
    assert state.step() == [StreamReadyNotice(TWO, 2)]
    state.open(make_spec(3, prompt=(4,), max_tokens=90))
    state.close(TWO, 2)
    # Another that is opened makes who waited enter as well.
    events = state.open(make_spec(4, prompt=(4,), max_tokens=90))
    assert events == [StreamParkedNotice(StreamId(4), 1), StreamReadyNotice(THREE, 2)]


def test_a_newer_generation_of_a_parked_stream_replaces_it() -> None:
    state, _ = make_state(num_cells=120)
    state.open(make_spec(1, max_tokens=90))
    state.open(make_spec(2, max_tokens=90))
    # The coordinator may not know of the parking, so it skips a generation.
    newer = make_spec(2, max_tokens=90, generation=3)
    assert state.open(newer) == [StreamParkedNotice(TWO, 3)]
    assert state.num_streams == 2
    state.close(ONE, 1)
    assert state.step() == [StreamReadyNotice(TWO, 4, 2)]


@pytest.mark.parametrize("num_cells", [610, 615, 620])
def test_guesses_leave_room_for_the_first_token_of_a_text_that_is_read_beside_them(
    num_cells: int,
) -> None:
    """Hardly a cell is left for the pass with the second text's last piece and its first token."""
    first = make_spec(1, max_tokens=380, ignore_eog=True, num_leased=380)
    second = make_spec(2, prompt=LONG * 5, max_tokens=100, ignore_eog=True, num_leased=100)
    expected = alone(first).token_ids
    state, _ = make_state(num_cells=num_cells)
    state.open(first)
    events = state.step()
    state.open(second)
    while state.has_work():
        num_known = len(tokens_of(events, ONE))
        guess(state, ONE, 3 + num_known, expected[num_known:][:16])
        events += state.step()
    assert tokens_of(events, ONE) == expected
    assert tokens_of(events, TWO)[:1] == alone(second).token_ids[:1]


streams = st.builds(
    make_spec,
    prompt=st.lists(st.integers(1, 11), min_size=1, max_size=70).map(tuple),
    owner=st.sampled_from(["me", "you"]),
    max_tokens=st.integers(1, 250),
    sampling=st.builds(Sampling, temperature=st.sampled_from([0.0, 1.0]), seed=st.integers(0, 99)),
    ignore_eog=st.booleans(),
    num_leased=st.sampled_from([0, 64]),
)


@pytest.mark.slow
@settings(max_examples=100)
@given(
    specs=st.lists(streams, min_size=2, max_size=6),
    spare=st.integers(0, 60),
    prefix_cache_bytes=st.sampled_from([0, 1000, 1_000_000]),
    seed=st.integers(0, 2**32),
)
def test_with_few_cells_all_streams_end_as_they_would_alone(
    specs: list[StreamSpec], spare: int, prefix_cache_bytes: int, seed: int
) -> None:
    chooser = random.Random(seed)
    specs = [replace(s, stream_id=StreamId(i + 1)) for i, s in enumerate(specs)]
    toy = {"num_vocab": 12, "num_cells": max(map(cells_needed, specs)) + spare, "eog_rate": 0.01}
    desk, model = make_desk(prefix_cache_bytes, max_sequences=6, max_batch_tokens=40, **toy)
    expected = {spec.stream_id: alone(spec, **toy) for spec in specs}
    waiting = list(specs)
    while waiting or desk.state.num_streams:
        if waiting and chooser.random() < 0.05:
            desk.open(waiting.pop(0))
        for stream_id in desk.ready:
            if chooser.random() < 0.3:
                num_prompt, length = len(specs[stream_id - 1].token_ids), desk.lengths[stream_id]
                right = expected[stream_id].token_ids[length - num_prompt :]
                wrong = (3,) * chooser.randint(0, 4)
                guess(desk.state, stream_id, length, right[: chooser.randint(0, 8)] + wrong)
        desk.step(chooser.randint(1, 8))
        assert len(desk.events) < 20_000, "the streams do not end"
    for spec in specs:
        assert tokens_of(desk.events, spec.stream_id) == expected[spec.stream_id].token_ids
    assert not any(isinstance(event, StreamFailedNotice) for event in desk.events)
    # Nobody comes back only to be parked again: each time, some other stream has ended or grown
    # by a margin.
    num_parked = sum(isinstance(event, StreamParkedNotice) for event in desk.events)
    assert num_parked <= len(specs) * len(specs)
    assert model.free_cells() == toy["num_cells"]


@settings(max_examples=60, deadline=None)
@given(lost=st.sets(st.integers(0, 400), max_size=6), saves=st.booleans())
def test_texts_go_on_exactly_when_the_engine_has_lost_its_sequences(
    lost: set[int], saves: bool
) -> None:
    desk, model = make_desk(100_000 if saves else 0, num_cells=400)
    forward, save, restore = model.forward, model.save, model.restore
    restorable = list[SavedPrefix]()

    def save_until_lost(seq_id: int) -> SavedPrefix:
        restorable.append(saved := save(seq_id))
        return saved

    def restore_if_kept(seq_id: int, saved: SavedPrefix, length: int) -> None:
        assert saved in restorable
        restore(seq_id, saved, length)

    def forward_or_lose(spans: Sequence[Span]) -> Logits:
        if len(model.passes) in lost:
            lost.remove(len(model.passes))
            for seq_id in range(model.info.max_sequences):
                model.truncate(seq_id, 0)
            restorable.clear()
            raise SequencesLostError
        return forward(spans)

    model.forward = forward_or_lose  # type: ignore[method-assign]
    model.save = save_until_lost  # type: ignore[method-assign]
    model.restore = restore_if_kept  # type: ignore[method-assign]
    desk.open(*DO_NOT_FIT)
    events = desk.run()
    for spec in DO_NOT_FIT:
        assert tokens_of(events, spec.stream_id) == alone(spec).token_ids
    assert model.free_cells() == 400
