"""Draft nodes of a request: given streams, waited for, and done without."""

from __future__ import annotations

from nodes.coordinator.sends import Send
from nodes.messages import (
    CancelRequest,
    CommitEntry,
    CommitReply,
    DraftReply,
    DraftRequest,
    GuessEntry,
    StreamFailedNotice,
    StreamReadyNotice,
    VerifyRequest,
)
from tests.nodes.builders import make_profile, make_submit
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


def test_a_target_that_cannot_roll_back_gets_no_draft() -> None:
    mesh = make_mesh(with_draft=True, can_roll_back=False)
    sends = mesh.hear(CLIENT, make_submit())
    assert (len(opened(sends)), opened(sends, DRAFT)) == (1, [])


def test_a_draft_that_joins_late_is_used_and_one_that_leaves_is_done_without() -> None:
    mesh = make_mesh()
    mesh.hear(CLIENT, make_submit(gamma=4, max_tokens=100))
    assert opened(mesh.join(DRAFT, "draft", make_profile(0.8)), DRAFT) == [1]
    mesh.hear(DRAFT, StreamReadyNotice(1, 1))
    sends = mesh.hear(TARGET, StreamReadyNotice(1, 1))
    (request,) = to(DRAFT, sends)
    assert isinstance(request, DraftRequest)
    (verify,) = to(TARGET, mesh.state.peer_gone(DRAFT, 0.0))
    assert verify == VerifyRequest(1, (GuessEntry(1, 1, 3, 0),), ())


def test_no_more_texts_are_told_a_draft_than_it_holds() -> None:
    mesh = make_mesh()
    mesh.join(DRAFT, "draft", make_profile(0.8, max_streams=2))
    told = [
        opened(mesh.hear(CLIENT, make_submit(request_id=number, gamma=4)), DRAFT)
        for number in (1, 2, 3)
    ]
    assert told == [[1], [2], []]


def test_guesses_are_charged_and_verified() -> None:
    mesh = _two_streams_in_a_round()
    entries = (GuessEntry(1, 1, 4, 1), GuessEntry(2, 1, 3, 1))
    (send,) = mesh.hear(DRAFT, DraftReply(2, entries, (8, 9)), num_bytes=40)
    assert send == Send(TARGET, VerifyRequest(2, entries, (8, 9)), (1, 2))
    (*_, finished) = to(CLIENT, mesh.hear(TARGET, finish(1, 4)))
    assert finished.figures.draft_wire_bytes == 20


def test_an_answer_counts_even_if_the_first_stream_in_it_was_cancelled() -> None:
    mesh = _two_streams_in_a_round()
    mesh.hear(CLIENT, CancelRequest(1))
    reply = DraftReply(2, (GuessEntry(1, 1, 4, 1), GuessEntry(2, 1, 3, 1)), (8, 9))
    verify = VerifyRequest(2, (GuessEntry(2, 1, 3, 1),), (9,))
    assert to(TARGET, mesh.hear(DRAFT, reply)) == [verify]


def test_a_round_takes_an_answer_that_speaks_of_cancelled_streams_alone() -> None:
    """The draft node has refused the other one: it is not waited for until it is late."""
    mesh = _two_streams_in_a_round()
    mesh.hear(CLIENT, CancelRequest(1))
    mesh.hear(DRAFT, StreamFailedNotice(2, 1, "out of step"))
    sends = mesh.hear(DRAFT, DraftReply(2, (GuessEntry(1, 1, 4, 1),), (8,)))
    assert to(TARGET, sends) == [VerifyRequest(2, (GuessEntry(2, 1, 3, 0),), ())]


def test_a_draft_that_refuses_a_stream_is_told_in_the_figures() -> None:
    mesh = make_mesh(with_draft=True)
    mesh.hear(CLIENT, make_submit(gamma=4))
    mesh.hear(DRAFT, StreamFailedNotice(1, 1, "toy-0.8 is full"))
    mesh.hear(TARGET, StreamReadyNotice(1, 1))
    (*_, finished) = to(CLIENT, mesh.hear(TARGET, finish(1)))
    assert finished.figures.plain_reason == "draft off: toy-0.8 is full"


def test_a_late_draft_is_left_behind_by_the_tick() -> None:
    mesh = _two_streams_in_a_round()
    verify = VerifyRequest(2, (GuessEntry(1, 1, 4, 0), GuessEntry(2, 1, 3, 0)), ())
    assert verify in to(TARGET, mesh.state.tick(1.5))


def _two_streams_in_a_round() -> Mesh:
    """Round 2 is being drafted: stream 1 after 4 tokens and stream 2 after 3."""
    mesh = make_mesh(with_draft=True)
    mesh.hear(CLIENT, make_submit(1, gamma=4))
    mesh.hear(CLIENT, make_submit(2, gamma=4))
    mesh.hear(DRAFT, StreamReadyNotice(1, 1))
    mesh.hear(TARGET, StreamReadyNotice(1, 1))
    # Once the first is being verified the second waits for it.
    mesh.hear(DRAFT, DraftReply(1, (), ()))
    mesh.hear(DRAFT, StreamReadyNotice(2, 1))
    mesh.hear(TARGET, StreamReadyNotice(2, 1))
    first = CommitEntry(1, 1, 3, 1, 0, 0, "", b"a")
    sends = mesh.hear(TARGET, CommitReply(0.0, (first,), (9,)))
    ((request,),) = [to(DRAFT, sends)]
    assert [(e.stream_id, e.prefix_len) for e in request.entries] == [(1, 3), (2, 3)]
    return mesh
