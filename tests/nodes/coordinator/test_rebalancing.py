"""Who moves to another target of its numerics class, and when."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from nodes.coordinator.placing.rebalancing import LOOK_S
from nodes.coordinator.sends import Send
from nodes.messages import CloseStreamNotice, OpenStreamRequest
from tests.nodes.builders import PROMPT
from tests.nodes.coordinator.script import OTHER, TARGET, Mesh, mesh_of, profile

THIRD = b"third"


def crowded(num_streams: int = 4, max_tokens: int = 500) -> Mesh:
    """Streams on a target, which are under way."""
    mesh = mesh_of(target=profile(10))
    for number in range(1, num_streams + 1):
        mesh.begin(number, max_tokens=max_tokens)
    return mesh


def look(mesh: Mesh, now: float) -> list[Send]:
    """What is opened by now, where everybody is heard of."""
    return [send for send in mesh.tick(now) if isinstance(send.message, OpenStreamRequest)]


def test_streams_move_to_a_target_that_joins_one_request_at_a_time() -> None:
    mesh = crowded()
    mesh.join(OTHER, "target", profile(10))
    close, moved = mesh.tick(LOOK_S)
    there = moved.message
    assert (close.peer, close.message) == (TARGET, CloseStreamNotice(there.stream_id, 1))
    assert (moved.peer, there.generation, there.num_prompt_tokens) == (OTHER, 2, 3)
    # Prompt and what has been committed.
    assert there.token_ids == (*PROMPT, 9)
    assert look(mesh, LOOK_S + 0.1) == []
    # 12 ms there and 14 here are near enough.
    mesh.ready(there.stream_id, 2, OTHER, 2 * LOOK_S)
    assert len(look(mesh, 2 * LOOK_S)) <= 1
    assert look(mesh, 3 * LOOK_S) == []


@pytest.mark.parametrize(
    "changes",
    [{"numerics_class": "else"}, {"model_hash": "else"}, {"num_cells": 100}, {"exact": False}],
    ids=str,
)
def test_nobody_moves_to_where_its_text_would_change_or_not_fit(changes: dict[str, Any]) -> None:
    mesh = crowded()
    mesh.join(OTHER, "target", profile(1, **changes))
    assert look(mesh, LOOK_S) == []


def test_no_target_is_left_out_for_slower_ones() -> None:
    """Two slow ones of a model take turns; the streams of a fast one of another move, too."""
    of_small = {"model": "small", "model_hash": "small", "numerics_class": "small"}
    mesh = mesh_of(target=profile(200), other=profile(200), small=profile(2, **of_small))
    for number in range(1, 5):
        model = "small" if number > 2 else ""
        (name,) = mesh.submit(number, max_tokens=1500, model=model).where()
        mesh.ready(number, peer=name.encode())
        mesh.commit(number, peer=name.encode())
        assert (name == "small") == (number > 2)
    mesh.join(THIRD, "target", profile(0.1, **of_small))
    moved = [send for step in range(1, 40) for send in look(mesh, step * LOOK_S / 4)]
    assert [send.peer for send in moved][:1] == [THIRD]


def test_a_target_that_joins_has_time_to_read_each_text_that_moves_there() -> None:
    mesh = crowded(12, 1500)
    for name in (OTHER, THIRD):
        mesh.join(name, "target", profile(10))
    at = [step for step in range(1, 33) if look(mesh, step * LOOK_S / 8 + 1e-6)]
    assert len(at) > 2
    assert all(later - sooner >= 8 for sooner, later in itertools.pairwise(at))


def test_a_target_that_proves_slow_loses_streams() -> None:
    mesh = mesh_of(target=profile(10), other=profile(10))
    for number in (1, 2):
        (name,) = mesh.submit(number, max_tokens=1500).where()
        mesh.ready(number, peer=name.encode())
        if name == "target":
            mine = number
    assert look(mesh, LOOK_S) == []
    for length in range(3, 60):
        mesh.commit(mine, length, pass_s=0.1)
    assert [send.peer for send in look(mesh, 2 * LOOK_S)] == [OTHER]


def test_nobody_moves_for_the_last_few_tokens() -> None:
    mesh = crowded(max_tokens=3)
    # Reading takes 320 ms a piece, all that is to come 32.
    slow_reader = profile(8)
    slow_reader = replace(slow_reader, prefill=replace(slow_reader.prefill, seconds=(0.32,)))
    mesh.join(OTHER, "target", slow_reader)
    assert look(mesh, LOOK_S) == []


def test_one_that_fits_nowhere_keeps_nobody_from_moving() -> None:
    mesh = crowded()
    mesh.submit(9, max_tokens=1500)
    mesh.ready(5)
    mesh.join(OTHER, "target", profile(5, num_cells=600))
    (moved,) = look(mesh, LOOK_S)
    assert moved.message.stream_id != 5


def test_all_choices_of_a_request_move_together() -> None:
    mesh = mesh_of(target=profile(30))
    mesh.submit(num_choices=3, max_tokens=500)
    for stream_id in (1, 2, 3):
        mesh.ready(stream_id)
    mesh.join(OTHER, "target", profile(10))
    moved = look(mesh, LOOK_S)
    assert [(s.peer, s.message.stream_id) for s in moved] == [(OTHER, i) for i in (1, 2, 3)]
    # And not back, or on, before long.
    mesh.join(THIRD, "target", profile(1))
    for stream_id in (1, 2, 3):
        mesh.ready(stream_id, 2, OTHER)
    assert look(mesh, 2 * LOOK_S) == []
    assert len(look(mesh, 7 * LOOK_S)) == 3
