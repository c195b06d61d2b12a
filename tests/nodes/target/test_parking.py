"""Streams that do not all fit: the oldest go on, the others wait, and no text changes by it."""

from __future__ import annotations

import contextlib
import os
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.catalog import Catalog, default_cache_dir
from nodes.engine.llama import LlamaConfig, LlamaModel
from nodes.engine.sampling import Sampling
from nodes.target.events import Committed, Event, Parked
from nodes.target.state import TargetState
from nodes.worker.cells import cells_needed
from nodes.worker.events import Failed, Ready
from nodes.worker.stream import StreamId, StreamSpec
from tests.nodes.builders import make_spec
from tests.nodes.target.script import (
    ONE,
    TWO,
    RecordingModel,
    alone,
    make_state,
    run,
    tokens_of,
    verify,
)

THREE = StreamId(3)
LONG = tuple(range(1, 81))


def lease_all(state: TargetState) -> None:
    """Let all who are ready decode to their end."""
    for stream_id, stream in state._streams.items():
        if stream.announced:
            state.lease(stream_id, stream.generation, len(stream.token_ids), 10_000)


def run_all(state: TargetState) -> list[Event]:
    events: list[Event] = []
    lease_all(state)
    while state.has_work():
        events += state.step()
        lease_all(state)
    return events


def num_read(model: RecordingModel) -> int:
    """Tokens of prompts that were run."""
    return sum(len(s.token_ids) for spans in model.passes for s in spans if not s.num_outputs)


def two_that_do_not_fit(
    prefix_cache_bytes: int,
) -> tuple[TargetState, RecordingModel, list[StreamSpec]]:
    state, model = make_state(prefix_cache_bytes, num_cells=400)
    specs = [
        make_spec(1, prompt=LONG, max_tokens=200),
        make_spec(2, prompt=LONG[::-1], max_tokens=200, sampling=Sampling(temperature=1.0)),
    ]
    for spec in specs:
        state.open(spec)
    return state, model, specs


@pytest.mark.parametrize("prefix_cache_bytes", [0, 100_000])
def test_the_youngest_is_parked_and_goes_on_exactly_once_there_is_room(
    prefix_cache_bytes: int,
) -> None:
    state, model, specs = two_that_do_not_fit(prefix_cache_bytes)
    events = run_all(state)
    commits = [e for e in events if isinstance(e, Committed)]
    for spec in specs:
        assert tokens_of(commits, spec.stream_id) == alone(spec).token_ids
    read_again = 0 if prefix_cache_bytes else 79 + num_output_before_parking(commits)
    back = Ready(TWO, 2, read_again)
    others = [e for e in events if not isinstance(e, Committed)]
    assert others == [Ready(ONE, 1, 79), Ready(TWO, 1, 79), Parked(TWO, 1), back]
    # It came back when the first had ended, and not before.
    meanwhile = events[events.index(Parked(TWO, 1)) : events.index(back)]
    between = [e for e in meanwhile if isinstance(e, Committed)]
    assert {e.stream_id for e in between} == {ONE}
    assert between[-1].finish_reason
    assert num_read(model) == 2 * 79 + read_again
    assert model.free_cells() == 400


def num_output_before_parking(commits: list[Committed]) -> int:
    return len(tokens_of([c for c in commits if c.generation == 1], TWO))


def test_what_was_sent_before_the_parking_was_known_is_void() -> None:
    state, _, _ = two_that_do_not_fit(100_000)
    events: list[Event] = []
    while not any(isinstance(e, Parked) for e in events):
        events += run_pass(state)
    stale = state.num_stale
    parked = state._streams[TWO]
    length = len(parked.token_ids)
    state.lease(TWO, 1, length, 50)
    assert state.num_stale == stale + 1
    assert not parked.may_decode
    state.close(ONE, 1)
    ready = []
    while state.has_work():
        ready += state.step()
    assert ready == [Ready(TWO, 2)]
    # Its old lease would have let it decode: it is asked to anew.
    assert len(parked.token_ids) == length
    state.lease(TWO, 2, length, 1)
    assert len(run(state)) == 1


def run_pass(state: TargetState) -> list[Event]:
    lease_all(state)
    return state.step()


@pytest.mark.parametrize("generation", [1, 2])
def test_a_parked_stream_is_closed_by_who_does_not_know_it_yet_and_by_who_does(
    generation: int,
) -> None:
    state, model, _ = two_that_do_not_fit(0)
    events: list[Event] = []
    while not any(isinstance(e, Parked) for e in events):
        events += run_pass(state)
    state.close(TWO, 0)
    state.close(TWO, 3)
    assert state.num_streams == 2
    state.close(TWO, generation)
    assert state.num_streams == 1
    run_all(state)
    assert model.free_cells() == 400


def test_who_does_not_fit_yet_waits_and_is_not_overtaken() -> None:
    state, _ = make_state(num_cells=300)
    first = make_spec(1, prompt=LONG, max_tokens=100)
    large = make_spec(2, prompt=LONG * 2, max_tokens=100)
    small = make_spec(3, max_tokens=5)
    assert [state.open(spec) for spec in (first, large, small)] == [[], [], []]
    assert state.step() == [Ready(ONE, 1, 79)]
    assert state._streams[TWO].seq_id is state._streams[THREE].seq_id is None
    events = run_all(state)
    readies = [e.stream_id for e in events if isinstance(e, Ready)]
    # Small and large fit together, and the small prompt is read sooner.
    assert readies == [THREE, TWO]
    commits = [e for e in events if isinstance(e, Committed)]
    for spec in (first, large, small):
        assert tokens_of(commits, spec.stream_id) == alone(spec).token_ids


