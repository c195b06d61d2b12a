"""Streams go where a token is predicted to take the least time, or wait for a place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airdraft.nodes.coordinator.sends import Send
from airdraft.nodes.coordinator.state import LOOK_S
from airdraft.nodes.messages import (
    MAX_GAMMA,
    CloseStreamNotice,
    OpenStreamRequest,
    RequestFailedNotice,
    StartedNotice,
    StreamParkedNotice,
)
from tests.nodes.builders import make_profile
from tests.nodes.coordinator.script import CLIENT, OTHER, TARGET, Mesh, make_mesh, mesh_of, profile


def observed(mesh: Mesh, **pass_ms: float) -> None:
    """Each of these targets makes ten passes that take so long, and is idle again."""
    for number, name in enumerate(pass_ms, 901):
        (name,) = mesh.submit(number, max_tokens=500).where()
        ids = {"peer": name.encode()}
        stream_id = number - 900
        mesh.ready(stream_id, **ids)
        for k in range(10):
            mesh.commit(
                stream_id, 3 + k, pass_s=pass_ms[name] / 1e3, now=k * pass_ms[name] / 1e3, **ids
            )
    for number in range(901, 901 + len(pass_ms)):
        mesh.cancel(number)


@pytest.mark.parametrize("told_ms", [20, 0.001])
def test_streams_go_where_a_token_takes_the_least_whatever_a_target_says(told_ms: float) -> None:
    mesh = mesh_of(slow=profile(told_ms), fast=profile(10))
    observed(mesh, slow=20, fast=10)
    placed = [mesh.submit(n, max_tokens=200).where()[0] for n in range(1, 9)]
    # 2 ms more for each stream: a sixth one makes it as slow as the other with its first.
    assert placed[:4] == ["fast"] * 4


def test_a_target_that_was_slow_once_is_tried_again_after_a_minute_without_a_pass() -> None:
    mesh = mesh_of(slow=profile(10), fast=profile(10))
    observed(mesh, slow=2000, fast=10)
    assert mesh.submit(1, max_tokens=200, now=30.0).where() == ["fast"]
    for token in range(10):
        mesh.commit(3, 3 + token, pass_s=0.01, now=100.0 + 0.01 * token, peer=b"fast")
    placed = [mesh.submit(n, max_tokens=200, now=101.0).where()[0] for n in (2, 3, 4)]
    assert sorted(placed) == ["fast", "fast", "slow"]


def test_a_target_that_was_never_seen_to_decode_has_one_request_at_a_time() -> None:
    mesh = mesh_of(honest=profile(10))
    observed(mesh, honest=10)
    mesh.join(OTHER, "target", profile(1e-5, num_cells=2**31 - 1, max_streams=256))
    placed = [mesh.submit(n, max_tokens=50).where()[0] for n in range(1, 9)]
    assert sorted(placed) == [*["honest"] * 7, "other"]


def test_targets_that_were_never_seen_to_decode_have_as_many_requests_each() -> None:
    mesh = mesh_of(honest=profile(10), other=profile(1e-5))
    placed = [mesh.submit(n, max_tokens=50).where()[0] for n in range(1, 9)]
    assert placed.count("honest") == placed.count("other")


def test_equal_targets_take_turns() -> None:
    mesh = mesh_of(target=profile(10), other=profile(10))
    placed = [mesh.submit(n).where()[0] for n in range(1, 5)]
    assert sorted(placed[:2]) == sorted(placed[2:]) == ["other", "target"]


def test_a_short_answer_to_a_long_prompt_goes_where_the_prompt_is_read_sooner() -> None:
    reads_fast = profile(12)
    reads_fast = replace(reads_fast, prefill=replace(reads_fast.prefill, seconds=(1e-3,)))
    for max_tokens, wanted in ((10, "reads"), (1000, "decodes")):
        mesh = mesh_of(decodes=profile(10), reads=reads_fast)
        sends = mesh.submit(max_tokens=max_tokens, prompt_token_ids=(5,) * 1000)
        assert sends.where() == [wanted]


def test_choices_of_a_request_stay_where_their_prompt_is_read() -> None:
    mesh = mesh_of(target=profile(10), other=profile(10))
    sends = mesh.submit(num_choices=2, max_tokens=20, prompt_token_ids=(5,) * 2000)
    assert len(set(sends.where())) == 1


def test_a_conversation_goes_on_where_it_was_read() -> None:
    mesh = mesh_of(target=profile(10), other=profile(10))
    observed(mesh, target=10, other=10)
    first = (5,) * 1000
    # Among idle targets the first one is taken, so another request keeps it busy.
    (busy,) = mesh.submit(1, max_tokens=20).where()
    (home,) = mesh.submit(2, max_tokens=20, prompt_token_ids=first).where()
    assert home != busy
    for number in (1, 2):
        mesh.cancel(number)
    for number in range(3, 9):
        more = (*first, *range(number))
        assert mesh.submit(number, max_tokens=20, prompt_token_ids=more).where() == [home]
        mesh.cancel(number)
    # For another owner it is read anew, wherever that may be.
    mesh.join(b"client-2", "client")
    sends = mesh.submit(1, peer=b"client-2", max_tokens=20, prompt_token_ids=first)
    assert sends.where() == [busy]


def test_a_conversation_does_not_wait_for_a_crowded_target() -> None:
    mesh = mesh_of(target=profile(10), other=profile(10))
    observed(mesh, target=10, other=10)
    first = (5,) * 300
    (home,) = mesh.submit(1, max_tokens=500, prompt_token_ids=first).where()
    (other,) = {"target", "other"} - {home}
    mesh.ready(3, peer=home.encode())
    # A thousand tokens that are written next to others take longer than three hundred to read.
    placed = [
        mesh.submit(number, max_tokens=500, prompt_token_ids=first).where()[0]
        for number in range(2, 9)
    ]
    assert {home, other} == set(placed)


@pytest.mark.parametrize(
    ("was_exact", "is_exact", "has_begun", "changes"),
    [
        (True, True, False, True),
        (False, True, False, True),
        (True, False, False, False),
        (True, True, True, False),
    ],
    ids=["nothing of it has come", "it becomes exact", "it was exact", "it has begun"],
)
def test_only_a_request_without_any_token_may_change_its_class(
    was_exact: bool, is_exact: bool, has_begun: bool, changes: bool
) -> None:
    first = profile(10, numerics_class="a", exact=was_exact)
    mesh = mesh_of(a=first)
    assert mesh.submit().where() == ["a"]
    mesh.join(b"b", "target", profile(30, numerics_class="b", exact=is_exact))
    mesh.ready(peer=b"a")
    if has_begun:
        mesh.commit(peer=b"a")
    sends = mesh.bye(b"a")
    assert sends.where() == (["b"] if changes else [])
    # The client is told of another class, which holds should it go on with another coordinator.
    told = [(m.numerics_class, m.exact) for m in sends.said(StartedNotice, CLIENT)]
    assert told == ([("b", is_exact)] if changes else [])
    assert mesh.join(b"a2", "target", first).where() == ([] if changes else ["a2"])


def test_what_is_to_fit_fits_on_all_targets_that_leave_room_for_an_answer() -> None:
    """So that any of them can take it over."""
    cells = {"tiny": 900, "small": 2000, "large": 8000}
    mesh = mesh_of(**{name: profile(10, num_cells=n) for name, n in cells.items()})
    for number, (prompt, expected) in enumerate(((100, 2000), (1500, 8000)), 1):
        sends = mesh.submit(number, max_tokens=9000, prompt_token_ids=(5,) * prompt, fits=True)
        (request,) = sends.openings()
        longest = min(expected - MAX_GAMMA, make_profile().context_length)
        assert request.max_tokens == longest - prompt
    (request,) = mesh.submit(3, max_tokens=7, fits=True).openings()
    assert request.max_tokens == 7
    # A prompt that leaves no room at all is an error all the same.
    sends = mesh.submit(4, prompt_token_ids=(5,) * 5000, fits=True)
    assert sends.failure()[0] == "bad_request"


# -- who waits -------------------------------------------------------------------------------------


def test_output_that_is_yet_to_come_keeps_nobody_waiting() -> None:
    # 3 tokens, 64 of growth and 16 guesses each, though each may come to 519 cells.
    mesh = make_mesh(num_cells=600)
    assert mesh.submit(max_tokens=500, num_choices=8).opened() == [1, 2, 3, 4, 5, 6, 7]
    # The eighth waits for room: one that ends makes it, one that goes on does not.
    assert mesh.commit(token_ids=(9, 9)).opened() == []
    assert mesh.finish(2).opened() == [8]


def test_cancelling_frees_the_place_for_who_waits() -> None:
    mesh = make_mesh(max_streams=1)
    mesh.submit(1)
    mesh.submit(2)
    sends = mesh.cancel(1)
    assert sends.to(TARGET)[0] == CloseStreamNotice(1, 1)
    assert sends.opened() == [2]
    (finished, _) = sends.to(CLIENT)
    assert finished.finish_reason == "cancelled"
    assert mesh.cancel(1) == []
    # A waiting one goes without a trace.
    mesh.submit(3)
    mesh.cancel(3)
    assert mesh.finish(2).opened() == []


@pytest.mark.parametrize("how", ["cancel", "deadline", "bye"])
def test_when_a_waiting_request_leaves_the_next_one_gets_the_room(how: str) -> None:
    mesh = make_mesh(num_cells=100)
    mesh.join(OTHER, "client")
    assert mesh.submit(1, max_tokens=1).opened() == [1]
    # It needs 99 of the 100 cells, and nobody overtakes it.
    assert mesh.submit(1, peer=OTHER, max_tokens=80, deadline_s=1.0) == []
    assert mesh.submit(2, max_tokens=1) == []
    if how == "cancel":
        left = mesh.cancel(1, 0.1, OTHER)
    elif how == "bye":
        left = mesh.bye(OTHER, 0.1)
    else:
        left = mesh.tick(1.1)
    assert left.opened() == [3]
    assert mesh.tick(1.2).opened() == []


def test_one_that_only_the_largest_target_holds_leaves_the_others_to_those_behind_it() -> None:
    mesh = mesh_of(large=profile(10, num_cells=1000), small=profile(10, num_cells=200))
    text = (5,) * 600
    assert mesh.submit(1, max_tokens=1, prompt_token_ids=text).where() == ["large"]
    # It waits for the first one to end, and so do those that would take its room.
    assert mesh.submit(2, max_tokens=1, prompt_token_ids=text).where() == []
    assert mesh.submit(3, max_tokens=80).where() == ["small"]
    assert mesh.submit(4, max_tokens=80).where() == ["small"]
    assert mesh.submit(5, max_tokens=80).where() == []
    openings = mesh.finish(1, 600, peer=b"large").openings()
    assert [opening.stream_id for opening in openings] == [2, 5]


def test_choices_that_wait_when_their_request_is_cancelled_get_no_place() -> None:
    mesh = make_mesh(max_streams=1)
    assert mesh.submit(1, num_choices=3).opened() == [1]
    mesh.submit(2)
    assert mesh.cancel(1).opened() == [4]


@pytest.mark.parametrize("how", ["bye", "gone", "silent"])
def test_a_client_that_leaves_cancels_its_requests(how: str) -> None:
    mesh = make_mesh(max_streams=2)
    mesh.submit(num_choices=3)
    if how == "bye":
        sends = mesh.bye(CLIENT)
    elif how == "gone":
        sends = mesh.gone(CLIENT)
    else:
        sends = mesh.tick(6.0, CLIENT)
        # It may be listening again: it is told an error, and not an end.
        assert [type(message) for message in sends.to(CLIENT)] == [RequestFailedNotice]
    closed = {m.stream_id for m in sends.said(CloseStreamNotice, TARGET)}
    assert closed >= {1, 2}
    assert closed == {1, 2} | set(sends.opened())
    mesh.join(OTHER, "client")
    assert len(mesh.submit(peer=OTHER, num_choices=2).opened()) == 2


def test_a_client_that_leaves_ends_all_its_requests_whatever_ends_with_them() -> None:
    """A target comes back smaller: one waiting request has none that could serve it."""
    mesh = make_mesh(max_streams=1, num_cells=8192)
    for number, max_tokens in ((1, 8), (2, 8), (3, 2000), (4, 8)):
        mesh.submit(number, max_tokens=max_tokens)
    mesh.join(TARGET, "target", make_profile(max_streams=1, num_cells=200), incarnation=99)
    # Those that can be served do not wait behind it.
    assert mesh.finish(1, generation=2).opened() == [2]
    assert mesh.finish(2).opened() == [4]
    mesh.bye(CLIENT)
    assert mesh.num_under_way() == 0


# -- who moves to another target of its class ------------------------------------------------------


def crowded(num_streams: int = 4, max_tokens: int = 500) -> Mesh:
    """Streams on a target, which are under way."""
    mesh = mesh_of(target=profile(10))
    for number in range(1, num_streams + 1):
        mesh.begin(number, max_tokens=max_tokens)
    return mesh


def look(mesh: Mesh, now: float) -> list[Send]:
    """What is opened by now, where everybody is heard of."""
    return [send for send in mesh.tick(now) if isinstance(send.message, OpenStreamRequest)]


@pytest.mark.parametrize(
    "changes",
    [{"numerics_class": "else"}, {"model_hash": "else"}, {"num_cells": 100}, {"exact": False}],
    ids=str,
)
def test_nobody_moves_to_where_its_text_would_change_or_not_fit(changes: dict[str, Any]) -> None:
    mesh = crowded()
    mesh.hear(TARGET, StreamParkedNotice(3, 1))
    mesh.join(OTHER, "target", profile(1, **changes))
    assert look(mesh, LOOK_S) == []


def test_a_stream_that_is_under_way_stays_where_it_is() -> None:
    mesh = crowded()
    mesh.join(OTHER, "target", profile(1))
    assert look(mesh, LOOK_S) == []


def test_a_parked_stream_moves_to_a_target_with_room_however_fast_its_own_is() -> None:
    mesh = crowded()
    mesh.hear(TARGET, StreamParkedNotice(3, 1))
    mesh.join(OTHER, "target", profile(40, num_cells=2000))
    (moved,) = look(mesh, LOOK_S)
    assert (moved.peer, moved.message.stream_id, moved.message.generation) == (OTHER, 3, 3)
    assert look(mesh, 2 * LOOK_S) == []


def test_a_stream_about_which_its_target_is_silent_moves_to_another_one() -> None:
    """A target that hangs, or means harm, may go on to answer Pings."""
    mesh = mesh_of(target=profile(10))
    mesh.submit(max_tokens=500)
    mesh.join(OTHER, "target", profile(10))
    moved = [send for second in range(1, 90) for send in look(mesh, float(second))]
    again, there = moved[0], moved[1]
    assert (again.peer, there.peer) == (TARGET, OTHER)
    assert there.message.generation > again.message.generation
    # It does not go back, though the other one has not sent anything yet.
    assert len(moved) == 2
