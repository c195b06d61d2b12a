"""Streams that draft nodes had no room for, or that a silent one holds."""

from __future__ import annotations

import itertools

import pytest

from nodes.messages import OpenStreamRequest
from nodes.scheduler import SchedulerState
from nodes.scheduler.instructions import Instruction, ToDraft
from nodes.stream import StreamId
from policies.baselines import POLICIES
from policies.plan import Link
from tests.nodes.builders import make_spec
from tests.nodes.pure_mesh import TARGET_COSTS
from tests.nodes.scheduler.script import (
    LONG,
    ONE,
    TWO,
    commit,
    length_of,
)
from tests.nodes.scheduler.test_draft_moves import decode, flat, growing, held


@pytest.mark.parametrize(("gamma", "lookup"), [(None, False), (2, False), (2, True)])
def test_a_stream_that_found_no_room_is_taken_in_when_there_is_some(
    gamma: int | None, lookup: bool
) -> None:
    scheduler = SchedulerState(POLICIES["ad"], TARGET_COSTS, lookup=lookup)
    scheduler.draft_joined("a", growing(1.0), max_streams=2)
    for number, chosen in ((1, gamma), (2, gamma), (3, gamma), (4, 0)):
        scheduler.admit(make_spec(number, max_tokens=LONG), chosen)
        if number <= 2:
            scheduler.draft_ready("a", StreamId(number), 1, 0.0)
        scheduler.target_ready(StreamId(number), 1, 0.0)
    decode(scheduler, 40)
    assert held(scheduler) == {"a": 2}
    scheduler.cancel(ONE, 0.0)
    decode(scheduler, 20)
    # Not the one that asked for no guesses.
    drafted = [s for s in scheduler.streams() if s.draft is not None and s.draft.node == "a"]
    assert {s.spec.stream_id for s in drafted} == {2, 3}
    assert all(stream.can_guess for stream in drafted)


def opened_on(out: list[Instruction], node: str) -> list[int]:
    told = [i.message for i in out if isinstance(i, ToDraft) and i.node == node]
    return [m.stream_id for m in told if isinstance(m, OpenStreamRequest)]


@pytest.mark.parametrize("lookup", [False, True])
def test_a_node_that_says_nothing_is_not_told_texts_until_it_does(lookup: bool) -> None:
    """But those of newcomers, where there is no other."""
    scheduler = SchedulerState(POLICIES["ad"], TARGET_COSTS, lookup=lookup)
    scheduler.draft_joined("a", flat(1e-4))
    scheduler.admit(make_spec(1, max_tokens=1000), None)
    scheduler.target_ready(ONE, 1, 0.0)
    stream = scheduler.stream(ONE)
    assert stream is not None
    numbers = itertools.count(1000)
    now = 0.0

    def decoded(num_tokens: int) -> list[Instruction]:
        nonlocal now
        out: list[Instruction] = []
        for _ in range(num_tokens):
            now += 1.0
            reply = commit(ONE, length_of(scheduler, ONE), [next(numbers)])
            out += [*scheduler.committed(reply, now), *scheduler.tick(now)]
        return out

    while stream.draft is not None and not stream.is_by_lookup:
        assert opened_on(decoded(1), "a") == []
    assert opened_on(decoded(600), "a") == []
    assert opened_on(scheduler.admit(make_spec(2, max_tokens=LONG), None), "a") == [TWO]
    scheduler.draft_ready("a", TWO, 1, now)
    assert opened_on(decoded(40), "a") == [ONE]


def test_a_text_that_is_told_in_pieces_says_how_long_it_is() -> None:
    scheduler = SchedulerState(POLICIES["ad"], TARGET_COSTS)
    narrow = Link(100e3, medium="cell")
    scheduler.draft_joined("a", growing(1.0), narrow)
    for number, length in ((1, 3), (2, 3000)):
        spec = make_spec(number, prompt=tuple(range(length)), max_tokens=LONG)
        (opened,) = [i.message for i in scheduler.admit(spec, None) if isinstance(i, ToDraft)]
        assert isinstance(opened, OpenStreamRequest)
        is_whole = len(opened.token_ids) == length
        assert is_whole is (number == 1)
        assert opened.num_known == (0 if is_whole else length)
