"""Who may send which piece of a large request, and when."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from airdraft.mesh.codec import encode
from airdraft.mesh.errors import DecodeError
from airdraft.mesh.grants import Air
from airdraft.mesh.padding import SIZES, pad
from airdraft.nodes.client.upload import Upload
from airdraft.nodes.coordinator.requests.uploads import (
    LEAST_PIECE_BYTES,
    MAX_BYTES_OF_ALL,
    PIECE_S,
    Uploads,
)
from airdraft.nodes.coordinator.sends import Send
from airdraft.nodes.messages import (
    MAX_UPLOAD_BYTES,
    LinkFields,
    NodesRequest,
    OpenStreamRequest,
    UploadGrant,
    UploadOffer,
    UploadPiece,
)
from airdraft.nodes.messages.access import ForbiddenError
from tests.nodes.builders import make_submit
from tests.nodes.coordinator.script import CLIENT, CLUSTER, EPOCH, Mesh, make_mesh

# 100 kB/s: a byte takes 10 us.
LINK = LinkFields("cell-a", 800e3, 0.0)
RTT_S = 0.01
A, B = b"a", b"b"
LONG = tuple(k % 50 + 1 for k in range(1000))


def make_uploads(air: Air | None = None, **changes: bool) -> Uploads:
    return Uploads(air or Air(), lambda _peer: RTT_S, **changes)


@pytest.fixture
def line() -> Uploads:
    return make_uploads()


def offer(request_id: int = 1, num_bytes: int = 8000, **changes: object) -> UploadOffer:
    made = UploadOffer(request_id, num_bytes, num_bytes, 5, LINK)
    return replace(made, **changes)  # type: ignore[arg-type]


def grants(sends: list[Send]) -> list[tuple[bytes, UploadGrant]]:
    assert all(isinstance(send.message, UploadGrant) for send in sends)
    return [(send.peer, send.message) for send in sends]


def send(line: Uploads, peer: bytes, request_id: int, offset: int, size: int, now: float) -> None:
    frames, is_known = line.arrived(peer, UploadPiece(request_id, offset, b"x" * size), now)
    assert is_known
    assert frames is None or len(b"".join(frames)) == offset + size


def test_pieces_take_a_moment_each_and_the_next_is_granted_while_one_is_sent(line: Uploads) -> None:
    ((peer, first),) = grants(line.offered(A, offer(), 0.0))
    # 20 ms of the link carry 2,000 bytes, those of the message and its packet included.
    assert (peer, first.num_bytes, first.delay_us) == (A, 1852, 0)
    # The grant is told and its way back: the piece is through some 20 ms after that.
    due = line.next_deadline
    assert due == pytest.approx(0.00148 + RTT_S / 2 + PIECE_S - RTT_S)
    assert line.grants(due - 1e-4) == []
    ((_, second),) = grants(line.grants(due))
    assert second.num_bytes == 1852
    # Two are on their way: the third waits for one of them.
    assert line.grants(0.1) == []
    send(line, A, 1, 0, 1852, 0.1)
    assert len(line.grants(0.1)) == 1


def test_pieces_go_into_the_gaps_between_turns_and_are_as_long() -> None:
    air = Air()
    medium = air["cell-a"]
    line = make_uploads(air)
    # A turn until 30 ms, a gap of 10 ms, a turn, one of 2 ms, one that is long.
    medium.reserve(0.0, 0.002, 0.028)
    medium.reserve(0.0, 0.040, 0.020)
    medium.reserve(0.0, 0.062, 0.038)
    ((_, first),) = grants(line.offered(A, offer(), 0.0))
    assert first.num_bytes == 852
    assert first.delay_us * 1e-6 == pytest.approx(0.030 - 0.00148 - RTT_S / 2, abs=2e-6)
    # 2 ms are enough for the grant, and less than the least piece takes.
    send(line, A, 1, 0, 852, 0.04)
    ((_, second),) = grants(line.grants(0.04))
    assert second.num_bytes == 1852
    # What they took is taken: whoever reserves comes later.
    assert medium.reserve(0.04, 0.04, 0.03).start == pytest.approx(0.12)


def test_the_least_rest_for_its_weight_comes_first(line: Uploads) -> None:
    given = grants(line.offered(A, offer(1, 30_000), 0.0))
    for peer, request_id, num_bytes, priority in (
        *((B, 2, 20_000, 1), (B, 3, 9_000, 5)),
        (b"c", 4, 10_000, 10),
    ):
        sends = line.offered(peer, offer(request_id, num_bytes, priority=priority), 0.0)
        assert [grant.num_bytes for _, grant in grants(sends)] == [0]
    order, now = [], 0.0
    sent = Counter[int]()
    while given:
        # Each piece arrives before the next is granted.
        now += 0.05
        ((peer, grant),) = [(peer, grant) for peer, grant in given if grant.num_bytes]
        send(line, peer, grant.request_id, sent[grant.request_id], grant.num_bytes, now)
        sent[grant.request_id] += grant.num_bytes
        order.append(grant.request_id)
        given = grants(line.grants(now))
    assert [number for number, _ in itertools.groupby(order)] == [1, 4, 3, 1, 2]


def test_a_client_that_does_not_send_loses_its_turn_and_is_forgotten_at_last(line: Uploads) -> None:
    line.offered(A, offer(1), 0.0)
    line.offered(B, offer(2, 9000), 0.0)
    # Another medium has a line of its own.
    ((_, grant),) = grants(line.offered(B, offer(link=LinkFields("cell-b", 8e5, 0.0)), 0.0))
    assert grant.num_bytes > 0
    # Clients that cancel or leave leave nothing.
    line.forget(B, 1)
    line.forget(B, 9)
    line.offered(b"c", offer(), 0.0)
    line.gone(b"c")
    assert line.num_under_way == 2
    due = line.next_deadline
    assert [peer for peer, _ in grants(line.grants(due))] == [A]
    assert [peer for peer, _ in grants(line.grants(1.5))] == [B]
    # It comes after all: nothing is lost.
    send(line, A, 1, 0, 1904, 1.6)
    send(line, B, 2, 0, 1904, 1.7)
    line.grants(100.0)
    line.grants(200.0)
    assert line.num_under_way == 0


def test_a_client_that_leaves_grants_unused_does_not_keep_the_medium(line: Uploads) -> None:
    for number in range(200):
        line.offered(A, offer(number, 1, num_head_bytes=1, priority=10), 0.0)
    line.offered(B, offer(1, 20_000), 0.0)
    # Two grants of A are waited for, each for a second.
    assert B in [peer for peer, grant in grants(line.grants(2.0)) if grant.num_bytes]


def test_small_uploads_do_not_keep_a_large_one_waiting_for_ever(line: Uploads) -> None:
    # It takes half a second of the medium, which small ones could fill.
    waits = offer(1, 50_000)
    numbers, now = itertools.count(), 0.0
    given = grants(line.offered(A, offer(next(numbers), 1000), now))
    line.offered(B, waits, now)
    while B not in [peer for peer, grant in given if grant.num_bytes]:
        for peer, grant in given:
            if grant.num_bytes:
                send(line, peer, grant.request_id, 0, grant.num_bytes, now)
        given = grants(line.offered(A, offer(next(numbers), 1000), now)) + grants(line.grants(now))
        now += 0.01
        assert now < 6.0


def test_a_client_that_waits_is_told_so_again(line: Uploads) -> None:
    line.offered(A, offer(1, 600_000), 0.0)
    line.offered(B, offer(2, 700_000), 0.0)
    told, sent, now = [], 0, 0.0
    size = 1904
    while now < 7.0:
        now += 0.03
        send(line, A, 1, sent, size, now)
        sent += size
        for peer, grant in grants(line.grants(now)):
            if peer == B:
                told.append((round(now), grant.num_bytes))
            elif grant.num_bytes:
                size = grant.num_bytes
        if sent + size >= 600_000:
            break
    assert [grant for grant in told if not grant[1]] == [(6, 0)]


def test_a_link_of_unknown_rate_tells_it_by_its_first_piece(line: Uploads) -> None:
    unknown = LinkFields("cell-a", 0.0, 0.0)
    ((_, first),) = grants(line.offered(A, offer(num_bytes=50_000, link=unknown), 0.0))
    assert first.num_bytes == 1024
    # 100 kB/s, after what the way takes.
    send(line, A, 1, 0, 1024, RTT_S + 1172e-5)
    ((_, second),) = grants(line.grants(0.1))
    assert second.num_bytes == pytest.approx(1852, abs=2)


@pytest.mark.parametrize("pads", [False, True])
def test_pieces_of_padded_messages_end_before_the_next_size(pads: bool) -> None:
    line = make_uploads(pads=pads)
    ((_, grant),) = grants(line.offered(A, offer(num_bytes=50_000), 0.0))
    frames = encode(UploadPiece(2**40, 2**30, b"x" * grant.num_bytes), cluster="c" * 9, epoch=2**60)
    if pads:
        assert len(pad(frames)[0]) == SIZES[0]
    assert len(frames[0]) * 8 / LINK.rate_bps <= PIECE_S


@pytest.mark.parametrize(
    "wrong",
    [
        {"request_id": 1},
        {"link": LinkFields("", 1e6, 0.0)},
        {"link": LinkFields("cell-a", 10.0, 0.0)},
        {"link": LinkFields("cell-a", 1e6, 9.0)},
        {"num_head_bytes": 9000},
    ],
    ids=str,
)
def test_what_cannot_be_taken_has_no_answer(line: Uploads, wrong: dict[str, Any]) -> None:
    line.offered(A, offer(1), 0.0)
    assert line.offered(A, replace(offer(2), **wrong), 0.0) == []


@pytest.mark.parametrize("num_bytes", [8000, MAX_UPLOAD_BYTES])
def test_uploads_are_bounded_and_of_large_ones_one_client_has_not_all(
    line: Uploads, num_bytes: int
) -> None:
    number = 0
    while line.offered(A, offer(number, num_bytes), 0.0):
        number += 1
    assert line.num_under_way == number
    assert bool(line.offered(B, offer(1, num_bytes), 0.0)) == (num_bytes == MAX_UPLOAD_BYTES)


def test_what_all_clients_upload_is_bounded(line: Uploads) -> None:
    peers = [b"%d" % number for number in range(200)]
    taken = [bool(line.offered(peer, offer(1, MAX_UPLOAD_BYTES), 0.0)) for peer in peers]
    assert sum(taken) == MAX_BYTES_OF_ALL // MAX_UPLOAD_BYTES


def test_a_piece_that_does_not_follow_ends_its_upload() -> None:
    for wrong in (UploadPiece(1, 5, b"x"), UploadPiece(1, 0, b""), UploadPiece(1, 0, b"x" * 9000)):
        line = make_uploads()
        line.offered(A, offer(), 0.0)
        assert line.arrived(A, wrong, 0.0) == (None, False)
        assert line.num_under_way == 0
    assert make_uploads().arrived(A, UploadPiece(1, 0, b"x"), 0.0) == (None, False)


def test_no_piece_is_smaller_than_the_least_unless_it_is_the_last(line: Uploads) -> None:
    slow = LinkFields("cell-a", 10e3, 0.001)
    ((_, grant),) = grants(line.offered(A, offer(link=slow), 0.0))
    assert grant.num_bytes == LEAST_PIECE_BYTES
    line = make_uploads()
    ((_, small),) = grants(line.offered(A, offer(num_bytes=100, link=slow), 0.0))
    assert small.num_bytes == 100
    # All of it is granted.
    assert line.next_deadline is None


# -- in the coordinator --------------------------------------------------------------------------


def upload(mesh: Mesh, message: object) -> list[Send]:
    """Offer a message and send what is granted; all that the last piece is answered with."""
    frames = encode(message, cluster=CLUSTER, epoch=EPOCH)
    sender = Upload(1, frames if len(frames) > 1 else [*frames, b""])
    out = mesh.hear(CLIENT, sender.offer(5, LINK))
    now = 0.0
    while not sender.is_over:
        # With or without a grant: nobody is bound by them.
        given = [grant.num_bytes for grant in out.said(UploadGrant)]
        now += 0.05
        out = mesh.hear(CLIENT, sender.piece(max(given, default=100)), now)
    return out


def test_an_uploaded_request_is_served_as_any_other(mesh: Mesh) -> None:
    out = upload(mesh, make_submit(1, prompt_token_ids=LONG))
    (request,) = out.openings()
    assert request.token_ids == LONG
    assert mesh.state.reporting.num_stale == 0


def test_a_piece_waits_for_a_text_that_a_node_on_the_same_medium_is_sent() -> None:
    mesh = make_mesh(link=LINK)
    sends = mesh.submit(2)
    (opening,) = (send for send in sends if isinstance(send.message, OpenStreamRequest))
    # It takes 50 ms of the medium.
    mesh.state.sent(opening, 5000, 0.0)
    assert mesh.hear(CLIENT, offer()).said(UploadGrant)
    next_s = mesh.state.next_deadline()
    assert next_s is not None
    assert next_s > 0.05


def test_only_the_offered_request_can_be_uploaded(mesh: Mesh) -> None:
    with pytest.raises(ForbiddenError, match="another request"):
        upload(mesh, make_submit(2, prompt_token_ids=LONG))
    with pytest.raises(DecodeError):
        upload(mesh, NodesRequest(1))


def test_a_request_that_comes_whole_ends_its_upload(mesh: Mesh) -> None:
    submit = make_submit(1, prompt_token_ids=LONG)
    sender = Upload(1, encode(submit, cluster=CLUSTER, epoch=EPOCH))
    mesh.hear(CLIENT, sender.offer(5, LINK))
    assert mesh.state.next_deadline() is not None
    assert mesh.hear(CLIENT, submit).openings()
    mesh.hear(CLIENT, sender.piece(500))
    assert mesh.state.reporting.num_stale == 1
    assert mesh.hear(CLIENT, sender.offer(5, LINK))
    mesh.cancel(1)
    mesh.hear(CLIENT, sender.piece(500))
    assert mesh.state.reporting.num_stale == 2


def test_nonsense_that_is_uploaded_takes_no_grant_from_others(mesh: Mesh) -> None:
    mesh.join(B, "client")
    mesh.hear(CLIENT, UploadOffer(1, 100, 50, 5, LINK))
    mesh.hear(B, UploadOffer(1, 50_000, 500, 5, LINK))
    with pytest.raises(DecodeError):
        mesh.hear(CLIENT, UploadPiece(1, 0, b"\xc1" * 100), 0.1)
    given = [grant.num_bytes for grant in mesh.tick(0.15).said(UploadGrant, B)]
    assert sum(given) > 0
