"""Draft nodes of a request: given streams, told what is committed, and done without."""

from __future__ import annotations

from nodes.coordinator.sends import Send
from nodes.messages import (
    CancelRequest,
    ChainPart,
    CloseStreamNotice,
    CommitEntry,
    CommitNotice,
    CommitReply,
    GuessNotice,
    StreamFailedNotice,
    StreamReadyNotice,
)
from tests.nodes.builders import PROMPT, make_profile, make_submit
from tests.nodes.coordinator.script import (
    CLIENT,
    DRAFT,
    TARGET,
    Mesh,
    finish,
    make_mesh,
    opened,
    to,
)


def part(stream_id: int, start: int = len(PROMPT)) -> ChainPart:
    return ChainPart(stream_id, 1, 1, start, b"\xf0")


def running(*stream_ids: int) -> Mesh:
    """Streams that a draft node and the target have read."""
    mesh = make_mesh(with_draft=True)
    for stream_id in stream_ids:
        mesh.hear(CLIENT, make_submit(stream_id))
        mesh.hear(DRAFT, StreamReadyNotice(stream_id, 1))
        mesh.hear(TARGET, StreamReadyNotice(stream_id, 1, has_begun=True))
    return mesh


def test_a_target_that_cannot_roll_back_gets_no_draft() -> None:
    mesh = make_mesh(with_draft=True, can_roll_back=False)
    sends = mesh.hear(CLIENT, make_submit())
    assert (len(opened(sends)), opened(sends, DRAFT)) == (1, [])


def test_a_draft_that_joins_late_is_used_and_one_that_leaves_is_done_without() -> None:
    mesh = make_mesh()
    mesh.hear(CLIENT, make_submit(max_tokens=100))
    mesh.hear(TARGET, StreamReadyNotice(1, 1, has_begun=True))
    assert opened(mesh.join(DRAFT, "draft", make_profile(0.8)), DRAFT) == [1]
    mesh.hear(DRAFT, StreamReadyNotice(1, 1))
    assert mesh.state.peer_gone(DRAFT, 0.0) == []
    assert to(CLIENT, mesh.hear(TARGET, finish(1)))


def test_a_draft_that_left_a_mesh_without_targets_comes_back_as_what_it_is_then() -> None:
    mesh = make_mesh()
    mesh.join(DRAFT, "draft", make_profile(0.8, max_streams=1))
    mesh.state.peer_gone(TARGET, 0.0)
    mesh.state.peer_gone(DRAFT, 0.0)
    mesh.join(b"another target", "target", make_profile())
    mesh.join(b"another draft", "draft", make_profile(0.8, max_streams=2), DRAFT.decode())
    for number in (1, 2):
        sends = mesh.hear(CLIENT, make_submit(number))
        assert opened(sends, b"another draft") == [number]


def test_no_more_texts_are_told_a_draft_than_it_holds() -> None:
    mesh = make_mesh()
    mesh.join(DRAFT, "draft", make_profile(0.8, max_streams=2))
    told = [opened(mesh.hear(CLIENT, make_submit(number)), DRAFT) for number in (1, 2, 3)]
    assert told == [[1], [2], []]


def test_guesses_are_passed_on_and_charged_to_the_streams_they_are_of() -> None:
    mesh = running(1, 2)
    notice = GuessNotice((part(1), part(2)), (8, 9))
    assert mesh.hear(DRAFT, notice, num_bytes=40) == [Send(TARGET, notice, (1, 2))]
    (*_, finished) = to(CLIENT, mesh.hear(TARGET, finish(1)))
    assert finished.figures.draft_wire_bytes == 20


def test_guesses_of_a_cancelled_stream_are_dropped_and_those_of_others_are_not() -> None:
    mesh = running(1, 2)
    assert CloseStreamNotice(1, 1) in to(DRAFT, mesh.hear(CLIENT, CancelRequest(1)))
    sends = mesh.hear(DRAFT, GuessNotice((part(1), part(2)), (8, 9)))
    assert to(TARGET, sends) == [GuessNotice((part(2),), (9,))]
    assert mesh.hear(DRAFT, GuessNotice((part(1),), (8,))) == []


def test_a_draft_is_told_what_was_committed() -> None:
    mesh = running(1)
    entry = CommitEntry(1, 1, 3, 2, 0, 0, "", b"ab")
    sends = mesh.hear(TARGET, CommitReply(0.0, (entry,), (8, 9)))
    (notice,) = to(DRAFT, sends)
    assert isinstance(notice, CommitNotice)
    assert notice.new_token_ids == (8, 9)
    assert [(e.stream_id, e.prefix_len) for e in notice.entries] == [(1, 3)]


def test_a_draft_that_refuses_a_stream_is_told_in_the_figures() -> None:
    mesh = make_mesh(with_draft=True)
    mesh.hear(CLIENT, make_submit())
    mesh.hear(DRAFT, StreamFailedNotice(1, 1, "toy-0.8 is full"))
    mesh.hear(TARGET, StreamReadyNotice(1, 1))
    (*_, finished) = to(CLIENT, mesh.hear(TARGET, finish(1)))
    assert finished.figures.plain_reason == "draft off: toy-0.8 is full"