def test_nobody_waits_for_output_that_may_never_come() -> None:
    state, _ = make_state(num_cells=1000)
    for stream_id in range(1, 9):
        spec = make_spec(stream_id, max_tokens=900)
        assert state.open(spec) + state.step() == [Ready(spec.stream_id, 1, 2)]
    assert all(stream.seq_id is not None for stream in state._streams.values())


def test_a_waiting_stream_of_one_token_is_ready_as_soon_as_there_is_room() -> None:
    state, _ = make_state(num_cells=120)
    state.open(make_spec(1, max_tokens=90))
    assert state.open(make_spec(2, prompt=(4,), max_tokens=90)) == []
    state.close(ONE, 1)
    assert state.step() == [Ready(TWO, 1)]
    state.open(make_spec(3, prompt=(4,), max_tokens=90))
    state.close(TWO, 1)
    # Another that is opened makes who waited enter as well.
    assert state.open(make_spec(4, prompt=(4,), max_tokens=90)) == [Ready(THREE, 1)]


def test_a_newer_generation_of_a_parked_stream_replaces_it() -> None:
    state, _ = make_state(num_cells=120)
    state.open(make_spec(1, max_tokens=90))
    state.open(make_spec(2, max_tokens=90))
    assert state.open(make_spec(2, max_tokens=90, generation=2)) == []
    assert (state.num_streams, state.num_stale) == (2, 0)
    state.close(ONE, 1)
    assert state.step() == [Ready(TWO, 2, 2)]


streams = st.builds(
    make_spec,
    prompt=st.lists(st.integers(1, 11), min_size=1, max_size=70).map(tuple),
    owner=st.sampled_from(["me", "you"]),
    max_tokens=st.integers(1, 250),
    sampling=st.builds(Sampling, temperature=st.sampled_from([0.0, 1.0]), seed=st.integers(0, 99)),
    ignore_eog=st.booleans(),
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
    state, model = make_state(prefix_cache_bytes, max_sequences=6, max_batch_tokens=40, **toy)
    expected = {spec.stream_id: alone(spec, **toy) for spec in specs}
    waiting = list(specs)
    commits: list[Committed] = []
    num_parked = 0
    for _ in range(20_000):
        if not waiting and not state.num_streams:
            break
        if waiting and chooser.random() < 0.05:
            assert not any(isinstance(e, Failed) for e in state.open(waiting.pop(0)))
        for stream_id, stream in list(state._streams.items()):
            if not stream.announced or chooser.random() < 0.3:
                continue
            length = len(stream.token_ids)
            if chooser.random() < 0.5:
                state.lease(stream_id, stream.generation, length, chooser.randint(1, 8))
            elif not stream.may_decode:
                right = expected[stream_id].token_ids[stream.num_output :][: chooser.randint(0, 8)]
                wrong = (3,) * chooser.randint(0, 4)
                verify(state, stream_id, stream.generation, length, right + wrong)
        events = state.step()
        commits += [e for e in events if isinstance(e, Committed)]
        num_parked += sum(isinstance(e, Parked) for e in events)
        inside = [s.number for s in state._streams.values() if s.seq_id is not None]
        outside = [s.number for s in state._streams.values() if s.seq_id is None]
        # Who is in is older than who is not: the oldest always goes on.
        assert not outside or not inside or max(inside) < min(outside)
    else:
        raise AssertionError("the streams do not end")
    for spec in specs:
        assert tokens_of(commits, spec.stream_id) == expected[spec.stream_id].token_ids
    # Nobody comes back only to be parked again: each time, some other stream has ended or grown
    # by a margin.
    assert num_parked <= len(specs) * len(specs)
    assert model.free_cells() == toy["num_cells"]


@pytest.mark.model
@pytest.mark.parametrize("prefix_cache_bytes", [0, 100_000_000])
def test_a_real_models_text_is_the_same_whether_it_was_parked_or_not(
    prefix_cache_bytes: int,
) -> None:
    path = Catalog(default_cache_dir(os.environ)).ensure("smollm2-135m")
    config = LlamaConfig(path=path, num_cells=256, max_sequences=2, repack=False)
    prompt = tuple(int(i) for i in np.random.default_rng(1).integers(3, 49_000, 46))
    specs = [
        make_spec(i, prompt=prompt[i:], max_tokens=90, ignore_eog=True, owner="me") for i in (1, 2)
    ]
    with contextlib.closing(LlamaModel(config)) as model:
        texts = []
        for together in (specs[:1], specs[1:], specs):
            state = TargetState(model, model.vocabulary, prefix_cache_bytes)
            for spec in together:
                state.open(spec)
            events = run_all(state)
            commits = [e for e in events if isinstance(e, Committed)]
            texts += [tokens_of(commits, spec.stream_id) for spec in together]
        assert Parked(TWO, 1) in events
        assert texts[:2] == texts[2:]
