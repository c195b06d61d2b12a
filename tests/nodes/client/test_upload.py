"""A large request in pieces, from the client's side."""

import asyncio

import pytest

from airdraft.mesh.codec import decode
from airdraft.mesh.errors import BackpressureError
from airdraft.mesh.messages import Bye
from airdraft.mesh.transport import Frames
from airdraft.nodes.client.generation import GenerateOptions
from airdraft.nodes.client.upload import Granted, Upload, is_worth_offering
from airdraft.nodes.messages import (
    MAX_PIECE_BYTES,
    CancelRequest,
    FinishedNotice,
    LinkFields,
    SubmitRequest,
    UploadGrant,
    UploadOffer,
    UploadPiece,
)
from tests.nodes.client.test_client import FIGURES, scripted

AIR = LinkFields("cell-a", 2e6, 0.0)
OPTIONS = GenerateOptions(max_tokens=10)
LONG = tuple(k % 50 + 1 for k in range(2000))


@pytest.mark.parametrize(
    ("air", "rate_bps", "size", "is_offered"),
    [
        ("cell-a", 2e6, 3000, True),
        ("cell-a", 0.0, 3000, True),
        ("cell-a", 2e6, 100, False),
        # They are through in less time than it takes to ask.
        ("cell-a", 1e8, 3000, False),
        ("", 2e6, 20_000, False),
    ],
)
def test_large_requests_on_a_shared_medium_are_offered(
    air: str, rate_bps: float, size: int, is_offered: bool
) -> None:
    link = LinkFields(air, rate_bps, 0.0)
    assert is_worth_offering(link, [b"x" * (size - 1), b"y"]) is is_offered
    assert not is_worth_offering(link, [])
    assert not is_worth_offering(None, [b"x" * size])


def test_the_rest_goes_in_messages_that_are_allowed() -> None:
    upload = Upload(7, [b"x" * 70_000, b""])
    assert upload.piece(1000) == UploadPiece(7, 0, b"x" * 1000)
    assert [len(piece.data) for piece in upload.rest()] == [MAX_PIECE_BYTES, MAX_PIECE_BYTES, 3464]
    assert upload.is_over


def test_a_delay_counts_from_when_the_grant_came() -> None:
    assert Granted(UploadGrant(1, 256, 1500), 10.0).send_at == pytest.approx(10.0015)


@pytest.mark.parametrize("kind", [UploadOffer, UploadPiece])
async def test_a_part_that_does_not_leave_is_noticed_at_once(kind: type) -> None:
    """The whole request is made anew, and none of it sent again for want of an answer."""
    num_stuck = 0

    def stick(frames: Frames) -> bool:
        nonlocal num_stuck
        if isinstance(decode(frames).message, kind) and not num_stuck:
            num_stuck += 1
            raise BackpressureError
        return False

    async with scripted(OPTIONS, prompt=LONG, declared=AIR) as (made, _):
        made.hub.drop = stick
        offer = await made.desk.hear(UploadOffer, SubmitRequest)
        if kind is UploadPiece:
            made.say(UploadGrant(offer.request_id, 256, 0))
            first, offer = offer, await made.desk.hear(UploadOffer, SubmitRequest)
            assert offer.request_id != first.request_id
        assert isinstance(offer, UploadOffer)
        assert num_stuck == 1


async def test_a_coordinator_that_knows_no_offers_is_sent_the_whole_and_not_asked_again() -> None:
    async with scripted(OPTIONS, prompt=LONG, declared=AIR) as (made, reading):
        await made.desk.hear(UploadOffer)
        submit = await made.desk.hear(SubmitRequest)
        assert submit.prompt_token_ids == LONG
        # Or one whose grant is late: it changes nothing.
        made.say(UploadGrant(submit.request_id, 256, 0))
        made.begin(submit)
        made.say(FinishedNotice(submit.request_id, 0, 0, "stop", FIGURES))
        await reading
        asking = asyncio.create_task(made.read(OPTIONS))
        assert isinstance(await made.desk.hear(UploadOffer, SubmitRequest), SubmitRequest)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def test_a_request_that_is_given_up_while_it_is_sent_leaves_nothing() -> None:
    async with scripted(OPTIONS, prompt=LONG, declared=AIR) as (made, reading):
        offer = await made.desk.hear(UploadOffer)
        reading.cancel()
        assert (await made.desk.hear(CancelRequest)).request_id == offer.request_id


async def test_an_upload_whose_coordinator_is_lost_begins_anew() -> None:
    async with scripted(OPTIONS, prompt=LONG, declared=AIR) as (made, _):
        first = await made.desk.hear(UploadOffer)
        made.say(UploadGrant(first.request_id, 256, 0))
        await made.desk.hear(UploadPiece)
        made.say(Bye("restart"))
        await made.next_coordinator()
        second = await made.desk.hear(UploadOffer)
        assert second.request_id != first.request_id
        pieces = []
        for num_bytes in (1000, MAX_PIECE_BYTES):
            made.say(UploadGrant(second.request_id, num_bytes, 0))
            pieces.append(await made.desk.hear(UploadPiece))
        assert [(p.request_id, p.offset) for p in pieces] == [
            (second.request_id, offset) for offset in (0, 1000)
        ]
        # All of it was sent, so that nothing more is.
        assert sum(len(piece.data) for piece in pieces) == second.num_bytes
