"""Draft nodes of a request: given streams, told what is committed, and done without."""

from __future__ import annotations

from nodes.coordinator.sends import Send
from nodes.messages import (
    CancelRequest,
    ChainPart,
    CloseStreamNotice,
    GuessNotice,
    StreamFailedNotice,
)
from tests.nodes.builders import PROMPT, make_profile
from tests.nodes.coordinator.script import CLIENT, DRAFT, TARGET, Mesh, make_mesh, opened, to


def part(stream_id: int, start: int = len(PROMPT)) -> ChainPart:
    return ChainPart(stream_id, 1, 1, start, b"\xf0")


def running(*stream_ids: int) -> Mesh:
    """Streams that a draft node and the target have read."""
    mesh = make_mesh(with_draft=True)
    for stream_id in stream_ids:
        mesh.submit(stream_id)
        for peer in (DRAFT, TARGET):
            mesh.ready(stream_id, peer=peer)
    return mesh


def test_a_target_that_cannot_roll_back_gets_no_draft() -> None:
    sends = make_mesh(with_draft=True, can_roll_back=False).submit()
    assert (len(opened(sends)), opened(sends, DRAFT)) == (1, [])


def test_a_draft_that_joins_late_is_used_and_one_that_leaves_is_done_without() -> None:
    mesh = make_mesh()
    mesh.submit(max_tokens=100)
    mesh.ready()
    assert opened(mesh.join(DRAFT, "draft", make_profile(0.8)), DRAFT) == [1]
    mesh.ready(peer=DRAFT)
    assert mesh.gone(DRAFT) == []
    assert to(CLIENT, mesh.finish())


def test_a_draft_that_left_a_mesh_without_targets_comes_back_as_what_it_is_then() -> None:
    mesh = make_mesh()
    mesh.join(DRAFT, "draft", make_profile(0.8, max_streams=1))
    mesh.gone(TARGET)
    mesh.gone(DRAFT)
    mesh.join(b"another target", "target", make_profile())
    mesh.join(b"another draft", "draft", make_profile(0.8, max_streams=2), DRAFT.decode())
    # No more texts are told a draft node than it holds by now.
    told = [opened(mesh.submit(number), b"another draft") for number in (1, 2, 3)]
    assert told == [[1], [2], []]


def test_guesses_are_passed_on_and_charged_to_the_streams_they_are_of() -> None:
    mesh = running(1, 2)
    notice = GuessNotice((part(1), part(2)), (8, 9))
    assert mesh.hear(DRAFT, notice, num_bytes=40) == [Send(TARGET, notice, (1, 2))]
    (*_, finished) = to(CLIENT, mesh.finish())
    assert finished.figures.draft_wire_bytes == 20


def test_guesses_of_a_cancelled_stream_are_dropped_and_those_of_others_are_not() -> None:
    mesh = running(1, 2)
    assert CloseStreamNotice(1, 1) in to(DRAFT, mesh.hear(CLIENT, CancelRequest(1)))
    sends = mesh.hear(DRAFT, GuessNotice((part(1), part(2)), (8, 9)))
    assert to(TARGET, sends) == [GuessNotice((part(2),), (9,))]
    assert mesh.hear(DRAFT, GuessNotice((part(1),), (8,))) == []


def test_a_draft_is_told_what_was_committed() -> None:
    (notice,) = to(DRAFT, running(1).commit(token_ids=(8, 9)))
    assert notice.new_token_ids == (8, 9)
    assert [(e.stream_id, e.prefix_len) for e in notice.entries] == [(1, 3)]


def test_a_draft_that_refuses_a_stream_is_told_in_the_figures() -> None:
    mesh = make_mesh(with_draft=True)
    mesh.submit()
    mesh.hear(DRAFT, StreamFailedNotice(1, 1, "toy-0.8 is full"))
    mesh.ready()
    (*_, finished) = to(CLIENT, mesh.finish())
    assert finished.figures.plain_reason == "draft off: toy-0.8 is full"
