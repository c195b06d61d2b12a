"""Who moves to another target of its numerics class, and when."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from mesh.messages import Pong
from nodes.coordinator.placing.rebalancing import LOOK_S
from nodes.coordinator.sends import Send
from nodes.messages import (
    CloseStreamNotice,
    OpenStreamRequest,
    StreamReadyNotice,
    TokensNotice,
)
from tests.nodes.builders import PROMPT, make_submit
from tests.nodes.coordinator.script import CLIENT, OTHER, TARGET, Mesh, opened, to
from tests.nodes.coordinator.test_placement import commit, make_mesh, profile, where

THIRD = b"third"


def crowded(**changes: Any) -> Mesh:
    """Four long streams on a target, which are under way; and then another target."""
    mesh = make_mesh(target=profile(10))
    for number in range(1, 5):
        mesh.hear(CLIENT, make_submit(number, **{"max_tokens": 500, **changes}))
        mesh.hear(TARGET, StreamReadyNotice(number, 1))
        mesh.hear(TARGET, commit(number, 3))
    return mesh


def look(mesh: Mesh, now: float) -> list[Send]:
    for peer in mesh.state.peers():
        mesh.hear(peer, Pong(0, 1), now)
    return [s for s in mesh.state.tick(now) if isinstance(s.message, OpenStreamRequest)]


def test_streams_move_to_a_target_that_joins_one_request_at_a_time() -> None:
    mesh = crowded()
    mesh.join(OTHER, "target", profile(10))
    (moved,) = look(mesh, LOOK_S)
    assert moved.peer == OTHER
    opened_there = moved.message
    assert (opened_there.generation, opened_there.num_prompt_tokens) == (2, 3)
    # Prompt and what has been committed.
    assert opened_there.token_ids == (*PROMPT, 9)
    assert look(mesh, LOOK_S + 0.1) == []
    # 12 ms there and 14 here are near enough.
    mesh.hear(OTHER, StreamReadyNotice(opened_there.stream_id, 2), 2 * LOOK_S)
    assert len(look(mesh, 2 * LOOK_S)) <= 1
    assert look(mesh, 3 * LOOK_S) == []


def test_what_was_said_to_be_exact_moves_to_no_target_that_is_not() -> None:
    mesh = crowded()
    mesh.join(OTHER, "target", profile(10, exact=False))
    assert look(mesh, LOOK_S) == []


def test_streams_move_inside_their_class_only() -> None:
    mesh = crowded()
    mesh.join(OTHER, "target", profile(1, numerics_class="other"))
    mesh.join(THIRD, "target", profile(1, model_hash="other"))
    assert look(mesh, LOOK_S) == []


def test_no_target_is_left_out_for_slower_ones() -> None:
    """Two slow ones of a model take turns; the streams of a fast one of another move, too."""
    of_small = {"model": "small", "model_hash": "small", "numerics_class": "small"}
    mesh = make_mesh(target=profile(200), other=profile(200), small=profile(2, **of_small))
    for number in range(1, 5):
        model = "small" if number > 2 else ""
        (name,) = where(mesh.hear(CLIENT, make_submit(number, max_tokens=1500, model=model)))
        mesh.hear(name.encode(), StreamReadyNotice(number, 1))
        mesh.hear(name.encode(), commit(number, 3))
        assert (name == "small") == (number > 2)
    mesh.join(THIRD, "target", profile(0.1, **of_small))
    moved = [send for step in range(1, 40) for send in look(mesh, step * LOOK_S / 4)]
    assert [send.peer for send in moved][:1] == [THIRD]


def test_a_target_that_joins_has_time_to_read_each_text_that_moves_there() -> None:
    mesh = make_mesh(target=profile(10))
    for number in range(1, 13):
        mesh.hear(CLIENT, make_submit(number, max_tokens=1500))
        mesh.hear(TARGET, StreamReadyNotice(number, 1))
        mesh.hear(TARGET, commit(number, 3))
    for name in (OTHER, THIRD):
        mesh.join(name, "target", profile(10))
    at = [step for step in range(1, 33) if look(mesh, step * LOOK_S / 8 + 1e-6)]
    assert len(at) > 2
    assert all(later - sooner >= 8 for sooner, later in itertools.pairwise(at))


def test_what_the_old_target_still_says_is_dropped_and_the_client_sees_no_seam() -> None:
    mesh = crowded()
    mesh.join(OTHER, "target", profile(10))
    for peer in mesh.state.peers():
        mesh.hear(peer, Pong(0, 1), LOOK_S)
    sends = mesh.state.tick(LOOK_S)
    (stream_id,) = opened(sends, OTHER)
    assert CloseStreamNotice(stream_id, 1) in to(TARGET, sends)
    stale = mesh.hear(TARGET, commit(stream_id, 4))
    assert to(CLIENT, stale) == []
    mesh.hear(OTHER, StreamReadyNotice(stream_id, 2))
    (tokens,) = to(CLIENT, mesh.hear(OTHER, commit(stream_id, 4, generation=2)))
    assert isinstance(tokens, TokensNotice)
    assert (tokens.position, tokens.text) == (1, b"a")


def test_a_target_that_proves_slow_loses_streams() -> None:
    mesh = make_mesh(target=profile(10), other=profile(10))
    for number in (1, 2):
        (name,) = where(mesh.hear(CLIENT, make_submit(number, max_tokens=1500)))
        mesh.hear(name.encode(), StreamReadyNotice(number, 1))
        if name == "target":
            mine = number
    assert look(mesh, LOOK_S) == []
    for length in range(3, 60):
        mesh.hear(TARGET, commit(mine, length, pass_s=0.1))
    assert [send.peer for send in look(mesh, 2 * LOOK_S)] == [OTHER]


@pytest.mark.parametrize(
    "changes", [{"numerics_class": "else"}, {"model_hash": "else"}, {"num_cells": 100}]
)
def test_nobody_moves_to_where_its_text_would_change_or_not_fit(changes: dict[str, Any]) -> None:
    mesh = crowded()
    mesh.join(OTHER, "target", profile(1, **changes))
    assert look(mesh, LOOK_S) == []


def test_nobody_moves_for_the_last_few_tokens() -> None:
    mesh = crowded(max_tokens=3)
    # Reading takes 320 ms a piece, all that is to come 32.
    slow_reader = profile(8)
    slow_reader = replace(slow_reader, prefill=replace(slow_reader.prefill, seconds=(0.32,)))
    mesh.join(OTHER, "target", slow_reader)
    assert look(mesh, LOOK_S) == []


def test_one_that_fits_nowhere_keeps_nobody_from_moving() -> None:
    mesh = crowded()
    mesh.hear(CLIENT, make_submit(9, max_tokens=1500))
    mesh.hear(TARGET, StreamReadyNotice(5, 1))
    mesh.join(OTHER, "target", profile(5, num_cells=600))
    (moved,) = look(mesh, LOOK_S)
    assert moved.message.stream_id != 5


def test_all_choices_of_a_request_move_together() -> None:
    mesh = make_mesh(target=profile(30))
    mesh.hear(CLIENT, make_submit(1, num_choices=3, max_tokens=500))
    for stream_id in (1, 2, 3):
        mesh.hear(TARGET, StreamReadyNotice(stream_id, 1))
    mesh.join(OTHER, "target", profile(10))
    moved = look(mesh, LOOK_S)
    assert [(s.peer, s.message.stream_id) for s in moved] == [(OTHER, i) for i in (1, 2, 3)]
    # And not back, or on, before long.
    mesh.join(THIRD, "target", profile(1))
    for stream_id in (1, 2, 3):
        mesh.hear(OTHER, StreamReadyNotice(stream_id, 2))
    assert look(mesh, 2 * LOOK_S) == []
    assert len(look(mesh, 7 * LOOK_S)) == 3
